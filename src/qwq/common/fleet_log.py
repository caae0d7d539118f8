"""What the engines of a run do, from the events that its trainer writes
(`fleet/STAGE/events.jsonl`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.files import whole_lines
from qwq.common.run_folder import RunFolder

LEASE_ENDS = ("accepted", "late", "twice", "stale", "lost")  # events after which a lease is not open


def last_events(files: RunFolder) -> Path | None:
    """The file of events that was written last; None for a run without a fleet."""
    paths = files.path.glob("fleet/*/events.jsonl")
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)


def last_engines(files: RunFolder) -> tuple[str, dict[str, dict[str, Any]]]:
    """The stage that sampled with engines last, and `engine_states` of it."""
    path = last_events(files)
    if path is None:
        return "", {}
    return path.parent.name, engine_states([json.loads(line) for line in whole_lines(path)])


def engine_states(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a stage's events say of each engine: its state, the version that it holds, leases open,
    accepted and lost.
    """
    engines: dict[str, dict[str, Any]] = {}
    leases: dict[int, str] = {}
    for event in events:
        kind, url = event["event"], event.get("engine")
        if kind == "granted":
            leases[event["lease"]] = str(url)
        holder = leases.pop(event["lease"], url) if kind in LEASE_ENDS else url
        if holder is None:
            continue
        engine = engines.setdefault(
            str(holder), {"state": "away", "version": None, "open": 0, "accepted": 0, "lost": 0}
        )
        if kind in ("ready", "away"):
            engine |= {"state": kind, "version": event.get("version", engine["version"])}
        elif kind in ("accepted", "lost"):
            engine[kind] += 1
    for holder in leases.values():
        engines[holder]["open"] += 1
    return engines
