"""Who answers: the engine in this process, or an OpenAI-compatible server. Both take asks and give replies as they are done.

`run` draws from a queue and keeps `concurrency` asks under way; the caller may put further turns into the queue while it runs. A
reply is the same from either: `qwq.endpoint` divides what a server sends as this module divides the engine's text.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qwq.endpoint.client import PATIENCE, EndpointClient, Request
from qwq.endpoint.pool import concurrently
from qwq.endpoint.reply import RequestFailed
from qwq.errors import CapacityError, QwqError
from qwq.tasks.benchmark import Reply
from qwq.text.response import parse
from qwq.types import StopReason, tool_schemas

PROMPT_ROOM = 8192  # of a context that is larger than what is asked for
LOOP_TOKENS = 192  # what `qwq serve` stops at too


@dataclass(slots=True)
class Ask:
    """One turn to be made. `key` is the caller's own."""

    key: Any
    messages: list[dict[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    seed: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    thinking_budget: int | None = None


class Backend(Protocol):
    identity: Mapping[str, Any]  # what may not change within one folder of results
    context: int | None
    native_tools: bool

    def run(self, asks: deque[Ask], concurrency: int) -> Iterator[tuple[Ask, Reply]]: ...

    def close(self) -> None: ...


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


class EngineBackend:
    """A model folder, hub name or GGUF file in the engine of this process."""

    def __init__(
        self,
        model: str,
        *,
        concurrency: int,
        max_new_tokens: int,
        device: str = "cpu",
        dtype: str = "auto",
        threads: int | None = None,
        deterministic: bool = False,
    ) -> None:
        from qwq.engine.load import DEFAULT_MODEL_LEN, EngineOptions, load_engine

        limit = _max_positions(model)
        length = None if limit is None else min(limit, max(DEFAULT_MODEL_LEN, max_new_tokens + PROMPT_ROOM))
        options = EngineOptions(
            device=device,
            dtype=dtype,
            threads=threads,
            deterministic=deterministic,
            max_num_seqs=concurrency,
            max_model_len=length,
        )
        opened = load_engine(model, options)
        self.engine, self.chat = opened.engine, opened.chat
        self.context: int | None = self.engine.max_len
        self.identity: Mapping[str, Any] = _model_files(model) | ({} if dtype == "auto" else {"dtype": dtype})
        question = [{"role": "user", "content": "x"}]
        tool = {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
        }
        self.native_tools = self.chat.prompt_ids(question, [tool]) != self.chat.prompt_ids(question)
        self._told = False

    def run(self, asks: deque[Ask], concurrency: int) -> Iterator[tuple[Ask, Reply]]:
        running: list[tuple[Ask, Any, float]] = []
        while asks or running:
            while asks and len(running) < concurrency:
                ask = asks.popleft()
                sample = self._submit(ask)
                if sample is None:
                    yield ask, Reply("", "", StopReason.CONTEXT, 0, 0)
                else:
                    running.append((ask, sample, time.monotonic()))
            if self.engine.has_work:
                self.engine.step()
            done, running = [r for r in running if r[1].done], [r for r in running if not r[1].done]
            for ask, sample, started in done:
                yield ask, self._reply(ask, sample, time.monotonic() - started)

    def close(self) -> None:
        self.engine.forget()

    def _submit(self, ask: Ask) -> Any:
        """The sample, or None where the prompt alone fills the context."""
        from qwq.engine.request import GenerationRequest
        from qwq.engine.sampler import SamplingParams

        prompt = self.chat.prompt_ids(ask.messages, ask.tools)
        room = self.engine.max_len - len(prompt)
        if room < 1:
            return None
        if room < ask.max_new_tokens and not self._told:
            self._told = True
            _say(
                f"{ask.max_new_tokens:,} new tokens are asked for, the context of {self.engine.max_len:,} leaves a prompt of {len(prompt):,} tokens {room:,}: answers are cut there"
            )
        params = SamplingParams(ask.temperature, ask.top_k, ask.top_p, max_new_tokens=min(ask.max_new_tokens, room))
        request = GenerationRequest(
            prompt, params, seed=ask.seed, eos_ids=self.chat.eos_ids, thinking_open=self.chat.thinking_open,
            thinking_budget=ask.thinking_budget, loop_tokens=LOOP_TOKENS,
        )  # fmt: skip
        try:
            return self.engine.submit(request)[0]
        except CapacityError:
            return None

    def _reply(self, ask: Ask, sample: Any, seconds: float) -> Reply:
        parsed = parse(
            sample.text,
            thinking_open=self.chat.thinking_open,
            tools=tool_schemas(ask.tools),
            cut=sample.stop_reason.cut,
        )
        return Reply(
            parsed.thinking or "", parsed.answer, sample.stop_reason, len(sample.ids), sample.num_thinking, parsed.tool_calls,
            len(parsed.malformed_calls), seconds,
        )  # fmt: skip


def _max_positions(model: str) -> int | None:
    """How long a context the model's files allow; None where only opening it tells."""
    from qwq.model.folder import read_config, resolve_folder

    if model.startswith("modelscope:") or Path(model).expanduser().is_file() or model.endswith(".gguf"):
        return None
    folder = resolve_folder(model)
    return read_config(folder).max_positions if (folder / "config.json").is_file() else None


def _model_files(model: str) -> dict[str, Any]:
    """Names, sizes and times of the weight files: another model in the same place is another model."""
    from qwq.model.folder import resolve_folder

    path = Path(model).expanduser()
    if model.startswith("modelscope:"):
        return {"name": model}
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in resolve_folder(model).iterdir() if p.suffix in (".safetensors", ".gguf"))
    )
    return {"weights": {p.name: [p.stat().st_size, int(p.stat().st_mtime)] for p in files}}


class EndpointBackend:
    """A server with /v1/chat/completions. The key comes from QWQ_API_KEY or OPENAI_API_KEY."""

    native_tools = True  # what its template does with tools cannot be seen from here

    def __init__(
        self,
        url: str,
        model: str,
        *,
        concurrency: int,
        opens_thinking: bool | None = None,
        patience: Sequence[float] = PATIENCE,
    ) -> None:
        self.client = EndpointClient(
            url, model, opens_thinking=opens_thinking, patience=patience, connections=concurrency
        )
        try:
            self.client.connect()
        except QwqError:
            self.client.close()
            raise
        self.model, self.context = self.client.model, self.client.context
        flag = {} if opens_thinking is None else {"opens_thinking": opens_thinking}
        self.identity: Mapping[str, Any] = {"served": self.model, **flag}

    def close(self) -> None:
        self.client.close()

    def run(self, asks: deque[Ask], concurrency: int) -> Iterator[tuple[Ask, Reply]]:
        """A request without an answer of the model comes back as a reply with `failure`."""
        for ask, got in concurrently(lambda: asks.popleft() if asks else None, self._ask, concurrency):
            failed = isinstance(got, RequestFailed)
            yield ask, Reply("", "", StopReason.ABORT, 0, 0, failure=str(got)) if failed else got

    def _ask(self, ask: Ask) -> Reply:
        started = time.monotonic()
        got = self.client.complete(
            Request(
                ask.messages,
                ask.seed,
                ask.temperature,
                ask.top_p,
                ask.max_new_tokens,
                ask.top_k,
                ask.tools,
                ask.thinking_budget,
            )  # fmt: skip
        )
        return Reply(
            got.thinking, got.answer, got.stop, got.tokens, got.thinking_tokens, got.calls, got.malformed,
            time.monotonic() - started, got.estimated, got.finish,
        )  # fmt: skip
