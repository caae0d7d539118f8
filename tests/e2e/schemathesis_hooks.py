"""What the OpenAPI document cannot say. Prompt and answer together must fit the context, which the server answers with a 400 and both
numbers: lengths are kept small. Grammars and regular expressions have notations of their own, and a request
asks for one form only: texts become ones that can be read, and the first form stays. Everything else is left as it was made."""

from __future__ import annotations

import json
from typing import Any

import schemathesis

LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
FORMS = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
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
        case.body = {k: v for k, v in case.body.items() if k not in asked[1:]}


def _readable(key: str, value: Any) -> Any:
    if key == "structured_outputs" and isinstance(value, dict):
        return {k: _readable(k, v) for k, v in value.items()}
    kind = key.removeprefix("guided_")
    return READABLE[kind] if isinstance(value, str) and value and kind in READABLE else value


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    try:
        return len(json.dumps(body)) < 1500
    except (TypeError, ValueError):
        return True
