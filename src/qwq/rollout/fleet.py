"""A fleet of rollout engines: weights are published to them, groups are leased to them, and what
comes back counts once.

The state belongs to the caller's thread. Each sync and each leased group runs in a thread of its
own, which does HTTP, plays the episodes' tools, and puts what came of it into one queue. An engine
gets work only after its probe has passed (`fleet_engine`), also one that returns or joins in the
middle of a step. Every wait has an end: calls by `sync_timeout_s`, groups by `lease_s`, a fleet
without any engine by `give_up_s`.

What this covers: engines that die, hang, are slow, unreachable, or hold other weights than they
say; results that come late or twice; a trainer that is killed between two groups. Not: an engine
that lies about the log-probabilities of single tokens in a way that its probe does not show.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.engine.sampler import SamplingParams
from qwq.errors import InfraError
from qwq.rollout.accepted import AcceptedGroups, SampledGroup
from qwq.rollout.budget import NO_LIMITS, EpisodeLimits
from qwq.rollout.collect import collect
from qwq.rollout.fleet_engine import FleetEngine, Synced
from qwq.rollout.leases import GroupKey, Lease, LeaseBook, Offer
from qwq.rollout.policies.remote import RemotePolicy
from qwq.rollout.roster import Failed, FindEngines, FleetSettings, Roster, Weights
from qwq.text.template import ChatFormat
from qwq.types import Problem

MOST_LOSSES = 20  # of one group, before the run stops: its lease is too short, or it breaks engines
POLL_S = 0.5  # longest wait for the queue: deadlines are looked at so often


@dataclass(frozen=True, slots=True)
class GroupTask:
    """A group to be sampled: its key, its problem, its thinking budget in tokens."""

    key: GroupKey
    problem: Problem
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class _Sampled:
    engine: FleetEngine
    number: int
    group: SampledGroup
    at: float


class Fleet:
    """Samples the groups of an RL stage on `engines`. `prompt` is the probe's, in tokens."""

    def __init__(
        self, engines: Sequence[FleetEngine], chat: ChatFormat, params: SamplingParams, settings: FleetSettings,
        *, prompt: Sequence[int], limits: EpisodeLimits = NO_LIMITS, note: Callable[[str], None] = lambda _: None,
        find: FindEngines | None = None,
    ) -> None:  # fmt: skip
        self.chat, self.params, self.limits, self.settings = chat, params, limits, settings
        self.book = LeaseBook(max_lag=settings.max_lag)
        self._queue: queue.SimpleQueue[Synced | _Sampled | Failed] = queue.SimpleQueue()
        self.roster = Roster(
            engines, settings, prompt=prompt, temperature=params.temperature, put=self._queue.put, note=note,
            find=find,
        )  # fmt: skip
        self._tasks: dict[GroupKey, GroupTask] = {}
        self.carried: list[GroupTask] = []
        self._policies: dict[int, RemotePolicy] = {}
        self._by_lease: dict[int, FleetEngine] = {}
        self._losses: Counter[GroupKey] = Counter()
        self._early: dict[GroupKey, SampledGroup] = {}  # accepted for a later step

    def close(self) -> None:
        """The leases that are left are lost, and the published weights removed."""
        for number in list(self.book.leases):
            self._lose(number, "the stage ends")
        self.roster.close()

    def publish(self, weights: Weights) -> None:
        """Every engine gets these weights before further work."""
        self.roster.publish(weights)

    # -- leases ------------------------------------------------------------------------------------

    def sample(
        self, tasks: Sequence[GroupTask], accepted: AcceptedGroups, on_group: Callable[[SampledGroup], None],
        *, ahead: Sequence[GroupTask] = (),
    ) -> list[SampledGroup]:  # fmt: skip
        """The groups of one step, in the order of their keys; `on_group` is called with each as it
        is accepted. Groups `ahead` are of later steps, and are sampled while this one trains.

        InfraError where no engine has been ready for `give_up_s`.
        """
        wanted = self._wanted(tasks)
        done: dict[GroupKey, SampledGroup] = {}

        def count(group: SampledGroup, *, log: bool) -> None:
            if log:
                accepted.add(group)  # first on the disk, then it counts
            done[group.key] = group
            on_group(group)

        for group in accepted.groups():
            step = group.oldest_version // self.settings.version_step
            same = group.key in wanted and wanted[group.key].problem.id == group.rollouts[0].problem_id
            if same and self.book.restore(group.key, step):
                count(group, log=False)
        for key in wanted:
            if key in self._early:
                count(self._early.pop(key), log=True)
            elif key not in done:
                self.book.want(key)
        began_waiting: float | None = None
        while len(done) < len(wanted):
            now = time.monotonic()
            self._turn(now, done, lambda group: count(group, log=True))
            if self.settings.stragglers != "wait" and len(done) >= max(
                1, math.ceil(self.settings.enough * len(wanted))
            ):
                began_waiting = began_waiting or now
                if now - began_waiting >= self.settings.straggler_s:
                    self._leave([k for k in wanted if k not in done])
                    break
        for task in ahead:
            self._tasks[task.key] = task
            self.book.want(task.key)
        self._grant(time.monotonic())
        for key in done:
            self._tasks.pop(key, None)
        return [done[key] for key in sorted(done)]

    def _wanted(self, tasks: Sequence[GroupTask]) -> dict[GroupKey, GroupTask]:
        """The tasks of this step with those carried over; what was sampled ahead for another
        problem is dropped.
        """
        carried, self.carried = self.carried, []
        wanted = {task.key: task for task in [*carried, *tasks]}
        for key, task in wanted.items():
            before = self._tasks.get(key)
            if before is not None and before.problem.id != task.problem.id:
                self.book.cut(key)
                self.roster.tell("cut", group=key.group, step=key.step)
                self.book.accepted.discard(key)
                self._early.pop(key, None)
        self._tasks |= wanted
        return wanted

    def _turn(self, now: float, done: dict[GroupKey, SampledGroup], count: Callable[[SampledGroup], None]) -> None:
        """One look at everything: syncs, deadlines, grants, then what has come."""
        for engine in self.roster.find(now):
            self._away(engine, "it is no longer among the run's engines")
        self.roster.sync_due(now)
        for lease in self.book.expired(now):
            engine = self._by_lease[lease.number]
            self._away(engine, f"it did not sample group {lease.key.group} within {self.settings.lease_s:g} s")
        self._grant(now)
        self.roster.check_alive(now)
        try:
            event = self._queue.get(timeout=POLL_S)
        except queue.Empty:
            return
        while True:
            self._take(event, done, count)
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                return

    def _take(
        self, event: Synced | _Sampled | Failed, done: dict[GroupKey, SampledGroup],
        count: Callable[[SampledGroup], None],
    ) -> None:  # fmt: skip
        if isinstance(event, Synced):
            self.roster.probed(event)
        elif isinstance(event, _Sampled):
            self._offered(event, count)
        elif event.fatal is not None:
            raise event.fatal
        elif event.number is None:
            event.engine.busy = False
            self._away(event.engine, event.error)
        elif event.number in self.book.leases:
            self._away(event.engine, event.error)

    def _away(self, engine: FleetEngine, error: str) -> None:
        """The engine failed: it loses its leases."""
        self.roster.away(engine, error)
        for lease in [x for x in self.book.leases.values() if x.engine is engine]:
            self._lose(lease.number, "its engine is away")

    def _offered(self, event: _Sampled, count: Callable[[SampledGroup], None]) -> None:
        step = event.group.oldest_version // self.settings.version_step
        offer, key = self.book.offer(event.number, step, event.at)
        self._policies.pop(event.number, None)
        self._by_lease.pop(event.number, None)
        self.roster.tell(offer.value, engine=event.engine.url, lease=event.number, group=event.group.key.group,
                   step=event.group.key.step if key is None else key.step)  # fmt: skip
        if offer is not Offer.ACCEPTED:
            return
        assert key is not None
        group = SampledGroup(key, event.group.rollouts, event.group.responses)
        event.engine.tokens += sum(r.num_sampled for r in group.rollouts)
        event.engine.failures = 0
        if key in self._tasks and key.step > self.roster.step:
            self._early[key] = group
        else:
            count(group)

    def _grant(self, now: float) -> None:
        """Give waiting groups to engines that are ready, one at a time to each, so that they share
        them evenly.
        """
        ready = self.roster.ready
        while self.book.waiting and ready:
            for engine in ready.copy():
                held = [x for x in self.book.leases.values() if x.engine is engine]
                samples = sum(x.key.samples for x in held)
                lease = None
                if not held or samples + self.book.waiting[0].samples <= self.settings.concurrency:
                    lease = self.book.grant(engine, now + self.settings.lease_s)
                if lease is None:
                    ready.remove(engine)
                else:
                    self._start(engine, lease)
                if not self.book.waiting:
                    return

    def _start(self, engine: FleetEngine, lease: Lease) -> None:
        task, weights = self._tasks[lease.key], engine.weights
        assert weights is not None
        policy = RemotePolicy(
            engine.client, self.chat, name=weights.name, version=weights.version, number_of=self.roster.number_of,
            deadline=lease.deadline, context=engine.context, concurrency=lease.key.samples,
        )  # fmt: skip
        self._policies[lease.number], self._by_lease[lease.number] = policy, engine
        until = round(time.time() + lease.deadline - time.monotonic(), 3)
        self.roster.tell("granted", engine=engine.url, lease=lease.number, group=lease.key.group, step=lease.key.step,
                   until=until)  # fmt: skip
        threading.Thread(target=self._work, args=(engine, lease, task, policy), daemon=True).start()

    def _work(self, engine: FleetEngine, lease: Lease, task: GroupTask, policy: RemotePolicy) -> None:
        key = lease.key
        try:
            rollouts, responses = collect(
                policy, [task.problem], self.params, samples=key.samples, seed=key.seed, first_group=key.group,
                budgets=[task.budget], limits=self.limits,
            )  # fmt: skip
            self._queue.put(_Sampled(engine, lease.number, SampledGroup(key, rollouts, responses), time.monotonic()))
        except InfraError as error:
            self._queue.put(Failed(engine, str(error), lease.number))
        except BaseException as error:  # noqa: BLE001  # raised in the caller's thread
            self._queue.put(Failed(engine, str(error), lease.number, error))

    def _lose(self, number: int, why: str) -> None:
        lease = self.book.lose(number)
        if lease is None:
            return
        self._losses[lease.key] += 1
        self.roster.tell("lost", lease=number, group=lease.key.group, step=lease.key.step, why=why)
        self._abandon(number)
        if self._losses[lease.key] > MOST_LOSSES:
            raise InfraError(
                f"group {lease.key.group} of step {lease.key.step} was lost {MOST_LOSSES} times: raise rollout.lease_s "
                f"(now {self.settings.lease_s:g}), or look at the engines' logs"
            )

    def _abandon(self, number: int) -> None:
        """Nobody waits for this lease any more: the engine is told, if it hears."""
        policy = self._policies.pop(number, None)
        self._by_lease.pop(number, None)
        if policy is not None:
            threading.Thread(target=_told, args=(policy, self.settings.rejoin_s), daemon=True).start()

    def _leave(self, keys: Sequence[GroupKey]) -> None:
        """Stragglers: cut, or carried into the next step."""
        for key in keys:
            task = self._tasks.pop(key)
            if self.settings.stragglers == "carry":
                later = GroupKey(key.stage, key.step + 1, key.group, key.samples, key.seed)
                self.book.carry(key, later)
                self._tasks[later] = GroupTask(later, task.problem, task.budget)
                self.carried.append(self._tasks[later])
            else:
                for lease in self.book.cut(key):
                    self._abandon(lease.number)
            self.roster.tell(self.settings.stragglers, group=key.group, step=key.step)

    def figures(self) -> dict[str, Any]:
        """What a step's metrics say of the fleet; counts since the stage began here."""
        ready = self.roster.ready
        names = ("lost", "late", "stale", "cut", "carried")
        return {
            "engines": len(ready),
            "sync_s": max((e.sync_s for e in ready), default=0.0),
            "probe_max": max((e.probe_max for e in ready), default=0.0),
            **{name: self.book.counts[name] for name in names},
        }


def _told(policy: RemotePolicy, timeout_s: float) -> None:
    try:
        policy.abandon(timeout_s)
    except InfraError:
        return  # it does not hear, and its answers are late in any case
