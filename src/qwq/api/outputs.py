"""What a model answers: pieces of it, the whole answer, the continuation of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qwq.text.response import with_thinking
from qwq.types import Message, StopReason, ToolCall


class PieceKind(StrEnum):
    """What a streamed piece belongs to."""

    THINKING = "thinking"
    TEXT = "text"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """A piece of an answer while it is written.

    A call comes as one piece, once it is whole: `call`, and its JSON in `text`.
    """

    kind: PieceKind
    text: str
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer. Token counts are of the sampled answer, its end token included; `seed`
    repeats it.

    `thinking` is "" where there was none, and `text` "" where the thinking never ended. `raw` is
    the text as it was sampled. A call that was cut off by a limit of tokens is in `raw` alone.
    """

    thinking: str
    text: str
    tool_calls: tuple[ToolCall, ...]
    stop_reason: StopReason
    num_tokens: int
    num_thinking_tokens: int
    num_prompt_tokens: int
    raw: str
    seed: int

    @property
    def finished(self) -> bool:
        """Whether the model ended its turn itself."""
        return self.stop_reason is StopReason.END

    def message(self) -> Message:
        """The assistant's turn, for the next call's `messages`."""
        words = with_thinking(self.thinking, self.text) if self.thinking else self.text
        return Message("assistant", words, self.tool_calls)


@dataclass(frozen=True, slots=True)
class TextCompletion:
    """A continuation of a prompt.

    `ids` are its tokens, the end token included; `text` is without it and without a stop string.
    """

    text: str
    ids: tuple[int, ...]
    stop_reason: StopReason
    num_prompt_tokens: int
    seed: int

    @property
    def num_tokens(self) -> int:
        return len(self.ids)
