"""The processes of one run, `qwq cluster up|watch|status|down`: engines, sandbox servers, trainer.

The registry of the run lists them, written after each start, and their output lies beside
it. No torch.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.cluster.detached import POLL_S, DetachedProcess, Host, RunProcess, end
from qwq.cluster.ray_group import RayHosts, RayPlaced
from qwq.cluster.registry import Registry
from qwq.common.files import whole_lines
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
    host: Host | RayHosts = dataclasses.field(default_factory=Host)
    url: str = ""


class ProcessGroup:
    """The processes of the run in `folder`. `note` hears what is done."""

    def __init__(self, folder: RunFolder, note: Callable[[str], None]) -> None:
        self.folder, self.note, self.registry = folder, note, Registry(folder)

    def members(self) -> list[RunProcess]:
        """As they were written down. ConfigError where none were."""
        return [_member(table) for table in self.registry.read()]

    def up(self, parts: Sequence[ProcessSpec], *, ready_s: float = READY_S) -> list[str]:
        """Start what does not run, and wait until all servers answer; returns the names of what was
        started. ConfigError where one runs with another command, InfraError where one ends.
        """
        with self.registry.held():
            known = [m.now() for m in (self.members() if self.registry.file.is_file() else [])]
            alive, lost = _on_each_host(lambda m: m if m.alive() else None, known)
            running = {m.name: m for m in alive}
            self._refuse_others(parts, running)
            self._leave(parts, [m for m in known if m.label in lost], lost)
            for gone in [m for m in known if m.name not in running and m.label not in lost]:
                gone.release()
            started = []
            for servers in (True, False):
                for part in [p for p in parts if bool(p.url) == servers and p.name not in running]:
                    running[part.name] = member = self._start(part)
                    started.append(part.name)
                    self._keep(list(running.values()))
                    self.note(f"{part.name}: process {member.pid} {member.host}".rstrip())
                self._wait([m for m in running.values() if m.url], ready_s)
            return started

    def _start(self, part: ProcessSpec) -> RunProcess:
        if isinstance(part.host, Host) and part.url and answers(part.url):
            raise ConfigError(
                f"{part.name} is to listen at {part.url}, where another server answers already: give another --port, "
                "or end that server"
            )
        log = str((self.folder.cluster / f"{part.name}.log").resolve())
        return part.host.start(part.name, part.command, folder=str(Path.cwd()), log=log, url=part.url)

    def again(self, gone: RunProcess) -> RunProcess | None:
        """Start a process again that has ended; None where it is not this run's any more."""
        with self.registry.held():
            members = self.members() if self.registry.file.is_file() else []
            if gone not in members or not isinstance(gone, DetachedProcess):
                return None
            member = gone.place.start(gone.name, gone.command, folder=str(Path.cwd()), log=gone.log, url=gone.url)
            self._keep([member if m == gone else m for m in members])
            return member

    def down(self, grace_s: float) -> list[str]:
        """End the processes, the trainer first; returns the names of those that ran.

        InfraError where a host cannot be reached, or a process there not be killed, once all others
        have ended: those that may still run stay written down, so that the same command ends them.
        """
        with self.registry.held():
            members = self.members()
            running, lost = _on_each_host(lambda m: m if m.alive() else None, members)
            for servers in (False, True):
                there = [m for m in running if bool(m.url) == servers and m.label not in lost]
                killed, more = _on_each_host(lambda *group: end(group, grace_s), there, together=True)
                lost |= more
                for name in killed:
                    self.note(f"{name} did not end within {grace_s:g} s and was killed")
            left = [m for m in members if m.label in lost]
            for member in [m for m in members if m not in left]:
                member.release()
            ended = [m.name for m in running if m not in left]
            if not left:
                self.registry.file.unlink()
                return ended
            self._keep(left)
        raise InfraError(
            f"ended: {', '.join(ended) or 'nothing'}; not ended: {_named(left)}: {'; '.join(lost.values())}. "
            f"`qwq cluster down {shlex.quote(str(self.folder))}` ends the rest once it can be reached; where a host is "
            f"gone for good, delete {self.registry.file}"
        )

    def _refuse_others(self, parts: Sequence[ProcessSpec], running: dict[str, RunProcess]) -> None:
        asked = {p.name: (p.command, p.host.label) for p in parts}
        for name, member in running.items():
            wanted, where = asked.get(name, ("nothing", ""))
            if (wanted, where) != (member.command, member.label):
                raise ConfigError(
                    f"{name} runs as `{member.command}` (process {member.pid}{_at(member.label)}), and `{wanted}`"
                    f"{_at(where)} is asked for: `qwq cluster down {shlex.quote(str(self.folder))}` first, or give the "
                    "same options"
                )

    def _leave(self, parts: Sequence[ProcessSpec], members: Sequence[RunProcess], lost: dict[str, str]) -> None:
        """Leave out engines on hosts that cannot be reached.

        InfraError for an engine that is to run there again, and for a trainer: there is only one.
        """
        asked = {(p.name, p.host.label) for p in parts}
        if stuck := [m for m in members if not m.url or (m.name, m.label) in asked]:
            why = "; ".join(dict.fromkeys(lost[m.label] for m in stuck))
            raise InfraError(
                f"not known whether it still runs: {_named(stuck)}: {why}. Run the same "
                "command once it can be reached, or give an engine another host; where a trainer's host is gone for "
                f"good, `qwq cluster down {shlex.quote(str(self.folder))}` and delete {self.registry.file}"
            )
        for member in members:
            self.note(
                f"{member.name}: {lost[member.label]}: process {member.pid}{_at(member.label)} is left to itself, "
                "end it by hand if it still runs"
            )

    def _keep(self, members: Sequence[RunProcess]) -> None:
        self.registry.write([_table(m) for m in members])

    def _wait(self, servers: Sequence[RunProcess], ready_s: float) -> None:
        until = time.monotonic() + ready_s
        for server in servers:
            while not answers(server.now().url):
                if not server.alive():
                    raise InfraError(f"{server.name} ended at its start: {last_line(server.log)}; see {server.log}")
                if time.monotonic() > until:
                    raise InfraError(f"{server.name} has not answered at {server.url} within {ready_s:g} s")
                time.sleep(POLL_S)


def _member(table: dict[str, Any]) -> RunProcess:
    return RayPlaced(**table) if "actor" in table else DetachedProcess(**table)


def _table(member: RunProcess) -> dict[str, Any]:
    assert isinstance(member, RayPlaced | DetachedProcess)
    return dataclasses.asdict(member)


def _on_each_host(
    work: Callable[..., Any], members: Sequence[RunProcess], *, together: bool = False
) -> tuple[list[Any], dict[str, str]]:
    """What `work` gave for each process, without None, or for those of a host `together`; and the
    error of each host where it failed. Hosts are asked at the same time, so that one which does not
    answer costs its own time-out only.
    """
    hosts: dict[str, list[RunProcess]] = {}
    for member in members:
        hosts.setdefault(member.label, []).append(member)

    def there(group: list[RunProcess]) -> list[Any] | InfraError:
        try:
            return list(work(*group)) if together else [got for m in group if (got := work(m)) is not None]
        except InfraError as error:
            return error

    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        results = dict(zip(hosts, pool.map(there, hosts.values()), strict=True))
    lost = {label: str(got) for label, got in results.items() if isinstance(got, InfraError)}
    return [one for got in results.values() if not isinstance(got, InfraError) for one in got], lost


def _named(members: Sequence[RunProcess]) -> str:
    return ", ".join(f"{m.name} (process {m.pid}{_at(m.label)})" for m in members)


def _at(label: str) -> str:
    return f" at {label}" if label else ""


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


def status_lines(group: ProcessGroup) -> tuple[list[str], bool]:
    """The processes, the engines as the trainer sees them, the last step and its lag; and whether
    all processes run.
    """
    lines, all_run = [], True
    for known in group.members():
        member = known.now()
        try:
            state = "running" if member.alive() else f"gone: {last_line(member.log)}"
        except InfraError as error:
            state = f"not reached: {error}"
        all_run = all_run and state == "running"
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
    return lines, all_run
