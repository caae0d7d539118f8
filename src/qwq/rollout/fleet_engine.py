"""One engine of a fleet: its state, and how it gets new weights.

New weights are paused for, loaded, named, resumed and probed, in this order, each bounded by the
time-out. The probe samples a few tokens after a fixed prompt, whose prefix the engine has cached
from the probes before: the trainer scores the same tokens, and an engine that holds other weights
than it says, or keys and values of earlier ones, differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from qwq.endpoint.rollout_client import EngineKind, RolloutClient, Sample, SampleRequest

PROBE_TOKENS = 16  # that the engine samples
# Tokens of the fixed prompt at most: several blocks of a paged KV cache. vLLM reuses whole blocks,
# of 128 tokens in its CPU build; engines of ours drop every cached prefix with a reload.
PROBE_PROMPT: dict[EngineKind, int] = {"qwq": 96, "vllm": 320}
BACKOFF = 2.0  # an engine that failed again waits so many times longer before it is asked again
LONGEST_WAIT_S = 60.0


class EngineState(StrEnum):
    AWAY = "away"  # it failed, or was never asked
    SYNCING = "syncing"
    READY = "ready"  # its probe has passed for the weights that are published


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """Weights in a folder that engines read: `name` is unique, `version` the trainer's number."""

    name: str
    version: int
    folder: str


@dataclass(frozen=True, slots=True)
class Synced:
    """An engine has loaded weights; `probe` is what it then sampled."""

    engine: FleetEngine
    weights: SharedWeights
    probe: Sample
    context: int | None
    seconds: float


@dataclass(slots=True, eq=False)
class FleetEngine:
    """An engine as the fleet sees it. `retry_at`: when it is asked again while it is away."""

    client: RolloutClient
    state: EngineState = EngineState.AWAY
    busy: bool = False  # a sync is under way in its thread
    weights: SharedWeights | None = None
    context: int | None = None
    failures: int = 0  # one after another
    retry_at: float = 0.0
    error: str = ""
    probe_max: float = 0.0
    sync_s: float = 0.0
    tokens: int = 0  # accepted ones
    joined: int = field(default=0)  # how many probes it has passed

    @property
    def url(self) -> str:
        return self.client.url

    def set_weights(
        self, weights: SharedWeights, prompt: Sequence[int], temperature: float, *, timeout_s: float,
        mode: Literal["abort", "keep"],
    ) -> Synced:  # fmt: skip
        """Load `weights` and sample the probe. InfraError where a call fails or takes longer than
        `timeout_s`.

        Called in a thread: it changes nothing of the engine's state here.
        """
        began, client = time.monotonic(), self.client
        client.pause(mode, timeout_s)
        client.reload(weights.folder, timeout_s)
        client.say_version(weights.name, timeout_s)
        client.resume(timeout_s)
        seconds = time.monotonic() - began
        context = client.context(timeout_s)
        asked = SampleRequest(
            f"qwq-probe-{time.time_ns():x}", prompt, PROBE_TOKENS, temperature, weights.name, seed=1, ignore_eos=True
        )
        return Synced(self, weights, client.sample(asked, timeout_s), context, seconds)

    def ready(self, synced: Synced, probe_max: float) -> None:
        """The probe has passed."""
        self.state, self.weights, self.context = EngineState.READY, synced.weights, synced.context
        self.probe_max, self.sync_s, self.failures, self.error = probe_max, synced.seconds, 0, ""
        self.joined += 1

    def away(self, error: str, now: float, wait_s: float) -> None:
        """It failed: it is asked again later, and gets work after its next probe."""
        self.state, self.error = EngineState.AWAY, error
        self.retry_at = now + min(LONGEST_WAIT_S, wait_s * BACKOFF ** min(self.failures, 10))
        self.failures += 1


def open_engines(urls: Sequence[str], kind: EngineKind, *, concurrency: int) -> list[FleetEngine]:
    """The engines at `urls`; nothing is sent. ConfigError for what is no URL, or a key that no
    header takes.
    """
    return [FleetEngine(RolloutClient(url, kind, connections=concurrency + 4)) for url in urls]
