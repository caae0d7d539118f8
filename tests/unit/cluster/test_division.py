"""The fixed reduction gives the same bits on any number of processes, and the same step as one
process without shards up to rounding. The processes are threads here.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from qwq.cluster.divide import divide
from qwq.cluster.division import Fixed, WholeBatch, combined
from qwq.cluster.world import RankWorld, join
from qwq.config import ClusterSection, Optim
from qwq.errors import ConfigError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.train.optim import Optimizer
from qwq.train.supervised import supervised_step

NARROW = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "num_layers": 1,
    "head_dim": 8,
}
DOCUMENTS = [
    ([(7 * i + j) % 40 for j in range(6 + i)], [1.0 if j % 3 else 0.1 for j in range(6 + i)]) for i in range(7)
]


class Threads(RankWorld):
    """One of several processes, as a thread: what they say goes over a shared list."""

    def __init__(self, rank: int, said: list[Any], barrier: threading.Barrier, config: ClusterSection) -> None:
        super().__init__(config)
        self.rank, self.size, self.said, self.barrier = rank, len(said), said, barrier

    def _all(self, value: Any) -> list[Any]:
        self.said[self.rank] = value
        self.barrier.wait(20)
        found = list(self.said)
        self.barrier.wait(20)
        return found

    def gather(self, value, *, slow=False):
        return self._all(value)

    def stack(self, tensor):
        return torch.stack(self._all(tensor))


def model() -> Transformer:
    return Transformer(preset("tiny", **NARROW)).init_weights(torch.Generator().manual_seed(0))


def steps(world: RankWorld, whole: bool = False) -> tuple[list[dict], list[torch.Tensor]]:
    made = model()
    division = WholeBatch(made) if whole else divide(made, world)
    optimizer = Optimizer(made, Optim(lr=1e-3, weight_decay=0.1), 3, division=division)
    rows = [supervised_step(made, optimizer, DOCUMENTS[3 * step :], step) for step in range(2)]
    return rows, [p.detach().clone() for p in made.parameters()]


def on(num_processes: int, shards: int = 5) -> list[tuple[list[dict], list[torch.Tensor]]]:
    config = ClusterSection(processes=num_processes, reduction="fixed", shards=shards)
    said: list[Any] = [None] * num_processes
    barrier = threading.Barrier(num_processes)
    worlds = [Threads(rank, said, barrier, config) for rank in range(num_processes)]
    with ThreadPoolExecutor(num_processes) as pool:
        return list(pool.map(steps, worlds))


def test_the_fixed_reduction_has_the_same_bits_on_1_2_3_and_4_processes():
    ((rows, weights),) = on(1)
    for size in (2, 3, 4):
        for other_rows, other in on(size):
            assert other_rows == rows
            assert all(torch.equal(a, b) for a, b in zip(weights, other, strict=True))


def test_shards_are_the_batch():
    plain_rows, plain = steps(RankWorld(), whole=True)
    ((rows, weights),) = on(1)
    for a, b in zip(plain_rows, rows, strict=True):
        assert a["tokens"] == b["tokens"] and a["loss"] == pytest.approx(b["loss"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
    start = [p.detach() for p in model().parameters()]
    assert max(float((a - b).abs().max()) for a, b in zip(plain, weights, strict=True)) < 2e-5
    assert min(float((a - b).abs().max()) for a, b in zip(plain, start, strict=True)) > 1e-4  # and training moved them


def test_a_parameter_without_gradient_is_left_alone():
    made = model()
    made.unused = torch.nn.Parameter(torch.ones(3, 3))
    division = Fixed(made, RankWorld(ClusterSection()), 4)
    optimizer = Optimizer(made, Optim(lr=0.1, weight_decay=0.5), 1, division=division)
    supervised_step(made, optimizer, DOCUMENTS, 0)
    assert torch.equal(made.unused, torch.ones(3, 3))


def test_items_go_to_shards_in_turn_and_blocks_are_consecutive():
    config = ClusterSection(processes=3, reduction="fixed", shards=8)
    worlds = [Threads(rank, [None] * 3, threading.Barrier(3), config) for rank in range(3)]
    divisions = [Fixed(torch.nn.Linear(1, 1), world, 8) for world in worlds]
    items = list(range(10))
    assert [d.shards(items) for d in divisions] == [[[0, 8], [3], [6]], [[1, 9], [4], [7]], [[2], [5]]]
    assert divisions[0].shards(items[:2]) == [[0]] and divisions[2].shards(items[:2]) == []
    blocks = [d.blocks(10) for d in divisions]
    assert [i for own in blocks for block in own for i in block] == items
    scatter = [Fixed(torch.nn.Linear(1, 1), RankWorld(ClusterSection()), 8).blocks(10)]
    assert scatter == [[range(10)]]  # in one go: no bit has to be the same


def test_figures_are_added_and_of_some_the_largest_counts():
    assert combined([{"n": 1, "x_max": 2.0}, {"n": 2, "x_max": 5.0}, {"x_max": 1.0}]) == {"n": 3, "x_max": 5.0}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_figure_that_is_no_number_is_the_largest_wherever_it_stands(place):
    values = [1.0, 2.0]
    values.insert(place, float("nan"))
    assert math.isnan(combined([{"x_max": value} for value in values])["x_max"])


def test_without_a_launcher_several_processes_are_refused():
    with pytest.raises(ConfigError, match=r"cluster.processes is 2 and this is one process: `qwq train --processes 2`"):
        with join(ClusterSection(processes=2), None):
            pass
    with join(None, None) as world:
        assert world.leads and world.size == 1 and world.alone(lambda: 3) == 3
