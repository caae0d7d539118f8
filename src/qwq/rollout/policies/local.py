"""The engine in this process as a policy: on a model folder, a hub name or a GGUF file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from qwq.engine.grammar import Grammars
from qwq.engine.load import DEFAULT_MODEL_LEN, load_engine
from qwq.engine.options import EngineOptions
from qwq.engine.request import GenerationRequest
from qwq.engine.scheduler import Engine
from qwq.engine.sequence import TokenSequence
from qwq.errors import CapacityError, InfraError, UsageError
from qwq.model.model_folder import read_config, resolve_folder
from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.text.response import parse
from qwq.text.template import ChatFormat
from qwq.types import ParsedResponse, StopReason, Turn, tool_schemas

PROMPT_ROOM = 8192  # of a context that is larger than what is asked for


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def open_policy(
    model: str, *, max_new_tokens: int, options: EngineOptions | None = None, identity: Mapping[str, Any] | None = None
) -> EnginePolicy:
    """Load `model` with a context that holds a prompt and `max_new_tokens`. ModelError,
    CapacityError.
    """
    options = options or EngineOptions()
    if options.max_model_len is None and (limit := _max_positions(model)) is not None:
        options = replace(options, max_model_len=min(limit, max(DEFAULT_MODEL_LEN, max_new_tokens + PROMPT_ROOM)))
    files = model_files(model) | ({} if options.dtype == "auto" else {"dtype": options.dtype})
    return EnginePolicy(load_engine(model, options), identity={**files, **(identity or {})})


@dataclass(slots=True, eq=False)
class _Running:
    """A turn that is being made. `versions` are pairs of a token's number and the weights that
    sample from it on.
    """

    request: TurnRequest
    sequence: TokenSequence
    versions: list[tuple[int, int]]
    num_told: int = 0  # characters of the text that `on_text` has heard
    started: float = field(default_factory=time.monotonic)

    def tell(self) -> None:
        """Let `on_text` hear what has been written since."""
        if self.request.on_text is not None and (new := self.sequence.text[self.num_told :]):
            self.num_told += len(new)
            self.request.on_text(new)

    def weight_versions(self) -> list[int]:
        out: list[int] = []
        ends = [at for at, _ in self.versions[1:]] + [len(self.sequence.ids)]
        for (at, version), end in zip(self.versions, ends, strict=True):
            out += [version] * (end - at)
        return out


class LoadedChat(Protocol):
    """An engine with the format of its tokens (`engine.load.LoadedModel` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def chat(self) -> ChatFormat: ...


class EnginePolicy:
    """Turns from an engine. Its prefix cache makes a further turn cost the new tokens only.

    `note` is told what a user should know. `interruptible`: Ctrl-C ends the turns that are being
    made (ABORT, with what they have written) and nothing else. `plain_sampling`: every token comes
    from the model's own distribution, whether or not a request asks for log-probabilities.
    `count_thinking`: turns say how many tokens of thought they hold.
    """

    token_exact = True
    keeps_all = True  # turns stay in the prefix cache whether or not a further turn is expected

    def __init__(
        self, loaded: LoadedChat, *, identity: Mapping[str, Any] | None = None, note: Callable[[str], None] = _say,
        interruptible: bool = False, plain_sampling: bool = False, count_thinking: bool = True,
    ) -> None:  # fmt: skip
        self.note, self.interruptible = note, interruptible
        self.plain_sampling, self.count_thinking = plain_sampling, count_thinking
        self.name, self.engine = loaded.name, loaded.engine
        self.chat: ChatFormat = loaded.chat
        self.identity: Mapping[str, Any] = identity or {}
        self.context: int | None = self.engine.max_len
        self.version = 0
        self._running: list[_Running] = []
        self._paused = self._told = False

    @cached_property
    def native_tools(self) -> bool:
        return writes_tools(self.chat)

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.chat.tokenizer, self.engine.backend.vocab_size, self.chat.eos_ids)

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        running: list[_Running] = []
        try:
            while True:
                if self._paused:
                    raise UsageError(f"the policy {self.name} is paused: call resume() before asking for more turns")
                while len(running) < (concurrency or self.engine.max_running):
                    request = next_request()
                    if request is None:
                        break
                    sequence = self._submit(request)
                    if sequence is None:
                        yield request, Turn(ParsedResponse(None, ""), StopReason.CONTEXT)
                    else:
                        running.append(_Running(request, sequence, [(0, self.version)]))
                        self._running.append(running[-1])
                if not running:
                    return
                self._step(running)
                for turn in [r for r in running if r.sequence.done]:
                    running.remove(turn)
                    self._running.remove(turn)
                    yield turn.request, self._turn(turn)
        finally:  # left before the end: nobody waits for these turns
            for turn in running:
                self._running.remove(turn)
                self.engine.abort(turn.sequence)

    def _step(self, running: list[_Running]) -> None:
        try:
            if self.engine.has_work:
                self.engine.step()
        except KeyboardInterrupt:
            if not self.interruptible:
                raise
            for turn in running:
                self.engine.abort(turn.sequence)
        for turn in running:
            turn.tell()

    def pause(self) -> None:
        self._paused = True

    def update_weights(self, version: int) -> None:
        self.engine.forget()
        self.engine.sync()
        for turn in self._running:
            turn.versions.append((len(turn.sequence.ids), version))
        self.version = version

    def resume(self) -> None:
        self._paused = False

    def close(self) -> None:
        self.engine.forget()

    def _submit(self, request: TurnRequest) -> TokenSequence | None:
        """The sequence, or None where the prompt alone fills the context."""
        if request.version is not None and request.version != self.version:
            raise InfraError(f"version {request.version} of the weights is to answer, {self.name} holds {self.version}")
        prompt, asked = request.prompt_ids, request.params.max_new_tokens
        if prompt is None:
            prompt = self.chat.prompt_ids(request.messages, request.tools)
        room = self.engine.max_len - len(prompt)
        if room < 1:
            return None
        if room < asked and not self._told:
            self._told = True
            self.note(
                f"{asked:,} new tokens are asked for, the context of {self.engine.max_len:,} leaves a prompt of "
                f"{len(prompt):,} tokens {room:,}: answers are cut there"
            )
        matcher = None if request.schema is None else self._grammars.for_schema(request.schema)
        generation = GenerationRequest(
            prompt, request.params, seed=request.seed, stream=request.stream,
            offset=request.offset, eos_ids=self.chat.eos_ids, thinking_open=self.chat.thinking_open,
            thinking_budget=request.thinking_budget, loop_tokens=request.loop_tokens, drawn_logprobs=request.logprobs,
            plain_sampling=request.logprobs or self.plain_sampling, keep_prefix=request.keep or self.keeps_all,
            matcher=matcher,
        )  # fmt: skip
        try:
            return self.engine.submit(generation)[0]
        except CapacityError:
            return None

    def _turn(self, turn: _Running) -> Turn:
        sequence = turn.sequence
        assert sequence.stop_reason is not None
        parts = parse(
            sequence.text,
            thinking_open=self.chat.thinking_open,
            tools=tool_schemas(turn.request.tools),
            cut=sequence.stop_reason.cut,
        )
        return Turn(
            parts, sequence.stop_reason, sequence.text, len(sequence.ids),
            sequence.num_thinking if self.count_thinking else 0,
            time.monotonic() - turn.started, ids=sequence.ids, sampled_mask=[1 - f for f in sequence.forced],
            logprobs=sequence.drawn_logprobs, weight_versions=turn.weight_versions(),
        )  # fmt: skip


def writes_tools(chat: ChatFormat) -> bool:
    """Whether the chat template writes tools into a prompt."""
    question = [{"role": "user", "content": "x"}]
    function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    return chat.prompt_ids(question, [{"type": "function", "function": function}]) != chat.prompt_ids(question)


def _max_positions(model: str) -> int | None:
    """How long a context the model's files allow; None where only opening it tells."""
    if Path(model).expanduser().is_file() or model.endswith(".gguf"):
        return None
    folder = resolve_folder(model)
    return read_config(folder).max_positions if (folder / "config.json").is_file() else None


def model_files(model: str) -> dict[str, Any]:
    """Names, sizes and times of the weight files: they tell models in one place apart."""
    path = Path(model).expanduser()
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in resolve_folder(model).iterdir() if p.suffix in (".safetensors", ".gguf"))
    )
    return {"weights": {p.name: [p.stat().st_size, int(p.stat().st_mtime)] for p in files}}
