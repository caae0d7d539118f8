"""Schemas as programs make them: what is fitted to the grammar's engine, what is left unenforced,
what is refused.
"""

from __future__ import annotations

import decimal
import enum
import json
import pathlib
import re
import typing
import uuid

import pydantic
import pytest

pytest.importorskip("llguidance")

import scripted

from qwq.engine import notes
from qwq.engine.grammar import Grammars, answer_grammar, grammar_rule, json_rule, regex_rule
from qwq.engine.json_schema import FORMATS, fitted
from qwq.errors import UsageError


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    chat = scripted.chat_format()
    return Grammars(chat.tokenizer, chat.tokenizer.vocab_size, chat.eos_ids)


def allows(grammars: Grammars, schema: dict, text: str) -> bool:
    matcher = grammars.compile(answer_grammar(json_rule(schema)), "f")()._matcher
    ids = grammars._tokenizer.encode(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(typing.NamedTuple):
    x: int
    y: str


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (pathlib.Path, '"/tmp/x"', "3"), (pydantic.SecretStr, '"x"', "null"), (bytes, '"x"', "[1]"),
        (pydantic.Base64Bytes, '"eA=="', "3"), (re.Pattern, '"a+"', "3"), (pydantic.IPvAnyAddress, '"::1"', "1"),
        (pydantic.PostgresDsn, '"postgres://x"', "1"), (set[int], "[1, 2]", '["a"]'), (frozenset[str], '["a"]', "[1]"),
        (dict[typing.Literal["a", "b"], int], '{"a": 1}', '{"c": 1}'),
        (dict[Colour, int], '{"red": 1}', '{"green": 1}'), (dict[uuid.UUID, int], '{"x": 1}', '{"x": "y"}'),
        (dict[typing.Annotated[str, pydantic.StringConstraints(min_length=2)], int], '{"ab": 1}', '{"a": 1}'),
        (decimal.Decimal, "1.5", "null"), (typing.Literal["x", 1], "1", "2"), (Colour | None, "null", '"green"'),
        (tuple[int, str], '[1, "a"]', '["a", 1]'), (Point, '[1, "a"]', "[1]"), (pydantic.Json, '"{}"', "{}"),
        (pydantic.AnyUrl, '"https://a.b/c"', "3"), (pydantic.ByteSize, "3", "null"), (complex, '"1+2j"', "1"),
    ],
)  # fmt: skip
def test_pydantics_ordinary_types(grammars: Grammars, kind, good: str, bad: str) -> None:
    schema = pydantic.TypeAdapter(kind).json_schema()
    assert allows(grammars, schema, good) and not allows(grammars, schema, bad)


def test_known_formats_are_enforced_and_others_are_not(grammars: Grammars, capfd: pytest.CaptureFixture[str]) -> None:
    notes._said.clear()
    samples = {
        "date": "2025-03-05",
        "uuid": "123e4567-e89b-12d3-a456-426614174000",
        "ipv4": "1.2.3.4",
        "email": "a@b.cc",
    }
    for form in FORMATS - {"unknown"}:
        assert not allows(grammars, {"type": "string", "format": form}, '"\\n"'), form
    for form, sample in samples.items():
        assert allows(grammars, {"type": "string", "format": form}, json.dumps(sample))
    for form in ("path", "int64", "uri-reference", "json-pointer", "byte", "wibble"):
        assert allows(grammars, {"type": "string", "format": form}, '"anything"')
    assert allows(
        grammars, {"$ref": "#/definitions/p", "definitions": {"p": {"type": "string", "format": "path"}}}, '"x"'
    )
    assert "format 'path' is not enforced" in capfd.readouterr().err


def test_properties_that_are_called_like_keywords_stay(grammars: Grammars) -> None:
    schema = {
        "type": "object",
        "properties": {
            "format": {"type": "integer"},
            "uniqueItems": {"type": "boolean"},
            "propertyNames": {"enum": [1]},
        },
        "additionalProperties": False,
    }
    assert fitted(schema) == schema
    assert fitted({"const": {"format": "x", "uniqueItems": True}}) == {"const": {"format": "x", "uniqueItems": True}}
    assert fitted({"enum": [{"format": "x"}]}) == {"enum": [{"format": "x"}]}


def test_names_of_properties(grammars: Grammars) -> None:
    numbers = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert allows(grammars, numbers | {"propertyNames": {"pattern": "^[a-c]+$"}}, '{"ab": 1}')
    assert not allows(grammars, numbers | {"propertyNames": {"pattern": "^[a-c]+$"}}, '{"xy": 1}')
    own = numbers | {"properties": {"a": {"type": "string"}, "z": {}}, "propertyNames": {"enum": ["a", "b"]}}
    assert fitted(own) == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
        "additionalProperties": False,
    }
    with pytest.raises(UsageError, match="propertyNames"):
        grammars.compile(answer_grammar(json_rule(numbers | {"propertyNames": {"not": {"const": "a"}}})), "f")


AHEAD = "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"


def test_a_branch_that_looks_ahead_is_left_out_where_another_remains(grammars: Grammars) -> None:
    either = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": AHEAD}]}
    assert fitted(either) == {"anyOf": [{"type": "number"}]} and allows(grammars, either, "1.5")
    for none_left in (
        {"type": "string", "pattern": AHEAD},
        {"anyOf": [{"type": "null"}, {"type": "string", "pattern": AHEAD}]},
    ):
        with pytest.raises(UsageError, match="looks ahead or behind"):
            fitted(none_left)
    plain = {"type": "string", "pattern": r"^\(?=[(?!)]$"}  # the signs alone, escaped and in a class
    assert fitted(plain) == plain


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"if": {}, "then": {}},
        {"contains": {}},
        {"dependentRequired": {"a": ["b"]}},
        {"$ref": "http://x/y"},
        {"$ref": "#/nowhere"},
    ],
)
def test_what_is_asserted_and_cannot_be_enforced_is_refused(grammars: Grammars, schema: dict) -> None:
    with pytest.raises(UsageError, match="cannot be enforced"):
        grammars.compile(answer_grammar(json_rule({"type": "object", "properties": {"p": schema}})), "f")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda: json_rule({"type": "string", "pattern": "("}), ["'('", "unclosed group"]),
        (
            lambda: json_rule({"type": "string", "pattern": "(a)\\1"}),
            ["backreferences are not supported", "at '\\\\1'"],
        ),
        (lambda: regex_rule("ab(?=c)"), ["look-ahead", "'(?='", "'ab(?=c)'"]),
        (lambda: regex_rule("[z-a]"), ["'z-a'", "the start must be <= the end"]),
        (lambda: grammar_rule("start: nowhere"), ["nowhere", "in `start: nowhere`"]),
    ],
)
def test_what_is_wrong_with_an_expression_is_said(grammars: Grammars, rule, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        grammars.compile(answer_grammar(rule()), "f")
    assert (
        all(w in str(error.value) for w in words) and "\n" not in str(error.value) and "LEAD" not in str(error.value)
    ), error.value
