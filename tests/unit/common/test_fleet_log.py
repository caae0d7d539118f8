"""What a fleet's events say of its engines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwq.common.fleet_log import driver, engine_states, last_engines
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


def leased(before: dict[str, object], *after: dict[str, object], now: float = 100.0) -> int:
    """Open leases of engine A that was granted groups 7 and 8 until 160 s."""
    granted = [
        {"event": "granted", "engine": "A", "lease": n, "group": 6 + n, "step": 0, "until": 160.0} for n in (1, 2)
    ]
    ready = {"event": "ready", "engine": "A", "version": 0}
    return engine_states([{"event": "began"} | before, ready, *granted, *after], now)["A"]["open"]


def test_a_lease_is_open_no_longer_than_its_deadline_and_its_trainer():
    """After a kill they were shown as open until their numbers came again."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = driver()
    assert (here["host"], here["pid"]) == (socket.gethostname(), os.getpid())
    assert leased(here) == 2
    assert leased(here, now=160.0) == 0
    assert leased({"host": socket.gethostname(), "pid": gone.pid}) == 0
    assert leased({"host": "elsewhere", "pid": gone.pid}) == 2  # it cannot be asked: the deadline counts
    assert leased(here, {"event": "began"} | here) == 0
    again = {"event": "granted", "engine": "A", "lease": 1, "group": 9, "step": 1, "until": 300.0}
    assert leased(here, {"event": "began"} | here, again) == 1


@pytest.mark.parametrize(("event", "group", "count"), [("cut", 7, 1), ("carry", 7, 2), ("cut", 3, 2)])
def test_a_straggler_that_is_cut_has_no_open_lease(event, group, count):
    """Nothing else may come of it: its engine is told to stop."""
    assert leased(driver(), {"event": event, "group": group, "step": 0}) == count


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says when a process started")
def test_a_trainer_whose_id_another_process_has_is_gone():
    here = driver()
    ticks, boot = here["started"].split()
    assert leased(here) == 2
    assert leased(here | {"started": f"{int(ticks) - 1} {boot}"}) == 0
    assert leased(here | {"started": f"{ticks} another-boot"}) == 0
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert leased({"host": here["host"], "pid": ended.pid, "started": here["started"]}) == 0  # nobody waited for it
    ended.wait()


def test_a_log_that_was_moved_aside_since_it_was_listed_is_no_error(tmp_path, monkeypatch):
    gone = tmp_path / "fleet" / "rl1" / "events.jsonl"
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    assert last_engines(RunFolder(tmp_path)) == ("rl1", {})
