"""What a command does on Ctrl-C and on being told to end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def ending_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let `handler` have SIGINT and SIGTERM as long as the block lasts; in the main thread alone,
    as Python gives signals to no other.
    """
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
