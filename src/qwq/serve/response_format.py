"""What form an answer is asked for, in whichever of the fields that say so, as a rule of a
grammar.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from qwq.engine.grammar import choice_rule, grammar_rule, json_rule, regex_rule
from qwq.errors import UsageError
from qwq.serve.errors import RequestRefused
from qwq.serve.schema_forms import Formed, JsonObjectFormat, JsonSchemaFormat, ResponseFormat

# Fields that ask for a form, and its kind.
FIELDS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "json_schema": "json",
    "regex": "regex",
    "grammar": "grammar",
    "ebnf": "grammar",
}


@dataclass(frozen=True, slots=True)
class Form:
    """A rule body of engine/grammar.py, and the field that asked for it."""

    rule: str
    param: str


def schema_form(schema: Any, param: str) -> Form:
    """JSON that fits a schema. RequestRefused where the schema cannot be enforced."""
    try:
        return Form(json_rule(schema), param)
    except UsageError as error:
        raise RequestRefused(f"{param}: {error}", param) from None


def response_form(value: ResponseFormat | None, param: str = "response_format") -> Form | None:
    """OpenAI's field."""
    if isinstance(value, JsonObjectFormat):
        return schema_form(value.schema_ or {"type": "object"}, param)
    return schema_form(value.enforced, param) if isinstance(value, JsonSchemaFormat) else None


def form_of(body: Formed) -> Form | None:
    """The one form that a request asks for.

    RequestRefused where it asks for two, or where the form cannot be read.
    """
    candidates: list[tuple[str, str, Any]] = [(name, kind, getattr(body, name)) for name, kind in FIELDS.items()]
    if body.structured_outputs:
        outputs = body.structured_outputs
        kinds = {
            "json": outputs.json_,
            "regex": outputs.regex,
            "choice": outputs.choice,
            "grammar": outputs.grammar,
            "json_object": outputs.json_object,
        }
        within = [(f"structured_outputs.{kind}", kind, value) for kind, value in kinds.items() if value is not None]
        if len(within) != 1:
            names = " and ".join(name.partition(".")[2] for name, _, _ in within) or "none"
            raise RequestRefused(
                f"structured_outputs: needs exactly one of {', '.join(kinds)}; given: {names}", "structured_outputs"
            )
        candidates += within
    candidates = [a for a in candidates if a[2] is not None]
    forms = [f for f in (response_form(body.response_format), *(_form(*a) for a in candidates)) if f]
    if len(forms) > 1:
        raise RequestRefused(
            f"{forms[1].param}: {forms[0].param} asks for a form already: leave one of them out",
            forms[1].param.partition(".")[0],
        )
    return forms[0] if forms else None


def _form(param: str, kind: str, value: Any) -> Form:
    try:
        match kind:
            case "json":
                return Form(json_rule(json.loads(value) if isinstance(value, str) else value), param)
            case "json_object":
                return Form(json_rule({"type": "object"}), param)
            case "regex":
                return Form(regex_rule(value), param)
            case "choice":
                return Form(choice_rule(value), param)
        return Form(grammar_rule(value), param)
    except json.JSONDecodeError as error:
        raise RequestRefused(
            f"{param}: {value[:60]!r} is no JSON ({error}): give a schema as an object or as its text",
            param.partition(".")[0],
        ) from None
    except UsageError as error:
        raise RequestRefused(f"{param}: {error}", param.partition(".")[0]) from None
