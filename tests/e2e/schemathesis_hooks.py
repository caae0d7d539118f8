"""What the OpenAPI document cannot say. A prompt must fit the context, which the server answers
with a 400 and both numbers, and long answers take long: lengths are kept small. A call's result
needs the call before it: one is put there. Grammars and regular expressions have notations of their
own, and a request asks for one form only: texts become ones that can be read, and the first form
stays. Everything else is left as it was made.
"""

from __future__ import annotations

import json
from typing import Any

import schemathesis

LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "max_new_tokens")
KINDS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_grammar": "grammar",
    "json_schema": "json",
    "regex": "regex",
    "grammar": "grammar",
    "ebnf": "grammar",
}
FORMS = ("response_format", "structured_outputs", "guided_choice", "guided_json_object", *KINDS)
READABLE = {"json": '{"type": "integer"}', "regex": "[a-z]+", "grammar": 'start: "yes" | "no"'}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    small = {k: v % 64 + 1 for k, v in body.items() if k in LENGTHS and type(v) in (int, float) and v > 64}
    return body | small


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if isinstance(case.body, dict):
        case.body = {k: _readable(k, v) for k, v in case.body.items()}
        asked = [k for k in FORMS if case.body.get(k) is not None and case.body[k] != {"type": "text"}]
        if case.body.get("continue_final_message") is True:  # needs a last message of a certain kind
            case.body["continue_final_message"] = None
        case.body = _with_chosen(case.body) if "/v1/messages" in case.path else case.body
        case.body = {k: _with_calls(v) for k, v in case.body.items() if k not in asked[1:]}


def _with_calls(value: Any) -> Any:
    """Messages or input items, each result behind a call of its own."""
    if not isinstance(value, list):
        return value
    out: list[Any] = []
    for item in value:
        if isinstance(item, dict) and item.get("role") == "tool":
            out.append({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]})
        elif (
            isinstance(item, dict)
            and item.get("type") == "function_call_output"
            and isinstance(item.get("call_id"), str)
        ):
            out.append({"type": "function_call", "name": "f", "arguments": "{}", "call_id": item["call_id"]})
        elif (
            isinstance(item, dict) and item.get("role") in ("user", "system") and isinstance(item.get("content"), list)
        ):
            ids = [
                b["tool_use_id"]
                for b in item["content"]
                if isinstance(b, dict) and b.get("type") == "tool_result" and isinstance(b.get("tool_use_id"), str)
            ]
            if ids:
                out.append(
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in ids],
                    }
                )
        out.append(item)
    return out


def _with_chosen(body: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's request with a tool that its choice can mean."""
    choice, tools = body.get("tool_choice"), body.get("tools", [])
    if not isinstance(choice, dict) or choice.get("type") not in ("any", "tool") or not isinstance(tools, list | None):
        return body
    if choice["type"] == "tool" and not choice.get("name"):
        choice = choice | {"name": "f"}
    name = choice.get("name")
    return body | {
        "tool_choice": choice,
        "tools": [*(tools or []), {"name": name if isinstance(name, str) and 0 < len(name) <= 256 else "f"}],
    }


def _readable(key: str, value: Any) -> Any:
    if key == "structured_outputs" and isinstance(value, dict):
        return {k: _readable(k, v) for k, v in value.items()}
    kind = "json" if key == "json" else KINDS.get(key)
    return READABLE[kind] if isinstance(value, str) and value and kind in READABLE else value


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    try:
        return len(json.dumps(body)) < 1500
    except (TypeError, ValueError):
        return True
