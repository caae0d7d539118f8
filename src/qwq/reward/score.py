"""`qwq reward score FILE.jsonl --model DIR`: what a reward model thinks of answers, one JSON line
for each line, in order.

A line holds `prompt` (a text or messages) with `response`, or with `chosen` and `rejected`; or
`messages` that end with the assistant's turn; in any shape of `data.shapes`. The model is a
sequence classifier with one label: the reward-model stage of a run, or any checkpoint of a known
family. With the calibration that our stage leaves beside the weights, scores have mean 0 and
deviation 1 on its validation pairs, and its length bias is taken out; `raw` is what the model
itself says.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from qwq.common.stats import wilson
from qwq.data.examples import answer_ids
from qwq.data.shapes import read_shaped, scored
from qwq.errors import DataError, UsageError
from qwq.model.model_folder import resolve_folder
from qwq.model.weights import load_reward_model
from qwq.reward.model import CALIBRATION, Calibration, RewardModel
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
                raise DataError(
                    f"{path} holds no calibration ({error}): run the reward-model stage again, or remove the file"
                ) from None
        return cls(RewardModel(backbone, score).requires_grad_(False).to(backbone.device), chat, calibration)

    def sequence(
        self, prompt: Sequence[Message], tools: Sequence[Mapping[str, Any]], answer: Sequence[Message]
    ) -> tuple[list[int], int]:
        """Prompt and answer in tokens, and how many of them are the answer's.

        DataError where they are more than the model has positions.
        """
        ids = answer_ids(self.chat, prompt, answer, tools)
        if len(ids) > (most := self.model.backbone.config.max_positions):
            raise DataError(
                f"prompt and answer are {len(ids):,} tokens, the model has {most:,} positions: shorten them"
            )
        return ids, len(ids) - len(self.chat.prompt_ids(prompt, tools))

    def scores(self, sequences: Sequence[tuple[list[int], int]]) -> list[dict[str, float]]:
        """`score`, `raw` and `tokens` (of the answer) of each of `sequence`'s results."""
        raw = self.model.raw_scores([ids for ids, _ in sequences])
        return [
            {"score": self.calibration.apply(r, n) if self.calibration else r, "raw": r, "tokens": n}
            for r, (_, n) in zip(raw, sequences, strict=True)
        ]


def score_file(judge: Judge, path: Path) -> Iterator[dict[str, Any]]:
    """One object a line: `index`, `score`, `raw`, `tokens`; for pairs `chosen`, `rejected` (scores)
    and `prefers`.
    """
    if not path.is_file():
        raise DataError(
            f"no file at {path}: give JSON lines with prompt and response, prompt, chosen and rejected, or messages"
        )
    rows = _sequences(judge, path)
    index = 0
    while lot := list(islice(rows, LINES_AT_ONCE)):
        numbers = iter(judge.scores([sequence for row in lot for sequence in row]))
        for row in lot:
            yield _line(index, [next(numbers) for _ in row])
            index += 1


def _sequences(judge: Judge, path: Path) -> Iterator[list[tuple[list[int], int]]]:
    """The sequences of each row: one, or a pair's two. DataError names file and line."""
    for where, row in read_shaped(path, scored):
        assert row is not None, "every row is wanted"
        prompt, tools, answers = row
        try:
            yield [judge.sequence(prompt, tools, answer) for answer in answers]
        except UsageError as error:
            raise DataError(f"{where}: {error}") from None


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
    """Print the scores of a file; on standard error how often the chosen answer is preferred, with
    its 95% interval.
    """
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
        said += (
            f"; the chosen answer is preferred in {100 * wins / pairs:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of "
            f"{pairs} pairs"
        )
    print(said, file=sys.stderr)
