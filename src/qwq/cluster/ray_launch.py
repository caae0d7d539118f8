"""Starts the processes of a run where Ray places them, and tells `launch` how they end. This file
and `ray_group.py` alone import Ray.

Ray finds a host for each process, with a GPU where the recipe trains on one, and starts it there.
It decides nothing about work: its tasks are not retried, and what a lost process has done is what
the last checkpoint holds. `launch` starts all of them again where one is lost (`cluster.restarts`);
Ray then places them again, on the hosts that are left.

The cluster is the one that RAY_ADDRESS names; without it Ray is started on this machine for as long
as the run lasts. Hosts have the same Python environment, and see the run's folder under the same
path.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwq.cluster.launch import LOOPBACK, START, Member, end_all
from qwq.cluster.place import RankPlace
from qwq.common.signals import ending_signals
from qwq.errors import ConfigError, InfraError, install_hint

PLACE_S = 120.0  # until Ray has room for all processes
SILENT_S = 30.0  # until a host that does not answer is lost
END_S = 10.0  # of a process that was killed
POLL_S = 0.2
HANDED_ON = ("PYTHONPATH", "QWQ_", "HF_", "OMP_", "TORCH_", "GLOO_", "NCCL_")  # beginnings of environment variables


class RayRunner:
    """An actor of Ray: runs one process on the host where it was placed."""

    def host(self) -> str:
        import ray

        return str(ray.util.get_node_ip_address())

    def free_port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def start(self, argv: Sequence[str], variables: dict[str, str], folder: str) -> None:
        self.files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  # as long as the actor
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *argv], env=os.environ | variables, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=self.files[0], stderr=self.files[1], process_group=0,
        )  # fmt: skip

    def poll(self, seen: Sequence[int]) -> tuple[int | None, list[bytes]]:
        """Its exit status, None while it runs; and what it has printed since `seen` bytes of output
        and errors.
        """
        status = self.process.poll()
        return status, [os.pread(f.fileno(), 1 << 20, at) for f, at in zip(self.files, seen, strict=True)]

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


class RayProcess:
    """A process of a `RayRunner`, as `launch` watches one. `signals` are those that this command
    got and passes on.
    """

    def __init__(self, runner: Any, signals: list[int], *, shown: bool) -> None:
        self.runner, self.signals, self.told, self.shown = runner, signals, 0, shown
        self.returncode: int | None = None
        self.seen, self.errors, self.lost = [0, 0], b"", ""

    def poll(self) -> int | None:
        import ray

        if self.returncode is not None:
            return self.returncode
        try:
            for number in self.signals[self.told :]:
                self.send_signal(number)
                self.told += 1
            status, printed = ray.get(self.runner.poll.remote(self.seen), timeout=SILENT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            self.lost = f"Ray: {' '.join(str(error).split())[:160]}"
            self.returncode = -signal.SIGKILL
            return self.returncode
        self._show(printed)
        if not any(printed):  # all that it has printed is here
            self.returncode = status
        return self.returncode

    def _show(self, printed: Sequence[bytes]) -> None:
        self.seen = [at + len(text) for at, text in zip(self.seen, printed, strict=True)]
        self.errors = (self.errors + printed[1])[-4096:]
        if self.shown:
            for stream, text in zip((sys.stdout, sys.stderr), printed, strict=True):
                stream.write(text.decode(errors="replace"))
                stream.flush()

    def send_signal(self, number: int) -> None:
        self.runner.signal.remote(number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        until = time.monotonic() + END_S
        while self.poll() is None and time.monotonic() < until:
            time.sleep(POLL_S)
        return self.returncode or 0


class RayMember(Member):
    """One process of the run; where its host is lost, Ray says how."""

    process: RayProcess

    def last_words(self) -> str:
        lines = [line for line in self.process.errors.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip().removeprefix("error: ") if lines and self.rank else ""

    @property
    def lost(self) -> str:
        return self.process.lost


@contextlib.contextmanager
def on_ray(num_processes: int, argv: Sequence[str], *, gpus: bool = False) -> Iterator[list[Member]]:
    """Run `qwq ARGV` in so many processes while the block lasts, one GPU each with `gpus`.

    ConfigError where Ray is not installed, InfraError where it has no room for them.
    """
    ray = imported_ray()
    here = "RAY_ADDRESS" not in os.environ
    own = {"num_cpus": num_processes, "include_dashboard": False} if here else {}
    ray.init(log_to_driver=False, logging_level="ERROR", **own)
    signals: list[int] = []
    members: list[Member] = []
    try:
        with ending_signals(lambda number, frame: signals.append(number)):
            runners = _placed(ray, num_processes, gpus)
            places = _places(ray, runners, gpus)
            for runner, place in zip(runners, places, strict=True):
                ray.get(runner.start.remote(list(argv), _variables(place), str(Path.cwd())), timeout=SILENT_S)
                members.append(RayMember(place.rank, RayProcess(runner, signals, shown=place.rank == 0), None))
            yield members
    finally:
        end_all(members)
        ray.shutdown()  # and with this the actors and their places


def imported_ray() -> Any:
    """The package. ConfigError where it is not installed."""
    try:
        import ray
        from ray import init  # noqa: F401  # fails where a folder named ray is all there is
    except ImportError:
        raise ConfigError(f"--launcher ray needs the package ray: {install_hint('ray')}") from None
    return ray


def _placed(ray: Any, num_processes: int, gpus: bool) -> list[Any]:
    """An actor for each process, on as few hosts as they fit on."""
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    needs = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    group = placement_group([needs] * num_processes, strategy="PACK")
    if not group.wait(timeout_seconds=PLACE_S):
        there = {name: ray.cluster_resources().get(name, 0) for name in needs}
        raise InfraError(
            f"Ray has not placed {num_processes} processes with {needs} each within {PLACE_S:g} s, its hosts have "
            f"{there}: give fewer --processes, or add hosts"
        )
    kind = ray.remote(RayRunner)
    runners = [
        kind.options(
            num_cpus=1, num_gpus=int(gpus), max_restarts=0, max_task_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
        ).remote()
        for index in range(num_processes)
    ]  # fmt: skip
    hosts = ray.get([runner.host.remote() for runner in runners], timeout=PLACE_S)
    return [runner for _, runner in sorted(zip(hosts, runners, strict=True), key=lambda pair: pair[0])]


def _places(ray: Any, runners: Sequence[Any], gpus: bool) -> list[RankPlace]:
    """Ranks by host, and the address at which all meet: a port of the first one's host."""
    hosts = ray.get([runner.host.remote() for runner in runners], timeout=SILENT_S)
    port = ray.get(runners[0].free_port.remote(), timeout=SILENT_S)
    places = []
    for rank, host in enumerate(hosts):
        place = RankPlace(rank, len(hosts), hosts[:rank].count(host), hosts.count(host), f"tcp://{hosts[0]}:{port}")
        places.append(replace(place, local_rank=0) if gpus else place)  # Ray shows a process its GPU alone
    return places


def _variables(place: RankPlace) -> dict[str, str]:
    handed = {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
    alone = {"GLOO_SOCKET_IFNAME": LOOPBACK} if place.local_size == place.size else {}
    return alone | handed | place.variables()
