"""The reward-model stage: Bradley-Terry on pairs, then calibration and held-out accuracy."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qwq.config import RewardModelStage
from qwq.errors import DataError, UsageError
from qwq.model.layouts import micro_batches
from qwq.problems.base import digest
from qwq.problems.families.preference import Preference
from qwq.reward.model import Calibration, RewardModel, calibrate
from qwq.stats import wilson
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import StageRun
from qwq.train.data import read_pairs
from qwq.train.losses import preference_loss
from qwq.train.optim import Optimizer

VALIDATION_PAIRS = 300  # for the calibration
LEAST_PAIRS = 10  # of a file: it is divided into training, validation and test
MATCHED_TOKENS, MATCHED_SHARE = 2, 0.05  # answers of matched length differ by so much at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two whole sequences (prompt and answer) and their completion lengths in tokens."""

    chosen: list[int]
    rejected: list[int]
    chosen_length: int
    rejected_length: int


def make_pairs(chat: ChatFormat, config: RewardModelStage, seed: int, split: str, num: int) -> list[Pair]:
    """Pairs of the preference family, or of the file in `config.path`: its last fifth is for test, the tenth before for validation."""
    if config.path:
        rows = read_pairs(config.path)
        if len(rows) < LEAST_PAIRS:
            raise DataError(f"{config.path} holds {len(rows)} pairs, {LEAST_PAIRS} at least are needed: it is divided into training, validation and test")
        # Rows with one prompt stay together, so that the test has no prompt of the training.
        groups: dict[str, list[Any]] = {}
        for row in rows:
            groups.setdefault(repr(row[0]), []).append(row)
        rows = [row for group in groups.values() for row in group]
        ends = {"train": (0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}[split]
        first, last = (_boundary(rows, round(e * len(rows))) for e in ends)
        pairs = [_file_pair(chat, row, config.path) for row in rows[first:last][:num]]
        short = [p for p in pairs if max(len(p.chosen), len(p.rejected)) <= config.max_tokens]
        if len(short) < len(pairs):
            _log.warning("%s: %d of %d %s pairs are over %d tokens and left out", config.path, len(pairs) - len(short), len(pairs), split, config.max_tokens)
        if not short:
            raise DataError(f"{config.path}: no {split} pair of at most {config.max_tokens} tokens: raise max_tokens or give shorter answers")
        return short
    family, out = Preference(), []
    problems = family.fixed(split, num) if split != "train" else [family.problem(seed, "train", i) for i in range(num)]
    for i, problem in enumerate(problems):
        chosen, rejected = family.pair(problem, random.Random(digest(f"{seed}/pairs/{split}/{i}")))
        out.append(_pair(chat, problem.messages, chosen, rejected))
    return out


def _boundary(rows: Sequence[Any], at: int) -> int:
    """`at`, or the next place where one prompt's rows end."""
    while 0 < at < len(rows) and rows[at - 1][0] == rows[at][0]:
        at += 1
    return at


def _file_pair(chat: ChatFormat, row: Any, path: str) -> Pair:
    try:
        return _pair(chat, *row)
    except UsageError as error:
        raise DataError(f"{path}: {str(row[0][-1].content)[:60]!r}: {error}") from None


def _pair(chat: ChatFormat, messages: Any, chosen: Any, rejected: Any) -> Pair:
    prompt = len(chat.prompt_ids(messages))
    (c, _), (r, _) = (chat.training_example((*messages, answer)) for answer in (chosen, rejected))
    # The template may write a line break behind the end token, which a rollout does not have.
    c, r = (ids[: max(i for i, t in enumerate(ids) if t in chat.eos_ids) + 1] for ids in (c, r))
    return Pair(c, r, len(c) - prompt, len(r) - prompt)


def train_reward_model(
    model: RewardModel, chat: ChatFormat, config: RewardModelStage, run: StageRun, *, seed: int
) -> tuple[Calibration, dict[str, Any]]:
    """Train `model` in place; returns its calibration and the evals of its stage."""
    pairs = make_pairs(chat, config, seed, "train", config.pairs)
    per_epoch = math.ceil(len(pairs) / config.batch_pairs)
    steps = per_epoch * config.epochs
    optimizer = Optimizer(model, config.optim, steps)
    run.resume(model, optimizer)

    def step(index: int) -> dict[str, Any]:
        epoch, at = divmod(index, per_epoch)
        order = list(range(len(pairs)))
        random.Random(digest(f"{seed}/{run.name}/{epoch}")).shuffle(order)
        lot = [pairs[i] for i in order[at * config.batch_pairs : (at + 1) * config.batch_pairs]]
        lengths = [len(p.chosen) + len(p.rejected) for p in lot]
        tokens = sum(lengths)
        parts = [list(range(len(lot)))] if tokens <= config.micro_batch_tokens else micro_batches(lengths, config.micro_batch_tokens)
        total, wins = 0.0, 0
        for part in parts:
            scores = model([lot[i].chosen for i in part] + [lot[i].rejected for i in part])
            chosen, rejected = scores[: len(part)], scores[len(part) :]
            loss = preference_loss(chosen, rejected) * (len(part) / len(lot))
            loss.backward()
            total += loss.item()
            wins += int((chosen > rejected).sum())
        return {"loss": total, "pair_accuracy": wins / len(lot), "tokens": tokens} | optimizer.step(index)

    run.run(steps, model, optimizer, step)
    calibration = calibrate(*_scored(model, make_pairs(chat, config, seed, "validation", VALIDATION_PAIRS)))
    return calibration, {"pair_accuracy": pair_accuracy(model, make_pairs(chat, config, seed, "test", config.test_pairs), calibration)}


def _scored(model: RewardModel, pairs: Sequence[Pair]) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    raw = model.raw_scores([p.chosen for p in pairs] + [p.rejected for p in pairs])
    lengths = [p.chosen_length for p in pairs] + [p.rejected_length for p in pairs]
    scored = list(zip(raw, lengths, strict=True))
    return scored[: len(pairs)], scored[len(pairs) :]


def _matched(a: int, b: int) -> bool:
    return abs(a - b) <= max(MATCHED_TOKENS, int(MATCHED_SHARE * max(a, b)))


def pair_accuracy(model: RewardModel, pairs: Sequence[Pair], calibration: Calibration) -> dict[str, Any]:
    """Share of pairs whose chosen answer scores higher (length bias taken out), with a Wilson 95% interval.

    `matched_length` is the same over the pairs whose answers differ in length by two tokens or a twentieth at most.
    """
    chosen, rejected = _scored(model, pairs)
    wins = [
        calibration.apply(c, cl) > calibration.apply(r, rl)
        for (c, cl), (r, rl) in zip(chosen, rejected, strict=True)
    ]
    matched = [w for w, p in zip(wins, pairs, strict=True) if _matched(p.chosen_length, p.rejected_length)]
    mean_tokens = float(torch.tensor([n for _, n in chosen + rejected], dtype=torch.float64).mean())
    out: dict[str, Any] = {
        "score": sum(wins) / len(wins), "ci95": wilson(sum(wins), len(wins)), "n": len(wins),
        "mean_tokens": mean_tokens, "mean_thinking_tokens": 0.0,
    }  # fmt: skip
    if matched:
        out["matched_length"] = {"score": sum(matched) / len(matched), "ci95": wilson(sum(matched), len(matched)), "n": len(matched)}
    return out
