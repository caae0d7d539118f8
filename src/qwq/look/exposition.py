"""A run's state as Prometheus reads it: `/metrics` of `qwq watch --serve`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwq.look.live import is_finite

LEASES = ("open", "accepted", "lost")


def exposition(state: Mapping[str, Any]) -> bytes:
    """`state` of `RunWatch` in Prometheus's text format.

    All are gauges: a run that resumes takes steps back.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_State(state))
    return generate_latest(registry)


class _State(Collector):
    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = state

    def collect(self) -> Iterator[Metric]:
        state, run = self.state, self.state["run"]
        plain = {
            "finished": ("1 once every stage has finished", float(state["finished"])),
            "tokens_per_second": ("Of the recent steps: sampled in RL, trained elsewhere", state["tokens_per_s"]),
            "left_seconds": ("Until the running stage's last step", state["left_s"]),
            "last_step_age_seconds": ("Since the last step", state["age_s"]),
            "recent_alarms": ("Alarms on the page", float(len(state["alarms"]))),
        }
        for name, (words, value) in plain.items():
            if is_finite(value):
                yield _gauge(f"qwq_run_{name}", words, ("run",), [((run,), value)])
        stages = [(stage["name"], stage) for stage in state["stages"]]
        yield _gauge("qwq_stage_step", "Steps taken", ("run", "stage"), [((run, n), s["step"]) for n, s in stages])
        planned = [((run, n), s["steps"]) for n, s in stages if is_finite(s["steps"])]
        yield _gauge("qwq_stage_steps", "Steps planned", ("run", "stage"), planned)
        if state["stage"]:
            name = state["stage"]["name"]
            last = [((run, name, k), v) for k, v in (state["last"] or {}).items() if is_finite(v)]
            yield _gauge("qwq_step", "A figure of the last step's line of metrics", ("run", "stage", "figure"), last)
        yield from self._engines(run)

    def _engines(self, run: str) -> Iterator[Metric]:
        engines = self.state["engines"]
        if not engines:
            return
        ready = [((run, e["url"]), e["state"] == "ready") for e in engines]
        yield _gauge("qwq_engine_ready", "1 where the engine takes work", ("run", "engine"), ready)
        versions = [((run, e["url"]), e["version"]) for e in engines if is_finite(e["version"])]
        yield _gauge("qwq_engine_weights_step", "Step whose weights it holds", ("run", "engine"), versions)
        leases = [((run, e["url"], kind), e[kind]) for e in engines for kind in LEASES]
        yield _gauge("qwq_engine_leases", "Groups given to the engine", ("run", "engine", "state"), leases)


def _gauge(name: str, words: str, labels: tuple[str, ...], values: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=labels)
    for at, value in values:
        family.add_metric(at, float(value))
    return family
