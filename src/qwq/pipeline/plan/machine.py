"""What one machine can do: the rate of its matrix products and of reading its memory, measured in
under two seconds or given. Imports without torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from qwq.common.memory import on_cuda
from qwq.config import Recipe
from qwq.model.config import ModelConfig

PROBE_TOKENS = 1024  # rows of the product that is timed
PROBE_S = 0.3  # that products are timed
PROBE_BYTES = 1 << 28  # memory that is read


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of one machine: `flops_s` of products as large as the model's, in operations a second
    (2 per multiply-add), `bytes_s` of reading memory; `origin` says where they come from. `price`
    is of an hour, in the user's currency; None: unknown.
    """

    flops_s: float
    bytes_s: float
    origin: str
    price: float | None = None

    def money(self, seconds: float) -> float:
        """What `seconds` of it cost; 0 without a price."""
        return seconds / 3600 * (self.price or 0.0)


def can_measure(device: str) -> bool:
    """Whether `device` is here and `measure` can time it: a CPU, or a CUDA device."""
    if device == "cpu":
        return True
    if not on_cuda(device):
        return False
    import torch

    return torch.cuda.is_available()


def measure(recipe: Recipe, config: ModelConfig, price: float | None = None) -> Machine:
    """Time the recipe's device, with the recipe's threads and dtype, on products of the model's
    hidden and intermediate sizes.
    """
    import torch

    from qwq.engine.bench import read_bandwidth
    from qwq.model.linear import product

    compute, threads = recipe.compute, torch.get_num_threads()
    torch.set_num_threads(compute.threads or threads)
    dtype = torch.bfloat16 if compute.dtype == "bfloat16" else torch.float32
    try:
        x_TD = torch.ones(PROBE_TOKENS, config.hidden_size, dtype=dtype, device=compute.device)
        w_FD = torch.ones(config.intermediate_size, config.hidden_size, dtype=dtype, device=compute.device)

        def one() -> None:
            product(x_TD, w_FD)
            if compute.device != "cpu":
                torch.cuda.synchronize()

        seconds = _shortest(one)
        bandwidth = read_bandwidth(compute.device, PROBE_BYTES)
    finally:
        torch.set_num_threads(threads)
    flops = 2.0 * PROBE_TOKENS * config.hidden_size * config.intermediate_size
    return Machine(flops / seconds, bandwidth, "measured now", price)


def _shortest(call: Callable[[], None]) -> float:
    """Seconds of the fastest of the calls that fit into `PROBE_S`; the first is not counted."""
    call()
    best, until = float("inf"), time.perf_counter() + PROBE_S
    while best == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
