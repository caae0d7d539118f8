"""Engines that die, hang, crawl, and return in the middle of a run, behind a gate. `make
test-fleet-faults` does it to processes and a network namespace, at 20 random moments each.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from engines import ServedHere
from fleet_faults import LONGER, check_same
from fleets import ending_model, events, metrics, prompts, run
from gate import Gate

from qwq.rollout.accepted import AcceptedGroups
from qwq.rollout.roster import Roster

TIMES = {"rollout.rejoin_s": 0.1, "rollout.lease_s": 1.5, "rollout.sync_timeout_s": 1.5, "rollout.give_up_s": 30.0,
         "rollout.concurrency": 4}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return ending_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("local"), model, **LONGER)


@pytest.fixture(scope="module")
def engines(model: Path):
    with ServedHere(model) as good, ServedHere(model) as bad:
        yield good, bad


@pytest.fixture
def gate(engines):
    made = Gate(int(engines[1].url.rpartition(":")[2]))
    yield made
    made.close()


def asked(*urls: str) -> dict[str, str]:
    return {"rollout.policy": "qwq", "rollout.endpoints": ",".join(urls)}


@pytest.fixture
def upon(gate, monkeypatch):
    """Has the gate do something at the event number `count` of a kind that names its engine. Until
    then the other engine is not ready: on an idle machine it would do all of the work.
    """

    def arrange(kind: str, act: str, count: int = 1) -> None:
        tell, sync, seen = Roster.tell, Roster._sync, []

        def synced(self, engine, weights):
            until = time.monotonic() + 10
            while engine.url != gate.url and len(seen) < count and time.monotonic() < until:
                time.sleep(0.01)
            sync(self, engine, weights)

        def told(self, event, **fields):
            tell(self, event, **fields)
            if event == kind and fields["engine"] == gate.url:
                seen.append(event)
                if len(seen) == count:
                    getattr(gate, act)()

        monkeypatch.setattr(Roster, "tell", told)
        monkeypatch.setattr(Roster, "_sync", synced)

    return arrange


@pytest.mark.parametrize(("fault", "count"), [("shut", 1), ("hang", 2), ("slow", 1)])
def test_a_fault_changes_nothing_but_the_time(fault, count, model, undisturbed, engines, gate, upon, tmp_path):
    upon("granted", fault, count)
    done = run(tmp_path, model, **TIMES, **LONGER, **asked(gate.url, engines[0].url))
    kinds = check_same(done, undisturbed)
    assert "lost" in kinds and "away" in kinds


def test_an_engine_joins_and_returns_in_the_middle_of_a_step(model, undisturbed, engines, gate, upon, tmp_path):
    gate.shut()
    upon("away", "open")
    done = run(tmp_path, model, **TIMES, **LONGER, **asked(gate.url))
    check_same(done, undisturbed)
    told = events(done)
    first = next(e for e in told if e["event"] in ("away", "ready"))
    assert first["event"] == "away" and any(e["event"] == "ready" for e in told)


def test_a_step_may_train_on_weights_of_the_step_before(model, engines, tmp_path):
    """max_lag = 1: groups of the next step are sampled while one trains; never older."""
    done = run(tmp_path, model, **TIMES, **LONGER, **asked(*(e.url for e in engines)), **{"rollout.max_lag": 1})
    lags = [m["lag_max"] for m in metrics(done)]
    assert lags[0] == 0 and max(lags) == 1
    assert all("importance_mean" in m for m in metrics(done) if m["trained_tokens"])
    assert [len(step) for step in prompts(done)] == [3, 3, 3]


@pytest.mark.parametrize("what", ["cut", "carry"])
def test_stragglers_are_cut_or_carried(what, model, undisturbed, engines, gate, upon, tmp_path):
    """One engine hangs with its first group: the step begins without it."""
    keys = {"rollout.stragglers": what, "rollout.enough": 0.3, "rollout.straggler_s": 0.5, "rollout.lease_s": 2.0}
    keys |= {"rollout.max_lag": 1} if what == "carry" else {}
    upon("granted", "hang")
    done = run(tmp_path, model, **(TIMES | keys), **LONGER, **asked(gate.url, engines[0].url))
    late = [(e["step"], e["group"]) for e in events(done) if e["event"] == what]
    assert late and metrics(done)[-1]["fleet"]["cut" if what == "cut" else "carried"] == len(late)
    groups = [[g for g, _ in step] for step in prompts(done)]
    trained = [g for step in groups for g in step]
    assert len(trained) == len(set(trained)), "no prompt twice"
    for step, group in late:
        assert group not in groups[step]
        if what == "cut":
            assert group not in trained
        elif (step + 1, group) not in late and step + 1 < len(groups):
            assert group in groups[step + 1]


def test_a_trainer_that_stops_keeps_its_accepted_groups(model, undisturbed, engines, tmp_path, monkeypatch):
    """The trainer is lost in the middle of a step: what was accepted is on the disk, and is not
    sampled again.
    """
    add = AcceptedGroups.add

    def die(self, group):
        add(self, group)
        if group.key.step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(AcceptedGroups, "add", die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model, **TIMES, **LONGER, **asked(*(e.url for e in engines)))
    monkeypatch.setattr(AcceptedGroups, "add", add)
    done = run(tmp_path, model, **TIMES, **LONGER, **asked(engines[0].url))
    check_same(done, undisturbed)
    accepted = [(e["step"], e["group"]) for e in events(done) if e["event"] == "accepted"]
    assert len(accepted) == len(set(accepted)), "an accepted group is not sampled again"
