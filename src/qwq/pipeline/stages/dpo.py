"""The DPO stage: the policy trained on preference pairs (Rafailov et al. 2023, arXiv 2305.18290,
section 4, equation 7).

The reward of an answer is beta x (its log-probability now - under the stage's start), summed over
all its tokens, and the loss is that of the reward model (Bradley-Terry) on these rewards.
Departures:

1. the log-probabilities under the start are computed once, before the first step, so no second copy
   of the weights is held;
2. a pair's prompt is computed once for both answers.

What lies behind the prompt counts whole, a later user's turn or a tool's result among it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from qwq.common.stats import wilson
from qwq.config import Lora, register_stage
from qwq.data.examples import PairExample
from qwq.model.footprint import shared_copies
from qwq.pipeline.pairs_stage import PairsStage
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.peak import update_phase
from qwq.report.view import Fact, Panel, StageView

if TYPE_CHECKING:
    from torch import Tensor

    from qwq.cluster.ulysses import ContextGroup
    from qwq.model.transformer import Transformer
    from qwq.pipeline.job import StageJob

CHOSEN, REJECTED = 0, 1


@register_stage("dpo")
class DpoStage(PairsStage):
    """The policy itself trained on preference pairs, without a reward model (DPO, Rafailov et al.
    2023, arXiv 2305.18290).
    """

    passes_before: ClassVar[int] = 1  # under the start
    panels: ClassVar[tuple[Panel, ...]] = (
        *PairsStage.panels,
        Panel("reward of the chosen over the rejected", "margin"),
        Panel("gradient norm", "grad_norm"),
    )

    beta: float = Field(
        0.1,
        gt=0,
        description="weight of the log-probability ratio to the stage's start: larger keeps the policy nearer to it",
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")

    def held_out_passes(self, context: PlanContext) -> int:
        """The test, under the start and after the last step."""
        return 2 * self.num_held_out(context, "test")

    @classmethod
    def view(cls, config: Mapping[str, Any], record: Mapping[str, Any] | None) -> StageView:
        facts: tuple[Fact, ...] = ()
        if record and (pairs := record.get("pairs")):
            low, high = pairs["ci95"]
            share = (
                f"**{100 * pairs['score']:.1f}%** [{100 * low:.1f}, {100 * high:.1f}] of {pairs['n']:,} held-out pairs"
            )
            facts = (
                Fact("Preference pairs", f"**{record['name']}** raised the chosen answer over the other in {share}."),
            )
        return replace(super().view(config, record), facts=facts)

    def update(self, context: PlanContext, tokens: int) -> dict[str, int]:
        trained = self.trained_parameters(context.recipe, context.config)
        copies = shared_copies(context.config, 1, tokens, 1, tokens)  # answers are at most as long as their prompt
        return update_phase(context.recipe, context.config, tokens, trained, laid_out=copies)

    def train(self, model: Transformer, job: StageJob) -> dict[str, Any]:
        """Train `model` in place; the record's `pairs` is the held-out accuracy."""
        import torch

        from qwq.model.layouts import micro_batches
        from qwq.train.losses import preference_loss
        from qwq.train.optim import Optimizer

        splits = self.pairs_of(job, model.config)
        pairs, test = splits["train"], splits["test"]
        steps = self.num_steps(len(pairs))
        optimizer = Optimizer(model, self.optim, steps, division=job.run.divide(model, tokens=True))

        # Before `resume`: these are the weights that the stage starts from.
        def at_the_start() -> list[list[list[float]]]:
            return [all_logprobs(model, p, self.micro_batch_tokens).tolist() for p in (pairs, test)]

        start_P2, test_start_P2 = (torch.tensor(found) for found in job.run.world.alone(at_the_start))
        job.run.resume(model, optimizer)
        division = optimizer.division
        trained: Any = division.module

        def split(shard: list[int]) -> list[list[int]]:
            lengths = [len(pairs[i].chosen) + len(pairs[i].rejected) for i in shard]
            return [[shard[i] for i in part] for part in micro_batches(lengths, self.micro_batch_tokens)]

        def step(index: int) -> dict[str, Any]:
            chosen = self.pairs_of_step(index, len(pairs), f"{job.seed}/{job.name}")

            def one(part: list[int]) -> dict[str, float]:
                logprob_P2 = answer_logprobs(trained, [pairs[i] for i in part], division.context)
                reward_P2 = self.beta * (logprob_P2 - start_P2[part].to(logprob_P2.device))
                loss = preference_loss(reward_P2[:, CHOSEN], reward_P2[:, REJECTED]) * (len(part) / len(chosen))
                loss.backward()
                margin_P = (reward_P2[:, CHOSEN] - reward_P2[:, REJECTED]).detach()
                return {"loss": loss.item(), "margin": float(margin_P.sum()), "wins": int((margin_P > 0).sum())}

            found = division.gradient([split(s) for s in division.shards(chosen)], one, optimizer.masters)
            figures = {"loss": found["loss"], "pair_accuracy": found["wins"] / len(chosen)}
            tokens = sum(len(pairs[i].chosen) + len(pairs[i].rejected) for i in chosen)
            return figures | {"margin": found["margin"] / len(chosen), "tokens": tokens} | optimizer.step(index)

        job.run.run(steps, model, optimizer, step)
        return {"pairs": job.run.world.alone(lambda: self._held_out(model, test, test_start_P2, job))}

    def _held_out(
        self, model: Transformer, test: Sequence[PairExample], start_P2: Tensor, job: StageJob
    ) -> dict[str, Any]:
        """Share of held-out pairs whose chosen answer's probability grew more, with its
        interval.
        """
        reward_P2 = self.beta * (all_logprobs(model, test, self.micro_batch_tokens) - start_P2)
        wins = int((reward_P2[:, CHOSEN] > reward_P2[:, REJECTED]).sum())
        low, high = interval = wilson(wins, len(test))
        job.run.progress.note(
            f"{job.name}: {wins / len(test):.1%} [{low:.1%}, {high:.1%}] of {len(test):,} held-out pairs have the "
            "chosen answer's probability grow more"
        )
        margin = float((reward_P2[:, CHOSEN] - reward_P2[:, REJECTED]).mean())
        return {"score": wins / len(test), "ci95": interval, "n": len(test), "margin": margin}


def answer_logprobs(model: Transformer, pairs: Sequence[PairExample], context: ContextGroup | None = None) -> Tensor:
    """Log-probability, in nats, of each pair's chosen and rejected answer behind its prompt: (P,
    2). `context` as in `train.packing.batch_logprobs`.
    """
    from qwq.train.packing import batch_logprobs, pack_groups

    prompts = [list(p.chosen[: len(p.chosen) - p.chosen_length]) for p in pairs]
    answers = [[list(p.chosen[-p.chosen_length :]), list(p.rejected[-p.rejected_length :])] for p in pairs]
    numbers = [[[float(2 * i + side)] * len(ids) for side, ids in enumerate(both)] for i, both in enumerate(answers)]
    batch = pack_groups(
        prompts, answers, [[[1] * len(ids) for ids in both] for both in answers], {"answer": numbers}, model.device
    )
    logprob_M, _ = batch_logprobs(model, batch, context=context)
    return logprob_M.new_zeros(2 * len(pairs)).index_add(0, batch.extra["answer"].long(), logprob_M).view(-1, 2)


def all_logprobs(model: Transformer, pairs: Sequence[PairExample], max_tokens: int) -> Tensor:
    """`answer_logprobs` of many pairs, at most about `max_tokens` tokens at once, without gradient:
    (P, 2) on the CPU.
    """
    import torch

    from qwq.model.layouts import micro_batches

    out_P2 = torch.zeros(len(pairs), 2)
    with torch.no_grad():
        for indices in micro_batches([len(p.chosen) + len(p.rejected) for p in pairs], max_tokens):
            out_P2[indices] = answer_logprobs(model, [pairs[i] for i in indices]).cpu()
    return out_P2
