"""`qwq chat`: a conversation with a model in the terminal, streamed token by token, thinking dimmed or folded away.

Runs on the engine, so a GGUF file is talked to like a folder, and what was said before is not computed again. The history
is the tokens as they were sampled, nothing is re-made from text, unless the model's template rewrites earlier turns
(QwQ's drops their thinking): then the prompt is rendered anew for every question. Ctrl-C stops an answer; the
conversation goes on. Each turn is saved, and `--resume` goes on with the last conversation with that model.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from qwq.common.files import write_atomic
from qwq.engine.engine import Engine
from qwq.engine.open import EngineOptions, open_engine
from qwq.engine.request import GenerationRequest, Sample
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import LOOP_TOKENS
from qwq.envs import CalculatorEnvironment, answer_calls, environment_for
from qwq.errors import CapacityError, DataError
from qwq.problems.families.calculator import CALCULATOR
from qwq.text.parse import THINK_CLOSE, THINK_OPEN, parse_response
from qwq.text.template import ChatFormat
from qwq.text.tokenizer import TextStream
from qwq.types import Message, Problem, StopReason

HELP = """\
/new          begin a new conversation
/fold         hide the thinking behind a counter, or show it again
/thinking     show the last answer's thinking
/budget N     end the thinking after N tokens (/budget off: no limit)
/retry        answer the last question anew
/help         this list
/quit         end (Ctrl-C stops an answer, Ctrl-D ends too)"""
DIM, RESET, ERASE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


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
    sample: Sample | None = None
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
        calculator = environment_for(Problem("chat", "tools", tuple(self.messages), {}, "chat", tools))
        for turn in range(CalculatorEnvironment.max_calls + 1):
            text, ids, finished = self._turn(prompt, seed + turn, show)
            parsed = parse_response(text, thinking_open=self.chat.thinking_open)
            said = text if not self.chat.thinking_open else f"<think>\n{text}"
            self.messages.append(Message("assistant", said))
            self.ids = prompt + ids
            if not (self.tools and finished and parsed.tool_calls and turn < CalculatorEnvironment.max_calls):
                break
            assert calculator is not None
            results = answer_calls(calculator, parsed.tool_calls)
            for result in results:
                show(f"\n[calculator] {result.content}\n", True)
            self.messages += results
            prompt = self.ids + self.chat.tool_result_ids([r.content for r in results])
        if not finished:
            self.ids = []  # without its end token no turn can follow; the next question renders the messages
        return Turn(parsed.answer, finished, self.sample.stop_reason if self.sample else None)

    def _turn(self, prompt: list[int], seed: int, show: Callable[[str, bool], None]) -> tuple[str, list[int], bool]:
        """One answer, shown as it comes. Ctrl-C ends it where it is."""
        try:
            (sample,) = self.engine.submit(self._request(prompt, seed))
        except CapacityError as full:
            raise CapacityError(f"{full}; /new begins a new conversation") from None
        self.sample = sample
        stream, shown, text, thinking = TextStream(self.chat.tokenizer), 0, "", self.chat.thinking_open
        while not sample.done:
            try:
                self.engine.step()
            except KeyboardInterrupt:
                self.engine.abort(sample)
            for token in sample.ids[shown:]:
                new = "" if token in self.chat.eos_ids else stream.push(token)
                text += new
                # A marker is shown with the thinking, dimmed.
                thinking = thinking or THINK_OPEN in new
                if new:
                    show(new, thinking)
                thinking = thinking and THINK_CLOSE not in text[-64:]
            shown = len(sample.ids)
        return text, sample.ids, sample.stop_reason is StopReason.END

    def _request(self, prompt: list[int], seed: int) -> GenerationRequest:
        return GenerationRequest(
            prompt, self.params, seed=seed, eos_ids=self.chat.eos_ids, thinking_open=self.chat.thinking_open,
            thinking_budget=self.budget, loop_tokens=LOOP_TOKENS,
        )  # fmt: skip


class Screen:
    """Prints a stream; on a terminal thinking is dimmed, or folded to a counter; elsewhere it stands as it came."""

    def __init__(self, out: TextIO, *, fold: bool = False) -> None:
        self.out, self.colour, self.dim, self.fold = out, out.isatty(), False, fold
        self.thoughts, self.num_hidden = "", 0

    def show(self, text: str, thinking: bool) -> None:
        if thinking:
            self.thoughts += text
        if self.fold and self.colour and thinking:
            self.num_hidden += 1
            self.out.write(f"{ERASE}{DIM}thinking ... {self.num_hidden} tokens{RESET}")
            self.out.flush()
            return
        if self.num_hidden:
            self._end_fold()
            text = text.lstrip("\n")
        if self.colour and thinking != self.dim:
            self.out.write(DIM if thinking else RESET)
            self.dim = thinking
        # A model may have learnt to write control sequences; a terminal must not obey them.
        self.out.write("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))
        self.out.flush()

    def _end_fold(self) -> None:
        self.out.write(f"{ERASE}{DIM}thought for {self.num_hidden} tokens (/thinking shows them){RESET}\n")
        self.num_hidden = 0

    def begin(self) -> None:
        self.thoughts = ""

    def end(self) -> None:
        if self.num_hidden:
            self._end_fold()
        self.out.write((RESET if self.colour and self.dim else "") + "\n")
        self.out.flush()
        self.dim = False


# -- saved conversations ------------------------------------------------------------------------------------------------


def saved_path(model: str) -> Path:
    """Where conversations with this model are kept, one file a model."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "qwq" / "chats" / (re.sub(r"[^\w.-]+", "_", str(Path(model).expanduser().resolve()))[-150:] + ".json")


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


# -- the command ---------------------------------------------------------------------------------------------------------


def run_chat(
    model_path: str,
    *,
    prompt: str | None = None,
    tools: bool = False,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    device: str = "cpu",
    thinking_budget: int | None = None,
    fold: bool = False,
    resume_last: bool = False,
) -> int:
    """`qwq chat`: one question with `prompt` (the answer alone on standard output), else a conversation."""
    quiet = (lambda line: None) if prompt is not None else None
    options = EngineOptions(device=device, max_num_seqs=1)
    opened = open_engine(model_path, options, *([quiet] if quiet else []))
    own = dict(opened.sampling)
    if temperature is not None:
        own["temperature"] = temperature
        if temperature == 0 and opened.greedy_hint:
            print(f"note: {opened.greedy_hint}", file=sys.stderr)
    limit = max_new_tokens or min(4096, opened.engine.max_len // 2)
    params = SamplingParams(**{k: v for k, v in own.items() if k != "top_k"}, top_k=max(0, int(own.get("top_k", 0))), max_new_tokens=limit)
    seed = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    conversation = Conversation(opened.engine, opened.chat, params, tools, thinking_budget)
    if prompt is not None:
        turn = conversation.ask(prompt, seed, lambda text, thinking: None)
        print(turn.answer)
        if not turn.finished:
            print(f"the answer {_ending(turn, limit)}", file=sys.stderr)
        return 0
    path = saved_path(model_path)
    if resume_last:
        resume(conversation, path)
        for m in conversation.messages:
            print(f"> {m.content}" if m.role == "user" else parse_response(m.content).answer)
    print(f"{model_path}: /help lists the commands", file=sys.stderr)
    return _talk(conversation, seed, fold=fold, path=path)


def _ending(turn: Turn, limit: int) -> str:
    if turn.reason is StopReason.ABORT:
        return "was stopped"
    if turn.reason is StopReason.LOOP:
        return "was ended because it repeated itself"
    if turn.reason is StopReason.CONTEXT:
        return "filled the model's context"
    return f"did not end within {limit} tokens: give a larger --max-new-tokens"


def _talk(conversation: Conversation, seed: int, *, fold: bool = False, path: Path | None = None) -> int:
    screen = Screen(sys.stdout, fold=fold)
    if sys.stdin.isatty():
        import readline  # noqa: F401  # gives input() its history and editing keys
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        if question == "/quit":
            return 0
        if question == "/retry" and (asked := [i for i, m in enumerate(conversation.messages) if m.role == "user"]):
            question = conversation.messages[asked[-1]].content
            del conversation.messages[asked[-1] :]
            conversation.ids = []
            seed += 1
        elif question.startswith("/"):
            _command(question, conversation, screen)
            continue
        if question:
            _answer(conversation, question, seed, screen)
            if path is not None:
                save(conversation, path)


def _command(line: str, conversation: Conversation, screen: Screen) -> None:
    """A line that begins with a slash, other than /quit and /retry."""
    name, _, argument = line.partition(" ")
    if name == "/new":
        conversation.messages, conversation.ids = [], []
        said = "a new conversation"
    elif name == "/fold":
        screen.fold = not screen.fold
        said = "thinking is folded" if screen.fold else "thinking is shown"
    elif name == "/thinking":
        said = screen.thoughts.strip() or "no thinking yet"
    elif name == "/budget" and (argument == "off" or argument.isdigit()):
        conversation.budget = None if argument == "off" else int(argument)
        said = "thinking has no limit" if conversation.budget is None else f"thinking ends after {argument} tokens"
    elif name in ("/help", "/retry"):
        said = HELP if name == "/help" else "nothing to answer anew yet"
    else:
        said = f"no command {line}: /help lists them"
    print(said, file=sys.stderr)


def _answer(conversation: Conversation, question: str, seed: int, screen: Screen) -> None:
    """One question and its answer on the screen, with what it took."""
    before = len(conversation.messages)
    conversation.sample = None
    screen.begin()
    started = time.perf_counter()
    try:
        turn = conversation.ask(question, seed + 1000 * before, screen.show)
    except CapacityError as full:
        screen.end()
        print(f"error: {full}", file=sys.stderr)
        del conversation.messages[before:]
        conversation.ids = []
        return
    screen.end()
    if not turn.finished:
        print(f"[{_ending(turn, conversation.params.max_new_tokens)}]", file=sys.stderr)
    if screen.colour and (sample := conversation.sample) is not None and len(sample.times) > 2:
        rate = (len(sample.ids) - 1) / max(sample.times[-1] - sample.times[1], 1e-9)
        thought = f", {sample.num_thinking} of them thinking" if sample.num_thinking else ""
        took = time.perf_counter() - started
        print(f"{DIM}[{len(sample.ids)} tokens{thought}, {rate:.1f} tokens/s, {took:.1f} s]{RESET}", file=sys.stderr)
