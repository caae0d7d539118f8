"""Many requests at once, each handed back with its answer or its failure, in the order in which
they are done.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from qwq.endpoint.reply import RequestFailed
from qwq.errors import InfraError

MAX_FAILURES = 5  # one after another, without an answer in between: then it is not the request

POLL_S = 0.05  # between looks for new work while answers are under way and there is room for more

T = TypeVar("T")
R = TypeVar("R")


def concurrently(
    take: Callable[[], T | None], ask: Callable[[T], R], concurrency: int
) -> Iterator[tuple[T, R | RequestFailed]]:
    """Call `ask` for what `take` gives, at most `concurrency` at once, until it gives None and all
    are done.

    `take` is called again and again while there is room, so work may be added meanwhile. A
    RequestFailed is handed back beside its item; after MAX_FAILURES in a row, as any other error,
    it is raised.
    """
    # Daemon threads, not a pool: whoever stops does not wait for the answers that are under way.
    inbox: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    outbox: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        while (item := inbox.get()) is not None:
            try:
                outbox.put((item, ask(item)))
            except BaseException as error:  # noqa: BLE001  # handed on, and raised below
                outbox.put((item, error))

    threads = [threading.Thread(target=work, name=f"qwq-ask-{i}", daemon=True) for i in range(concurrency)]
    for thread in threads:
        thread.start()
    running = failures = 0
    try:
        while True:
            while running < concurrency and (item := take()) is not None:
                inbox.put(item)
                running += 1
            if not running:
                return
            try:
                item, got = outbox.get(timeout=POLL_S if running < concurrency else None)
            except queue.Empty:
                continue
            running -= 1
            failures = failures + 1 if isinstance(got, BaseException) else 0
            if isinstance(got, BaseException) and not isinstance(got, RequestFailed):
                raise got
            yield item, got
            if isinstance(got, RequestFailed) and failures >= MAX_FAILURES:
                raise InfraError(f"{failures} requests in a row have no answer; the last: {got}")
    finally:
        for _ in threads:
            inbox.put(None)
        if not running:
            for thread in threads:
                thread.join()
