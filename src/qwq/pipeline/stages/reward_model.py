"""The reward-model stage: Bradley-Terry on pairs, then calibration and held-out accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from qwq.common.files import atomic_folder
from qwq.common.stats import wilson
from qwq.config import Positive, register_stage
from qwq.data.examples import PairExample
from qwq.model.footprint import packed_copies
from qwq.pipeline.pairs_stage import PairsStage
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.peak import update_phase
from qwq.pipeline.stage import StageResult
from qwq.report.view import Fact, StageView

if TYPE_CHECKING:
    from qwq.pipeline.job import StageJob
    from qwq.reward.model import Calibration, RewardModel

MATCHED_TOKENS, MATCHED_SHARE = 2, 0.05  # answers of matched length differ by so much at most


@register_stage("reward_model")
class RewardModelStage(PairsStage):
    """Bradley-Terry reward model on preference pairs (Bradley and Terry 1952; Ouyang et al.
    2022).
    """

    trains_policy: ClassVar[bool] = False
    in_sequence: ClassVar[bool] = False

    validation_pairs: Positive | None = Field(
        None,
        description="held-out pairs for its calibration, scored once; default: a fifth of the training pairs, 50 to "
        "300, or with path all of the file's 10%",
    )

    @property
    def num_validation(self) -> int | None:
        return self.validation_pairs or super().num_validation

    def held_out_passes(self, context: PlanContext) -> int:
        return self.num_held_out(context, "validation") + self.num_held_out(context, "test")

    @classmethod
    def view(cls, config: Mapping[str, Any], record: Mapping[str, Any] | None) -> StageView:
        facts = (Fact("Reward model", _sentence(record)),) if record and "pair_accuracy" in record["evals"] else ()
        return replace(super().view(config, record), facts=facts)

    def update(self, context: PlanContext, tokens: int) -> dict[str, int]:
        trained = self.trained_parameters(context.recipe, context.config)
        copies = packed_copies(context.config, 1, tokens, 0.0)  # of rows that differ in length
        return update_phase(context.recipe, context.config, tokens, trained, laid_out=copies, head=False)

    def run(self, job: StageJob) -> StageResult:
        from qwq.model.weights import save_reward_model
        from qwq.reward.model import CALIBRATION, RewardModel

        model = RewardModel(job.policy())
        calibration, evals = self.train_scorer(model, job)

        def save() -> None:
            with atomic_folder(job.models.folder.final(job.name)) as partial:
                save_reward_model(model.backbone, model.score.weight, partial)
                (partial / CALIBRATION).write_text(json.dumps(calibration.to_dict()) + "\n")
                job.chat.save(partial)

        job.run.world.alone(save)
        return StageResult(evals=evals, record={"calibration": calibration.to_dict()})

    def train_scorer(self, model: RewardModel, job: StageJob) -> tuple[Calibration, dict[str, Any]]:
        """Train `model` in place; returns its calibration and the evals of its stage."""
        from qwq.model.layouts import micro_batches
        from qwq.reward.model import Calibration, calibrate
        from qwq.train.losses import preference_loss
        from qwq.train.optim import Optimizer

        splits = self.pairs_of(job, model.backbone.config)
        pairs = splits["train"]
        steps = self.num_steps(len(pairs))
        optimizer = Optimizer(model, self.optim, steps, division=job.run.divide(model, tokens=True))
        job.run.resume(model, optimizer)

        division = optimizer.division
        scorer: Any = division.module

        def split(shard: list[PairExample]) -> list[list[PairExample]]:
            lengths = [len(p.chosen) + len(p.rejected) for p in shard]
            if sum(lengths) <= self.micro_batch_tokens:
                return [shard]
            return [[shard[i] for i in part] for part in micro_batches(lengths, self.micro_batch_tokens)]

        def step(index: int) -> dict[str, Any]:
            batch = [pairs[i] for i in self.pairs_of_step(index, len(pairs), f"{job.seed}/{job.name}")]

            def one(part: list[PairExample]) -> dict[str, float]:
                scores = scorer([p.chosen for p in part] + [p.rejected for p in part], division.context)
                chosen, rejected = scores[: len(part)], scores[len(part) :]
                loss = preference_loss(chosen, rejected) * (len(part) / len(batch))
                loss.backward()
                return {"loss": loss.item(), "wins": int((chosen > rejected).sum())}

            found = division.gradient([split(s) for s in division.shards(batch)], one, optimizer.masters)
            figures = {"loss": found["loss"], "pair_accuracy": found["wins"] / len(batch)}
            tokens = sum(len(p.chosen) + len(p.rejected) for p in batch)
            return figures | {"tokens": tokens} | optimizer.step(index)

        job.run.run(steps, model, optimizer, step)

        def judged() -> tuple[dict[str, float], dict[str, Any]]:
            calibration = calibrate(*_scored(model, splits["validation"]))
            return calibration.to_dict(), {"pair_accuracy": pair_accuracy(model, splits["test"], calibration)}

        calibration, evals = job.run.world.alone(judged)
        return Calibration(**calibration), evals


def _sentence(record: Mapping[str, Any]) -> str:
    """Held-out accuracy in words."""
    e = record["evals"]["pair_accuracy"]
    low, high = e["ci95"]
    line = (
        f"**{record['name']}** puts the better answer first in **{100 * e['score']:.1f}%** "
        f"[{100 * low:.1f}, {100 * high:.1f}] of {e['n']:,} held-out pairs"
    )
    if m := e.get("matched_length"):
        low, high = m["ci95"]
        line += (
            f", and in {100 * m['score']:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of the {m['n']:,} pairs of equal "
            "length (at most two tokens or 5% apart), where length cannot help it"
        )
    return f"{line}."


def _scored(
    model: RewardModel, pairs: Sequence[PairExample]
) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    raw = model.raw_scores([p.chosen for p in pairs] + [p.rejected for p in pairs])
    lengths = [p.chosen_length for p in pairs] + [p.rejected_length for p in pairs]
    scored = list(zip(raw, lengths, strict=True))
    return scored[: len(pairs)], scored[len(pairs) :]


def matched_length(a: int, b: int) -> bool:
    """Whether answers of `a` and `b` tokens count as equally long."""
    return abs(a - b) <= max(MATCHED_TOKENS, int(MATCHED_SHARE * max(a, b)))


def pair_accuracy(model: RewardModel, pairs: Sequence[PairExample], calibration: Calibration) -> dict[str, Any]:
    """Share of pairs whose chosen answer scores higher (length bias taken out), with a Wilson 95%
    interval.

    `matched_length` is the same over the pairs whose answers differ in length by two tokens or a
    twentieth at most.
    """
    import torch

    chosen, rejected = _scored(model, pairs)
    wins = [
        calibration.apply(c, cl) > calibration.apply(r, rl) for (c, cl), (r, rl) in zip(chosen, rejected, strict=True)
    ]
    matched = [w for w, p in zip(wins, pairs, strict=True) if matched_length(p.chosen_length, p.rejected_length)]
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
