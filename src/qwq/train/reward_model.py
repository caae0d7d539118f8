"""The reward-model stage: Bradley-Terry on pairs, then calibration and held-out accuracy."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
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
LEAST_PROMPTS = 10  # of a file: it is divided into training, validation and test
MATCHED_TOKENS, MATCHED_SHARE = 2, 0.05  # answers of matched length differ by so much at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two whole sequences (prompt and answer) and their completion lengths in tokens."""

    chosen: list[int]
    rejected: list[int]
    chosen_length: int
    rejected_length: int


def make_pairs(chat: ChatFormat, config: RewardModelStage, seed: int, nums: Mapping[str, int]) -> dict[str, list[Pair]]:
    """Pairs of each split in `nums`, at most so many: of the preference family, or of the file in `config.path`."""
    if config.path:
        return {split: pairs[: nums[split]] for split, pairs in _file_splits(chat, config, config.path).items() if split in nums}
    out: dict[str, list[Pair]] = {}
    family = Preference()
    for split, num in nums.items():
        problems = family.fixed(split, num) if split != "train" else [family.problem(seed, "train", i) for i in range(num)]
        out[split] = []
        for i, problem in enumerate(problems):
            chosen, rejected = family.pair(problem, random.Random(digest(f"{seed}/pairs/{split}/{i}")))
            out[split].append(_pair(chat, problem.messages, chosen, rejected))
    return out


def _file_splits(chat: ChatFormat, config: RewardModelStage, path: str) -> dict[str, list[Pair]]:
    """The file's pairs that are short enough: the last fifth is for test, the tenth before for validation, by whole prompts."""
    rows = read_pairs(path)
    # Rows with one prompt stay together, so that the test has no prompt of the training.
    prompts: dict[str, list[Pair]] = {}
    for row in rows:
        pair = _file_pair(chat, row, path)
        if max(len(pair.chosen), len(pair.rejected)) <= config.max_tokens:
            prompts.setdefault(repr(row[0]), []).append(pair)
    kept = sum(map(len, prompts.values()))
    if kept < len(rows):
        _log.warning("%s: %d of %d pairs are over %d tokens and left out", path, len(rows) - kept, len(rows), config.max_tokens)
    if len(prompts) < LEAST_PROMPTS:
        raise DataError(
            f"{path} holds pairs of {len(prompts)} prompts within {config.max_tokens} tokens, {LEAST_PROMPTS} at least are needed: "
            "raise max_tokens or give more; they are divided into training, validation and test"
        )
    splits: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    done = 0
    for number, pairs in enumerate(prompts.values()):
        last = len(prompts) - number  # prompts from here on: the ends get one each, however few there are
        if done < 0.7 * kept and last > 2:
            split = "train"
        else:
            split = "validation" if not splits["validation"] or (done < 0.8 * kept and last > 1) else "test"
        splits[split] += pairs
        done += len(pairs)
    return splits


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
    splits = make_pairs(chat, config, seed, {"train": config.pairs, "validation": VALIDATION_PAIRS, "test": config.test_pairs})
    pairs = splits["train"]
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
    calibration = calibrate(*_scored(model, splits["validation"]))
    return calibration, {"pair_accuracy": pair_accuracy(model, splits["test"], calibration)}


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
