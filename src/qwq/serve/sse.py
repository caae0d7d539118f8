"""Server-sent events, with little work for each: bytes in, bytes on the wire.

A client that goes away is noticed at once (ASGI says so while nothing is being sent), and its work
is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from starlette.responses import Response

from qwq.common.jsonl import to_json
from qwq.errors import QwqError
from qwq.serve.engine_thread import Gone
from qwq.serve.errors import as_refused, error_body

DONE = b"data: [DONE]\n\n"
QUIET_S = 15.0  # proxies and clients give up on a connection that says nothing for a minute; a long prompt takes longer
COMMENT = b": still at work\n\n"


def event(data: Any, name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + to_json(data) + b"\n\n"


class EventStream(Response):
    """Sends events as they come; `close` is called however it ends.

    `failed` words an error that comes midway.
    """

    media_type = "text/event-stream"
    comment = COMMENT  # written whenever nothing was sent for a while; empty for none

    def __init__(
        self,
        events: AsyncIterator[bytes],
        close: Callable[[], None],
        failed: Callable[[dict[str, Any]], bytes] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close, self._failed = events, close, failed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self._close()

        sent = loop.time()

        async def breathe() -> None:
            """A comment, which readers of events skip, whenever nothing was sent for a while."""
            nonlocal sent
            while True:
                await asyncio.sleep(max(0.01, sent + QUIET_S - loop.time()))
                if loop.time() >= sent + QUIET_S:
                    sent = loop.time()
                    await send({"type": "http.response.body", "body": self.comment, "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        beside = [asyncio.create_task(watch()), *([asyncio.create_task(breathe())] if self.comment else [])]
        try:
            async for data in self._events:
                sent = loop.time()
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except Gone:
            return
        except QwqError as error:
            refused = as_refused(error)
            body = error_body(refused.message, refused.kind, refused.param, refused.code)
            last = self._failed(body) if self._failed else event(body) + DONE
            await send({"type": "http.response.body", "body": last, "more_body": True})
        finally:
            for task in beside:
                task.cancel()
            self._close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class HeldOpen:
    """ASGI's `send` for a request that may have to wait before its application answers.

    While `waiting` runs, a stream gets comment lines whenever `QUIET_S` seconds have passed. Its
    status has been sent then, so an error of the application becomes the stream's last event.
    """

    def __init__(self, send: Any) -> None:
        self._send, self._started = send, False
        self._status, self._error = 200, b""

    async def waiting(self) -> None:
        while True:
            await asyncio.sleep(QUIET_S)
            if not self._started:
                self._started = True
                headers = [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-cache"),
                    (b"x-accel-buffering", b"no"),
                ]
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})

    async def __call__(self, message: Any) -> None:
        if not self._started:
            return await self._send(message)
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif self._status == 200:
            await self._send(message)
        else:
            self._error += message.get("body", b"")
            if not message.get("more_body", False):
                name = b"event: error\n" if self._error.startswith(b'{"type": "error"') else b""  # Anthropic's
                data = name + b"data: " + self._error + b"\n\n" + (b"" if name else DONE)
                await self._send({"type": "http.response.body", "body": data, "more_body": False})


class Json(Response):
    """An answer that was checked where it was made."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


async def unless_gone(request: Request, answer: Any) -> Response:
    """The answer as JSON, unless the client goes away first; then its work is cancelled."""
    task = asyncio.ensure_future(answer)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return Json(await task)
    except asyncio.CancelledError:
        if not watcher.done():  # it is the server that ends
            raise
        return Response(status_code=499)  # nobody reads it
    finally:
        watcher.cancel()
        task.cancel()
