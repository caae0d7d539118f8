"""What the engines of a run do, from the events that its trainer writes
(`fleet/STAGE/events.jsonl`).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.files import whole_lines
from qwq.common.run_folder import RunFolder

DRIVER = "began"  # a trainer opened the log: what an earlier one had leased is over
LEASE_ENDS = ("accepted", "late", "twice", "stale", "lost")  # events after which a lease is not open


def last_events(files: RunFolder) -> Path | None:
    """The file of events that was written last; None for a run without a fleet."""
    paths = files.path.glob("fleet/*/events.jsonl")
    return max(paths, key=_written_ns, default=None)


def _written_ns(path: Path) -> int:
    """When a file was written; -1 for one that was moved aside since it was listed."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return -1


def last_engines(files: RunFolder, now: float | None = None) -> tuple[str, dict[str, dict[str, Any]]]:
    """The stage that sampled with engines last, and `engine_states` of it."""
    path = last_events(files)
    if path is None:
        return "", {}
    return path.parent.name, engine_states([json.loads(line) for line in whole_lines(path)], now)


def driver() -> dict[str, Any]:
    """What the first event of a trainer says of itself."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: int) -> str:
    """Start time of a process, in ticks, and the boot of this host, as `cluster.detached` has them;
    "ended" for one that nobody has waited for yet, "" where the system does not say.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "ended" if state in ("Z", "X") else f"{fields[18]} {boot}"


def driver_gone(event: Mapping[str, Any]) -> bool:
    """Whether the trainer that wrote this `DRIVER` event has ended, also where another process has
    its id now; False where it ran on another host, which cannot be asked.
    """
    if event["host"] != socket.gethostname():
        return False
    try:
        os.kill(event["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is somebody else's, and there
        pass
    now = _started(event["pid"])
    return bool(now and event.get("started")) and now != event["started"]


def engine_states(events: Sequence[Mapping[str, Any]], now: float | None = None) -> dict[str, dict[str, Any]]:
    """What a stage's events say of each engine: its state, the version that it holds, leases open,
    accepted and lost.

    A lease is open until it ends, its group is cut, its deadline (seconds since 1970, as `now`) is
    over, another trainer begins, or its own is gone.
    """
    now = time.time() if now is None else now
    engines: dict[str, dict[str, Any]] = {}
    leases: dict[int, Mapping[str, Any]] = {}
    driver_event: Mapping[str, Any] | None = None
    for event in events:
        kind, url = event["event"], event.get("engine")
        if kind == DRIVER:
            driver_event, leases = event, {}
        elif kind == "granted":
            leases[event["lease"]] = event
        elif kind == "cut":  # groups have their numbers for the whole stage
            leases = {n: lease for n, lease in leases.items() if lease.get("group") != event["group"]}
        ended = leases.pop(event["lease"], event) if kind in LEASE_ENDS else event
        holder = ended.get("engine", url)
        if holder is None:
            continue
        engine = engines.setdefault(
            str(holder), {"state": "away", "version": None, "open": 0, "accepted": 0, "lost": 0}
        )
        if kind in ("ready", "away"):
            engine |= {"state": kind, "version": event.get("version", engine["version"])}
        elif kind in ("accepted", "lost"):
            engine[kind] += 1
    if driver_event is not None and driver_gone(driver_event):
        leases = {}
    for lease in leases.values():
        engines[str(lease["engine"])]["open"] += lease.get("until", now + 1) > now
    return engines
