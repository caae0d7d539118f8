"""Options of `qwq chat`, typed and documented in one place. The text under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_new_tokens",
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What is asked, how it is sampled, and how the answer is shown."""

    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Ask this one question, print the answer and exit; - reads the question from standard input."""
    system: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """System prompt."""
    file: tuple[str, ...] = ()
    """Text file to show the model with the (first) question; repeatable."""
    tools: bool = False
    """Offer the calculator and answer its calls."""
    temperature: float | None = None
    """Sampling temperature; 0 takes the most likely token. The model's own by default, as for all sampling."""
    top_p: float | None = None
    """Sample from the most likely tokens that together have this probability."""
    top_k: int | None = None
    """Sample from this many of the most likely tokens; 0 for all."""
    min_p: float | None = None
    """Leave out tokens less likely than this share of the most likely one's probability."""
    repetition_penalty: float | None = None
    """Divide the logits of tokens that occurred before; 1 for no penalty."""
    presence_penalty: float | None = None
    """Subtract this from the logits of tokens that the answer has already."""
    frequency_penalty: float | None = None
    """Subtract this for each time that the answer has a token already."""
    max_new_tokens: int | None = None
    """Longest answer, thinking included; half the model's context, at most 4,096, by default."""
    thinking_budget: int | None = None
    """End the thinking after this many tokens; an answer follows."""
    fold: bool = False
    """Hide the thinking behind a counter."""
    raw: bool = False
    """Show Markdown and formulas unrendered."""
    resume: bool = False
    """Resume the last conversation with this model."""
    seed: int | None = None
    """Seed of the sampling; a random one by default."""

    @property
    def sampling(self) -> dict[str, float]:
        """The sampling parameters that were set."""
        return {name: getattr(self, name) for name in SAMPLING if getattr(self, name) is not None}


CHAT_DEFAULTS = ChatOptions()
