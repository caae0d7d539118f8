"""`qwq chat`: a conversation with a model in the terminal, streamed token by token, thinking dimmed.

Covers one conversation at a time, on the model code that trains (float32). The history is the tokens as they were
sampled, so nothing is computed twice and nothing is re-made from text, unless the model's template rewrites earlier
turns (QwQ's drops their thinking): then the prompt is rendered anew for every question.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import torch

from qwq.agent.environment import CalculatorEnvironment
from qwq.engine.sampler import SamplingParams, sample
from qwq.errors import CapacityError
from qwq.model.folder import resolve_folder
from qwq.model.layouts import Decode, KVCache, Prefill
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model
from qwq.problems.families.calculator import CALCULATOR
from qwq.rollout.collect import MAX_TOOL_TURNS
from qwq.text.parse import parse_response
from qwq.text.template import ChatFormat
from qwq.types import Message, Problem

HELP = "/new begins a new conversation, /quit ends"
DIM, RESET = "\x1b[2m", "\x1b[0m"


@torch.inference_mode()
def stream(
    model: Transformer, prompt_ids: Sequence[int], params: SamplingParams, eos_ids: Sequence[int], seed: int
) -> Iterator[int]:
    """Token ids one by one, the end token included. CapacityError where the prompt fills the model's context."""
    length, limit = len(prompt_ids), model.config.max_positions
    if length >= limit:
        raise CapacityError(
            f"the conversation has {length} tokens, the model reads at most {limit}: begin a new one with /new"
        )
    width = min(length + params.max_new_tokens, limit)
    device = model.device
    cache = KVCache(model.config, 1, width, device=device, dtype=model.embed.weight.dtype)
    row = torch.zeros(1, dtype=torch.long, device=device)
    if length > 1:
        model(torch.tensor(prompt_ids[:-1], device=device), Prefill([length - 1], cache, row, device))
    seeds = torch.tensor([seed], device=device)
    last = torch.tensor([prompt_ids[-1]], device=device)
    for count in range(width - length):
        position = torch.tensor([length - 1 + count], device=device)
        logits = model.logits(model(last, Decode(cache, position, length + count)))
        last, _ = sample(logits, params, seeds, torch.tensor([count], device=device))
        token = int(last)
        yield token
        if token in eos_ids:
            return


class TextStream:
    """Token ids in, printable text out: a character is held back until all its bytes are there."""

    def __init__(self, chat: ChatFormat) -> None:
        self.chat, self.shown = chat, 0
        self.ids: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes; empty for an end token and inside a character."""
        if token in self.chat.eos_ids:
            return ""
        self.ids.append(token)
        whole = self.chat.tokenizer.decode(self.ids)
        if whole.endswith("\ufffd"):
            return ""
        new, self.shown = whole[self.shown :], len(whole)
        return new


@dataclass(slots=True)
class Turn:
    """An assistant's answer: what it said after its thinking, and whether it came to an end."""

    answer: str
    finished: bool


@dataclass(slots=True)
class Conversation:
    """Messages and, where the template only ever adds to them, their tokens."""

    model: Transformer
    chat: ChatFormat
    params: SamplingParams
    tools: bool = False
    messages: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

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
        calculator = CalculatorEnvironment()
        calculator.reset(Problem("chat", "tools", tuple(self.messages), {}, "chat", tools))
        for turn in range(MAX_TOOL_TURNS + 1):
            text, ids, finished = self._turn(prompt, seed + turn, show)
            parsed = parse_response(text, thinking_open=self.chat.thinking_open)
            said = text if not self.chat.thinking_open else f"<think>\n{text}"
            self.messages.append(Message("assistant", said))
            self.ids = prompt + ids
            if not (self.tools and finished and parsed.tool_calls and turn < MAX_TOOL_TURNS):
                break
            results = calculator.step(parsed.tool_calls)
            for result in results:
                show(f"\n[calculator] {result.content}\n", True)
            self.messages += results
            prompt = self.ids + self.chat.tool_result_ids([r.content for r in results])
        if not finished:
            self.ids = []  # without its end token no turn can follow; the next question renders the messages
        return Turn(parsed.answer, finished)

    def _turn(self, prompt: list[int], seed: int, show: Callable[[str, bool], None]) -> tuple[str, list[int], bool]:
        out, text, ids = TextStream(self.chat), "", []
        thinking = self.chat.thinking_open
        for token in stream(self.model, prompt, self.params, self.chat.eos_ids, seed):
            ids.append(token)
            new = out.push(token)
            text += new
            # The markers are single tokens, so they arrive whole.
            thinking = thinking or "<think>" in new
            if new:
                show(new, thinking)
            thinking = thinking and "</think>" not in new
        return text, ids, bool(ids) and ids[-1] in self.chat.eos_ids


class Screen:
    """Prints a stream; on a terminal thinking is dimmed, elsewhere it stands as it came."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.colour, self.dim = out, out.isatty(), False

    def show(self, text: str, thinking: bool) -> None:
        if self.colour and thinking != self.dim:
            self.out.write(DIM if thinking else RESET)
            self.dim = thinking
        # A model may have learnt to write control sequences; a terminal must not obey them.
        self.out.write("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))
        self.out.flush()

    def end(self) -> None:
        self.out.write((RESET if self.colour and self.dim else "") + "\n")
        self.out.flush()
        self.dim = False


def run_chat(
    model_path: str,
    *,
    prompt: str | None = None,
    tools: bool = False,
    temperature: float = 0.6,
    max_new_tokens: int = 512,
    seed: int | None = None,
    device: str = "cpu",
) -> int:
    """`qwq chat`: one question with `prompt` (the answer alone on standard output), else a conversation."""
    folder = resolve_folder(model_path)
    model, chat = load_model(folder, device=device), ChatFormat.from_folder(folder)
    chat.tokenizer.check_fits(model.config)
    params = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens)
    seed = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    conversation = Conversation(model, chat, params, tools)
    if prompt is not None:
        turn = conversation.ask(prompt, seed, lambda text, thinking: None)
        print(turn.answer)
        if not turn.finished:
            print(
                f"the answer did not end within {max_new_tokens} tokens: give a larger --max-new-tokens",
                file=sys.stderr,
            )
        return 0
    print(f"{model_path}: {HELP}", file=sys.stderr)
    return _talk(conversation, seed)


def _talk(conversation: Conversation, seed: int) -> int:
    screen = Screen(sys.stdout)
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return 0
        if question == "/quit":
            return 0
        if question == "/new":
            conversation.messages, conversation.ids = [], []
            print("a new conversation", file=sys.stderr)
            continue
        if question.startswith("/"):
            print(f"no command {question.split()[0]}: {HELP}", file=sys.stderr)
            continue
        if not question:
            continue
        before = len(conversation.messages)
        try:
            turn = conversation.ask(question, seed + 1000 * before, screen.show)
        except CapacityError as full:
            screen.end()
            print(f"error: {full}", file=sys.stderr)
            del conversation.messages[before:]
            conversation.ids = []
            continue
        screen.end()
        if not turn.finished:
            print(f"[stopped after {conversation.params.max_new_tokens} tokens]", file=sys.stderr)
