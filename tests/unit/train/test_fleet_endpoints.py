"""Engines that come, go and move: the trainer reads them from the registry of its processes."""

from __future__ import annotations

import json

import pytest

from qwq.config import RolloutSection
from qwq.errors import ConfigError
from qwq.rollout.fleet_engine import EngineState
from qwq.rollout.roster import FIND_S, FleetSettings, Roster
from qwq.train.fleet_sampler import _finder

HERE, THERE, FURTHER = (f"http://10.0.0.{i}:8100" for i in (1, 2, 3))


def write(path, *urls):
    members = [{"name": f"engine-{i}", "url": url} for i, url in enumerate(urls, 1)]
    others = [{"name": "sandbox-1", "url": "http://10.0.0.1:8102"}, {"name": "trainer", "url": ""}]
    path.write_text(json.dumps({"members": [*members, *others]}))


def test_engines_are_followed_through_the_registry(tmp_path):
    state = tmp_path / "state.json"
    find = _finder(RolloutSection(policy="qwq", endpoints=[str(state)]))
    with pytest.raises(ConfigError, match="no engines in .*state.json"):
        find([])
    write(state, HERE, THERE)
    settings = FleetSettings(tmp_path / "weights", tmp_path / "log")
    roster = Roster(
        find([]), settings, prompt=[1], temperature=1.0, put=lambda _: None, note=lambda _: None, find=find
    )  # fmt: skip
    first, second = roster.engines
    second.state = EngineState.READY
    now = roster._found_at
    assert roster.find(now + FIND_S / 2) == [] and [e.url for e in roster.engines] == [HERE, THERE]

    write(state, FURTHER, THERE)
    assert roster.find(now + FIND_S / 2) == []  # not so soon
    assert roster.find(now + FIND_S) == [first]
    moved, same = roster.engines
    assert moved.url == FURTHER and moved.state is EngineState.AWAY and moved.retry_at == 0.0
    assert same is second and roster.ready == [second]

    state.unlink()  # `qwq cluster down` is at work
    assert roster.find(now + 2 * FIND_S) == [] and roster.engines == [moved, second]
    roster.close()
