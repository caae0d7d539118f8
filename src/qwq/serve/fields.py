"""The types that requests are made of: strict, with known defaults, and with what is ignored said once in the server's log."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from qwq.serve.notes import note_once


def _only(value: Any) -> Any:
    """A known field that has only its default value here. Python's own 0 == False does not count."""

    def check(given: Any) -> Any:
        if given != value or type(given) is not type(value):
            raise ValueError(f"only {value!r} is implemented here")
        return given

    return AfterValidator(check)


OnlyFalse = Annotated[bool, _only(False), WithJsonSchema({"const": False})]
OnlyTrue = Annotated[bool, _only(True), WithJsonSchema({"const": True})]
OnlyZero = Annotated[int, _only(0), WithJsonSchema({"const": 0})]
OnlyOne = Annotated[int, _only(1), WithJsonSchema({"const": 1})]
# JSON knows one kind of number: 3.0 is an integer.
WHOLE = BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
# openapi.py puts the size of the model's vocabulary in the place of these.
ANY_ID, ANY_KEY = 1 << 31, "^(0|[1-9][0-9]{0,8})$"
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
TokenId = Annotated[int, Field(ge=0, lt=ANY_ID), WHOLE]
StopString = Annotated[str, StringConstraints(min_length=1)]
TokenKey = Annotated[str, StringConstraints(pattern=ANY_KEY)]


class Strict(BaseModel):
    """JSON types as they are: "1" is no number, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class History(Strict):
    """What clients send back of earlier answers. Programs keep keys of their own in it (litellm its `provider_specific_fields`), which no
    chat template reads: unknown keys are ignored, and said once in the server's log."""

    model_config = ConfigDict(extra="ignore", strict=True)
    place: ClassVar[str] = "messages"

    @model_validator(mode="wrap")
    @classmethod
    def _note_unknown(cls, data: Any, handler: Any) -> Any:
        # Behind the check: where an item may be of several types, only the one that fits speaks.
        made = handler(data)
        if isinstance(data, dict):
            for key in data.keys() - cls.model_fields.keys():
                note_once(f"{cls.place}.{key}", f"requests: {cls.place} carry {key[:60]!r}, which is not known here and is ignored")
        return made


def when(condition: dict[str, Any], then: dict[str, Any], needs: list[str]) -> Any:
    """A rule between fields, for the OpenAPI document; the endpoints refuse what breaks it."""
    there = {"required": list(condition), "properties": condition}
    return {"if": there, "then": {"required": needs, "properties": then}}


SOME: Any = {"type": "array", "minItems": 1}
CHOICE_NEEDS_TOOLS = when({"tool_choice": {"not": {"enum": [None, "none", "auto"]}}}, {"tools": SOME}, ["tools"])
TOP_NEEDS_LOGPROBS = when({"top_logprobs": {"type": "integer", "minimum": 1}}, {"logprobs": {"const": True}}, ["logprobs"])
