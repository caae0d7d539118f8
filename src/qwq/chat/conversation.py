"""A conversation on the engine: its messages, its tokens, its turns, and where it is kept.

The history is the tokens as they were sampled, nothing is re-made from text, unless the model's template rewrites earlier turns
(QwQ's drops their thinking): then the prompt is rendered anew for every question.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qwq.common.files import write_atomic
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.engine.sequence import TokenSequence
from qwq.engine.thinking import LOOP_TOKENS
from qwq.envs import CalculatorEnvironment, answer_calls, environment_for
from qwq.errors import CapacityError, DataError
from qwq.tasks.procedural.calculator import CALCULATOR
from qwq.text.response import ThinkingSplitter, parse
from qwq.text.template import ChatFormat
from qwq.text.tokenizer import TextStream
from qwq.types import Message, Problem, StopReason, tool_schemas


@dataclass(slots=True)
class Turn:
    """An assistant's answer: what it said after its thinking, and whether it came to an end."""

    answer: str
    finished: bool
    reason: StopReason | None = None


@dataclass(slots=True)
class Conversation:
    """Messages and, where the template only ever adds to them, their tokens. `budget` limits the thinking, in tokens."""

    engine: Engine
    chat: ChatFormat
    params: SamplingParams
    tools: bool = False
    budget: int | None = None
    sample: TokenSequence | None = None
    messages: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def begin(self, system: str | None = None) -> None:
        """Forget what was said; `system` is what the model is told first."""
        self.messages, self.ids = [Message("system", system)] if system else [], []

    @property
    def system(self) -> str | None:
        first = self.messages[0] if self.messages else None
        return first.content if first is not None and first.role == "system" else None

    def ask(self, question: str, seed: int, show: Callable[[str, bool], None]) -> Turn:
        """One question, with the calculator's answers in between. `show(text, thinking)` gets the text as it comes.

        Raises CapacityError when the conversation has filled the model's context; it can then be left or begun anew.
        """
        self.messages.append(Message("user", question))
        tools = (CALCULATOR,) if self.tools else ()
        prompt = self.chat.prompt_ids(self.messages, tools)
        # Sampled tokens go before re-encoded ones, as long as both spell the same text.
        if self.ids and self.chat.tokenizer.decode(prompt).startswith(self.chat.tokenizer.decode(self.ids)):
            prompt = self.ids + self.chat.next_turn_ids([self.messages[-1]])
        calculator = environment_for(Problem("chat", "tools", tuple(self.messages), {}, "chat", tools))
        for turn in range(CalculatorEnvironment.max_calls + 1):
            text, ids, finished = self._turn(prompt, seed + turn, show)
            response = parse(text, thinking_open=self.chat.thinking_open, tools=tool_schemas(tools))
            said = text if not self.chat.thinking_open else f"<think>\n{text}"
            self.messages.append(Message("assistant", said))
            self.ids = prompt + ids
            if not (finished and response.tool_calls and turn < CalculatorEnvironment.max_calls):
                break
            assert calculator is not None
            results = answer_calls(calculator, response.tool_calls)
            for result in results:
                show(f"\n[calculator] {result.content}\n", True)
            self.messages += results
            prompt = self.ids + self.chat.tool_result_ids([r.content for r in results])
        if not finished:
            self.ids = []  # without its end token no turn can follow; the next question renders the messages
        return Turn(response.answer, finished, self.sample.stop_reason if self.sample else None)

    def _turn(self, prompt: list[int], seed: int, show: Callable[[str, bool], None]) -> tuple[str, list[int], bool]:
        """One answer, shown as it comes. Ctrl-C ends it where it is."""
        try:
            (sample,) = self.engine.submit(self._request(prompt, seed))
        except CapacityError as full:
            raise CapacityError(f"{full}; /new begins a new conversation") from None
        self.sample = sample
        stream, shown, text = TextStream(self.chat.tokenizer), 0, ""
        splitter = ThinkingSplitter(thinking_open=self.chat.thinking_open)
        while not sample.done:
            try:
                self.engine.step()
            except KeyboardInterrupt:
                self.engine.abort(sample)
            for token in sample.ids[shown:]:
                new = "" if token in self.chat.eos_ids else stream.push(token)
                text += new
                inside = splitter.inside
                splitter.push(new)
                if new:
                    show(new, inside or splitter.inside)  # a marker is shown with the thinking, dimmed
            shown = len(sample.ids)
        return text, sample.ids, sample.stop_reason is StopReason.END

    def _request(self, prompt: list[int], seed: int) -> GenerationRequest:
        return GenerationRequest(
            prompt, self.params, seed=seed, eos_ids=self.chat.eos_ids, thinking_open=self.chat.thinking_open,
            thinking_budget=self.budget, loop_tokens=LOOP_TOKENS,
        )  # fmt: skip


# -- saved conversations ------------------------------------------------------------------------------------------------


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
