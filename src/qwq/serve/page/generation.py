"""Answers under way: each is a task of its own, so it does not depend on a page being open.

A piece is stored before it is shown. Pages follow an answer from any piece on; one that reads
slowly gets several at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from qwq.errors import QwqError, UsageError
from qwq.serve.page.conversation_store import Store, Whole
from qwq.serve.page.message_tree import MessageStats, Piece, State, StoredMessage, chat_body, path_to, with_pieces

# The chat endpoint in process: takes the body of a streamed request, gives the chunks of its answer
# as objects. What goes wrong is a QwqError or a chunk {"error": {"message": ...}}. Closing it
# (`aclose`) ends the request at once.
Chat = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]

FAILED = "the server failed while it answered: its log says why"


class Generation:
    """One answer.

    `follow` may be called by any number of pages; `stop` comes back when nothing runs any more.
    """

    def __init__(self, store: Store, chat: Chat, body: dict[str, Any], message: StoredMessage) -> None:
        self._store, self._chat, self._body, self._before = store, chat, body, message
        self.pieces: list[Piece] = []
        self.final: StoredMessage | None = None
        self._wake = asyncio.Event()
        self._state = State.INTERRUPTED
        self._error: str | None = None
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._timings: dict[str, Any] = {}
        self._started = time.monotonic()
        self._first: float | None = None
        self._answer: float | None = None
        self.task = asyncio.create_task(self._run(), name=f"answer-{message.id}")

    async def follow(self, after: int) -> AsyncIterator[list[Piece]]:
        """The pieces behind number `after`, in batches of what has come meanwhile, until the answer
        has ended.
        """
        while True:
            wake = self._wake
            if len(self.pieces) > after:
                new = self.pieces[after:]
                after += len(new)
                yield new
            elif self.final is not None:
                return
            else:
                await wake.wait()

    async def stop(self, state: State = State.STOPPED) -> None:
        if not self.task.done():
            self._state = state
            self.task.cancel()
            await asyncio.wait({self.task})

    async def _run(self) -> None:
        try:
            async with aclosing(self._chat(self._body)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    self._take(chunk)
            if self._error is None and self._finish_reason is not None:
                self._state = State.LENGTH if self._finish_reason == "length" else State.COMPLETE
        except QwqError as error:
            self._fail(str(error))
        except asyncio.CancelledError:
            pass  # `stop` has said what the state is
        except BaseException:
            self._fail(FAILED)
            raise
        finally:
            self._finish()

    def _fail(self, message: str) -> None:
        self._state, self._error = State.ERROR, message

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self._fail(str(chunk["error"].get("message", chunk["error"])))
            return
        self._usage = chunk.get("usage") or self._usage
        self._timings = chunk.get("timings") or self._timings
        new: list[Piece] = []
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta") or {}
            if text := delta.get("reasoning_content"):
                new.append(Piece(0, "reasoning", text))
            if text := delta.get("content"):
                new.append(Piece(0, "content", text))
            for call in delta.get("tool_calls") or ():
                flat = {"index": call.get("index", 0), "id": call.get("id"), **(call.get("function") or {})}
                new.append(
                    Piece(0, "tool", json.dumps({k: v for k, v in flat.items() if v is not None}, ensure_ascii=False))
                )
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if new:
            start = len(self.pieces) + 1
            numbered = [p._replace(number=start + i) for i, p in enumerate(new)]
            self._store.append(self._before.id, numbered)
            now = time.monotonic()
            self._first = self._first or now
            if self._answer is None and any(p.kind != "reasoning" for p in new):
                self._answer = now
            self.pieces += numbered
            self._notify()

    def _finish(self) -> None:
        message = with_pieces(self._before, self.pieces)
        update = {"state": self._state, "error": self._error, "stats": self._stats()}
        try:
            self._store.finish(message.model_copy(update=update))
        except QwqError as error:
            update |= {"state": State.ERROR, "error": str(error)}
        self.final = message.model_copy(update=update)
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()

    def _stats(self) -> MessageStats:
        """This part's figures added to those of the parts before it."""
        before, end = self._before.stats, time.monotonic()
        kinds = [p.kind for p in self.pieces]
        details = self._usage.get("completion_tokens_details") or {}
        # An answer that was cut off brings no usage: a piece is a token then, or a few.
        new = self._usage.get("completion_tokens", len(kinds))
        thought = details.get("reasoning_tokens", kinds.count("reasoning"))
        thinking_s = ((self._answer or end) - (self._first or end)) if "reasoning" in kinds else 0.0
        decoding_s = end - (self._first or end)
        rate = self._timings.get("predicted_per_second") or (
            (new - 1) / decoding_s if new > 1 and decoding_s > 0 else None
        )
        return MessageStats(
            ttft_s=before.ttft_s if before.ttft_s is not None or self._first is None else self._first - self._started,
            thinking_s=(before.thinking_s or 0.0) + thinking_s,
            total_s=(before.total_s or 0.0) + end - self._started,
            tokens_per_s=rate or before.tokens_per_s,
            prompt_tokens=before.prompt_tokens or self._usage.get("prompt_tokens"),
            completion_tokens=(before.completion_tokens or 0) + new,
            reasoning_tokens=(before.reasoning_tokens or 0) + thought,
            thinking_token_budget=self._body.get("thinking_token_budget"),
        )


class Generations:
    """All answers under way, by message."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._running: dict[int, Generation] = {}
        self._closed = False

    def get(self, message: int) -> Generation | None:
        return self._running.get(message)

    def start(self, store: Store, whole: Whole, message: StoredMessage) -> None:
        """Start the empty or stopped answer at the end of its path."""
        if self._closed:
            raise UsageError("the server is shutting down: ask again when it is back")
        path = path_to(whole.messages, message.id)
        continues = bool(message.content or message.reasoning)
        body = chat_body(whole.conversation, path if continues else path[:-1], continues=continues)
        running = Generation(store, self._chat, body, message)
        self._running[message.id] = running
        running.task.add_done_callback(lambda _: self._running.pop(message.id, None))

    async def stop(self, messages: list[int]) -> None:
        await asyncio.gather(*(g.stop() for m in messages if (g := self._running.get(m))))

    async def close(self) -> None:
        """End every answer as interrupted; each can be continued."""
        self._closed = True
        await asyncio.gather(*(g.stop(State.INTERRUPTED) for g in list(self._running.values())))
