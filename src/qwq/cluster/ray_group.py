"""Processes of a run that Ray places, starts and starts again: `qwq cluster up --launcher ray`.
This file and `ray_launch.py` alone import Ray.

Each process belongs to an actor of Ray that outlives the command, a `RayKeeper`: it holds what the
process needs of its host (CPUs, GPUs) and starts it there. Where the process fails the keeper ends,
too, and Ray starts it again, on another host where that one is lost, so many times as were asked
for; it then writes its new place into the run's registry, where the trainer reads it. A process
that ends well is left so. Ray decides nothing about work: a lost engine's leases are the trainer's
to give again, and a trainer resumes from its checkpoint.

Hosts have the same Python environment, and see the run's folder under the same path. Not covered: a
Ray cluster whose head is gone; its processes end with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qwq.cluster.launch import HELD
from qwq.cluster.ray_launch import HANDED_ON, PLACE_S, imported_ray
from qwq.cluster.registry import Registry
from qwq.common.run_folder import RunFolder
from qwq.errors import ConfigError, InfraError

NAMESPACE = "qwq"
LABEL = "ray"  # what is placed by Ray, wherever
ANSWER_S = 20.0  # until a keeper that says nothing is one that Ray is placing
REACH_S = 10.0  # until Ray's head is out of reach
PAUSE_S = 1.0  # between the end of a process and its next start
# Runs a command line in this process, and so under its id.
SHELL = "import os, sys; os.execvp('sh', ['sh', '-c', 'exec ' + sys.argv[1]])"
HOST = "{host}"  # in a command and a URL: the address of the host where Ray places it


@dataclass(frozen=True, slots=True)
class RayHosts:
    """The hosts of a Ray cluster. `address` is its head's; each process that is started there needs
    `needs` of its host, and is started again at most `restarts` times.
    """

    address: str
    restarts: int = 0
    needs: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})

    @property
    def label(self) -> str:
        """How a place is told from another one."""
        return LABEL

    def start(self, name: str, command: str, *, folder: str, log: str, url: str = "") -> RayPlaced:
        """InfraError where Ray has no room for it."""
        ray = _connected(self.address)
        actor = f"{Path(log).with_suffix('')}:{secrets.token_hex(4)}"
        member = RayPlaced(name, command, "", 0, log, url, actor, self.address)
        needs = dict(self.needs)
        keeper = ray.remote(RayKeeper).options(
            name=actor, namespace=NAMESPACE, lifetime="detached", max_restarts=self.restarts, max_task_retries=0,
            num_cpus=needs.pop("CPU", 0), num_gpus=needs.pop("GPU", 0), scheduling_strategy="SPREAD",
        ).remote(asdict(member), folder, _variables(self.address))  # fmt: skip
        try:
            return member.at(ray.get(keeper.state.remote(), timeout=PLACE_S))
        except ray.exceptions.GetTimeoutError:
            there = {need: ray.cluster_resources().get(need, 0) for need in self.needs}
            said = (
                f"Ray has not placed {name} within {PLACE_S:g} s: it needs {dict(self.needs)}, all hosts have {there}"
            )
        except ray.exceptions.RayError as error:
            said = f"Ray could not start {name}: {' '.join(str(error).split())[:300]}"
        ray.kill(keeper, no_restart=True)
        raise InfraError(said)


@dataclass(frozen=True, slots=True)
class RayPlaced:
    """A process that the keeper `actor` of the Ray at `ray` holds. `host` and `pid` are where it
    was when this was written down.
    """

    name: str
    command: str
    host: str
    pid: int
    log: str
    url: str
    actor: str
    ray: str

    @property
    def label(self) -> str:
        return LABEL

    def at(self, state: Mapping[str, Any]) -> RayPlaced:
        return replace(self, **{key: state[key] for key in ("host", "pid", "url")})

    def now(self) -> RayPlaced:
        """Where it is now."""
        state = self._state()
        return self if state is None else self.at(state)

    def alive(self) -> bool:
        state = self._state()
        return state is not None and state["status"] is None

    def _state(self) -> dict[str, Any] | None:
        """What its keeper says; None where it has ended, or Ray is placing it."""
        ray = _connected(self.ray)
        try:
            state = ray.get(ray.get_actor(self.actor, NAMESPACE).state.remote(), timeout=ANSWER_S)
        except (ValueError, ray.exceptions.RayError):  # ValueError: there is no such actor any more
            return None
        return dict(state)

    def signal(self, name: str) -> None:
        """Send TERM to the process, or KILL to its session; Ray does not start it again."""
        ray = _connected(self.ray)
        with contextlib.suppress(ValueError, ray.exceptions.RayError):
            ray.get(ray.get_actor(self.actor, NAMESPACE).end.remote(name), timeout=ANSWER_S)

    def release(self) -> None:
        """Give back what it held of its host."""
        ray = _connected(self.ray)
        with contextlib.suppress(ValueError, ray.exceptions.RayError):
            ray.kill(ray.get_actor(self.actor, NAMESPACE), no_restart=True)


class RayKeeper:
    """The actor: starts a process where Ray has placed it, and ends when that fails."""

    def __init__(self, member: Mapping[str, Any], folder: str, variables: Mapping[str, str]) -> None:
        import ray

        self.told, host = False, str(ray.util.get_node_ip_address())
        command, url = (member[key].replace(HOST, host) if member["url"] else member[key] for key in ("command", "url"))
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
        held = HELD.format(os.getpid()) + SHELL
        with Path(member["log"]).open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", held, command], env=own | dict(variables), cwd=folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.place = {"host": host, "pid": self.process.pid, "url": url}
        if ray.get_runtime_context().was_current_actor_reconstructed:
            moved = {"name": member["name"], "actor": member["actor"], **self.place}
            registry = Registry(RunFolder(Path(member["log"]).parent.parent))
            threading.Thread(target=_write_down, args=(registry, moved), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End with a process that failed, so that Ray starts both again."""
        if self.process.wait():
            time.sleep(PAUSE_S)
            if not self.told:
                os._exit(1)

    def state(self) -> dict[str, Any]:
        """Where the process is, and its exit status, None while it runs."""
        return self.place | {"status": self.process.poll()}

    def end(self, name: str) -> None:
        """Send TERM to the process, or KILL to its session."""
        self.told = True
        if self.process.poll() is None:
            (os.killpg if name == "KILL" else os.kill)(self.process.pid, getattr(signal, f"SIG{name}"))


def _write_down(registry: Registry, moved: Mapping[str, Any]) -> None:
    """A command may hold the registry for as long as servers take to start."""
    while True:
        with contextlib.suppress(ConfigError):
            registry.replace(moved, known_by="actor")
            return
        time.sleep(PAUSE_S)


def ray_address() -> str:
    """The head of the Ray cluster that RAY_ADDRESS names, HOST:PORT. ConfigError without it."""
    imported_ray()
    address = os.environ.get("RAY_ADDRESS", "")
    if not address.rpartition(":")[2].isdecimal():
        raise ConfigError(
            f"RAY_ADDRESS is {address!r}, and --launcher ray of `qwq cluster up` wants HOST:PORT of a Ray that runs: "
            "`ray start --head` starts one, and `ray start --address HOST:PORT` adds a host"
        )
    return address


def _connected(address: str) -> Any:
    """Ray, connected. InfraError where its head does not answer."""
    ray = imported_ray()
    if not ray.is_initialized():
        host, _, port = address.rpartition(":")
        gone = f"Ray at {address} does not answer: its processes end with it, `ray start --head` starts it"
        try:
            socket.create_connection((host, int(port)), REACH_S).close()
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except (OSError, ConnectionError) as error:
            raise InfraError(f"{gone} ({error})") from None
    return ray


def _variables(address: str) -> dict[str, str]:
    """Of the environment of this command, what its processes get."""
    handed = {name: value for name, value in os.environ.items() if name.startswith((*HANDED_ON, "RAY_"))}
    return handed | {"RAY_ADDRESS": address}
