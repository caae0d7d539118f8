"""The Python API behind `import qwq`: load a model and chat, generate, evaluate, train. docs/api.md
shows each.

Nothing heavy is imported before it is used: this module comes without torch, so that verifiers,
recipes and tasks stay light.

    llm = qwq.load("runs/tiny")
    answer = llm.chat("What is 2 plus 3?", temperature=0.6)
    print(answer.thinking, answer.text)
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from qwq.config import Recipe, load_recipe
from qwq.errors import ConfigError, UsageError, nearest
from qwq.pipeline.resolve import model_folder
from qwq.tasks.base import Task
from qwq.text.parts import Kind, Part
from qwq.text.response import ResponseParser, with_thinking
from qwq.text.tool_calls import call_of
from qwq.types import Message, StopReason, ToolCall

if TYPE_CHECKING:
    from qwq.engine.load import LoadedModel
    from qwq.engine.request import GenerationRequest
    from qwq.engine.sampler import SamplingParams
    from qwq.engine.sequence import TokenSequence
    from qwq.rollout.policy import Policy

MAX_SEED = 1 << 48


class EngineKeywords(TypedDict, total=False):
    """Options of `load`, those of `qwq serve`; what is left out is decided from the model and the
    machine.
    """

    dtype: str  # auto, float32, bfloat16, float16
    device: str  # cpu, cuda, cuda:1
    max_model_len: int | None  # tokens, prompt and answer together
    kv_tokens: int | None  # tokens of KV cache over all sequences
    max_num_seqs: int  # sequences computed at once
    max_num_batched_tokens: int  # tokens computed in one step
    threads: int | None  # CPU threads
    deterministic: bool  # a sequence's tokens do not depend on the others, bit for bit; CPU only
    speculate: bool
    enable_prefix_caching: bool
    yarn: bool
    quantization: str | None  # int8 or int4, on a GPU
    draft_model: str | None
    draft_tokens: int


class SamplingKeywords(TypedDict, total=False):
    """Fields of `SamplingParams` that a call sets over the model's own."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    max_new_tokens: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]


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


class ChatStream(Iterator[ChatPiece]):
    """Pieces of one answer, in order. `answer` is the whole one; asking for it reads the stream to
    its end.

    `close` (or leaving a `with` block) aborts an answer that is still being written; `answer` is
    then what there is of it.
    """

    def __init__(self, llm: LLM, sample: TokenSequence, *, tools: frozenset[str] | None) -> None:
        self._llm, self._sample = llm, sample
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
        self._llm._dropped.append(self._sample)

    def __next__(self) -> ChatPiece:
        while not self._waiting:
            if self._over:
                raise StopIteration
            self._advance()
        return self._waiting.popleft()

    def close(self) -> None:
        """Stop the answer where it is."""
        self._llm._abort(self._sample)

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
            self._llm._step(sample)
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


class LLM:
    """A loaded model. `load` makes one. Threads may share it; their calls are computed together.

    `model` is the name it was loaded by, `max_model_len` the longest prompt and answer together in
    tokens, `sampling` the model's own sampling (from its generation_config.json; QwQ's for a model
    that thinks and states none).
    """

    def __init__(self, opened: LoadedModel, model: str) -> None:
        from qwq.engine.sampler import SamplingParams

        self.model, self.sampling = model, SamplingParams(**opened.sampling)
        self._engine, self._chat, self._lock = opened.engine, opened.chat, threading.Lock()
        self._dropped: deque[TokenSequence] = deque()  # sequences whose streams nobody holds any more
        self.max_model_len: int = opened.engine.max_len

    def __repr__(self) -> str:
        return f"<qwq.LLM {self.model}: {self.max_model_len:,} tokens>"

    @overload
    def chat(
        self, messages: str | Sequence[Message | Mapping[str, Any]], *, thinking_budget: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (), stream: Literal[False] = False, params: SamplingParams | None = None,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> ChatAnswer: ...  # fmt: skip

    @overload
    def chat(
        self, messages: str | Sequence[Message | Mapping[str, Any]], *, thinking_budget: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (), stream: Literal[True], params: SamplingParams | None = None,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> ChatStream: ...  # fmt: skip

    def chat(
        self, messages: str | Sequence[Message | Mapping[str, Any]], *, thinking_budget: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (), stream: bool = False, params: SamplingParams | None = None,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> ChatAnswer | ChatStream:  # fmt: skip
        """The assistant's next turn.

        `messages`: a question, or messages as OpenAI's API writes them (`role`, `content`), or
        `qwq.Message`s. `thinking_budget`: tokens of thinking after which it is closed; 0 for none.
        `tools`: functions in OpenAI's form (`Environment().schemas()` gives them); calls are
        returned and not run. `params`, or single fields of it (`temperature=0.6`), replace the
        model's own sampling; without `max_new_tokens` an answer may fill the context. `seed`: the
        same seed gives the same answer; random by default. `stop`: texts that end the answer and
        are cut off. `stream`: return a `ChatStream` at once.

        UsageError for messages, tools or options that cannot be used, CapacityError (a UsageError)
        where the prompt does not fit.
        """
        asked = [Message("user", messages)] if isinstance(messages, str) else list(messages)
        names = _checked(asked, tools)
        prompt = self._chat.prompt_ids(asked, tools)
        room = max(1, self.max_model_len - len(prompt))
        request = self._request(
            prompt, self._params(params, sampling, room), seed, stop=tuple(stop), eos_ids=self._chat.eos_ids,
            thinking_open=self._chat.thinking_open, thinking_budget=thinking_budget, loop_tokens=_loop_tokens(),
        )  # fmt: skip
        with self._lock:
            (sample,) = self._engine.submit(request)
        made = ChatStream(self, sample, tools=names if tools else None)
        return made if stream else _whole(made)

    def generate(
        self, prompts: str | Sequence[str | Sequence[int]], params: SamplingParams | None = None, *,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> list[TextCompletion]:  # fmt: skip
        """Continuations of plain prompts, computed as one batch; one for each prompt, in order.

        `prompts`: texts (special tokens in them count as such) or lists of token ids; a single text
        is one prompt. `params`, or single fields of it, replace the model's own sampling; at most
        256 new tokens unless they say otherwise. The completion of prompt i depends on `seed` and
        i, not on the other prompts (beyond float rounding). No chat template is applied: `chat`
        does that.

        UsageError for an empty prompt or a token outside the vocabulary, CapacityError where a
        prompt does not fit; no prompt is run then.
        """
        from qwq.engine.sampler import stream_seed

        listed = [prompts] if isinstance(prompts, str) else list(prompts)
        if any(isinstance(p, int) for p in listed):
            raise UsageError("prompts is one list of token ids: give a list of prompts, [[...]]")
        chosen, first = self._params(params, sampling, None), _seed(seed)
        requests = []
        for number, prompt in enumerate(listed):
            ids = self._chat.tokenizer.encode_rendered(prompt) if isinstance(prompt, str) else list(prompt)
            if not all(isinstance(i, int) for i in ids):
                raise UsageError(f"prompt {number + 1} is {str(prompt)[:40]!r}: give a text or a list of token ids")
            requests.append(
                self._request(
                    ids, chosen, stream_seed(first, number) % MAX_SEED, stop=tuple(stop), eos_ids=self._chat.eos_ids
                )
            )
            self._engine.check(requests[-1])
        with self._lock:
            samples = [self._engine.submit(r)[0] for r in requests]
        try:
            for sample in samples:
                while not sample.done:
                    self._step(sample)
        finally:
            for sample in samples:
                self._abort(sample)
        return [_completion(s) for s in samples]

    # -- the engine, which one thread at a time may use --------------------------------------------

    def _step(self, sample: TokenSequence) -> None:
        """One step for all sequences under way.

        Another thread may have finished `sample` meanwhile.
        """
        with self._lock:
            while self._dropped:
                self._engine.abort(self._dropped.popleft())
            if not sample.done:
                self._engine.step()

    def _abort(self, sample: TokenSequence) -> None:
        with self._lock:
            self._engine.abort(sample)

    def _request(self, prompt: list[int], params: SamplingParams, seed: int | None, **more: Any) -> GenerationRequest:
        from qwq.engine.request import GenerationRequest

        return GenerationRequest(prompt, params, seed=_seed(seed), **more)

    def _params(self, params: SamplingParams | None, fields: SamplingKeywords, room: int | None) -> SamplingParams:
        from dataclasses import replace

        unknown = next((name for name in fields if name not in SamplingKeywords.__annotations__), None)
        if unknown is not None:
            raise UsageError(f"no option {unknown!r}: {nearest(unknown, SamplingKeywords.__annotations__)}")
        if params is None:
            params = self.sampling if room is None else replace(self.sampling, max_new_tokens=room)
        return replace(params, **fields)


def load(model: str | Path, *, report: Callable[[str], None] | None = None, **options: Unpack[EngineKeywords]) -> LLM:
    """Load a model: a run's folder (its last policy), a model folder, a hub id, `modelscope:ID`, or
    a GGUF file.

    `options` are those of the engine, with the defaults of `qwq serve` (docs/engine.md); `report`
    gets lines about memory and progress. ModelError where there is no such model or it is damaged,
    ConfigError for an unknown or bad option, CapacityError where it does not fit.
    """
    from qwq.engine.load import load_engine
    from qwq.engine.options import EngineOptions

    unknown = next((name for name in options if name not in EngineKeywords.__annotations__), None)
    if unknown is not None:
        raise ConfigError(f"load: no option {unknown!r}: {nearest(unknown, EngineKeywords.__annotations__)}")
    opened = load_engine(model_folder(str(model)), EngineOptions(**options), report or (lambda line: None))
    return LLM(opened, str(model))


def evaluate(
    model: str | Path, tasks: Sequence[str | Task], *, data: str | Path | None = None, out: str | Path | None = None,
    endpoint: str | None = None, n: int | None = None, samples: int | None = None, max_new_tokens: int | None = None,
    greedy: bool = False, temperature: float | None = None, top_p: float | None = None, top_k: int | None = None,
    seed: int | None = None, thinking_budgets: Sequence[int] = (), tool_format: str = "auto",
    opens_thinking: bool | None = None, concurrency: int | None = None, device: str = "cpu", dtype: str = "auto",
    threads: int | None = None, deterministic: bool = False,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Score a model on tasks: this is `qwq eval`. Figures by task, what results.json of the folder
    `out` holds.

    `tasks`: names (`gsm8k`, `livebench:math`), `file.py:Name` of a task, NAME=PATH, or tasks.
    `data`: folder with NAME/*.jsonl, or the file of the one task that reads files; without it
    published files are downloaded. `endpoint`: URL of an OpenAI-compatible server, which knows the
    model by the name `model`. `n`: problems of each task, all by default. None leaves a task's own
    protocol; what is set is recorded in the results. `out` (evals/MODEL by default) keeps every
    sample, so that the same call continues where it was stopped. Scores are shares from 0 to 1 with
    a 95% interval. ConfigError and DataError before the model is loaded, ModelError, CapacityError;
    InfraError where grading or a server failed.
    """
    from qwq.eval.options import EvalOptions, prepare
    from qwq.eval.run import run

    if isinstance(tasks, str):
        raise ConfigError(f"tasks is the text {tasks!r}: give a list, [{tasks!r}]")
    if greedy and temperature not in (None, 0):
        raise ConfigError(f"--greedy and --temperature {temperature:g} contradict each other: give one of them")
    local: dict[str, Any] = {"device": device, "dtype": dtype, "threads": threads, "deterministic": deterministic}
    EvalOptions.check_place(endpoint, opens_thinking, local)
    more = {k: v for k, v in (("seed", seed), ("concurrency", concurrency)) if v is not None}
    options = EvalOptions(
        n=n, samples=samples, max_new_tokens=max_new_tokens, temperature=0.0 if greedy else temperature, top_p=top_p,
        top_k=top_k, budgets=tuple(thinking_budgets), tool_format=tool_format, **more,
    )  # fmt: skip
    items = prepare(tasks, None if data is None else Path(data), options)
    policy: Policy
    if endpoint is not None:
        from qwq.rollout.policies.endpoint import EndpointPolicy

        server = EndpointPolicy(endpoint, str(model), concurrency=options.concurrency, opens_thinking=opens_thinking)
        policy = server.connect()
    else:
        from qwq.engine.options import EngineOptions
        from qwq.rollout.policies.local import open_policy

        engine = EngineOptions(max_num_seqs=options.concurrency, **local)
        longest = max(item.protocol.max_new_tokens for item in items)
        policy = open_policy(model_folder(str(model)), max_new_tokens=longest, options=engine)
    with contextlib.closing(policy):
        folder = Path("evals") / (Path(model).name or "model") if out is None else Path(out)
        return run(policy, items, options, folder, model=str(model))


def train(
    recipe: Recipe | str | Path, *, runs: str | Path = "runs", until: str | None = None, fresh: bool = False,
    max_minutes: float | None = None, progress: bool = False, command: str = "call qwq.train again",
) -> dict[str, Any]:  # fmt: skip
    """Run what a recipe has not done yet, up to and including stage `until`: this is `qwq train`.
    What results.json holds.

    `recipe`: a `Recipe`, a file, or the name of a recipe that comes with the package. The run is
    `runs`/NAME (NAME-sSEED for other seeds) and continues where it was stopped; `fresh` keeps the
    old one beside it and begins again. The report is written as well. `progress` is shown on
    standard error. Ctrl-C, SIGTERM and `max_minutes` stop after the step, state saved: Interrupted,
    which says `command` to go on. Decorated losses, rewards, environments, stages and tasks of this
    process can be named in the recipe. ConfigError, DataError, ModelError, CapacityError before the
    first step.
    """
    from qwq.pipeline.run_recipe import run_recipe

    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"--max-minutes is {max_minutes:g}: give a number above 0")
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    return run_recipe(
        chosen, Path(runs), until=until, fresh=fresh, max_minutes=max_minutes, progress=progress, command=command
    )


def _checked(messages: Sequence[Any], tools: Sequence[Any]) -> frozenset[str]:
    """Names of the tools. UsageError for what no chat template can be given."""
    if not messages:
        raise UsageError("there are no messages: give at least one")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Message) and not (
            isinstance(message, Mapping) and isinstance(message.get("role"), str) and "content" in message
        ):
            raise UsageError(
                f"message {number} is {str(message)[:60]!r}: give an object with role and content, or a qwq.Message"
            )
    for tool in tools:
        if (
            not isinstance(tool, Mapping)
            or not isinstance(tool.get("function"), Mapping)
            or not isinstance(tool["function"].get("name"), str)
        ):
            raise UsageError(
                f'tool {str(tool)[:60]!r}: give {{"type": "function", "function": {{"name": ..., "parameters": '
                f"...}}}}, as Environment().schemas() does"
            )
    return frozenset(t["function"]["name"] for t in tools)


def _whole(stream: ChatStream) -> ChatAnswer:
    with stream:
        return stream.answer


def _completion(sample: TokenSequence) -> TextCompletion:
    assert sample.stop_reason is not None
    return TextCompletion(sample.text, tuple(sample.ids), sample.stop_reason, sample.num_prompt, sample.request.seed)


def _seed(seed: int | None) -> int:
    return secrets.randbelow(MAX_SEED) if seed is None else seed


def _loop_tokens() -> int:
    from qwq.engine.thinking import LOOP_TOKENS

    return LOOP_TOKENS
