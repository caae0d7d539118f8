"""Passes on several processes whose tokens are divided, for the tests of `cluster.context`: each
process of a pool is one of the run's, over gloo.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qwq.cluster.divide import divide
from qwq.cluster.place import RankPlace, was_in_group
from qwq.cluster.world import RankWorld, join
from qwq.config import ClusterSection, ComputeSection, Optim
from qwq.model import layouts
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.reward.model import RewardModel
from qwq.train.groups import Group
from qwq.train.losses import preference_loss
from qwq.train.optim import Optimizer
from qwq.train.policy_update import PolicyUpdater
from qwq.train.reference import ReferenceModel
from qwq.train.supervised import supervised_step
from qwq.types import Rollout, StopReason

NARROW = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2,
    "head_dim": 8,
}  # fmt: skip
DOCUMENTS = [
    ([(7 * i + 3 * j) % 40 for j in range(9 + i)], [1.0 if j % 3 else 0.1 for j in range(9 + i)]) for i in range(5)
]
Result = dict[str, Any]


class Ranks:
    """Runs a function in `size` processes that make up one run, or in this one."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self.folder, self.runs = size, folder, 0
        self.pool = ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("spawn"))

    def run(self, work: Callable[..., Result], cluster: dict[str, Any], *args: Any) -> list[Result]:
        """What `work(world, *args)` gives in each process."""
        self.runs += 1
        meet = str(self.folder / f"meet-{self.runs}")
        jobs = [self.pool.submit(_joined, work, rank, self.size, meet, cluster, args) for rank in range(self.size)]
        return [job.result(timeout=300) for job in jobs]


@contextmanager
def ranks(size: int, folder: Path) -> Iterator[Ranks]:
    pool = Ranks(size, folder)
    try:
        yield pool
    finally:
        pool.pool.shutdown()


def _joined(
    work: Callable[..., Result], rank: int, size: int, meet: str, cluster: dict[str, Any], args: tuple[Any, ...]
) -> Result:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    config = ClusterSection(processes=size, timeout_s=60.0, work_timeout_s=60.0, **cluster)
    with join(config, RankPlace(rank, size, rank, size, meet)) as world:
        return work(world, *args)


def grouped(world: RankWorld) -> Result:
    """Whether this process knows of its process group."""
    return {"grouped": was_in_group()}


def model(recompute: bool = False) -> Transformer:
    made = Transformer(preset("tiny", **NARROW)).init_weights(torch.Generator().manual_seed(0))
    made.recompute = recompute
    return made


def _watched(optimizer: Optimizer) -> list[torch.Tensor]:
    """The whole gradient of the next update, which is not taken."""
    kept: list[torch.Tensor] = []

    def keep(_step: int) -> dict[str, float]:
        kept.extend(optimizer.division.full(m.grad).clone() for m in optimizer.masters)
        return {}

    optimizer.step = keep  # type: ignore[method-assign]
    return kept


class Saved:
    """Counts the numbers that a pass keeps for its backward pass, by the memory they lie in."""

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}

    def __enter__(self) -> Saved:
        def pack(x: torch.Tensor) -> torch.Tensor:
            self.blocks[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
            return x

        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)


def supervised(world: RankWorld, recompute: bool = False, documents: list[Any] = DOCUMENTS) -> Result:
    """Figures and gradient of one batch of documents."""
    made = model(recompute)
    optimizer = Optimizer(made, Optim(), 1, division=divide(made, world, tokens=True))
    kept = _watched(optimizer)
    figures = supervised_step(made, optimizer, documents, 0)
    return {"figures": figures, "gradient": kept}


# Pairs of sequences, the better one first; two of them are one pass.
PAIRS = [
    ([(5 * i + j) % 40 for j in range(7 + 3 * i)], [(3 * i + 7 * j) % 40 for j in range(12 - i)]) for i in range(4)
]


def preferred(world: RankWorld, recompute: bool = False, pairs: list[Any] = PAIRS) -> Result:
    """Figures and gradient of a reward model on one batch of pairs."""
    made = RewardModel(model(recompute), torch.randn(32, generator=torch.Generator().manual_seed(1)))
    optimizer = Optimizer(made, Optim(), 1, division=divide(made, world, tokens=True))
    division = optimizer.division
    kept = _watched(optimizer)

    def one(part: list[Any]) -> dict[str, float]:
        scores = division.module([a for a, _ in part] + [b for _, b in part], division.context)
        loss = preference_loss(scores[: len(part)], scores[len(part) :]) * (len(part) / len(pairs))
        loss.backward()
        return {"loss": loss.item(), "scores": float(scores.detach().sum())}

    shards = [[shard[i : i + 2] for i in range(0, len(shard), 2)] for shard in division.shards(pairs)]
    figures = division.gradient(shards, one, optimizer.masters) | optimizer.step(0)
    return {"figures": figures, "gradient": kept}


def group(number: int, prompt: int, lengths: list[int]) -> Group:
    """Made-up completions of one prompt; the tokens of some are not sampled ones."""

    def tokens(seed: int, n: int) -> list[int]:
        return torch.randint(40, (n,), generator=torch.Generator().manual_seed(seed)).tolist()

    rollouts = [
        Rollout(
            problem_id="p", domain="math", group=number, prompt_ids=tokens(number, prompt),
            completion_ids=tokens(100 * number + i, n), sampled_mask=[int(j % 5 != 4) for j in range(n)],
            sampler_logprobs=[-3.0] * n, weight_versions=[0] * n, stop_reason=StopReason.END,
        )
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    return Group(rollouts, [(-1.0) ** i * (1 + i) for i in range(len(lengths))])


def reinforced(world: RankWorld, options: dict[str, Any], joined: bool = False) -> Result:
    """Figures and gradient of the second update on two groups (in the first every ratio is 1), with
    a mask in attention or, `joined`, without.
    """
    dense = layouts.DENSE_MASK
    layouts.DENSE_MASK = 0 if joined else dense
    try:
        made = model()
        config = Rl1Stage(
            kind="rl1", steps=1, prompts=2, samples=3, max_new_tokens=16, updates=2, optim=Optim(lr=1e-2), kl=0.1,
            mix={"math": 1.0}, **options,
        )  # fmt: skip
        optimizer = Optimizer(made, config.optim, 2, division=divide(made, world, tokens=True))
        reference = ReferenceModel(made, context=optimizer.division.context)
        reference.keep()
        updater = PolicyUpdater(made, config, ComputeSection(micro_batch_tokens=40), optimizer, reference)
        updater._hold = lambda *_: None  # type: ignore[method-assign]  # the log-probabilities are made up
        first, kept = optimizer.step, []

        def step(index: int) -> dict[str, float]:
            if index:
                kept.extend(optimizer.division.full(m.grad).clone() for m in optimizer.masters)
            return first(index)

        optimizer.step = step  # type: ignore[method-assign]
        figures = updater.update(0, [group(1, 7, [9, 4, 16]), group(2, 3, [5, 5, 11])])
        return {"figures": figures, "gradient": kept}
    finally:
        layouts.DENSE_MASK = dense


def kept_numbers(world: RankWorld, num_tokens: int) -> Result:
    """How many numbers one pass over a single sequence keeps for its backward pass."""
    from qwq.train.packing import batch_logprobs, pack

    made = model()
    division = divide(made, world, tokens=True)
    batch = pack([[(5 * i) % 40 for i in range(num_tokens)]], [[1.0] * num_tokens])
    with Saved() as saved:
        logprob_M, _ = batch_logprobs(made, batch, context=division.context)
    logprob_M.sum().backward()
    weights = {p.untyped_storage().data_ptr() for p in made.parameters()}
    return {"kept": sum(n for place, n in saved.blocks.items() if place not in weights)}
