"""A conversation with a model: its messages, its tokens, its turns, and where it is kept.

The history is the tokens as they were sampled, nothing is re-made from text, unless the model's
template rewrites earlier turns (QwQ's drops their thinking): then the prompt is rendered again for
every question.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwq.common.files import write_atomic
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import LOOP_TOKENS
from qwq.errors import CapacityError, DataError
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.episode import Episode, EpisodeJob, Hooks, play
from qwq.rollout.policy import Policy
from qwq.tasks.procedural.tool_use import CALCULATOR
from qwq.text.response import ThinkingSplitter
from qwq.text.template import ChatFormat
from qwq.types import Message, Problem, StopReason

# Gets the text as it comes, and whether it is thinking.
Show = Callable[[str, bool], None]


@dataclass(slots=True)
class ChatTurn:
    """The answer to a question, after its calls. The counts are of its last turn.

    `answer` is what follows the thinking; `reason` says how it ended. `tokens_per_s` is without the
    prompt; None for an answer that is too short to measure.
    """

    answer: str
    finished: bool
    reason: StopReason
    num_tokens: int = 0
    num_thinking: int = 0
    tokens_per_s: float | None = None


@dataclass(slots=True)
class Conversation:
    """Messages and, where the template only ever adds to them, their tokens.

    `budget` limits the thinking, in tokens. `tools`: the model has the calculator.
    """

    policy: Policy
    params: SamplingParams
    tools: bool = False
    budget: int | None = None
    messages: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def chat(self) -> ChatFormat:
        assert self.policy.chat is not None, "a conversation needs a policy that is token-exact"
        return self.policy.chat

    def begin(self, system: str | None = None) -> None:
        """Forget what was said; `system` is what the model is told first."""
        self.messages, self.ids = [Message("system", system)] if system else [], []

    @property
    def system(self) -> str | None:
        first = self.messages[0] if self.messages else None
        return first.content if first is not None and first.role == "system" else None

    def ask(self, question: str, seed: int, show: Show) -> ChatTurn:
        """One question, with the calculator's answers in between.

        CapacityError when the conversation has filled the model's context: it can then be left, or
        a new one started.
        """
        self.messages.append(Message("user", question))
        tools = (CALCULATOR,) if self.tools else ()
        asked = Problem("chat", "tools", tuple(self.messages), {}, "chat", tools)
        job = EpisodeJob(asked, seed=seed, thinking_budget=self.budget, prompt_ids=self._prompt(tools))
        screen = _Written(show, self.chat.thinking_open)
        (episode,) = play(
            self.policy, iter([job]), self.params, limits=EpisodeLimits(last_turn=True), loop_tokens=LOOP_TOKENS,
            hooks=Hooks(text=screen.text, messages=screen.results),
        )  # fmt: skip
        last = episode.turns[-1]
        if last.stop_reason is StopReason.CONTEXT and not last.ids:
            raise CapacityError(
                f"the conversation fills the model's context of {self.policy.context} tokens; "
                "/new begins a new conversation"
            )
        self._keep(episode)
        return ChatTurn(
            last.answer, episode.stop_reason is StopReason.END, episode.stop_reason or last.stop_reason,
            last.num_tokens, last.num_thinking, screen.rate(last.num_tokens),
        )  # fmt: skip

    def _prompt(self, tools: Sequence[dict]) -> list[int]:
        prompt = self.chat.prompt_ids(self.messages, tools)
        # Sampled tokens go before re-encoded ones, as long as both spell the same text.
        decode = self.chat.tokenizer.decode
        if self.ids and decode(prompt).startswith(decode(self.ids)):
            prompt = self.ids + self.chat.next_turn_ids([self.messages[-1]])
        return prompt

    def _keep(self, episode: Episode) -> None:
        """The turns as they were written, and the answers to their calls."""
        turns = iter(episode.turns)
        opening = "<think>\n" if self.chat.thinking_open else ""
        for message in episode.messages:
            own = message.role == "assistant"
            self.messages.append(Message("assistant", opening + next(turns).text) if own else message)
        # Without its end token no turn can follow; the next question renders the messages.
        whole = episode.exact and episode.stop_reason is StopReason.END
        self.ids = [*episode.prompt_ids, *episode.ids] if whole else []


class _Written:
    """Shows an episode's text as it comes, told apart into thinking and answer, and the answers to
    its calls.
    """

    def __init__(self, show: Show, opened: bool) -> None:
        self.show, self.opened, self.turn = show, opened, -1
        self.splitter = ThinkingSplitter(thinking_open=opened)
        self.first = self.last = 0.0

    def text(self, episode: Episode, new: str) -> None:
        if self.turn != len(episode.turns):
            self.turn, self.splitter = len(episode.turns), ThinkingSplitter(thinking_open=self.opened)
            self.first = time.perf_counter()
        self.last = time.perf_counter()
        inside = self.splitter.inside
        self.splitter.push(new)
        self.show(new, inside or self.splitter.inside)  # a marker is shown with the thinking, dimmed

    def results(self, episode: Episode, messages: Sequence[Message]) -> None:
        for message in messages:
            self.show(f"\n[calculator] {message.content}\n", True)

    def rate(self, num_tokens: int) -> float | None:
        """Tokens a second after the first."""
        return (num_tokens - 1) / (self.last - self.first) if num_tokens > 2 and self.last > self.first else None


# -- saved conversations ---------------------------------------------------------------------------


def saved_path(model: str) -> Path:
    """Where conversations with this model are kept, one file a model."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return (
        state / "qwq" / "chats" / (re.sub(r"[^\w.-]+", "_", str(Path(model).expanduser().resolve()))[-150:] + ".json")
    )


def save(conversation: Conversation, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"messages": [m.to_dict() for m in conversation.messages], "ids": conversation.ids}
    write_atomic(path, json.dumps(data, ensure_ascii=False))


def resume(conversation: Conversation, path: Path) -> None:
    """Take up what `save` has written. DataError where it cannot be read."""
    if not path.is_file():
        raise DataError(f"no conversation at {path} to resume: begin one without --resume")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        conversation.messages = [Message(m["role"], m["content"]) for m in data["messages"]]
        conversation.ids = [int(i) for i in data["ids"]]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is no saved conversation: delete it") from None
