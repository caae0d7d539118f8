"""The fields that ask for an answer in a form, field for field; see schema.py for what acceptance
means.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qwq.serve.fields import OnlyFalse, OnlyNull, OnlyTrue, Strict


def _one_of(*fields: str) -> dict[str, Any]:
    """For the OpenAPI document: exactly one of the fields is given."""
    null: dict[str, Any] = {"type": "null"}
    return {
        "oneOf": [
            {"required": [f], "properties": {g: null if g != f else {"not": null} for g in fields}} for f in fields
        ]
    }


class JsonSchema(Strict):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Any object; with llama.cpp's `schema` JSON of that schema."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Literal["json_object"]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class JsonSchemaFormat(JsonSchema):
    """The schema within `json_schema`, as in chats, or beside the type, as in responses: both are
    taken in both.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, populate_by_name=True, json_schema_extra=_one_of("json_schema", "schema")
    )

    type: Literal["json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _one_schema(self) -> JsonSchemaFormat:
        if (self.json_schema is None) == (self.schema_ is None):
            raise ValueError("needs the schema either in json_schema or beside the type")
        return self

    @property
    def enforced(self) -> dict[str, Any] | None:
        return self.schema_ if self.json_schema is None else self.json_schema.schema_


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


GrammarText = Annotated[str, StringConstraints(min_length=1)]
Choices = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=1024)]


class StructuredOutputs(Strict):
    """vLLM's way to ask for a form: exactly one of the first five."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        populate_by_name=True,
        json_schema_extra=_one_of("json", "regex", "choice", "grammar", "json_object"),
    )

    json_: Annotated[dict[str, Any] | GrammarText | None, Field(alias="json")] = None
    regex: GrammarText | None = None
    choice: Choices | None = None
    grammar: GrammarText | None = None
    json_object: OnlyTrue | None = None
    whitespace_pattern: OnlyNull = None
    structural_tag: OnlyNull = None
    disable_fallback: OnlyFalse | None = None
    disable_any_whitespace: OnlyFalse | None = None
    disable_additional_properties: OnlyFalse | None = None


class Formed(Strict):
    """The form of an answer, at most one (`forms.form_of`). `guided_*` are vLLM's older names, the
    last four llama.cpp's and SGLang's.
    """

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | GrammarText | None = None
    guided_regex: GrammarText | None = None
    guided_choice: Choices | None = None
    guided_grammar: GrammarText | None = None
    guided_json_object: OnlyTrue | None = None
    guided_decoding_backend: str | None = None
    guided_whitespace_pattern: OnlyNull = None
    json_schema: dict[str, Any] | GrammarText | None = None
    grammar: GrammarText | None = None
    regex: GrammarText | None = None
    ebnf: GrammarText | None = None
