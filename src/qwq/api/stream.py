"""An answer while it is written, and the engine that all answers of a model share."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qwq.api.outputs import ChatAnswer, ChatPiece, PieceKind
from qwq.text.parts import Kind, Part
from qwq.text.response import ResponseParser
from qwq.text.tool_calls import call_of

if TYPE_CHECKING:
    from qwq.engine.request import GenerationRequest
    from qwq.engine.scheduler import Engine
    from qwq.engine.sequence import TokenSequence


class SharedEngine:
    """The engine of a loaded model, which one thread at a time may use."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self._lock = engine, threading.Lock()
        self._dropped: deque[TokenSequence] = deque()  # sequences whose streams nobody holds any more

    def check(self, request: GenerationRequest) -> None:
        """UsageError or CapacityError where the request cannot be run."""
        self.engine.check(request)

    def submit(self, requests: Sequence[GenerationRequest]) -> list[TokenSequence]:
        """One sequence for each request, under way together."""
        with self._lock:
            return [self.engine.submit(request)[0] for request in requests]

    def step(self, sample: TokenSequence) -> None:
        """One step for all sequences under way.

        Another thread may have finished `sample` meanwhile.
        """
        with self._lock:
            while self._dropped:
                self.engine.abort(self._dropped.popleft())
            if not sample.done:
                self.engine.step()

    def abort(self, sample: TokenSequence) -> None:
        with self._lock:
            self.engine.abort(sample)

    def drop(self, sample: TokenSequence) -> None:
        """Abort before the next step: also safe where this thread is inside the engine."""
        self._dropped.append(sample)


class ChatStream(Iterator[ChatPiece]):
    """Pieces of one answer, in order. `answer` is the whole one; asking for it reads the stream to
    its end.

    `close` (or leaving a `with` block) aborts an answer that is still being written; `answer` is
    then what there is of it.
    """

    def __init__(self, engine: SharedEngine, sample: TokenSequence, *, tools: frozenset[str] | None) -> None:
        self._engine, self._sample = engine, sample
        self._parser = ResponseParser(thinking_open=sample.request.thinking_open, tools=tools or ())
        self._pieces: list[ChatPiece] = []
        self._call: list[str] | None = None  # name and arguments of a call that is being written
        self._waiting: deque[ChatPiece] = deque()
        self._read, self._over = 0, False  # characters of the text that the parser has; whether it has them all

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # The collector may come while this thread is inside the engine, so the sequence is only
        # marked.
        self._engine.drop(self._sample)

    def __next__(self) -> ChatPiece:
        while not self._waiting:
            if self._over:
                raise StopIteration
            self._advance()
        return self._waiting.popleft()

    def close(self) -> None:
        """Stop the answer where it is."""
        self._engine.abort(self._sample)

    @property
    def answer(self) -> ChatAnswer:
        for _ in self:
            pass
        sample = self._sample
        parts = {k: "".join(p.text for p in self._pieces if p.kind is k) for k in (PieceKind.THINKING, PieceKind.TEXT)}
        assert sample.stop_reason is not None
        return ChatAnswer(
            thinking=parts[PieceKind.THINKING],
            text=parts[PieceKind.TEXT],
            tool_calls=tuple(p.call for p in self._pieces if p.call is not None),
            stop_reason=sample.stop_reason,
            num_tokens=len(sample.ids),
            num_thinking_tokens=sample.num_thinking,
            num_prompt_tokens=sample.num_prompt,
            raw=sample.text,
            seed=sample.request.seed,
        )

    def _advance(self) -> None:
        """One step of the engine, or, when the answer has ended, what the parser held back."""
        sample = self._sample
        self._over = sample.done
        if not self._over:
            self._engine.step(sample)
        text = sample.text  # read once: another thread may write more
        parts = self._parser.push(text[self._read :])
        self._read = len(text)
        if self._over:
            parts += self._parser.finish(cut=bool(sample.stop_reason and sample.stop_reason.cut))
        for part in parts:
            self._take(part)
        if self._over:
            self._end_call()

    def _take(self, part: Part) -> None:
        if part.kind is Kind.ARGUMENTS and self._call is not None:
            self._call[1] += part.text
        elif part.kind is Kind.BROKEN:
            self._call = None
        else:
            self._end_call()
            if part.kind is Kind.CALL:
                self._call = [part.text, ""]
            else:
                self._keep(ChatPiece(PieceKind.THINKING if part.kind is Kind.THINKING else PieceKind.TEXT, part.text))

    def _end_call(self) -> None:
        """The call before, whose last part is known to be its last only when something else
        follows.
        """
        held, self._call = self._call, None
        call = call_of({"name": held[0], "arguments": held[1] or "{}"}) if held else None
        if call is not None:
            self._keep(
                ChatPiece(
                    PieceKind.CALL,
                    json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False),
                    call,
                )
            )

    def _keep(self, piece: ChatPiece) -> None:
        self._pieces.append(piece)
        self._waiting.append(piece)
