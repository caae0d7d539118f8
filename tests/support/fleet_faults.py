"""One fault in a run on two engines, at one moment, and what must hold after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from engine_processes import EngineProcess, Namespace, afterwards
from fleets import events, prompts, rollouts, run, weights

FAULTS = ("kill", "restart", "stop", "slow", "link")
LEASE_S = 2.0
LONGER = {"stages.rl1.max_new_tokens": 64, "stages.rl1.overlong_buffer": 63}
TIMES = {
    "rollout.rejoin_s": 0.2, "rollout.lease_s": LEASE_S, "rollout.sync_timeout_s": 2.0, "rollout.give_up_s": 60.0,
}  # fmt: skip


@dataclass
class Engines:
    """A good engine, and one that the fault happens to."""

    good: EngineProcess
    bad: EngineProcess
    namespace: Namespace | None = None

    @classmethod
    def start(cls, model: Path, fault: str, number: int = 1) -> Engines:
        good = EngineProcess(model)
        if fault != "link":
            return cls(good, EngineProcess(model))
        namespace = Namespace(number)
        return cls(good, EngineProcess(model, host=namespace.host, prefix=namespace.prefix), namespace)

    def strike(self, fault: str) -> None:
        if fault == "link":
            assert self.namespace is not None
            self.namespace.cut()
        else:
            getattr(self.bad, fault)()

    def close(self) -> None:
        self.good.close()
        self.bad.close()
        if self.namespace is not None:
            self.namespace.close()


def check_fault(fault: str, moment_s: float, folder: Path, model: Path, undisturbed: Path, number: int = 1) -> dict:
    """Run with the fault `moment_s` after the start. No prompt is lost or twice, and as engines of
    ours draw the same tokens for the same group, the weights are those of the undisturbed run.
    """
    engines = Engines.start(model, fault, number)
    began = time.monotonic()
    try:
        with afterwards(moment_s, lambda: engines.strike(fault)):
            done = run(
                folder, model, **TIMES, **LONGER,
                **{"rollout.policy": "qwq", "rollout.endpoints": f"{engines.bad.url},{engines.good.url}"},
            )  # fmt: skip
    finally:
        engines.close()
    seconds = time.monotonic() - began
    kinds = check_same(done, undisturbed)
    return {"fault": fault, "moment_s": round(moment_s, 2), "seconds": round(seconds, 1), "lost": kinds.count("lost"),
            "late": kinds.count("late"), "away": kinds.count("away")}  # fmt: skip


def check_same(done: Path, undisturbed: Path) -> list[str]:
    """Prompts, tokens and weights are those of the undisturbed run, and each group counted once;
    the kinds of the fleet's events.
    """
    assert prompts(done) == prompts(undisturbed)
    for mine, theirs in zip(rollouts(done), rollouts(undisturbed), strict=True):
        assert [r["completion_ids"] for r in mine] == [r["completion_ids"] for r in theirs]
    one, two = weights(done), weights(undisturbed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    told = events(done)
    kinds = [e["event"] for e in told]
    accepted = [(e["step"], e["group"]) for e in told if e["event"] == "accepted"]
    assert len(accepted) == len(set(accepted)) == sum(len(step) for step in prompts(undisturbed))
    return kinds
