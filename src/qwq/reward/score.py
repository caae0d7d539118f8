"""`qwq reward score FILE.jsonl --model DIR`: what a reward model thinks of answers, one JSON line for each line, in order.

A line holds `prompt` (a text or messages) with `response`, or with `chosen` and `rejected`; or `messages` that end with the assistant's
turn. The model is a sequence classifier with one label: the reward-model stage of a run, or any checkpoint of a known family.
With the calibration that our stage leaves beside the weights, scores have mean 0 and deviation 1 on its validation pairs, and
its length bias is taken out; `raw` is what the model itself says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.errors import DataError, UsageError
from qwq.model.folder import resolve_folder
from qwq.model.weights import load_reward_model
from qwq.reward.model import CALIBRATION, Calibration, RewardModel
from qwq.stats import wilson
from qwq.text.template import ChatFormat
from qwq.types import Message

LINES_AT_ONCE = 64


@dataclass(slots=True)
class Judge:
    """A reward model with its chat format and, where it has one, its calibration."""

    model: RewardModel
    chat: ChatFormat
    calibration: Calibration | None

    @classmethod
    def from_folder(cls, folder: str | Path, device: str = "cpu") -> Judge:
        folder = resolve_folder(str(folder))
        chat = ChatFormat.from_folder(folder)
        backbone, score = load_reward_model(folder, device=device)
        chat.tokenizer.check_fits(backbone.config)
        path = folder / CALIBRATION
        calibration = None
        if path.is_file():
            try:
                calibration = Calibration(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path} holds no calibration ({error}): run the reward-model stage again, or remove the file") from None
        return cls(RewardModel(backbone, score).requires_grad_(False).to(backbone.device), chat, calibration)

    def scores(self, answers: Sequence[tuple[Sequence[Message], Message]]) -> list[dict[str, float]]:
        """`score`, `raw` and `tokens` (of the answer) of each (prompt, answer)."""
        sequences, lengths = [], []
        for prompt, answer in answers:
            ids, _ = self.chat.training_example((*prompt, answer))
            # What the template writes behind the end token is no part of an answer.
            ids = ids[: max(i for i, t in enumerate(ids) if t in self.chat.eos_ids) + 1]
            sequences.append(ids)
            lengths.append(len(ids) - len(self.chat.prompt_ids(prompt)))
        raw = self.model.raw_scores(sequences)
        return [
            {"score": self.calibration.apply(r, n) if self.calibration else r, "raw": r, "tokens": n} for r, n in zip(raw, lengths, strict=True)
        ]


def score_file(judge: Judge, path: Path) -> Iterator[dict[str, Any]]:
    """One object a line: `index`, `score`, `raw`, `tokens`; for pairs `chosen`, `rejected` (scores) and `prefers`."""
    rows = _rows(path)
    index = 0
    while lot := [row for _, row in zip(range(LINES_AT_ONCE), rows, strict=False)]:
        answers = [(prompt, a) for _, prompt, turns in lot for a in turns]
        numbers = iter(_scored(judge, answers, path, lot))
        for _, _, turns in lot:
            found = [next(numbers) for _ in turns]
            yield _line(index, found)
            index += 1


def _scored(judge: Judge, answers: Sequence[Any], path: Path, lot: Sequence[Any]) -> list[dict[str, float]]:
    try:
        return judge.scores(answers)
    except UsageError as error:
        raise DataError(f"{path}, lines {lot[0][0]} to {lot[-1][0]}: {error}") from None


def _line(index: int, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    rounded = [{k: round(v, 6) for k, v in f.items()} for f in found]
    if len(found) == 1:
        return {"index": index, **rounded[0]}
    chosen, rejected = rounded
    better = chosen["score"] - rejected["score"]
    prefers = "chosen" if better > 0 else "rejected" if better < 0 else "neither"
    return {
        "index": index, "chosen": chosen["score"], "rejected": rejected["score"], "prefers": prefers,
        "tokens": [chosen["tokens"], rejected["tokens"]],
    }  # fmt: skip


def print_scores(model: str, path: Path, device: str = "cpu") -> None:
    """Print the scores of a file; on standard error how often the chosen answer is preferred, with its 95% interval."""
    judge = Judge.from_folder(model, device)
    pairs = wins = lines = 0
    for line in score_file(judge, path):
        print(json.dumps(line), flush=True)
        lines += 1
        if "prefers" in line:
            pairs += 1
            wins += line["prefers"] == "chosen"
    said = f"{lines} lines, {'calibrated' if judge.calibration else 'raw'} scores"
    if pairs:
        low, high = wilson(wins, pairs)
        said += f"; the chosen answer is preferred in {100 * wins / pairs:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of {pairs} pairs"
    print(said, file=sys.stderr)


def _rows(path: Path) -> Iterator[tuple[int, tuple[Message, ...], tuple[Message, ...]]]:
    """(line number, prompt, answers) of each line. DataError names file and line."""
    if not path.is_file():
        raise DataError(f"no file at {path}: give JSON lines with prompt and response, prompt, chosen and rejected, or messages")
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
                yield number, *_turns(row)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from None
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}, line {number}: needs prompt and response, prompt, chosen and rejected, or messages ({error!r})") from None


def _turns(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    if "messages" in row:
        *prompt, last = (_message(m, "") for m in row["messages"])
        if last.role != "assistant":
            raise KeyError("messages end with the assistant's turn")
        return tuple(prompt), (last,)
    given = row["prompt"]
    prompt = [Message("user", given)] if isinstance(given, str) else [_message(m, "user") for m in given]
    keys = ("response",) if "response" in row else ("chosen", "rejected")
    return tuple(prompt), tuple(_message(row[k], "assistant") for k in keys)


def _message(given: Any, role: str) -> Message:
    if isinstance(given, str):
        return Message(role, given)
    return Message(given.get("role") or role, given["content"])
