"""The reward-model stage: Bradley-Terry on pairs, then calibration and held-out accuracy."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from qwq.common.stats import wilson
from qwq.config import PairsStage, RewardModelStage
from qwq.data.examples import FileUse, Pair, pair_of, pair_splits
from qwq.model.layouts import micro_batches
from qwq.reward.model import Calibration, RewardModel, calibrate
from qwq.tasks.procedural.base import digest
from qwq.tasks.procedural.preference import Preference
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import StageRun
from qwq.train.losses import preference_loss
from qwq.train.optim import Optimizer

VALIDATION_PAIRS = 300  # of the preference family, for the calibration
MATCHED_TOKENS, MATCHED_SHARE = 2, 0.05  # answers of matched length differ by so much at most


class MadePairs(NamedTuple):
    """Pairs by split, and what became of a file's rows, where they come from one."""

    splits: dict[str, list[Pair]]
    use: FileUse | None = None


def make_pairs(chat: ChatFormat, config: PairsStage, seed: int, *, max_positions: int | None = None) -> MadePairs:
    """Pairs for training, validation (the calibration) and test: of the file in `config.path`, with what became of its rows, or of the preference family."""
    if config.path:
        return MadePairs(
            *pair_splits(
                chat,
                config.path,
                pairs=config.pairs,
                test_pairs=config.test_pairs,
                max_tokens=config.max_tokens,
                max_positions=max_positions,
            )
        )
    assert config.pairs and config.test_pairs, "the recipe sets them where there is no file"
    out: dict[str, list[Pair]] = {}
    family = Preference()
    for split, num in (("train", config.pairs), ("validation", VALIDATION_PAIRS), ("test", config.test_pairs)):
        problems = (
            family.fixed(split, num) if split != "train" else [family.problem(seed, "train", i) for i in range(num)]
        )
        out[split] = []
        for i, problem in enumerate(problems):
            chosen, rejected = family.pair(problem, random.Random(digest(f"{seed}/pairs/{split}/{i}")))
            out[split].append(pair_of(chat, problem.messages, (chosen,), (rejected,)))
    return MadePairs(out)


def pairs_of_step(index: int, num_pairs: int, batch_pairs: int, seed: str) -> list[int]:
    """Which pairs step `index` takes: every epoch shuffles them anew."""
    epoch, at = divmod(index, math.ceil(num_pairs / batch_pairs))
    order = list(range(num_pairs))
    random.Random(digest(f"{seed}/{epoch}")).shuffle(order)
    return order[at * batch_pairs : (at + 1) * batch_pairs]


def train_reward_model(
    model: RewardModel,
    chat: ChatFormat,
    config: RewardModelStage,
    run: StageRun,
    *,
    seed: int,
    made: MadePairs | None = None,
) -> tuple[Calibration, dict[str, Any]]:
    """Train `model` in place, on the pairs that `make_pairs` has `made` before, where it has; returns its calibration and the evals of its stage."""
    splits, use = made or make_pairs(chat, config, seed, max_positions=model.backbone.config.max_positions)
    if use:
        run.tell_data(use)
    pairs = splits["train"]
    steps = math.ceil(len(pairs) / config.batch_pairs) * config.epochs
    optimizer = Optimizer(model, config.optim, steps)
    run.resume(model, optimizer)

    def step(index: int) -> dict[str, Any]:
        lot = [pairs[i] for i in pairs_of_step(index, len(pairs), config.batch_pairs, f"{seed}/{run.name}")]
        lengths = [len(p.chosen) + len(p.rejected) for p in lot]
        tokens = sum(lengths)
        parts = (
            [list(range(len(lot)))]
            if tokens <= config.micro_batch_tokens
            else micro_batches(lengths, config.micro_batch_tokens)
        )
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
        calibration.apply(c, cl) > calibration.apply(r, rl) for (c, cl), (r, rl) in zip(chosen, rejected, strict=True)
    ]
    matched = [w for w, p in zip(wins, pairs, strict=True) if _matched(p.chosen_length, p.rejected_length)]
    mean_tokens = float(torch.tensor([n for _, n in chosen + rejected], dtype=torch.float64).mean())
    out: dict[str, Any] = {
        "score": sum(wins) / len(wins), "ci95": wilson(sum(wins), len(wins)), "n": len(wins),
        "mean_tokens": mean_tokens, "mean_thinking_tokens": 0.0,
    }  # fmt: skip
    if matched:
        out["matched_length"] = {
            "score": sum(matched) / len(matched),
            "ci95": wilson(sum(matched), len(matched)),
            "n": len(matched),
        }
    return out
