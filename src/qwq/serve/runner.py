"""The engine in a thread of its own: asyncio hands requests in and is woken when their samples are done."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from qwq.engine.engine import Engine
from qwq.engine.request import GenerationRequest, Sample
from qwq.errors import InfraError, QwqError


@dataclass(slots=True, eq=False)
class _Job:
    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[Sample]]
    samples: list[Sample] | None = None
    given_up: bool = False


class EngineRunner:
    """Starts with `start`, ends with `stop`; `generate` may be called from any task of one event loop.

    At most `max_waiting` requests wait beyond those that run; `full` says so, and the caller answers 429.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 256) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs: list[_Job] = []
        self._num_open = 0
        self._thread = threading.Thread(target=self._run, name="qwq-engine", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._inbox.put(None)
        self._thread.join(timeout=30)

    @property
    def full(self) -> bool:
        return self._num_open >= self.max_waiting + self.engine.max_running

    async def generate(self, request: GenerationRequest) -> list[Sample]:
        """All samples of a request, done. Cancelling the task stops them at once. Raises what the engine says of the request."""
        if self.failure is not None:
            raise InfraError(f"the engine has stopped ({self.failure}): restart the server")
        loop = asyncio.get_running_loop()
        job = _Job(request, loop, loop.create_future())
        self._num_open += 1
        self._inbox.put(lambda: self._submit(job))
        try:
            return await job.done
        except asyncio.CancelledError:
            self._inbox.put(lambda: self._give_up(job))
            raise
        finally:
            self._num_open -= 1

    # -- in the engine's thread ------------------------------------------------------------------------------------------

    def _submit(self, job: _Job) -> None:
        if job.given_up:
            return
        try:
            job.samples = self.engine.submit(job.request)
        except QwqError as error:
            self._answer(job, error)
            return
        self._jobs.append(job)

    def _give_up(self, job: _Job) -> None:
        job.given_up = True
        for sample in job.samples or ():
            self.engine.abort(sample)

    @staticmethod
    def _answer(job: _Job, result: list[Sample] | BaseException) -> None:
        def settle() -> None:
            if job.done.done():
                return
            if isinstance(result, BaseException):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

        if not job.loop.is_closed():
            job.loop.call_soon_threadsafe(settle)

    def _run(self) -> None:
        try:
            while True:
                if not self._drain(block=not self.engine.has_work):
                    return
                if self.engine.has_work:
                    self.engine.step()
                self._settle_finished()
        except BaseException as error:
            # Nobody may wait for ever on an engine that is gone: each request gets the reason, later ones are refused.
            self.failure = error
            for job in self._jobs:
                self._answer(job, InfraError(f"the engine failed: {type(error).__name__}: {error}"))
            raise

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

    def _settle_finished(self) -> None:
        left = []
        for job in self._jobs:
            assert job.samples is not None
            if all(s.done for s in job.samples):
                self._answer(job, job.samples)
            else:
                left.append(job)
        self._jobs = left
