"""Processes that are started again by themselves: so many times, later and later, and no others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from qwq.cluster.group import ProcessGroup, ProcessSpec
from qwq.cluster.registry import LOCK_S, Registry
from qwq.cluster.restarter import NAME, Restarter
from qwq.common.run_folder import RunFolder
from qwq.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or not shutil.which("setsid"), reason="needs Linux's /proc and setsid"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def group(tmp_path, said):
    made = ProcessGroup(RunFolder(tmp_path / "run"), said.append)
    yield made
    if made.registry.file.exists():
        made.down(1.0)


def kill(group: ProcessGroup, name: str) -> int:
    """Kill a process of the run; its id."""
    (member,) = [m for m in group.members() if m.name == name]
    os.kill(member.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while member.alive() and time.monotonic() < until:
        time.sleep(0.02)
    return member.pid


def ids(group: ProcessGroup) -> dict[str, int]:
    return {m.name: m.pid for m in group.members()}


def test_a_process_is_started_again_so_many_times_and_later_each_time(group, said):
    group.up([ProcessSpec("engine-1", "sleep 300"), ProcessSpec("engine-2", "sleep 301")])
    watcher, before = Restarter(group, restarts=2), ids(group)
    del said[:]
    assert watcher.look(100.0) and ids(group) == before
    kill(group, "engine-1")
    watcher.look(100.5)
    first = ids(group)
    assert first["engine-1"] != before["engine-1"] and first["engine-2"] == before["engine-2"]
    assert all(m.alive() for m in group.members())
    kill(group, "engine-1")
    watcher.look(101.4)
    assert ids(group) == first  # a second after the first time
    watcher.look(101.6)
    second = ids(group)
    assert second["engine-1"] != first["engine-1"]
    kill(group, "engine-1")
    watcher.look(103.5)
    assert ids(group) == second and len(said) == 2  # two seconds after the second
    for now in (103.7, 200.0, 300.0):
        watcher.look(now)
    assert ids(group) == second
    assert [line.rpartition(", ")[2] for line in said[:2]] == ["1 restarts left", "0 restarts left"]
    assert said[2:] == ["engine-1: it has ended, and was started again 2 times: it is left so"]  # once


def test_the_trainer_of_a_finished_run_and_the_watcher_itself_are_left(group):
    group.up([ProcessSpec("trainer", "sleep 300"), ProcessSpec(NAME, "sleep 301")])
    results = group.folder.results_file
    results.write_text(json.dumps({"finished": True}))
    before = ids(group)
    kill(group, "trainer")
    kill(group, NAME)
    watcher = Restarter(group, restarts=3)
    watcher.look(0.0)
    assert ids(group) == before
    results.write_text(json.dumps({"finished": False}))
    watcher.look(1.0)
    after = ids(group)
    assert after["trainer"] != before["trainer"] and after[NAME] == before[NAME]


def test_nothing_is_started_behind_the_end_of_the_processes(group, monkeypatch):
    monkeypatch.setattr("qwq.cluster.registry.LOCK_S", 0.1)
    group.up([ProcessSpec("engine-1", "sleep 300")])
    watcher = Restarter(group, restarts=3)
    pid = kill(group, "engine-1")
    (gone,) = group.members()
    with group.registry.held():  # `down` is at work
        watcher.look(0.0)
    assert ids(group)["engine-1"] == pid and watcher.tries.total() == 0
    group.registry.file.unlink()
    assert group.again(gone) is None
    assert not watcher.look(1.0)


def test_a_process_that_moved_is_written_down_if_it_is_the_same_one(tmp_path):
    registry = Registry(RunFolder(tmp_path))
    here = {"name": "engine-1", "actor": "a:1", "host": "10.0.0.1", "pid": 5, "url": "http://10.0.0.1:8100"}
    there = here | {"host": "10.0.0.2", "pid": 7, "url": "http://10.0.0.2:8100"}
    assert not registry.replace(there, known_by="actor") and not registry.file.exists()
    registry.write([{"name": "trainer"}, here | {"log": "x"}])
    assert not registry.replace(there | {"actor": "a:2"}, known_by="actor")
    assert registry.read()[1] == here | {"log": "x"}
    assert registry.replace(there, known_by="actor")
    assert registry.read() == [{"name": "trainer"}, there | {"log": "x"}]


def test_a_command_waits_for_another_one_and_says_so_in_the_end(tmp_path):
    registry = Registry(RunFolder(tmp_path))
    began = time.monotonic()
    with registry.held(), pytest.raises(ConfigError, match="another `qwq cluster` command"), registry.held(0.2):
        pass
    assert 0.2 <= time.monotonic() - began < LOCK_S
