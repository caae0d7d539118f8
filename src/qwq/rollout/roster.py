"""The engines of a fleet: weights are published to them, and each gets work only after its probe.

Each sync runs in a thread of its own and puts what came of it into the fleet's queue; the state
belongs to the caller's thread. An engine that fails is asked again after a while, and joins when
its probe passes, also in the middle of a step.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwq.common.files import GrowingFile
from qwq.common.fleet_log import DRIVER, driver
from qwq.common.jsonl import to_line
from qwq.errors import InfraError
from qwq.rollout.fleet_engine import EngineState, FleetEngine, SharedWeights, Synced
from qwq.rollout.policies.remote import UNLABELLED

Stragglers = Literal["wait", "cut", "carry"]
# The engines that there are now, of those that are known and new ones; none: nobody knows.
FindEngines = Callable[[Sequence[FleetEngine]], Sequence[FleetEngine]]
FIND_S = 2.0


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """See `config.RolloutSection`, whose keys these are. `version_step`: versions from one step to
    the next.
    """

    folder: Path
    log_folder: Path
    lease_s: float = 600.0
    sync_timeout_s: float = 120.0
    give_up_s: float = 600.0
    rejoin_s: float = 2.0
    concurrency: int = 32
    probe_limit: float = 1e-3
    max_lag: int = 0
    stragglers: Stragglers = "wait"
    enough: float = 0.9
    straggler_s: float = 30.0
    version_step: int = 1


@dataclass(frozen=True, slots=True)
class Weights:
    """The trainer's side of a sync: `save` writes the model into a folder, `score` gives the
    log-probabilities of tokens after a prompt under the same weights.
    """

    version: int
    save: Callable[[Path], None]
    score: Callable[[Sequence[int], Sequence[int]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Failed:
    """A sync of `engine`, or its group of lease `number`, has failed; `fatal` is not the engine's
    fault.
    """

    engine: FleetEngine
    error: str
    number: int | None = None
    fatal: BaseException | None = None


class Roster:
    """The engines, and the weights that they are to hold. `prompt` is the probe's, in tokens."""

    def __init__(
        self, engines: Sequence[FleetEngine], settings: FleetSettings, *, prompt: Sequence[int], temperature: float,
        put: Callable[[Synced | Failed], None], note: Callable[[str], None], find: FindEngines | None = None,
    ) -> None:  # fmt: skip
        self.engines, self.settings, self.note, self._find = list(engines), settings, note, find
        self._gone: list[FleetEngine] = []  # no longer the run's; threads may still wait for their answers
        self._found_at = time.monotonic()
        self.prompt, self.temperature, self._put = list(prompt), temperature, put
        self.published: SharedWeights | None = None
        self._weights: Weights | None = None
        self._names: dict[str, int] = {}
        self._told: dict[FleetEngine, SharedWeights] = {}  # what the last sync of an engine is to load
        self._last_good = time.monotonic()
        busy = f"another process samples into {settings.log_folder}"
        self._log = GrowingFile(settings.log_folder / "events.jsonl", busy)
        self.tell(DRIVER, **driver())

    def close(self) -> None:
        for engine in [*self.engines, *self._gone]:
            engine.client.close()
        self._log.close()
        shutil.rmtree(self.settings.folder, ignore_errors=True)

    @property
    def ready(self) -> list[FleetEngine]:
        return [e for e in self.engines if e.state is EngineState.READY]

    @property
    def step(self) -> int:
        """The step whose weights are published."""
        assert self.published is not None, "publish() comes first"
        return self.published.version // self.settings.version_step

    def tell(self, event: str, **fields: Any) -> None:
        """A line of events.jsonl."""
        self._log.append(to_line({"event": event, "time": round(time.time(), 3)} | fields))

    def number_of(self, name: str) -> int:
        """The trainer's number of weights. InfraError for those that this run did not publish:
        somebody else uses the engine.
        """
        if name not in self._names:
            raise InfraError(f"its tokens are of weights {name!r}, which this run did not publish")
        return self._names[name]

    def check_alive(self, now: float) -> None:
        """InfraError where no engine has been ready for `give_up_s`."""
        if self.ready:
            self._last_good = now
        elif now - self._last_good > self.settings.give_up_s:
            said = "; ".join(f"{e.url}: {e.error or e.state.value}" for e in self.engines)
            raise InfraError(
                f"no engine has been ready for {self.settings.give_up_s:g} s ({said[:600]}): start them, or give "
                "others in --rollout.endpoints; groups that were accepted are kept, and the same command resumes"
            )

    def publish(self, weights: Weights) -> None:
        """Write the weights that sample from now on; every engine gets them before further work."""
        name = f"{weights.version}-{secrets.token_hex(4)}"
        folder = self.settings.folder / name
        began = time.monotonic()
        weights.save(folder)
        self._weights = weights
        self.published = SharedWeights(name, weights.version, str(folder.resolve()))
        self._names[name] = weights.version
        self._drop_old_weights()
        self.tell("published", version=weights.version, name=name, seconds=round(time.monotonic() - began, 3))
        self._last_good = time.monotonic()
        for engine in self.engines:
            if engine.state is EngineState.READY:
                engine.state, engine.retry_at = EngineState.AWAY, 0.0

    def _drop_old_weights(self) -> None:
        """Delete weights that no engine reads any more. The last two stay, as an engine may still
        read after its sync has timed out here, and so do those of a sync that is under way.
        """
        self._told = {engine: weights for engine, weights in self._told.items() if engine.busy}
        kept = {*list(self._names)[-2:], *(weights.name for weights in self._told.values())}
        for old in self.settings.folder.iterdir():
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def find(self, now: float) -> list[FleetEngine]:
        """Look which engines there are, at most every `FIND_S`: new ones are asked at once; returns
        those that are no longer there.
        """
        if self._find is None or now - self._found_at < FIND_S:
            return []
        self._found_at, found = now, self._find(self.engines)
        gone = [e for e in self.engines if e not in found] if found else []
        self.engines = list(found) or self.engines
        self._gone += gone
        return gone

    def sync_due(self, now: float) -> None:
        """Start a sync of every engine that is away and whose time has come."""
        assert self.published is not None, "publish() comes first"
        for engine in self.engines:
            if engine.state is EngineState.AWAY and not engine.busy and engine.retry_at <= now:
                engine.state, engine.busy = EngineState.SYNCING, True
                self._told[engine] = self.published
                threading.Thread(target=self._sync, args=(engine, self.published), daemon=True).start()

    def _sync(self, engine: FleetEngine, weights: SharedWeights) -> None:
        mode: Literal["abort", "keep"] = "keep" if self.settings.max_lag else "abort"
        try:
            self._put(
                engine.set_weights(
                    weights, self.prompt, self.temperature, timeout_s=self.settings.sync_timeout_s, mode=mode
                )
            )
        except InfraError as error:
            self._put(Failed(engine, str(error)))
        except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
            self._put(Failed(engine, str(error), fatal=error))

    def probed(self, synced: Synced) -> None:
        """Compare the probe with the trainer's own log-probabilities."""
        engine = synced.engine
        engine.busy = False
        assert self._weights is not None
        if synced.weights is not self.published or engine.state is not EngineState.SYNCING:
            engine.state, engine.retry_at = EngineState.AWAY, 0.0
            return
        probe, named = synced.probe, set(synced.probe.versions)
        own = self._weights.score(self.prompt, probe.token_ids)
        worst = max(abs(a - b) for a, b in zip(own, probe.logprobs, strict=True))
        if "" in named:
            self.away(engine, UNLABELLED.format(of="it"))
        elif named != {synced.weights.name}:
            self.away(engine, f"its tokens are of weights {sorted(named)}, not {synced.weights.name}")
        elif not worst <= self.settings.probe_limit:
            self.away(
                engine,
                f"its probe differs from the trainer by {worst:.2e} nats, {self.settings.probe_limit:.0e} is allowed: "
                "it holds other weights, keys and values of earlier ones, or samples otherwise than plainly",
            )
        else:
            engine.ready(synced, worst)
            self._last_good = time.monotonic()
            self.tell("ready", engine=engine.url, version=synced.weights.version, probe_max=worst,
                       seconds=round(synced.seconds, 3))  # fmt: skip

    def away(self, engine: FleetEngine, error: str) -> None:
        """The engine failed. Who holds its leases takes them back."""
        was = engine.error
        engine.away(error, time.monotonic(), self.settings.rejoin_s)
        self.tell("away", engine=engine.url, error=error[:400])
        if error != was:
            self.note(f"engine {engine.url} gets no work: {error[:300]}")
