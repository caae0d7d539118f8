"""The engine in a thread of its own: asyncio hands requests in and gets their tokens, once per
step.

Updates from one engine step reach the event loop in a single call; a slow consumer receives several
steps batched. An update is fixed when it is made, so no reader sees what the engine's thread is
writing.

A step that fails with an error of ours (logits that are not finite) ends the requests that were
running, each with an error; the others continue. Any other exception is a bug and stops the engine.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from qwq.engine.load import say
from qwq.engine.request import GenerationRequest
from qwq.engine.scheduler import Engine
from qwq.engine.sequence import Phase, TokenSequence
from qwq.errors import InfraError, QwqError

T = TypeVar("T")


class Gone(Exception):
    """Client disconnected."""


@dataclass(frozen=True, slots=True)
class Update:
    """New text of one sequence of request number `job`, and its tokens `first` to `last`.

    `done`: the last update.
    """

    job: int
    sample: TokenSequence
    text: str
    first: int
    last: int
    num_thinking: int
    done: bool


@dataclass(slots=True, eq=False)
class _Job:
    """One request of a group, as the engine's thread sees it."""

    request: GenerationRequest
    number: int
    group: RequestGroup
    samples: list[TokenSequence] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)  # of each sample: characters and tokens told of; -1: all
    given_up: bool = False

    def updates(self) -> list[Update]:
        """What came since the last call."""
        updates = []
        for i, s in enumerate(self.samples):
            characters, tokens = self.sent[i]
            if tokens < 0 or not (s.done or (self.group.streamed and len(s.ids) > tokens)):
                continue
            updates.append(Update(self.number, s, s.text[characters:], tokens, len(s.ids), s.num_thinking, s.done))
            self.sent[i] = (len(s.text), -1 if s.done else len(s.ids))
        return updates

    @property
    def over(self) -> bool:
        return all(tokens < 0 for _, tokens in self.sent)


class RequestGroup:
    """Requests under way together.

    Iterate `updates`, or await `finished`; `close` stops what still runs.
    """

    def __init__(self, runner: EngineRunner, requests: Sequence[GenerationRequest], *, streamed: bool) -> None:
        self.streamed = streamed
        self.num_samples = sum(r.n for r in requests)
        self.jobs = [_Job(r, i, self) for i, r in enumerate(requests)]
        self.stopped: set[TokenSequence] = set()  # ended by `stop`
        self.loop = asyncio.get_running_loop()
        self._runner, self._wake = runner, asyncio.Event()
        self._updates: list[Update] = []
        self._num_left = len(self.jobs)
        self._error: BaseException | None = None
        self._closed = False

    async def updates(self) -> AsyncIterator[list[Update]]:
        """News as they come, until all samples are done.

        Raises what the engine says of a request, or `Gone`.
        """
        while self._num_left or self._updates:
            await self._wake.wait()
            self._wake.clear()
            if self._closed:
                raise Gone
            if self._error is not None:
                raise self._error
            updates, self._updates = self._updates, []
            if updates:
                yield updates

    async def finished(self) -> list[list[TokenSequence]]:
        """The samples of each request, done."""
        async for _ in self.updates():
            pass
        return self.samples

    @property
    def samples(self) -> list[list[TokenSequence]]:
        return [job.samples for job in self.jobs]

    def stop(self, sample: TokenSequence) -> None:
        """End one sample where it is: its reader has all of it."""
        self.stopped.add(sample)
        self._runner.abort(sample)

    @property
    def failed_by(self) -> str:
        """What the engine said of a request of the group; "" where it said nothing."""
        return "" if self._error is None else str(self._error)

    def close(self) -> bool:
        """Nobody reads this any more: the engine stops what still runs before its next step. False
        where it was closed before.
        """
        if self._closed:
            return False
        self._closed = True
        self._wake.set()
        self._runner.give_up(self)
        return True

    def settle(self, updates: list[Update], ended: bool, error: BaseException | None) -> None:
        """Called in the event loop, by the runner."""
        self._updates += updates
        self._num_left -= ended
        self._error = self._error or error
        self._wake.set()


_Message = tuple[RequestGroup, list[Update], bool, BaseException | None]


class EngineRunner:
    """Starts with `start`, ends with `stop`; `submit` may be called from any task of one event
    loop.

    At most `max_waiting` samples wait beyond those that run; `full` says so, and the caller answers
    429.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 256) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs: list[_Job] = []  # the engine's thread alone touches it
        self._open: dict[RequestGroup, int] = {}
        self._thread = threading.Thread(target=self._run, name="qwq-engine", daemon=True)
        self.failure: BaseException | None = None
        self.paused = False  # set in the engine's thread (`call`): nothing is computed meanwhile

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._inbox.put(None)
        self._thread.join(timeout=30)

    @property
    def alive(self) -> bool:
        """Whether the thread still runs: it ends after its current step."""
        return self._thread.is_alive()

    @property
    def num_open(self) -> int:
        """Samples that are waiting or running."""
        return sum(self._open.values())

    @property
    def full(self) -> bool:
        return self.num_open >= self.max_waiting + self.engine.max_running

    def submit(self, requests: Sequence[GenerationRequest], *, streamed: bool) -> RequestGroup:
        """Hand requests in; `close` the group in any case. UsageError where one cannot be met."""
        if self.failure is not None:
            raise InfraError("the engine has stopped: restart the server")
        for request in requests:
            self.engine.check(request)
        group = RequestGroup(self, requests, streamed=streamed)
        self._open[group] = group.num_samples
        for job in group.jobs:
            self._inbox.put(partial(self._submit, job))
        return group

    def give_up(self, group: RequestGroup) -> None:
        if self._open.pop(group, None) is not None:
            for job in group.jobs:
                self._inbox.put(partial(self._abort, job))

    def abort(self, sample: TokenSequence) -> None:
        self._inbox.put(partial(self.engine.abort, sample))

    def abort_all(self) -> None:
        """Stop everything: the answers end where they are."""

        self._inbox.put(self.abort_running)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` in the engine's thread, between two steps; what it gives or raises is the
        future's.
        """
        if self.failure is not None:
            raise InfraError("the engine has stopped: restart the server")
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  # raised again where the future is awaited
                future.set_exception(error)

        self._inbox.put(run)
        return future

    # -- in the engine's thread --------------------------------------------------------------------

    def _submit(self, job: _Job) -> None:
        if job.given_up:
            return
        try:
            job.samples = self.engine.submit(job.request)
        except QwqError as error:
            self._tell([(job.group, [], True, error)])
            return
        job.sent = [(0, 0)] * len(job.samples)
        self._jobs.append(job)

    def abort_running(self) -> None:
        for job in self._jobs:
            self._abort(job)

    def _abort(self, job: _Job) -> None:
        job.given_up = True
        for sample in job.samples:
            self.engine.abort(sample)

    @staticmethod
    def _tell(messages: list[_Message]) -> None:
        def settle() -> None:
            for group, updates, ended, error in messages:
                group.settle(updates, ended, error)

        loop = messages[0][0].loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle)

    def _run(self) -> None:
        try:
            while True:
                if not self._drain(block=self.paused or not self.engine.has_work):
                    return
                if self.engine.has_work and not self.paused:
                    self._step()
                self._publish()
        except BaseException as error:  # noqa: BLE001  # whatever it is, no request may wait for ever
            # Nobody may wait for ever on an engine that is gone: each request is told, later ones
            # are refused. What went wrong is for the server's log, as its text may name files of
            # this machine.
            self.failure = error
            traceback.print_exc(file=sys.stderr)
            if self._jobs:
                self._tell(
                    [
                        (j.group, [], True, InfraError("the engine failed; the server's log says how"))
                        for j in self._jobs
                    ]
                )

    def _step(self) -> None:
        try:
            self.engine.step()
        except QwqError as error:
            say(f"requests that were running have failed: {error}")
            self._fail_running(InfraError("the model failed on this request; the server's log says how"))

    def _fail_running(self, error: InfraError) -> None:
        """End the jobs with a running sequence.

        Cached prefixes go too: what failed may be in their keys and values.
        """
        failed = [job for job in self._jobs if any(s.phase is Phase.RUNNING for s in job.samples)]
        if not failed:
            raise error
        for job in failed:
            self._abort(job)
        self.engine.forget()
        self._jobs = [job for job in self._jobs if job not in failed]
        self._tell([(job.group, [], True, error) for job in failed])

    def _drain(self, *, block: bool) -> bool:
        """Run what was put in; False when the end was."""
        while True:
            try:
                work = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if work is None:
                return False
            work()
            block = False

    def _publish(self) -> None:
        messages: list[_Message] = [
            (job.group, updates, job.over, None) for job in self._jobs if (updates := job.updates()) or job.over
        ]
        if messages:
            self._jobs = [j for j in self._jobs if not j.over]
            self._tell(messages)
