"""The types that requests are made of: strict, with known defaults, and with what is ignored said
once in the server's log.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from qwq.engine.notes import note_once

# Set for the requests of a server that was told to ignore what it does not know
# (`--ignore-unknown-fields`).
LENIENT: ContextVar[bool] = ContextVar("LENIENT", default=False)


def only(*values: Any) -> Any:
    """A known field that has only these values here, the usual one first.

    Python's own 0 == False does not count.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        if any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values):
            return value
        if LENIENT.get():
            note_once(
                f"value of {info.field_name}",
                f"requests: {info.field_name} has only {_json(values)} here; another value is ignored",
            )
            return values[0]
        raise ValueError(f"only {_json(values)} is implemented here")

    return AfterValidator(check)


def _json(values: Sequence[Any]) -> str:
    return " or ".join(json.dumps(v) for v in values)


OnlyFalse = Annotated[bool, only(False), WithJsonSchema({"const": False})]
OnlyTrue = Annotated[bool, only(True), WithJsonSchema({"const": True})]
OnlyZero = Annotated[float, only(0), WithJsonSchema({"const": 0})]
OnlyOne = Annotated[float, only(1), WithJsonSchema({"const": 1})]
OnlyNull = Annotated[Any, only(None), WithJsonSchema({"type": "null"})]
OnlyEmpty = Annotated[list[Any] | dict[str, Any], only([], {}), WithJsonSchema({"enum": [[], {}]})]
# JSON knows one kind of number: 3.0 is an integer.
WHOLE = BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
# openapi.py puts the size of the model's vocabulary in the place of these.
ANY_ID, ANY_KEY = 1 << 31, "^(0|[1-9][0-9]{0,8})$"
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
TokenId = Annotated[int, Field(ge=0, lt=ANY_ID), WHOLE]
StopString = Annotated[str, StringConstraints(min_length=1)]
TokenKey = Annotated[str, StringConstraints(pattern=ANY_KEY)]


@cache
def _known(kind: type[BaseModel]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in kind.model_fields.items())


class Strict(BaseModel):
    """JSON types as they are: "1" is no number, and an unknown field is an error unless it is
    null.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_unknown(cls, data: Any) -> Any:
        if (
            not isinstance(data, dict)
            or not (unknown := data.keys() - _known(cls))
            or cls.model_config.get("extra") != "forbid"
        ):
            return data
        if LENIENT.get():
            for name in unknown:
                note_once(f"field {name}", f"requests: the field {name[:60]!r} is not known here and is ignored")
            return {k: v for k, v in data.items() if k not in unknown}
        return {k: v for k, v in data.items() if v is not None or k not in unknown}


class History(Strict):
    """What clients send back of earlier answers. Programs keep keys of their own in it (litellm its
    `provider_specific_fields`), which no chat template reads: unknown keys are ignored, and said
    once in the server's log.
    """

    model_config = ConfigDict(extra="ignore", strict=True)
    place: ClassVar[str] = "messages"

    @model_validator(mode="wrap")
    @classmethod
    def _note_unknown(cls, data: Any, handler: Any) -> Any:
        # Behind the check: where an item may be of several types, only the one that fits speaks.
        made = handler(data)
        if isinstance(data, dict):
            for key in data.keys() - cls.model_fields.keys():
                note_once(
                    f"{cls.place}.{key}",
                    f"requests: {cls.place} carry {key[:60]!r}, which is not known here and is ignored",
                )
        return made


def when(condition: dict[str, Any], then: dict[str, Any], needs: list[str]) -> Any:
    """A rule between fields, for the OpenAPI document; the endpoints refuse what breaks it."""
    there = {"required": list(condition), "properties": condition}
    return {"if": there, "then": {"required": needs, "properties": then}}


SOME: Any = {"type": "array", "minItems": 1}
CHOICE_NEEDS_TOOLS = when({"tool_choice": {"not": {"enum": [None, "none", "auto"]}}}, {"tools": SOME}, ["tools"])
ZERO_NEEDS_ECHO = when({"max_tokens": {"const": 0}}, {"echo": {"const": True}}, ["echo"])
TOP_NEEDS_LOGPROBS = when(
    {"top_logprobs": {"type": "integer", "minimum": 1}}, {"logprobs": {"const": True}}, ["logprobs"]
)
