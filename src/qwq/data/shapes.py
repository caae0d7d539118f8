"""The shapes that rows of data files have, recognised in this one place: conversations, preference
pairs, problems.

    conversation  {"messages": [{"role", "content"}], "tools"}              OpenAI
                  {"conversations": [{"from", "value"}], "tools", "system"} ShareGPT
                  {"prompt", "completion"}, {"prompt", "response"}          texts or messages, TRL
                  {"instruction", "input", "output", "system", "history"}   Alpaca
    pair          {"prompt", "chosen", "rejected"}                          texts or messages, TRL
                  {"chosen": [...], "rejected": [...]}                      whole conversations (1)
                  {"conversations", "chosen", "rejected"}                   ShareGPT
                  {"instruction", "input", "chosen", "rejected"}            Alpaca
    problem       what `kind` of source a row would be, see `problem_kind`

(1) As in UltraFeedback's binarized form; the prompt is the messages with which both begin.

The same conversation gives the same messages in each shape. What fits none is refused with the keys
that it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qwq.data.messages import Malformed, Turns, answer_of, named, tools_of, turns_of
from qwq.data.row_files import keys_of, read_rows
from qwq.errors import DataError
from qwq.types import Message

T = TypeVar("T")
PROMPTS = ("prompt", "instruction", "question", "query")
ANSWERS = ("completion", "response", "output", "answer")
# Sets with markup of their own, which would be learnt as words: the converter's name, and where
# what gives them away.
_MARKED = (
    ("marco-o1", "response", re.compile(r"\s*<Thought>")),
    ("toolrl", "input", re.compile(r".*<user>.*</user>", re.DOTALL)),
    ("gsm8k", "answer", re.compile(r".*####\s*[-$]?[\d.,/]+%?\s*\Z", re.DOTALL)),
)  # fmt: skip
_HUMAN = re.compile(r"\n\n(Human|Assistant): ?")


class NoShape(Malformed):
    """A row whose keys fit no shape."""


@dataclass(frozen=True, slots=True)
class TrainingConversation:
    """What SFT learns from. `unlearnt`: numbers (from 0) of the assistant turns of weight 0."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    shape: str
    unlearnt: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt; each is the turns from the first that differs, and ends with the
    assistant's.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    shape: str


# -- conversations ---------------------------------------------------------------------------------


def conversation(row: Mapping[str, Any]) -> TrainingConversation:
    """The conversation of a row. Malformed where it has none, or nothing to learn."""
    turns, shape = _conversation_turns(row)
    messages, unlearnt = _with_system(row, turns)
    mine = [i for i, m in enumerate(messages) if m.role == "assistant"]
    if not mine:
        raise Malformed("no assistant turn, so nothing to learn")
    if unlearnt.issuperset(mine):
        raise Malformed("every assistant turn has weight 0, so nothing to learn")
    return TrainingConversation(messages, tools_of(row), shape, unlearnt)


def _conversation_turns(row: Mapping[str, Any]) -> tuple[Turns, str]:
    for key in ("messages", "conversations", "conversation"):
        if row.get(key) is not None:
            turns = turns_of(row[key], key)
            sharegpt = key == "conversations" or "from" in row[key][0]
            return turns, "ShareGPT" if sharegpt else "messages"
    prompt = next((k for k in PROMPTS if row.get(k) is not None), None)
    answer = next((k for k in ANSWERS if row.get(k) is not None), None)
    if prompt is None or answer is None or ("chosen" in row and "rejected" in row):
        raise NoShape(_hint(row))
    _refuse_markup(row, prompt, answer)
    asked, said = _prompt_turns(row, prompt), answer_of(row[answer], answer)
    shift = len(asked.messages)
    # A prompt that is messages is what precedes the answer: its own assistant turns are not
    # learnt, as in TRL.
    given = {i for i, m in enumerate(asked.messages) if m.role == "assistant" and not isinstance(row[prompt], str)}
    both = Turns(asked.messages + said.messages, asked.unlearnt | given | {i + shift for i in said.unlearnt})
    return both, "Alpaca" if (prompt, answer) == ("instruction", "output") else f"{prompt} and {answer}"


def _hint(row: Mapping[str, Any]) -> str:
    """What a row that fits no shape of a conversation could be."""
    if "chosen" in row and "rejected" in row:
        return "this is a preference pair, which a reward_model stage reads"
    if "label" in row or "completions" in row:
        return f"it has {keys_of(row)}; `qwq data convert` knows kto and other published sets"
    if "role" in row and "content" in row:
        return 'this is one message: put the messages of a conversation into one object, {"messages": [...]}'
    return (
        "needs `messages`, `conversations`, `prompt` and `completion`, or `instruction` and `output`; it has "
        f"{keys_of(row)}"
    )


def _refuse_markup(row: Mapping[str, Any], prompt: str, answer: str) -> None:
    for form, key, mark in _MARKED:
        if isinstance(row.get(key), str) and mark.match(row[key]):
            raise Malformed(
                f"{prompt} and {answer} have the markup of {form}, which would be learnt as words: `qwq data "
                f"convert --format {form}` makes conversations of them"
            )


def _prompt_turns(row: Mapping[str, Any], key: str) -> Turns:
    """The turns of a prompt: a text with what `input` or `context` add to it, or messages; earlier
    turns (`history`) go before.
    """
    value = row[key]
    if not isinstance(value, str):
        return turns_of(value, key)
    extra = (row.get("input") or row.get("context") or "") if key == "instruction" else ""
    if not isinstance(extra, str):
        raise Malformed(f"input is {named(extra)}: give text")
    text = f"{value}\n{extra}" if extra.strip() else value
    if not text.strip():
        raise Malformed(f"{key} is empty: give text")
    earlier: list[dict[str, Any]] = []
    for i, pair in enumerate(row.get("history") or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Malformed(f"history[{i}] is {named(pair)}: give a pair of instruction and answer")
        earlier += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns_of([*earlier, {"role": "user", "content": text}], key)


def _with_system(row: Mapping[str, Any], turns: Turns) -> tuple[tuple[Message, ...], frozenset[int]]:
    """The turns behind the row's own `system` text, where it has one and they have none."""
    system = row.get("system")
    if not isinstance(system, str) or not system.strip() or turns.messages[0].role == "system":
        return turns.messages, turns.unlearnt
    return (Message("system", system), *turns.messages), frozenset(i + 1 for i in turns.unlearnt)


# -- preference pairs ------------------------------------------------------------------------------


def preference(row: Mapping[str, Any]) -> PreferencePair:
    """The pair of a row.

    Malformed where it has none. The two answers may be equal: who counts them says so.
    """
    if "chosen" not in row or "rejected" not in row:
        raise Malformed(f"needs `prompt`, `chosen` and `rejected`; it has {keys_of(row)}")
    key = next((k for k in ("conversations", *PROMPTS, "messages") if row.get(k) is not None), None)
    chosen, rejected, whole = _both_answers(row, key)
    tools = tools_of(row)
    if whole:
        prompt, chosen, rejected = _split_prompt(chosen, rejected)
        if key in PROMPTS and isinstance(row[key], str) and not any(row[key].strip() in m.content for m in prompt):
            raise Malformed(
                f"{key} is not in the turns with which chosen and rejected both begin: give one or the other"
            )
        prompt = _with_system(row, Turns(prompt))[0]
        return PreferencePair(prompt, chosen, rejected, tools, "whole conversations chosen and rejected")
    if key is None:
        raise Malformed(
            f"needs a `prompt`, or `chosen` and `rejected` that are whole conversations; it has {keys_of(row)}"
        )
    question = turns_of(row[key], key) if key in ("conversations", "messages") else _prompt_turns(row, key)
    prompt = _with_system(row, question)[0]
    style = {"conversations": "ShareGPT ", "instruction": "Alpaca "}.get(key, "")
    return PreferencePair(prompt, chosen, rejected, tools, f"{style}pair" if style else f"{key}, chosen and rejected")


def _both_answers(row: Mapping[str, Any], key: str | None) -> tuple[tuple[Message, ...], tuple[Message, ...], bool]:
    """(chosen, rejected, whether they are whole conversations, prompt included)."""
    texts = row["chosen"], row["rejected"]
    if key is None and all(isinstance(t, str) and t.startswith("\n\nHuman:") for t in texts):
        chosen, rejected, whole = _human_turns(texts[0]), _human_turns(texts[1]), True
    else:
        chosen = answer_of(texts[0], "chosen", blank=True).messages
        rejected = answer_of(texts[1], "rejected", blank=True).messages
        whole = chosen[0].role != "assistant" or rejected[0].role != "assistant"
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise Malformed(f"{name} ends with a turn of {turns[-1].role}: an answer is the assistant's")
    return chosen, rejected, whole


def _split_prompt(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """(prompt, chosen answer, rejected answer): the prompt is what both begin with, up to a turn of
    the assistant in both.
    """
    # An answer has at least one turn, also where the two are equal.
    same = min(len(chosen), len(rejected)) - 1
    same = next((i for i in range(same) if chosen[i] != rejected[i]), same)
    while same and not chosen[same].role == rejected[same].role == "assistant":
        same -= 1
    if not same:
        raise Malformed("chosen and rejected begin with different turns: they need one prompt")
    return chosen[:same], chosen[same:], rejected[same:]


def _human_turns(text: str) -> tuple[Message, ...]:
    """Turns of a text in the form of hh-rlhf: `\\n\\nHuman: ...\\n\\nAssistant: ...`."""
    parts = _HUMAN.split(text)[1:]
    return tuple(
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    )


# -- what a reward model scores --------------------------------------------------------------------


def scored(
    row: Mapping[str, Any],
) -> tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...], list[tuple[Message, ...]]]:
    """(prompt, tools, answers): the two of a pair, or the one that a conversation ends with."""
    if "chosen" in row and "rejected" in row:
        pair = preference(row)
        return pair.prompt, pair.tools, [pair.chosen, pair.rejected]
    try:
        turns, _ = _conversation_turns(row)
    except NoShape:
        raise Malformed(
            f"needs prompt and response, prompt, chosen and rejected, or messages; it has {keys_of(row)}"
        ) from None
    messages, _ = _with_system(row, turns)
    if messages[-1].role != "assistant" or len(messages) < 2:
        raise Malformed("needs a prompt and an answer: messages end with the assistant's turn")
    return messages[:-1], tools_of(row), [messages[-1:]]


# -- problems --------------------------------------------------------------------------------------


def problem_kind(row: Mapping[str, Any]) -> str | None:
    """The `kind` of source that a row fits, by its keys; None where it fits none."""
    if {"prompt", "instruction_id_list"} <= row.keys():
        return "constraints"
    if "test_list" in row:
        return "mbpp" if isinstance(row.get("task_id"), int) else "code"
    asked = next((k for k in ("problem", "question", "prompt", "text") if row.get(k) is not None), None)
    if asked and row.get("tests") is not None:
        return "code"
    if asked in ("problem", "question") and ("answer" in row or "solution" in row):
        return "math"
    return "prompts" if row.get("prompt") is not None or row.get("messages") is not None else None


_WORDS: dict[Any, tuple[str, str]] = {
    conversation: ("conversations", "`messages`"), preference: ("pairs", "`prompt`, `chosen` and `rejected`"),
    scored: ("rows", "prompt and response"),
}  # fmt: skip


# -- whole files -----------------------------------------------------------------------------------


def read_shaped(
    path: Path,
    shape: Callable[[Mapping[str, Any]], T],
    refused: list[str] | None = None,
    *,
    wanted: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[str, T | None]]:
    """(where, what `shape` makes of it) of each row; None for rows that are not `wanted` when their
    turn comes, which are read as JSON only.

    A bad row is a DataError, or, where `refused` is given, goes there in words.
    """
    noun, needs = _WORDS.get(shape, ("rows", ""))
    for row in read_rows(path, refused, noun=noun, needs=needs):
        try:
            made = shape(row.fields) if wanted() else None
        except Malformed as reason:
            if refused is None:
                raise DataError(f"{row.where}: {reason}") from None
            refused.append(f"{row.where}: {reason}")
            continue
        yield row.where, made


def read_conversations(path: str | Path) -> list[TrainingConversation]:
    """All conversations of a file. DataError names file and line."""
    return [c for _, c in read_shaped(Path(path), conversation) if c]


def read_pairs(path: str | Path) -> list[PreferencePair]:
    """All pairs of a file. DataError names file and line."""
    return [p for _, p in read_shaped(Path(path), preference) if p]
