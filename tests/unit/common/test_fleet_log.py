"""What a fleet's events say of its engines."""

from __future__ import annotations

import json
import os

from qwq.common.fleet_log import engine_states, last_engines
from qwq.common.run_folder import RunFolder


def test_leases_of_engines_from_events():
    """Of three leases of A one is accepted, one lost and one open; B failed after its sync."""
    events = [
        {"event": "published", "version": 3},
        {"event": "ready", "engine": "A", "version": 3},
        {"event": "ready", "engine": "B", "version": 3},
        {"event": "granted", "engine": "A", "lease": 1},
        {"event": "granted", "engine": "A", "lease": 2},
        {"event": "granted", "engine": "A", "lease": 3},
        {"event": "accepted", "engine": "A", "lease": 1},
        {"event": "lost", "lease": 2, "why": "late"},
        {"event": "away", "engine": "B", "error": "x"},
    ]
    assert engine_states(events) == {
        "A": {"state": "ready", "version": 3, "open": 1, "accepted": 1, "lost": 1},
        "B": {"state": "away", "version": 3, "open": 0, "accepted": 0, "lost": 0},
    }


def test_the_last_stage_with_a_fleet_counts_and_half_a_line_does_not(tmp_path):
    for age, stage in enumerate(("rl2", "rl1")):
        folder = tmp_path / "fleet" / stage
        folder.mkdir(parents=True)
        ready = json.dumps({"event": "ready", "engine": stage, "version": age})
        (folder / "events.jsonl").write_text(ready + '\n{"event": "aw')
        os.utime(folder / "events.jsonl", (1000 - age, 1000 - age))
    stage, engines = last_engines(RunFolder(tmp_path))
    assert stage == "rl2" and list(engines) == ["rl2"] and engines["rl2"]["version"] == 0
    assert last_engines(RunFolder(tmp_path / "none")) == ("", {})
