"""The command: one question, or a conversation with commands of its own."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwq.chat.conversation import ChatTurn, Conversation, resume, save, saved_path
from qwq.chat.lines import Lines
from qwq.chat.options import SAMPLING, ChatOptions
from qwq.chat.screen import DIM, RESET, Screen
from qwq.engine.load import LoadedModel, load_engine
from qwq.engine.options import EngineOptions
from qwq.engine.sampler import SamplingParams
from qwq.errors import CapacityError, ConfigError, DataError, UsageError, nearest
from qwq.rollout.policies.local import EnginePolicy
from qwq.text.attach import file_block
from qwq.text.response import parse
from qwq.types import StopReason

HELP = '''\
"""           begin a question of several lines; """ ends it (lines that are pasted together are one question anyway)
/file PATH    show the model a file with the next question
/system TEXT  what the model is told first, in a new conversation (/system off: nothing)
/set          the sampling; /set temperature 0.6 changes it (/set NAME off: the model's own)
/new          begin a new conversation
/fold         hide the thinking behind a counter, or show it again
/raw          show Markdown and formulas as they were written, or styled again
/thinking     show the last answer's thinking
/budget N     end the thinking after N tokens (/budget off: no limit)
/retry        answer the last question again
/save PATH    write the conversation: .json as messages, anything else as Markdown
/help         this list
/quit         end (Ctrl-C stops an answer, Ctrl-D ends too)'''
COMMANDS = (
    "/file",
    "/system",
    "/set",
    "/new",
    "/fold",
    "/raw",
    "/thinking",
    "/budget",
    "/retry",
    "/save",
    "/help",
    "/quit",
    "/exit",
)


@dataclass(slots=True)
class Talk:
    """A conversation on a screen, and what its commands change."""

    conversation: Conversation
    screen: Screen
    seed: int
    defaults: SamplingParams
    path: Path | None = None
    files: list[str] = field(default_factory=list)  # shown with the next question

    def run(self, lines: Lines) -> int:
        while True:
            try:
                entry = lines.read()
            except EOFError:
                return 0
            except KeyboardInterrupt:
                print(file=sys.stderr)
                continue
            if entry.command and entry.text in ("/quit", "/exit"):
                return 0
            if entry.command:
                try:
                    reply = self.command(entry.text)
                except UsageError as error:
                    reply = f"error: {error}"
                if reply:
                    print(reply, file=sys.stderr)
            elif entry.text:
                self.ask(entry.text)

    def ask(self, question: str) -> None:
        """A question with its files, and the answer on the screen."""
        _answer(self.conversation, "\n".join([*self.files, question]), self.seed, self.screen)
        self.files = []
        if self.path is not None:
            save(self.conversation, self.path)

    def command(self, line: str) -> str:
        """Carry a command out; returns what is to be said. UsageError where it cannot be."""
        name, _, argument = line.partition(" ")
        argument, conversation = argument.strip(), self.conversation
        match name:
            case "/new":
                conversation.begin(conversation.system)
                return "a new conversation"
            case "/fold":
                self.screen.fold = not self.screen.fold
                return "thinking is folded" if self.screen.fold else "thinking is shown"
            case "/raw":
                self.screen.raw = not self.screen.raw
                return "answers are shown as they were written" if self.screen.raw else "Markdown is styled"
            case "/thinking":
                return self.screen.thoughts.strip() or "no thinking yet"
            case "/budget" if argument == "off" or argument.isdigit():
                conversation.budget = None if argument == "off" else int(argument)
                return (
                    "thinking has no limit" if conversation.budget is None else f"thinking ends after {argument} tokens"
                )
            case "/budget":
                return f"/budget {argument}: give a number of tokens, or off".replace(" :", ":")
            case "/set":
                return self._set(argument)
            case "/system":
                return self._system(argument)
            case "/file":
                block = read_file(argument)
                self.files.append(block)
                return f"{argument} goes with the next question ({len(block)} characters)"
            case "/save":
                return write_conversation(conversation, argument)
            case "/retry":
                return self._retry()
            case "/help":
                return HELP
        return f"no command {line}: {nearest(name, COMMANDS)}; /help lists them"

    def _set(self, argument: str) -> str:
        name, _, value = argument.replace("=", " ").partition(" ")
        name, value = name.replace("-", "_"), value.strip()
        params = self.conversation.params
        if not name:
            return "\n".join(f"{n:<20} {getattr(params, n)}" for n in SAMPLING)
        if name not in SAMPLING:
            raise ConfigError(f"/set {name}: {nearest(name, SAMPLING)}")
        if not value:
            return f"{name} is {getattr(params, name)}"
        self.conversation.params = with_sampling(
            params, {name: getattr(self.defaults, name) if value == "off" else value}
        )
        return f"{name} is {getattr(self.conversation.params, name)}"

    def _system(self, text: str) -> str:
        if not text:
            return self.conversation.system or "the model is told nothing first"
        self.conversation.begin(None if text == "off" else text)
        return "a new conversation, in which the model is told " + ("nothing first" if text == "off" else "this first")

    def _retry(self) -> str:
        messages = self.conversation.messages
        questions = [i for i, m in enumerate(messages) if m.role == "user"]
        if not questions:
            return "nothing to answer again yet"
        question = messages[questions[-1]].content
        del messages[questions[-1] :]
        self.conversation.ids = []
        self.seed += 1
        self.ask(question)
        return ""


def with_sampling(params: SamplingParams, settings: Mapping[str, Any]) -> SamplingParams:
    """`params` with these values, numbers or their text.

    ConfigError where one is none, or out of range.
    """
    values: dict[str, Any] = {}
    for name, value in settings.items():
        kind: type = int if name in ("top_k", "max_new_tokens") else float
        try:
            values[name] = kind(value)
        except ValueError:
            raise ConfigError(f"{name} {value!r}: give a {'whole number' if kind is int else 'number'}") from None
    return replace(params, **values)


def read_file(path: str) -> str:
    """A text file as a part of a question. DataError where it cannot be read."""
    if not path:
        raise DataError("/file needs a path: /file notes.txt")
    try:
        return file_block(Path(path).name, Path(path).expanduser().read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"{path}: is no text in UTF-8: give a text file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}: give a file that is there") from None


def write_conversation(conversation: Conversation, path: str) -> str:
    """Write the conversation to a new file; returns what was written.

    DataError where it cannot be.
    """
    if not path:
        raise DataError("/save needs a path: /save talk.md, or talk.json")
    target = Path(path).expanduser()
    try:
        with target.open("x", encoding="utf-8") as out:
            if target.suffix == ".json":
                json.dump({"messages": [m.to_dict() for m in conversation.messages]}, out, ensure_ascii=False, indent=2)
            else:
                out.write(as_markdown(conversation))
    except FileExistsError:
        raise DataError(f"{path} is there already: give another name") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return f"{len(conversation.messages)} messages are in {path}"


def as_markdown(conversation: Conversation) -> str:
    """The conversation for readers, thinking folded."""
    parts = []
    for m in conversation.messages:
        if m.role != "assistant":
            parts.append(f"## {m.role.capitalize()}\n\n{m.content}\n")
            continue
        response = parse(m.content, tools=())
        thinking = (
            f"<details><summary>Thinking</summary>\n\n{response.thinking}\n\n</details>\n\n"
            if response.thinking
            else ""
        )
        parts.append(f"## Assistant\n\n{thinking}{response.answer}\n")
    return "\n".join(parts)


def run_chat(model_path: str, engine: EngineOptions, options: ChatOptions) -> int:
    """`qwq chat`: one question with `prompt` (- reads it; the answer alone on standard output),
    else a conversation.
    """
    with_sampling(SamplingParams(), options.sampling)  # before a model is loaded for it
    blocks = [read_file(f) for f in options.file]
    prompt = sys.stdin.read().strip() if options.prompt == "-" else options.prompt
    if prompt is not None and not prompt and not blocks:
        raise ConfigError("--prompt is empty: give a question, or - to read it from standard input")
    loaded = load_engine(model_path, engine, *([lambda line: None] if prompt is not None else []))
    params = _params(loaded, options.sampling)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    policy = EnginePolicy(loaded, interruptible=True, note=lambda _: None)
    conversation = Conversation(policy, params, options.tools, options.thinking_budget)
    conversation.begin(options.system)
    if prompt is not None:
        turn = conversation.ask("\n".join([*blocks, prompt]), seed, lambda text, thinking: None)
        print(turn.answer)
        if not turn.finished:
            print(f"the answer {_ending(turn, params.max_new_tokens)}", file=sys.stderr)
        return 0
    path = saved_path(model_path)
    if options.resume:
        resume(conversation, path)
        for m in conversation.messages:
            if m.role in ("user", "assistant"):
                print(f"> {m.content}" if m.role == "user" else parse(m.content, tools=()).answer)
    print(f"{model_path}: /help lists the commands", file=sys.stderr)
    screen = Screen(sys.stdout, fold=options.fold, raw=options.raw)
    talk = Talk(conversation, screen, seed, _params(loaded, {}), path, blocks)
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  # gives input() its history and editing keys
    return talk.run(Lines(COMMANDS, terminal=terminal))


def _params(loaded: LoadedModel, values: Mapping[str, Any]) -> SamplingParams:
    """The model's own sampling, with what was asked for."""
    own: dict[str, Any] = dict(loaded.sampling) | {"max_new_tokens": min(4096, loaded.engine.max_len // 2)}
    own["top_k"] = max(0, int(own.get("top_k", 0)))
    if values.get("temperature") == 0 and loaded.greedy_hint:
        print(f"note: {loaded.greedy_hint}", file=sys.stderr)
    return with_sampling(SamplingParams(**own), values)


def _ending(turn: ChatTurn, limit: int) -> str:
    if turn.reason is StopReason.ABORT:
        return "was stopped"
    if turn.reason is StopReason.LOOP:
        return "was ended because it repeated itself"
    if turn.reason is StopReason.TURNS:
        return "was ended because it kept calling"
    if turn.reason is StopReason.CONTEXT:
        return "filled the model's context"
    return f"did not end within {limit} tokens: give a larger --max-new-tokens"


def _answer(conversation: Conversation, question: str, seed: int, screen: Screen) -> None:
    """One question and its answer on the screen, with what it took."""
    before = len(conversation.messages)
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
    if screen.colour and turn.tokens_per_s is not None:
        thought = f", {turn.num_thinking} of them thinking" if turn.num_thinking else ""
        took = time.perf_counter() - started
        rate = f"{turn.tokens_per_s:.1f} tokens/s, {took:.1f} s"
        print(f"{DIM}[{turn.num_tokens} tokens{thought}, {rate}]{RESET}", file=sys.stderr)
