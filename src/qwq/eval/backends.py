"""Who answers: the engine in this process, or an OpenAI-compatible server. Both take asks and give replies as they are done.

`run` draws from a queue and keeps `concurrency` asks under way; the caller may put further turns into the queue while it runs. A
reply is the same from either: the server's split into reasoning and content is what this module does to the engine's text.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qwq.errors import CapacityError, ConfigError, InfraError
from qwq.eval.benchmark import Reply, split
from qwq.text.parse import read_call
from qwq.types import StopReason, ToolCall

PROMPT_ROOM = 8192  # of a context that is larger than what is asked for
LOOP_TOKENS = 192  # what `qwq serve` stops at too
PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds between tries; then the run ends, to be gone on with
READ_TIMEOUT_S = 3600.0
KEY_VARIABLES = ("QWQ_API_KEY", "OPENAI_API_KEY")


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
        from qwq.engine.open import DEFAULT_MODEL_LEN, EngineOptions, open_engine

        limit = _max_positions(model)
        length = None if limit is None else min(limit, max(DEFAULT_MODEL_LEN, max_new_tokens + PROMPT_ROOM))
        options = EngineOptions(
            device=device, dtype=dtype, threads=threads, deterministic=deterministic, max_num_seqs=concurrency, max_model_len=length
        )
        opened = open_engine(model, options)
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
        thinking, answer, calls, malformed = split(
            sample.text, thinking_open=self.chat.thinking_open, tools=bool(ask.tools)
        )
        return Reply(
            thinking, answer, sample.stop_reason, len(sample.ids), sample.num_thinking, calls, malformed, seconds
        )


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

    def __init__(self, url: str, model: str, *, concurrency: int, patience: Sequence[float] = PATIENCE) -> None:
        import httpx2

        if not re.match(r"https?://", url):
            raise ConfigError(f"--endpoint {url}: give a URL such as http://127.0.0.1:8000/v1")
        url = url.rstrip("/").removesuffix("/chat/completions")
        self.base = url if re.search(r"/v\d+$", url) else f"{url}/v1"
        key = next((os.environ[v] for v in KEY_VARIABLES if os.environ.get(v)), None)
        self.client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=10.0),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency), trust_env=not re.match(r"https?://(localhost|127\.|\[::1\])", url),
        )  # fmt: skip
        self.patience, self._told = patience, False
        self.context: int | None = None
        self.model = self._known_as(model)
        self.identity: Mapping[str, Any] = {"served": self.model}

    def close(self) -> None:
        self.client.close()

    def _known_as(self, model: str) -> str:
        """The name that the server has for the model (a path's last part will do), and the context it states."""
        import httpx2

        try:
            answer = self.client.get(f"{self.base}/models", timeout=30.0)
        except httpx2.TransportError as error:
            self.client.close()
            raise InfraError(
                f"no answer from {self.base} ({type(error).__name__}: {error}): check that the server runs there"
            ) from None
        if answer.status_code == 401:
            raise ConfigError(f"{self.base} wants a key: set {' or '.join(KEY_VARIABLES)}")
        try:
            entries = {e["id"]: e for e in answer.json()["data"]}
        except (ValueError, KeyError, TypeError):
            return model  # not every server has the list
        name = next((m for m in (model, Path(model).name, Path(model).stem) if m in entries), model)
        context = entries.get(name, {}).get("max_model_len")
        self.context = context if isinstance(context, int) else None
        return name

    def run(self, asks: deque[Ask], concurrency: int) -> Iterator[tuple[Ask, Reply]]:
        # Daemon threads, not a pool: whoever stops an evaluation does not wait for the answers that are under way.
        inbox: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        outbox: queue.SimpleQueue[tuple[Ask, Reply | BaseException]] = queue.SimpleQueue()

        def work() -> None:
            while (ask := inbox.get()) is not None:
                try:
                    outbox.put((ask, self._ask(ask)))
                except BaseException as error:  # noqa: BLE001  # handed on, and raised below
                    outbox.put((ask, error))

        threads = [threading.Thread(target=work, name=f"qwq-ask-{i}", daemon=True) for i in range(concurrency)]
        for thread in threads:
            thread.start()
        running = 0
        try:
            while asks or running:
                while asks and running < concurrency:
                    inbox.put(asks.popleft())
                    running += 1
                ask, got = outbox.get()
                running -= 1
                if isinstance(got, BaseException):
                    raise got
                yield ask, got
        finally:
            for _ in threads:
                inbox.put(None)
            if not running:
                for thread in threads:
                    thread.join()

    def _ask(self, ask: Ask) -> Reply:
        body: dict[str, Any] = {
            "model": self.model, "messages": _for_api(ask.messages), "temperature": ask.temperature, "top_p": ask.top_p,
            "seed": ask.seed, "max_tokens": ask.max_new_tokens,
        }  # fmt: skip
        if ask.top_k:
            body["top_k"] = ask.top_k
        if ask.tools:
            body["tools"] = list(ask.tools)
        if ask.thinking_budget is not None:
            body["thinking_token_budget"] = ask.thinking_budget
        if self.context is not None and ask.max_new_tokens >= self.context:
            del body["max_tokens"]  # then the server's own limit is the context
        started = time.monotonic()
        answer, refusal = self._post(body)
        if refusal and "max_tokens" in body and _of_context(refusal):
            self._tell(ask, refusal)
            del body["max_tokens"]
            answer, refusal = self._post(body)
        if refusal:
            if _of_context(refusal):
                return Reply("", "", StopReason.CONTEXT, 0, 0)
            hint = "; --top-k 0 leaves top_k out" if "top_k" in refusal else ""
            raise ConfigError(f"{self.base} refuses the request: {refusal[:300]}{hint}")
        return _reply_of(answer, bool(ask.tools), time.monotonic() - started)

    def _tell(self, ask: Ask, refusal: str) -> None:
        if not self._told:
            self._told = True
            _say(
                f"{ask.max_new_tokens:,} new tokens do not fit ({refusal[:160]}): answers are cut where the server's context ends"
            )

    def _post(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """The answer, or the text of a refusal. InfraError after the last try."""
        import httpx2

        reason = ""
        for pause in (0.0, *self.patience):
            time.sleep(pause)
            try:
                answer = self.client.post(f"{self.base}/chat/completions", json=body)
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == 429 or answer.status_code >= 500:
                reason = f"status {answer.status_code}: {answer.text[:200]}"
                stated = answer.headers.get("Retry-After", "")
                time.sleep(min(60.0, float(stated)) if stated.isdigit() else 0.0)
                continue
            if answer.status_code == 401:
                raise ConfigError(f"{self.base} wants a key: set {' or '.join(KEY_VARIABLES)}")
            if answer.status_code >= 400:
                return {}, f"status {answer.status_code}: {answer.text}"
            try:
                data = answer.json()
                return data, "" if data["choices"] else "an answer without choices"
            except (ValueError, KeyError, TypeError):
                reason = f"an answer that is not of OpenAI's shape: {answer.text[:200]}"
        raise InfraError(f"{self.base} does not answer ({reason}); what is done is stored, the same command goes on")


def _of_context(refusal: str) -> bool:
    return (
        bool(re.search(r"max_tokens|context|too long|maximum.{0,20}length", refusal, re.IGNORECASE))
        and "top_k" not in refusal
    )


def _for_api(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as the API takes them: arguments as JSON text, each tool's answer under its call's id."""
    out: list[dict[str, Any]] = []
    waiting: deque[str] = deque()
    for index, message in enumerate(messages):
        new = dict(message)
        if new.get("tool_calls"):
            calls = []
            for number, call in enumerate(new["tool_calls"]):
                function = call["function"]
                ident = f"call_{index}_{number}"
                waiting.append(ident)
                arguments = json.dumps(function["arguments"], ensure_ascii=False)
                calls.append(
                    {"id": ident, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
                )
            new["tool_calls"] = calls
        elif new["role"] == "tool" and waiting:
            new["tool_call_id"] = waiting.popleft()
        out.append(new)
    return out


def _reply_of(data: Mapping[str, Any], tools: bool, seconds: float) -> Reply:
    choice, usage = data["choices"][0], data.get("usage") or {}
    message = choice.get("message") or {}
    content = message.get("content") or ""
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    calls: list[ToolCall] = []
    malformed = 0
    if thinking:
        answer = content.strip()
        thinking = thinking.strip()
    else:
        # A server without a reasoning parser gives the text as it came, the opening mark left to the template.
        thinking, answer, found, malformed = split(content, thinking_open="</think>" in content, tools=tools)
        calls += found
    for item in message.get("tool_calls") or ():
        function = item.get("function") or {}
        call = read_call(json.dumps({"name": function.get("name"), "arguments": function.get("arguments") or {}}))
        calls += [call] if call else []
        malformed += call is None
    finish = choice.get("finish_reason")
    cut = finish in ("length", "abort", "content_filter")
    ended = StopReason.LOOP if choice.get("stop_reason") == "loop" else StopReason.LENGTH
    stop = ended if cut else StopReason.END
    tokens = int(usage.get("completion_tokens") or 0)
    counted = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    estimated = bool(thinking) and not counted  # some servers state 0 for what they do not count
    share = len(thinking) / max(1, len(thinking) + len(answer))
    return Reply(
        thinking,
        answer,
        stop,
        tokens,
        round(tokens * share) if estimated else int(counted or 0),
        tuple(calls),
        malformed,
        seconds,
        estimated,
    )
