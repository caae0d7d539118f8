"""Broken requests in numbers: valid bodies of three APIs, changed by chance, to `qwq serve` of a
tiny model.

    python tests/slow/request_fuzz.py                          # 1,500 requests
    python tests/slow/request_fuzz.py --requests 300 --api chat --seed 7

Held for each answer: its status is no 500 and it comes within 20 seconds; an error has the shape of
its API, and OpenAI's names the field; a stream is well-formed and ends, and the events of
`/v1/responses` come in their documented order with numbers that rise by one. What is not is printed
with its body; the status is 1 then. A seed gives the same requests, the model's samples aside.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

from little import Served, make_model

LIMIT_S = 20.0
TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
WORDS = (
    "\u0130\u200d\u202e",
    "\ud83d",
    "\x00\x1b[31m",
    "<|im_end|><think>",
    "e\u0301" * 40,
    "",
    " ",
    "</think>" * 9,
    "\uffff",
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, -(10**400), 0.5, 1e308, float("nan"), float("inf"), [], {}, [[]],
    [None], {"a": 1}, {"type": "text"}, {"type": []}, "auto", "none", "user", "resp_none", *WORDS,
)  # fmt: skip


def deep(levels: int, in_lists: bool) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if in_lists else {"a": value}
    return value


def responses_bodies() -> list[dict[str, Any]]:
    user = {"role": "user", "content": "what is 1 and 2?"}
    call = {"type": "function_call", "name": "add", "arguments": "{}", "call_id": "c1"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "3"}
    own = {"type": "function", **TOOL}
    schema = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": False}
    return [
        {"input": "what is 1 and 2?"},
        {"input": [user], "instructions": "Be brief.", "temperature": 0.5, "top_p": 0.9, "store": False},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "so"}]}]},
        {"input": [user, call, output], "tools": [own], "tool_choice": "auto", "parallel_tool_calls": False},
        {"input": [user, call], "tools": [own]},
        {"input": [user, output]},
        {"input": [user], "tools": [own], "tool_choice": {"type": "function", "name": "add"}},
        {"input": [user], "tools": [own], "tool_choice": "required"},
        {"input": [user], "text": {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}},
        {"input": "go on", "previous_response_id": "resp_none"},
        {"input": "go on", "previous_response_id": "KEPT"},
        {"input": [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}, user]},
        {"input": "a", "include": ["message.output_text.logprobs"], "top_logprobs": 2, "reasoning": {"effort": "low"}},
    ]


def chat_bodies() -> list[dict[str, Any]]:
    user = {"role": "user", "content": "what is 1 and 2?"}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    own = {"type": "function", "function": TOOL}
    return [
        {"messages": [user], "stop": ["\n"], "seed": 1, "n": 2},
        {"messages": [{"role": "system", "content": "Be brief."}, user], "temperature": 0.5, "top_p": 0.9},
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "so"}]}],
            "logprobs": True,
            "top_logprobs": 2,
        },
        {"messages": [user, asked, {"role": "tool", "tool_call_id": "c1", "content": "3"}], "tools": [own]},
        {"messages": [user, asked], "tools": [own], "tool_choice": {"type": "function", "function": {"name": "add"}}},
        {"messages": [user, {"role": "tool", "tool_call_id": "c9", "content": "3"}]},
        {"messages": [user], "response_format": {"type": "json_object"}, "logit_bias": {"5": 1}},
    ]


def ollama_bodies() -> list[dict[str, Any]]:
    user = {"role": "user", "content": "what is 1 and 2?"}
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    return [
        {"messages": [user], "options": {"temperature": 0.5, "top_k": 5, "seed": 1}},
        {"messages": [user, {"role": "assistant", "content": "", "tool_calls": [call]}], "think": True},
        {"messages": [user], "tools": [{"type": "function", "function": TOOL}], "format": "json", "keep_alive": "5m"},
    ]


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a body."""
    for key, value in body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(body: dict[str, Any], draw: random.Random) -> str | None:
    """Change one place of `body`; the top-level field that was changed."""
    path = draw.choice(list(places(body)))
    inside: Any = body
    for key in path[:-1]:
        inside = inside[key]
    match draw.randrange(8):
        case 0:
            del inside[path[-1]]
        case 1:
            if isinstance(inside, dict):
                inside[draw.choice(("extra", "type", "role", "id", "status", "name", *WORDS))] = draw.choice(VALUES)
            else:
                inside.append(draw.choice(VALUES))
        case 2:
            inside[path[-1]] = deep(draw.choice((3, 60, 400)), draw.random() < 0.5)
        case 3:
            inside[path[-1]] = [inside[path[-1]]] * draw.choice((1, 2, 50))
        case 4:
            inside[path[-1]] = draw.choice(("assistant", "tool", "developer", "critic", "function", "c1", "message"))
        case 5:
            inside[path[-1]] = str(inside[path[-1]]) + draw.choice(WORDS)
        case _:
            inside[path[-1]] = draw.choice(VALUES)
    return path[0]


def encoded(body: Any, draw: random.Random) -> bytes:
    data = json.dumps(body, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    match draw.randrange(40):
        case 0:
            return data[: draw.randrange(len(data))]
        case 1:
            return b"\xef\xbb\xbf" + data
        case 2:
            return b"[" * 20_000 + data
        case 3:
            return data.replace(b'"', b"\xff", 1)
        case 4:
            return json.dumps(draw.choice(VALUES)).encode()
        case 5:
            return data[:-1] + b', "model": 1}'
    return data


# -- what an answer must be ------------------------------------------------------------------------


def fault_of_error(api: str, error: Any, status: int) -> str:
    if api == "ollama":
        return "" if isinstance(error, dict) and isinstance(error.get("error"), str) else "not Ollama's error"
    inner = error.get("error") if isinstance(error, dict) else None
    if not isinstance(inner, dict) or inner.keys() != {"message", "type", "param", "code"}:
        return "not OpenAI's error"
    if not (isinstance(inner["message"], str) and inner["message"] and isinstance(inner["type"], str)):
        return "an error without words"
    unread = any(word in inner["message"] for word in ("JSON", "body", "UTF-8"))
    if (
        inner["param"] is None
        and status in (400, 404, 422)
        and not unread
        and inner["code"] != "context_length_exceeded"
    ):
        return "no field is named"
    return ""


def fault_of_events(text: str) -> str:
    """What is wrong with the events of a response; "" if nothing is."""
    events = []
    for block in text.split("\n\n")[:-1]:
        kind, _, data = block.partition("\n")
        if not kind.startswith("event: ") or not data.startswith("data: "):
            return f"no event: {block[:80]!r}"
        event = json.loads(data[6:])
        if event["type"] != kind[7:]:
            return f"the type is not the event's: {block[:80]!r}"
        events.append(event)
    if not text.endswith("\n\n") or [e["type"] for e in events[:2]] != ["response.created", "response.in_progress"]:
        return "no whole beginning or end"
    if [e["sequence_number"] for e in events] != list(range(len(events))):
        return "numbers do not rise by one"
    if events[-1]["type"] not in ("response.completed", "response.incomplete", "response.failed"):
        return f"ends with {events[-1]['type']}"
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    if events[-1]["type"] != "response.failed" and sorted(map(str, done)) != sorted(
        str(i) for i in events[-1]["response"]["output"]
    ):
        return f"the response's items are not those that were done: {done} {events[-1]['response']['output']}"
    by_item: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        if "output_index" in event:
            by_item.setdefault(event["output_index"], []).append(event)
    return next((fault for some in by_item.values() if (fault := fault_of_item(some))), "")


def fault_of_item(events: list[dict[str, Any]]) -> str:
    kinds = [e["type"].removeprefix("response.") for e in events]
    if kinds[0] != "output_item.added" or kinds[-1] != "output_item.done":
        return f"an item's events are {kinds[0]} to {kinds[-1]}"
    item = events[-1]["item"]
    kind = {"message": "output_text", "reasoning": "reasoning_text"}.get(item["type"], "function_call_arguments")
    inside = [k for k in kinds[1:-1] if k != f"{kind}.delta"]
    want = (
        [f"{kind}.done"]
        if item["type"] == "function_call"
        else ["content_part.added", f"{kind}.done", "content_part.done"]
    )
    if inside != want:
        return f"an item's events are {kinds}"
    text = "".join(e["delta"] for e in events if e["type"].endswith(".delta"))
    whole = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
    return "" if text == whole else "the deltas are not the whole text"


def fault_of_chunks(text: str) -> str:
    blocks = text.split("\n\n")
    if blocks[-2:] != ["data: [DONE]", ""]:
        return "the stream has no end"
    chunks = [json.loads(b.removeprefix("data: ")) for b in blocks[:-2] if not b.startswith(":")]
    ends = Counter(c["index"] for chunk in chunks for c in chunk.get("choices", ()) if c["finish_reason"])
    seen = {c["index"] for chunk in chunks for c in chunk.get("choices", ())}
    return "" if set(ends) == seen and set(ends.values()) <= {1} else "not one end a choice"


def fault_of_lines(text: str) -> str:
    lines = [json.loads(line) for line in text.splitlines()]
    return "" if [x["done"] for x in lines] == [False] * (len(lines) - 1) + [True] else "not one end"


Bodies = Callable[[], list[dict[str, Any]]]
APIS: dict[str, tuple[str, Bodies, Callable[[str], str], dict[str, Any]]] = {
    "responses": ("/v1/responses", responses_bodies, fault_of_events, {"max_output_tokens": 24}),
    "chat": ("/v1/chat/completions", chat_bodies, fault_of_chunks, {"max_tokens": 12}),
    "ollama": ("/api/chat", ollama_bodies, fault_of_lines, {"options": {"num_predict": 12}}),
}


def fault(api: str, response: httpx2.Response, seconds: float) -> str:
    if seconds > LIMIT_S:
        return f"took {seconds:.0f} s"
    if response.status_code >= 500:
        return f"status {response.status_code}"
    if response.status_code != 200:
        try:
            return fault_of_error(api, response.json(), response.status_code)
        except ValueError:
            return "an error that is no JSON"
    try:
        kind = response.headers["content-type"]
        if kind.startswith(("text/event-stream", "application/x-ndjson")):
            return APIS[api][2](response.text)
        return "" if isinstance(response.json(), dict) else "no object"
    except (ValueError, KeyError, TypeError) as error:
        return f"unreadable: {error!r}"


def requests(api: str, num: int, seed: int, kept: str, model: str) -> Iterator[tuple[bytes, str | None]]:
    """Bodies, and the top-level field that was changed where it is one."""
    draw = random.Random(f"{seed} {api}")
    _, bodies, _, limits = APIS[api]
    for _ in range(num):
        body = copy.deepcopy(draw.choice(bodies()))
        body = {"model": model} | {k: copy.deepcopy(v) for k, v in limits.items() if k not in body} | body
        if body.get("previous_response_id") == "KEPT":
            body["previous_response_id"] = kept
        if draw.random() < 0.5 or api == "ollama":
            body["stream"] = draw.random() < 0.8
        fields = {changed(body, draw) for _ in range(draw.choice((0, 1, 1, 1, 2)))}
        for name, limit in limits.items():  # without one, an answer is as long as the context
            if body.get(name) is None:
                body[name] = limit
            elif isinstance(limit, dict) and isinstance(body[name], dict):
                body[name] = limit | body[name]
        yield encoded(body, draw), next(iter(fields)) if len(fields) == 1 else None


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--requests", type=int, default=1500)
    arguments.add_argument("--api", choices=(*APIS, "all"), default="all")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    apis = list(APIS) if options.api == "all" else [options.api]
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        served = Served(make_model(Path(folder) / "model"))
        try:
            model = served.client.get("/v1/models").json()["data"][0]["id"]
            kept = served.post("/v1/responses", model=model, input="a", max_output_tokens=4).json()["id"]
            for api in apis:
                statuses: Counter[int] = Counter()
                for body, field in requests(api, options.requests // len(apis), options.seed, kept, model):
                    start = time.perf_counter()
                    headers = {"Content-Type": "application/json"}
                    try:
                        response = served.client.post(APIS[api][0], content=body, headers=headers)
                    except httpx2.HTTPError as error:
                        found, said = f"no whole answer: {error}", ""
                    else:
                        found, said = fault(api, response, time.perf_counter() - start), response.text
                        statuses[response.status_code] += 1
                    if found:
                        faults += 1
                        print(f"{api}: {found}: changed {field}: {body[:600]!r}\n    {said[:600]!r}", flush=True)
                print(f"{api}: statuses {dict(sorted(statuses.items()))}", flush=True)
        finally:
            status = served.stop()
            print("".join(served.said), end="")
    print(f"{faults} faults; the server ended with {status}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
