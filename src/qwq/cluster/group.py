"""The processes of one run, `qwq cluster up|status|down`: engines, sandbox servers, trainer.

Their state is `cluster/state.json` in the run's folder, written after each start, and their output
lies beside it. No torch.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.cluster.detached import POLL_S, DetachedProcess, Host, end, start
from qwq.common.files import locked, read_record, whole_lines, write_atomic
from qwq.common.fleet_log import last_engines
from qwq.common.run_folder import RunFolder
from qwq.errors import ConfigError, InfraError

READY_S = 300.0  # until a server answers


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process that is to run: its command, where, and the URL under which it is ready (empty:
    nothing is waited for).
    """

    name: str
    command: str
    host: Host = dataclasses.field(default_factory=Host)
    url: str = ""


class ProcessGroup:
    """The processes of the run in `folder`. `note` hears what is done."""

    def __init__(self, folder: RunFolder, note: Callable[[str], None]) -> None:
        self.folder, self.note = folder, note

    @property
    def state_file(self) -> Path:
        return self.folder.cluster / "state.json"

    def members(self) -> list[DetachedProcess]:
        """As they were written down. ConfigError where none were."""
        if not self.state_file.is_file():
            raise ConfigError(f"no processes of {self.folder}: `qwq cluster up RECIPE` starts them")
        return [DetachedProcess(**member) for member in read_record(self.state_file)["members"]]

    def up(self, parts: Sequence[ProcessSpec], *, ready_s: float = READY_S) -> list[str]:
        """Start what does not run, and wait until all servers answer; returns the names of what was
        started. ConfigError where one runs with another command, InfraError where one ends.
        """
        with self._held():
            known = {m.name: m for m in (self.members() if self.state_file.is_file() else [])}
            running = {name: m for name, m in known.items() if m.alive()}
            self._refuse_others(parts, running)
            started = []
            for servers in (True, False):
                for part in [p for p in parts if bool(p.url) == servers and p.name not in running]:
                    running[part.name] = member = self._start(part)
                    started.append(part.name)
                    self._keep(list(running.values()))
                    self.note(f"{part.name}: process {member.pid} {member.host}".rstrip())
                self._wait([m for m in running.values() if m.url], ready_s)
            return started

    def _start(self, part: ProcessSpec) -> DetachedProcess:
        if part.url and answers(part.url):
            raise ConfigError(
                f"{part.name} is to listen at {part.url}, where another server answers already: give another --port, "
                "or end that server"
            )
        log = str((self.folder.cluster / f"{part.name}.log").resolve())
        return start(part.name, part.command, part.host, folder=str(Path.cwd()), log=log, url=part.url)

    def down(self, grace_s: float) -> list[str]:
        """End the processes, the trainer first; returns the names of those that ran."""
        with self._held():
            members = self.members()
            running = [m for m in members if m.alive()]
            for servers in (False, True):
                for name in end([m for m in running if bool(m.url) == servers], grace_s):
                    self.note(f"{name} did not end within {grace_s:g} s and was killed")
            self.state_file.unlink()
            return [m.name for m in running]

    def _held(self) -> Any:
        return locked(self.folder.cluster, f"another `qwq cluster` command works on {self.folder}: wait for it")

    def _refuse_others(self, parts: Sequence[ProcessSpec], running: dict[str, DetachedProcess]) -> None:
        asked = {p.name: (p.command, p.host.name) for p in parts}
        for name, member in running.items():
            wanted = asked.get(name, ("nothing", ""))
            if wanted != (member.command, member.host):
                raise ConfigError(
                    f"{name} runs as `{member.command}` (process {member.pid}), and `{wanted[0]}` "
                    f"is asked for: `qwq cluster down {shlex.quote(str(self.folder))}` first, or give the same options"
                )

    def _keep(self, members: Sequence[DetachedProcess]) -> None:
        write_atomic(self.state_file, json.dumps({"members": [dataclasses.asdict(m) for m in members]}, indent=1))

    def _wait(self, servers: Sequence[DetachedProcess], ready_s: float) -> None:
        until = time.monotonic() + ready_s
        for server in servers:
            while not answers(server.url):
                if not server.alive():
                    raise InfraError(f"{server.name} ended at its start: {last_line(server.log)}; see {server.log}")
                if time.monotonic() > until:
                    raise InfraError(f"{server.name} has not answered at {server.url} within {ready_s:g} s")
                time.sleep(POLL_S)


def answers(url: str) -> bool:
    """Whether the server at `url` says that it is well."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def last_line(log: str) -> str:
    """The last line of a log, empty where there is none."""
    path = Path(log)
    lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1].removeprefix("error: ") if lines else "it printed nothing"


def status_lines(group: ProcessGroup) -> list[str]:
    """The processes, the engines as the trainer sees them, the last step and its lag."""
    lines = []
    for member in group.members():
        state = "running" if member.alive() else f"gone: {last_line(member.log)}"
        where = " ".join(filter(None, (member.host, f"process {member.pid}", member.url)))
        lines.append(f"{member.name:12} {where}  {state}")
    stage, engines = last_engines(group.folder)
    for url, engine in engines.items():
        lines.append(
            f"{stage}: {url} {engine['state']}, weights of step {engine['version']}; leases "
            f"{engine['open']} open, {engine['accepted']} accepted, {engine['lost']} lost"
        )
    if steps := whole_lines(group.folder.metrics):
        last = json.loads(steps[-1])
        lag = f", lag {last['lag_mean']:g} mean, {last['lag_max']} at most" if "lag_max" in last else ""
        lines.append(f"last step: {last['stage']} {last['step']}, {last['seconds']:g} s{lag}")
    return lines
