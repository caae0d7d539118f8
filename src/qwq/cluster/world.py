"""The processes of a run as one of them sees them: who it is, and what they tell each other.

Messages are JSON over gloo, never pickle. Every wait is bounded: by `timeout_s` where all processes
do the same work, and where another one is gone or stopped; by `work_timeout_s` where they wait for
work of unequal length (sampling, the evaluation and the files of the first process).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from qwq.cluster.heartbeat import Heartbeat
from qwq.cluster.place import RankPlace, note_group
from qwq.cluster.ulysses import ContextGroup
from qwq.config import ClusterSection
from qwq.errors import ConfigError, InfraError, PeerLost

T = TypeVar("T")
# Words in the errors of torch's process groups when another process is gone or silent.
LOST = ("gloo", "nccl", "closed by peer", "timed out", "timeout", "connection re", "socket", "store->", "broken pipe")


class RankWorld:
    """A process on its own: everything that it tells the others comes back at once."""

    rank, size, local_size = 0, 1, 1
    context: ContextGroup | None = None  # the processes that divide a pass's tokens with this one

    def __init__(self, config: ClusterSection | None = None) -> None:
        self.config = config

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run's folder."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """The first process's value, a JSON value, in every process."""
        return value

    def gather(self, value: T, *, slow: bool = False) -> list[T]:
        """The JSON values of all processes in the order of their ranks. `slow`: they come after
        work of unequal length.
        """
        return [value]

    def stack(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, of one shape each, stacked in the order of their ranks."""
        return tensor[None]

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        return tensor

    def alone(self, work: Callable[[], T]) -> T:
        """`work` done by the first process alone; its JSON value in every process, after it."""
        return work()

    def first(self, work: Callable[[], T]) -> T:
        """`work` done by every process, by the first before the others begin."""
        self.alone(lambda: None)
        return work()

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def threads(self, asked: int) -> int:
        """Threads of torch in this process; 0 asks for an equal share of the machine's cores.

        In the checking mode one, as sums have another order on another number of threads.
        """
        if asked:
            return asked
        if self.config and self.config.reduction == "fixed":
            return 1
        return max(1, torch.get_num_threads() // self.local_size)


class ConnectedWorld(RankWorld):
    """One of several processes. `join` makes it."""

    def __init__(self, place: RankPlace, config: ClusterSection) -> None:
        super().__init__(config)
        self.config: ClusterSection
        self.place, self.rank, self.size, self.local_size = place, place.rank, place.size, place.local_size
        self.slow = dist.new_group(backend="gloo", timeout=timedelta(seconds=config.work_timeout_s))
        self.heartbeat = Heartbeat(place.size, config.timeout_s)
        self.context = self._context()

    def _context(self) -> ContextGroup | None:
        """This process's context group: neighbours, whose messages stay on one host where they can.
        Every process makes the groups of all.
        """
        each, mine = self.config.context, None
        for first in range(0, self.size if each > 1 else 0, each):
            group = dist.new_group(list(range(first, first + each)), timeout=timedelta(seconds=self.config.timeout_s))
            if first <= self.rank < first + each:
                mine = ContextGroup(self.rank - first, each, group)
        return mine

    def agree(self, value: T) -> T:
        return self._broadcast(value, None)

    def alone(self, work: Callable[[], T]) -> T:
        return self._broadcast(work() if self.leads else None, self.slow)  # type: ignore[return-value]  # the first one's

    def first(self, work: Callable[[], T]) -> T:
        if self.leads:
            done = work()
            self.alone(lambda: None)
            return done
        self.alone(lambda: None)
        return work()

    def gather(self, value: T, *, slow: bool = False) -> list[T]:
        group = self.slow if slow else None
        data = _bytes(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._wait(dist.all_gather(sizes, torch.tensor([len(data)]), group=group, async_op=True), group)
        longest = max(int(s) for s in sizes)
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        padded = torch.cat((data, data.new_zeros(longest - len(data))))
        self._wait(dist.all_gather(parts, padded, group=group, async_op=True), group)
        return [_value(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def stack(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def summed(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def _broadcast(self, value: T, group: Any) -> T:
        data = _bytes(value) if self.leads else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(data)])
        self._wait(dist.broadcast(size, 0, group=group, async_op=True), group)
        data = data if self.leads else torch.empty(int(size), dtype=torch.uint8)
        self._wait(dist.broadcast(data, 0, group=group, async_op=True), group)
        return value if self.leads else _value(data)

    def _wait(self, message: Any, group: Any) -> None:
        """The slow group's messages may be long in coming, and a lost process is noticed before."""
        if group is self.slow:
            self.heartbeat.wait(message)
        else:
            message.wait()


def _bytes(value: Any) -> Tensor:
    # json, not orjson: a completion may decode to lone surrogates, and floats read back exactly.
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value(data: Tensor) -> Any:
    return json.loads(data.numpy().tobytes())


@contextmanager
def join(config: ClusterSection | None, place: RankPlace | None, device: str = "cpu") -> Iterator[RankWorld]:
    """The run's processes while the block lasts: gloo on a CPU, NCCL beside it on GPUs, one GPU a
    process.

    PeerLost where another process ends or is silent for longer than the recipe allows. ConfigError
    where the recipe and the launcher name different numbers of processes.
    """
    if place is None:
        if config and config.processes > 1:
            raise ConfigError(
                f"cluster.processes is {config.processes} and this is one process: `qwq train --processes "
                f"{config.processes}` or torchrun starts them"
            )
        yield RankWorld(config)
        return
    config = config or ClusterSection(processes=place.size)
    if config.processes != place.size:
        raise ConfigError(
            f"cluster.processes is {config.processes}, the launcher started {place.size}: give the same number"
        )
    with _translated(place, config):
        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(place.local_rank)
        if place.rendezvous:
            _end_with_parent()
        os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.size)}
        note_group()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=config.timeout_s), rank=place.rank,
            world_size=place.size, init_method=_meeting(place),
        )  # fmt: skip
        world = ConnectedWorld(place, config)
        try:
            yield world
        except BaseException:
            # Not destroyed: that may wait for a process that is gone. The end of this one closes
            # its connections, which is how the others hear of it.
            raise
        world.heartbeat.leave(config.work_timeout_s)
        dist.destroy_process_group()


def _meeting(place: RankPlace) -> str:
    """Where the processes meet, as torch names it."""
    if not place.rendezvous:
        return "env://"
    return place.rendezvous if "://" in place.rendezvous else f"file://{place.rendezvous}"


@contextmanager
def _translated(place: RankPlace, config: ClusterSection) -> Iterator[None]:
    """Errors of a process group as PeerLost."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if isinstance(error, InfraError) or not any(word in text.lower() for word in LOST):
            raise
        raise PeerLost(
            f"process {place.rank} of {place.size} lost another one, which ended or was silent for longer than "
            f"cluster.timeout_s = {config.timeout_s:g} or work_timeout_s = {config.work_timeout_s:g} allows "
            f"({text[:160]}): run the same command again to resume"
        ) from error


def _end_with_parent() -> None:
    """End this process when the one that launched it is gone, also where it waits for others."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(PeerLost.exit_status)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
