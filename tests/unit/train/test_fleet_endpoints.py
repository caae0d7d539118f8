"""Engines that come, go and move, read from the registry of the run's processes; slow ones, and
those that do not say which weights they hold.
"""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
from scripted import chat_format

from qwq.config import RolloutSection
from qwq.endpoint.rollout_client import RolloutClient, Sample
from qwq.engine.sampler import SamplingParams
from qwq.errors import ConfigError, InfraError
from qwq.rollout.fleet_engine import EngineState, FleetEngine, Synced
from qwq.rollout.policies.remote import RemotePolicy
from qwq.rollout.policy import TurnRequest
from qwq.rollout.roster import FIND_S, FleetSettings, Roster, Weights
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


def _sample(*versions: str) -> Sample:
    return Sample(list(range(len(versions))), [-1.0] * len(versions), [1] * len(versions), list(versions), "length", "")


def _roster(tmp_path, *engines: FleetEngine, put=lambda _: None) -> Roster:
    settings = FleetSettings(tmp_path / "weights", tmp_path / "log")
    return Roster(list(engines), settings, prompt=[1], temperature=1.0, put=put, note=lambda _: None)


def _publish(roster: Roster, version: int) -> Path:
    roster.publish(Weights(version, lambda folder: folder.mkdir(parents=True), lambda _, ids: [-1.0] * len(ids)))
    assert roster.published is not None
    return Path(roster.published.folder)


class SlowEngine(FleetEngine):
    """It reads its weights until it is told to go on."""

    def set_weights(self, weights, *_, **__):
        self.go_on.wait(10)
        return weights


def test_weights_stay_while_an_engine_may_read_them(tmp_path):
    slow = SlowEngine(RolloutClient(HERE, "qwq"))
    slow.go_on, came = threading.Event(), threading.Event()
    stale = tmp_path / "weights" / "left-by-a-killed-run"
    stale.mkdir(parents=True)
    roster = _roster(tmp_path, slow, put=lambda _: came.set())
    first = _publish(roster, 0)
    assert not stale.exists()
    roster.sync_due(time.monotonic())
    second, third, fourth = (_publish(roster, version) for version in (1, 2, 3))
    assert [f.is_dir() for f in (first, second, third, fourth)] == [True, False, True, True]
    slow.go_on.set()
    assert came.wait(10)
    slow.busy = False  # as the fleet does with what came
    fifth = _publish(roster, 4)
    assert sorted((tmp_path / "weights").iterdir()) == sorted([fourth, fifth])
    roster.close()


def test_an_engine_that_does_not_label_its_tokens_gets_no_work(tmp_path):
    engine = FleetEngine(RolloutClient(HERE, "vllm"))
    roster = _roster(tmp_path, engine)
    _publish(roster, 3)
    name = roster.published.name
    for versions, said in (
        (("", ""), r"without the version of the weights"),
        ((name, ""), r"without the version of the weights"),
        ((name, "7-other"), r"are of weights \['3-.*', '7-other'\], not 3-"),
    ):
        engine.state = EngineState.SYNCING
        roster.probed(Synced(engine, roster.published, _sample(*versions), None, 0.1))
        assert engine.state is EngineState.AWAY and re.search(said, engine.error)
    engine.state = EngineState.SYNCING
    roster.probed(Synced(engine, roster.published, _sample(name, name), None, 0.1))
    assert engine.state is EngineState.READY
    roster.close()


@pytest.mark.parametrize("versions", [("", "", ""), ("w3", "w3", "")])
def test_tokens_without_a_version_are_not_taken_for_current_ones(versions):
    chat = chat_format()

    class Client:
        url = HERE

        def sample(self, asked, timeout_s):
            return self.given

    client = Client()
    policy = RemotePolicy(
        client, chat, name="w3", version=3, number_of={"w3": 3}.__getitem__, deadline=time.monotonic() + 60
    )
    ask = lambda: policy._ask(TurnRequest(None, SamplingParams(max_new_tokens=3), prompt_ids=[1, 2]))
    client.given = _sample("w3", "w3", "w3")
    assert ask().weight_versions == [3, 3, 3]
    client.given = _sample(*versions)
    with pytest.raises(InfraError, match="10.0.0.1:8100 gave tokens without the version.*weight_versions"):
        ask()
