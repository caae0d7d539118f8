"""Events of the page's own streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

T = TypeVar("T")
HEARTBEAT_S = 15.0
STILL_HERE = b": still here\n\n"  # a proxy ends a connection that says nothing


def page_event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


async def page_events(batches: AsyncIterator[T], event: Callable[[T], dict[str, Any]]) -> AsyncGenerator[bytes, None]:
    """Each batch as an event, and signs of life while none comes."""
    waiting = asyncio.ensure_future(anext(batches, None))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=HEARTBEAT_S)
            if not done:
                yield STILL_HERE
                continue
            batch = waiting.result()
            if batch is None:
                return
            yield page_event(event(batch))
            waiting = asyncio.ensure_future(anext(batches, None))
    finally:
        waiting.cancel()
