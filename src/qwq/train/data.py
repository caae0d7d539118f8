"""Documents for pretraining and SFT: procedural demonstrations or a file of conversations, as tokens and weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from qwq.errors import DataError
from qwq.problems.base import digest
from qwq.problems.mixing import ProblemMix
from qwq.text.parse import THINK_CLOSE, THINK_OPEN
from qwq.text.template import ChatFormat
from qwq.types import Message, ToolCall

Document = tuple[list[int], list[float]]


def demonstration(mix: ProblemMix, chat: ChatFormat, index: int, noise: float, prompt_weight: float, *, twice: bool = False) -> Document:
    """Document `index` of a mix: token ids, and the loss weight of each (1 for the assistant's own). `twice`: see `think_twice`."""
    problem, turns = mix.demonstration(index, noise)
    if twice:
        turns = tuple(think_twice(turn) for turn in turns)
    ids, mask = chat.training_example((*problem.messages, *turns), problem.tools)
    return ids, [1.0 if m else prompt_weight for m in mask]


def think_twice(turn: Message) -> Message:
    """The turn with its thought gone through once more before the answer."""
    head, opened, rest = turn.content.partition(f"{THINK_OPEN}\n")
    thought, closed, answer = rest.partition(f"\n{THINK_CLOSE}")
    if not opened or not closed or not thought.strip():
        return turn
    return replace(turn, content=f"{head}{opened}{thought}\nagain:\n{thought}{closed}{answer}")


def drill(mix: ProblemMix, chat: ChatFormat, index: int, prompt_weight: float) -> Document | None:
    """Document `index` as a page of exercises; None where its family has no such pages. Answers weigh 1."""
    rng = random.Random(digest(f"{mix.seed}/{mix.label}/drill/{index}"))
    page = mix.family(mix.choose(index)).drill(rng)
    ids: list[int] = []
    weights: list[float] = []
    for question, answer in page:
        for text, weight in ((question, prompt_weight), (answer + "\n", 1.0)):
            tokens = chat.tokenizer.encode(text)
            ids += tokens
            weights += [weight] * len(tokens)
    return (ids, weights) if page else None


def batches(document: Callable[[int], Document], start: int, batch_tokens: int, stop: int | None = None) -> Iterator[tuple[list[Document], int]]:
    """Documents from number `start` on, in lots of at least `batch_tokens` tokens, each with the number after its last."""
    index = start
    while stop is None or index < stop:
        lot: list[Document] = []
        total = 0
        while total < batch_tokens and (stop is None or index < stop):
            lot.append(document(index))
            total += len(lot[-1][0]) - 1
            index += 1
        yield lot, index


def read_conversations(path: str | Path) -> list[tuple[tuple[Message, ...], tuple[dict, ...]]]:
    """Conversations of a JSON-lines file with `messages` and optional `tools`. DataError names file and line."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no data file at {path}: give a JSON-lines file with a `messages` list on each line")
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            messages = tuple(_message(m) for m in row["messages"])
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: needs `messages`, a list of objects with `role` and `content` ({error!r})") from None
        if not any(m.role == "assistant" for m in messages):
            raise DataError(f"{path}, line {number}: no assistant turn, so nothing to learn")
        out.append((messages, tuple(row.get("tools") or ())))
    if not out:
        raise DataError(f"{path} holds no conversations: it needs at least one line")
    return out


def _message(m: dict) -> Message:
    calls = tuple(ToolCall((f := c.get("function", c))["name"], f["arguments"]) for c in m.get("tool_calls") or ())
    return Message(m["role"], m.get("content") or "", calls)


def read_pairs(path: str | Path) -> list[tuple[tuple[Message, ...], Message, Message]]:
    """Preference pairs of a JSON-lines file: (prompt turns, chosen turn, rejected turn).

    Understands `prompt` (text or messages) with `chosen` and `rejected` (texts), and the ShareGPT form
    (`conversations` with `from`/`value`, `chosen` and `rejected` as such turns). DataError names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no data file at {path}: give a JSON-lines file with `prompt`, `chosen` and `rejected` on each line")
    roles = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}

    def turn(value: str | dict, role: str = "assistant") -> Message:
        if isinstance(value, str):
            return Message(role, value)
        if "from" in value:
            return Message(roles[value["from"]], value["value"])
        return _message(value)

    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt = row.get("conversations") or row["prompt"]
            turns = (Message("user", prompt),) if isinstance(prompt, str) else tuple(turn(t, "user") for t in prompt)
            out.append((turns, turn(row["chosen"]), turn(row["rejected"])))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: needs `prompt`, `chosen` and `rejected` ({error!r})") from None
    if not out:
        raise DataError(f"{path} holds no pairs: it needs at least one line")
    return out
