"""The DPO stage: the policy trained on preference pairs (Rafailov et al. 2023, arXiv 2305.18290, section 4, equation 7).

The reward of an answer is beta x (its log-probability now - under the stage's start), summed over all its tokens, and the loss is
that of the reward model (Bradley-Terry) on these rewards. Departures:

1. the log-probabilities under the start are computed once, before the first step, so no second copy of the weights is held;
2. a pair's prompt is computed once for both answers.

What lies behind the prompt counts whole, a later user's turn or a tool's result among it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwq.common.stats import wilson
from qwq.config import DpoStage
from qwq.data.examples import Pair
from qwq.model.layouts import micro_batches
from qwq.model.transformer import Transformer
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import StageRun
from qwq.train.losses import preference_loss, token_logprobs
from qwq.train.optim import Optimizer
from qwq.train.packing import pack_groups
from qwq.train.reward_model import MadePairs, make_pairs, pairs_of_step

CHOSEN, REJECTED = 0, 1


def answer_logprobs(model: Transformer, pairs: Sequence[Pair]) -> Tensor:
    """Log-probability, in nats, of each pair's chosen and rejected answer behind its prompt: (P, 2)."""
    prompts = [list(p.chosen[: len(p.chosen) - p.chosen_length]) for p in pairs]
    answers = [[list(p.chosen[-p.chosen_length :]), list(p.rejected[-p.rejected_length :])] for p in pairs]
    numbers = [[[float(2 * i + side)] * len(ids) for side, ids in enumerate(both)] for i, both in enumerate(answers)]
    batch = pack_groups(
        prompts, answers, [[[1] * len(ids) for ids in both] for both in answers], {"answer": numbers}, model.device
    )
    hidden = model(batch.ids_N, batch.layout).index_select(0, batch.where_M)
    logprob_M, _ = token_logprobs(hidden, model.head_weight, batch.targets_M)
    return logprob_M.new_zeros(2 * len(pairs)).index_add(0, batch.extra["answer"].long(), logprob_M).view(-1, 2)


@torch.no_grad()
def all_logprobs(model: Transformer, pairs: Sequence[Pair], max_tokens: int) -> Tensor:
    """`answer_logprobs` of many pairs, at most about `max_tokens` tokens at once: (P, 2) on the CPU."""
    out_P2 = torch.zeros(len(pairs), 2)
    for lot in micro_batches([len(p.chosen) + len(p.rejected) for p in pairs], max_tokens):
        out_P2[lot] = answer_logprobs(model, [pairs[i] for i in lot]).cpu()
    return out_P2


def dpo(
    model: Transformer, chat: ChatFormat, config: DpoStage, run: StageRun, *, seed: int, made: MadePairs | None = None
) -> None:
    """Train `model` in place, on the pairs that `make_pairs` has `made` before, where it has. `run.state["pairs"]` gets the held-out accuracy."""
    splits, use = made or make_pairs(chat, config, seed, max_positions=model.config.max_positions)
    if use:
        run.tell_data(use)
    pairs, test = splits["train"], splits["test"]
    steps = math.ceil(len(pairs) / config.batch_pairs) * config.epochs
    optimizer = Optimizer(model, config.optim, steps)
    # Before `resume`: these are the weights that the stage starts from.
    start_P2, test_start_P2 = (all_logprobs(model, p, config.micro_batch_tokens) for p in (pairs, test))
    run.resume(model, optimizer)

    def step(index: int) -> dict[str, Any]:
        chosen = pairs_of_step(index, len(pairs), config.batch_pairs, f"{seed}/{run.name}")
        lengths = [len(pairs[i].chosen) + len(pairs[i].rejected) for i in chosen]
        total, margin, wins = 0.0, 0.0, 0
        for lot in micro_batches(lengths, config.micro_batch_tokens):
            part = [chosen[i] for i in lot]
            logprob_P2 = answer_logprobs(model, [pairs[i] for i in part])
            reward_P2 = config.beta * (logprob_P2 - start_P2[part].to(logprob_P2.device))
            loss = preference_loss(reward_P2[:, CHOSEN], reward_P2[:, REJECTED]) * (len(part) / len(chosen))
            loss.backward()
            margin_P = (reward_P2[:, CHOSEN] - reward_P2[:, REJECTED]).detach()
            total, margin, wins = total + loss.item(), margin + float(margin_P.sum()), wins + int((margin_P > 0).sum())
        metrics = {
            "loss": total,
            "pair_accuracy": wins / len(chosen),
            "margin": margin / len(chosen),
            "tokens": sum(lengths),
        }
        return metrics | optimizer.step(index)

    run.run(steps, model, optimizer, step)
    reward_P2 = config.beta * (all_logprobs(model, test, config.micro_batch_tokens) - test_start_P2)
    wins = int((reward_P2[:, CHOSEN] > reward_P2[:, REJECTED]).sum())
    low, high = interval = wilson(wins, len(test))
    run.state["pairs"] = {
        "score": wins / len(test),
        "ci95": interval,
        "n": len(test),
        "margin": float((reward_P2[:, CHOSEN] - reward_P2[:, REJECTED]).mean()),
    }
    run.progress.note(
        f"{run.name}: {wins / len(test):.1%} [{low:.1%}, {high:.1%}] of {len(test):,} held-out pairs have the chosen answer's probability grow more"
    )
