"""Requests to `/chat/completions`, with the waits, limits and refusals of real servers.

A server that is away, busy (429) or broken (5xx) is asked again until `patience` is used up; an
answer that is none (`reply.read_completion`) is asked again twice. A refusal for length is asked
again with what the server allows: under OpenAI's newer name for the limit, with its longest answer,
with the room that the prompt leaves. A request for JSON of a schema is asked again without it. Any
other refusal is a failure of that request.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from qwq.endpoint.refusals import RequestLimits, limits_of, message_of
from qwq.endpoint.reply import FULL, RequestFailed, read_completion, thinking_field
from qwq.errors import ConfigError, InfraError, ServerRefuses
from qwq.text.response import parse
from qwq.types import Turn, tool_schemas

PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds between tries
ANSWER_TRIES = 3  # of an answer that is none
LIMIT_TRIES = 5  # as asked, by the other name, the longest answer, the room, no limit
READ_TIMEOUT_S = 3600.0  # a long thought can take this long to arrive whole
CONNECT_TIMEOUT_S, LIST_TIMEOUT_S = 10.0, 30.0
LONGEST_PAUSE_S = 60.0
UNNAMED = "default"  # the model of a server that lists none
FORM = "response_format"
KEY_VARIABLES = ("QWQ_API_KEY", "OPENAI_API_KEY")
GO_ON = "what is done is stored, the same command resumes"
# Models whose own chat template opens the thinking: a text of theirs without `</think>` is a
# thought.
OPENS_THINKING = re.compile(r"qwq-32b|-thinking-2507", re.IGNORECASE)
# What to do where a server does not take a parameter of ours, by a word of its refusal.
REPAIRS = {
    "top_k": "--top-k 0 leaves top_k out",
    "thinking_token_budget": "the server has no thinking budget: leave --thinking-budget out",
    "tool choice requires": "start the server so; `qwq eval --tool-format prompt` asks without it",
}


@dataclass(slots=True)
class EndpointRequest:
    """One turn to be made.

    `messages` as chat templates take them; `top_k` 0 leaves it out. Lengths in tokens. `schema`:
    the answer is to be JSON of it, where the server can hold the model to one.
    """

    messages: Sequence[Mapping[str, Any]]
    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int
    top_k: int = 0
    tools: Sequence[Mapping[str, Any]] = ()
    thinking_budget: int | None = None
    schema: Mapping[str, Any] | None = None


class EndpointClient:
    """One server and one model of it.

    Threads may share a client. Nothing is sent before `connect` or `complete`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        opens_thinking: bool | None = None,
        patience: Sequence[float] = PATIENCE,
        connections: int = 16,
        after_loss: str = GO_ON,
    ) -> None:
        """`api_key` None: from the environment (KEY_VARIABLES).

        `opens_thinking`: see reply.py; None: by the name. `after_loss`: what follows for the user
        where the server is gone; "" where the caller says it.
        """
        self.base, local = base_of(url)
        self.model, self.patience, self.after_loss = model, tuple(patience), after_loss
        self.opens_thinking = opens_thinking
        self.context: int | None = None
        self._limit_name, self._max_output = "max_tokens", sys.maxsize
        self._thinking_field = ""  # under which the server gives thoughts apart, and takes them back
        self._takes_schema = True  # until it refuses one
        self._told: set[str] = set()
        self._http = open_http(self.base, api_key, READ_TIMEOUT_S, local=local, connections=connections)

    @property
    def url(self) -> str:
        return f"{self.base}/chat/completions"

    def close(self) -> None:
        self._http.close()

    def connect(self) -> None:
        """Take over the server's name for the model (a path's last part will do; "" is the first
        that it lists) and the context that it states.
        """
        try:
            answer = self._http.get(f"{self.base}/models", timeout=LIST_TIMEOUT_S)
        except httpx2.RequestError as error:
            raise InfraError(
                f"no answer from {self.base} ({type(error).__name__}: {error}): check that the server runs there"
            ) from None
        if answer.status_code in (401, 403):
            raise self._locked(answer.status_code)
        try:
            entries = {e["id"]: e for e in answer.json()["data"] if e["id"] and isinstance(e["id"], str)}
        except (ValueError, KeyError, TypeError, RecursionError):
            self.model = self.model or UNNAMED
            return  # not every server has the list
        self.model = self.model or next(iter(entries), UNNAMED)
        path = Path(self.model)
        self.model = next((m for m in (self.model, path.name, path.stem) if m in entries), self.model)
        context = entries.get(self.model, {}).get("max_model_len")
        self.context = context if type(context) is int else None

    def complete(self, request: EndpointRequest) -> Turn:
        """The model's answer.

        RequestFailed: this request has none. InfraError: no server. ServerRefuses: an option or the
        key is at fault.
        """
        longest = min(request.max_new_tokens, self._max_output)
        # The server's own limit is the context where no room is left for another.
        limit = None if self.context is not None and longest >= self.context else longest
        refusal = ""
        for _ in range(LIMIT_TRIES):
            name = self._limit_name
            body = self._body(request) | ({} if limit is None else {name: limit})
            try:
                answer = self._post(body, request)
            except (RequestFailed, ConfigError):
                if FORM not in body:
                    raise
                self._takes_schema = False  # the form is then asked for in words alone
                continue
            if isinstance(answer, Turn):
                return answer
            limits, refusal = limits_of(answer), message_of(answer)
            if limits.renamed and name != "max_completion_tokens":
                self._limit_name = "max_completion_tokens"
            elif limits.max_output is not None and limit is not None and limits.max_output < limit:
                self._max_output = limit = limits.max_output
                self._say(
                    "output",
                    f"the server answers in {limit:,} tokens at most, {request.max_new_tokens:,} are asked for",
                )
            elif limits.full and limit is not None and (limits.room is None or limits.room > 0):
                self._say("context", f"{request.max_new_tokens:,} new tokens do not fit ({refusal[:160]})")
                limit = _smaller(limits, limit)
            elif limits.full:
                return FULL  # the prompt alone leaves no room
            else:
                break
        raise RequestFailed(f"{self.base} refuses the request: {refusal[:300]}")

    def _body(self, request: EndpointRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": for_api(request.messages, self._thinking_field),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        if request.top_k:
            body["top_k"] = request.top_k
        if request.tools:
            body["tools"] = list(request.tools)
        if request.thinking_budget is not None:
            body["thinking_token_budget"] = request.thinking_budget
        if request.schema is not None and self._takes_schema:
            named = {"name": "answer", "schema": dict(request.schema)}
            body[FORM] = {"type": "json_schema", "json_schema": named}
        return body

    def _post(self, body: Mapping[str, Any], request: EndpointRequest) -> Turn | str:
        """The answer, or the text of a refusal that is about a length."""
        content = json.dumps(body).encode()  # escaped: a prompt may hold half a surrogate pair
        reason, bad_answers, asked_to_wait = "", 0, 0.0
        for pause in (0.0, *self.patience):
            time.sleep(max(pause, asked_to_wait))
            asked_to_wait = 0.0
            try:
                answer = self._http.post(self.url, content=content)
            except httpx2.RequestError as error:
                reason, away = f"{type(error).__name__}: {error}", True
                continue
            away, status, text = False, answer.status_code, answer.text
            reason = f"status {status}: {_shown(text)}"
            if status in (500, 501) and FORM in body:  # what some servers say of a form that they cannot hold
                raise RequestFailed(f"{self.base} gave {reason}")
            if status in (408, 425, 429) or status >= 500:
                asked_to_wait = _retry_after(answer)
                continue
            if 300 <= status < 400:
                place = answer.headers.get("Location", "nowhere")
                raise ServerRefuses(
                    f"{self.url} sends on to {place[:200]} (status {status}): give the server's own address"
                )
            if status >= 400:
                return self._refusal(status, text, body)
            try:
                return self._read(answer, text, request)
            except RequestFailed as error:
                if limits_of(text).full:  # llama.cpp behind some proxies refuses with status 200
                    return text
                reason, bad_answers = str(error), bad_answers + 1
                if bad_answers == ANSWER_TRIES:
                    raise RequestFailed(f"{self.base} gave {reason}") from None
        said = f"{self.base} gave no answer for {sum(self.patience):.0f} s ({reason})"
        if not away:
            raise RequestFailed(said)
        raise InfraError("; ".join(filter(None, (said, self.after_loss))))

    def _read(self, answer: httpx2.Response, text: str, request: EndpointRequest) -> Turn:
        try:
            data = _json_of(answer, text)
        except (ValueError, RecursionError):
            streams = text.startswith(("data:", "event:"))
            what = "a stream, which was not asked for" if streams else "an answer that is not JSON"
            raise RequestFailed(f"{what}: {_shown(text)}") from None
        if not isinstance(data, dict) or not data.get("choices"):
            raise RequestFailed(f"an answer without choices: {_shown(text)}")
        opens = self.opens_thinking
        if opens is None and request.thinking_budget != 0 and OPENS_THINKING.search(self.model):
            opens = True
        turn = read_completion(data, tools=tool_schemas(request.tools), opens_thinking=opens)
        self._thinking_field = self._thinking_field or thinking_field(data)
        return turn

    def _refusal(self, status: int, text: str, body: Mapping[str, Any]) -> str:
        """The text where it is about a length; else an error."""
        limits = limits_of(text)
        if limits != RequestLimits():
            return text
        said = f"status {status}: {message_of(text)[:300]}"
        if status in (401, 403):
            raise self._locked(status)
        if status == 404:
            raise ServerRefuses(
                f"{self.url} has no model {body['model']!r}, or is no such address ({said}): "
                "check the URL and the model's name"
            )
        word = next((w for w in REPAIRS if w in said and (w in body or " " in w)), None)
        if word is not None:
            raise ServerRefuses(f"{self.base} refuses the request: {said}; {REPAIRS[word]}")
        raise RequestFailed(f"{self.base} refuses the request ({said})")

    def _locked(self, status: int) -> ServerRefuses:
        wants = "wants a key" if status == 401 else "does not let this key in (status 403)"
        return ServerRefuses(f"{self.base} {wants}: set {' or '.join(KEY_VARIABLES)}")

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            print(f"note: {text}: answers are cut there", file=sys.stderr, flush=True)


def for_api(messages: Sequence[Mapping[str, Any]], thinking: str = "") -> list[dict[str, Any]]:
    """Messages as the API takes them: arguments as JSON text, each tool's answer under its call's
    id. `thinking` is the field for an assistant's thoughts; "" leaves them in the content. An id
    that a server gave twice is replaced: strict servers refuse it.
    """
    out: list[dict[str, Any]] = []
    waiting: deque[str] = deque()
    used: set[str] = set()
    for index, message in enumerate(messages):
        new = dict(message)
        if thinking and new["role"] == "assistant":
            parts = parse(new["content"], tools=())
            new |= {thinking: parts.thinking, "content": parts.answer} if parts.thinking else {}
        if new.get("tool_calls"):
            calls = []
            for number, call in enumerate(new["tool_calls"]):
                function = call["function"]
                ident = call.get("id") or f"call_{index}_{number}"
                while ident in used:
                    ident = f"{ident}_{index}_{number}"
                used.add(ident)
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


def _json_of(answer: httpx2.Response, text: str) -> Any:
    """The body as JSON; bytes that are no UTF-8 (half a character of the model's) become marks."""
    try:
        return answer.json()
    except UnicodeDecodeError:
        return json.loads(text)


def _shown(text: str) -> str:
    """The beginning of a body, on one line."""
    return " ".join(text.split())[:200] or "it is empty"


def _smaller(limits: RequestLimits, limit: int) -> int | None:
    """The room that the prompt leaves, where the server says it and it is less than was refused;
    else no limit.
    """
    return limits.room if limits.room is not None and limits.room < limit else None


def base_of(url: str, option: str = "--endpoint") -> tuple[str, bool]:
    """(URL up to the version, whether it is this machine). ConfigError names `option`."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{option} {url}: give a URL such as http://127.0.0.1:8000/v1")
    short = url.rstrip("/").removesuffix("/chat/completions")
    local = parsed.host == "localhost" or parsed.host.startswith("127.") or parsed.host == "::1"
    return short if re.search(r"/v\d+$", short) else f"{short}/v1", local


def open_http(base: str, api_key: str | None, timeout_s: float, *, local: bool, connections: int = 16) -> httpx2.Client:
    """A client that sends the key for `base` (None: from the environment, KEY_VARIABLES).
    ConfigError for a key that no header takes.
    """
    key = api_key or next((os.environ[v] for v in KEY_VARIABLES if os.environ.get(v)), None)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key for {base} holds characters that no header takes: copy it again")
    return httpx2.Client(
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)), trust_env=not local,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=connections),
    )  # fmt: skip


def _retry_after(answer: httpx2.Response) -> float:
    stated = answer.headers.get("Retry-After", "")
    return min(LONGEST_PAUSE_S, float(stated)) if re.fullmatch(r"\d+(\.\d+)?", stated) else 0.0
