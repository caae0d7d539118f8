"""Which of several models is in memory, and whose turn it is to use it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI

from qwq.engine.load import LoadedModel, collect_memory, release, say
from qwq.errors import InfraError, QwqError
from qwq.serve.app import Shared, create_app
from qwq.serve.catalogue import ModelCard
from qwq.serve.core import Core, queue_full
from qwq.serve.engine_thread import Gone
from qwq.serve.options import ServeOptions

IDLE_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model and how it is loaded (in a thread of its own)."""

    card: ModelCard
    open: Callable[[], LoadedModel]

    @property
    def name(self) -> str:
        return self.card.names[0]


class ModelTurns:
    """One model in memory at a time; requests enter in the order in which they came."""

    def __init__(self, entries: Sequence[ModelEntry], options: ServeOptions, shared: Shared) -> None:
        self.entries, self.options, self.shared = list(entries), options, shared
        self.core: Core | None = None
        self._app: FastAPI | None = None
        self._current: ModelEntry | None = None
        self._stack = AsyncExitStack()  # the loaded application's life
        self._gate = asyncio.Lock()  # first come, first served
        self._loading: asyncio.Task[None] | None = None
        self._num_waiting = self._inside = 0
        self._ending = False

    @property
    def is_loading(self) -> bool:
        return self._loading is not None

    def find(self, name: str) -> ModelEntry:
        """The model of a name. RequestRefused (404) where it is not served."""
        names = self.shared.catalogue.find(name).names
        return next(e for e in self.entries if e.card.names == names)

    @asynccontextmanager
    async def using(self, entry: ModelEntry | None, gone: asyncio.Future[Any] | None = None) -> AsyncIterator[FastAPI]:
        """The application of a model (None: of the loaded one) while a request is on it.

        Gone where `gone` is done first; InfraError where the model cannot be loaded; RequestRefused
        (429) where too many wait.
        """
        turn = asyncio.ensure_future(self._enter(entry))
        try:
            await asyncio.wait({turn} if gone is None else {turn, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                raise Gone
            yield turn.result()
        finally:
            turn.cancel()
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._inside -= 1

    async def _enter(self, entry: ModelEntry | None) -> FastAPI:
        """Wait for the turn.

        No await follows the count of those inside, so a cancelled turn was never counted.
        """
        if self._num_waiting >= self.options.max_waiting:
            raise queue_full()
        self._num_waiting += 1
        try:
            async with self._gate:  # a request that waits for another model keeps those behind it waiting
                if self._loading is not None:
                    await asyncio.wait({self._loading})
                target = entry or self._current or self.entries[0]
                if target is not self._current:
                    await self._switch(target)
                assert self._app is not None
                self._inside += 1
                return self._app
        finally:
            self._num_waiting -= 1

    @asynccontextmanager
    async def any(self) -> AsyncIterator[FastAPI]:
        """The loaded application, for requests that generate nothing and wait for no turn."""
        if self._app is None:
            async with self.using(None) as app:
                yield app
            return
        self._inside += 1
        try:
            yield self._app
        finally:
            self._inside -= 1

    async def _switch(self, entry: ModelEntry) -> None:
        while self._inside or (self.core is not None and self.core.runner.num_open):
            await asyncio.sleep(IDLE_POLL_S)
        if self._ending:
            raise InfraError("the server is ending")
        self._loading = asyncio.create_task(self.load(entry))
        self._loading.add_done_callback(self._loaded)
        await asyncio.shield(self._loading)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # read here, as the request that would read it may have gone

    async def load(self, entry: ModelEntry) -> None:
        """InfraError where the model cannot be loaded; the log says why."""
        await self._unload()
        say(f"{entry.name}: loading")
        loaded, failure = None, ""
        try:
            with ThreadPoolExecutor(1) as loader:
                loaded = await asyncio.get_running_loop().run_in_executor(loader, entry.open)
            own = replace(
                self.options,
                served_model_name=entry.card.names,
                api_key=(),
                allowed_origins=(),
                access_log=None,
                page=False,
                mcp=False,
                agent=False,
                agent_runs=None,
                agent_mcp=None,
                agent_policy=None,
            )
            app = create_app(loaded, own, self.shared)
            await self._stack.enter_async_context(app.router.lifespan_context(app))
        except Exception as error:  # noqa: BLE001  # out of memory comes as several kinds, and the server lives on
            failure = str(error) if isinstance(error, QwqError) else traceback.format_exc().rstrip()
        if failure:  # outside the handler, whose error would hold what was loaded
            say(f"{entry.name}: {failure}")
            self.shared.metrics.detach(entry.name)
            if loaded is not None:
                release(loaded)
            del loaded
            collect_memory()
            raise InfraError(f"the model {entry.name!r} cannot be loaded; the server's log says why")
        assert loaded is not None
        self._app, self.core, self._current = app, app.state.core, entry
        self.shared.catalogue.load(ModelCard.of(entry.card.names, loaded))
        say(f"{entry.name}: ready, context {self.core.max_len} tokens")

    async def _unload(self, *, ending: bool = False) -> None:
        """Drop the loaded model and give its memory back."""
        core, self._app, self.core, self._current, self.shared.catalogue.loaded = self.core, None, None, None, None
        await self._stack.aclose()
        if core is None:
            return
        while core.runner.alive:  # nobody waits for its last step, which still reads the weights
            if ending:
                return
            await asyncio.sleep(IDLE_POLL_S)
        self.shared.metrics.detach(core.options.name)
        release(core.loaded)
        del core
        collect_memory()

    def abort_all(self) -> None:
        """End all answers and load nothing more."""
        self._ending = True
        if self.core is not None:
            self.core.runner.abort_all()

    async def end(self, closing: list[Any]) -> None:
        """Await what is in `closing`, last first, then drop the loaded model."""
        self._ending = True
        while closing:
            await closing.pop()()
        if self._loading is not None:
            await asyncio.wait({self._loading})
        await self._unload(ending=True)
