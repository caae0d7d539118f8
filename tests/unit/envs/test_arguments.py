"""Arguments of calls against JSON Schemas: what fits, and what is said of the first fault."""

from __future__ import annotations

import pytest

from qwq.envs.arguments import fault_in

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "lines": {"type": "integer", "minimum": 1, "maximum": 10},
        "mode": {"enum": ["r", "w"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "size": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "where": {"$ref": "#/$defs/Where"},
        "either": {"type": ["string", "integer"]},
    },
    "required": ["path"],
    "additionalProperties": False,
    "$defs": {"Where": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "a"},
        {"path": "a", "lines": 10, "mode": "w", "tags": ["x"], "size": None, "where": {"x": 1}, "either": 3},
        {"path": "", "size": 1.5, "either": "s", "tags": []},
    ],
)
def test_what_fits(arguments):
    assert fault_in(arguments, SCHEMA) is None


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({}, "arguments lack 'path'"),
        ({"path": 3}, "path is 3, it must be string"),
        ({"path": None}, "path is None, it must be string"),
        ({"path": "a", "lines": "3"}, "lines is '3', it must be integer"),
        ({"path": "a", "lines": True}, "lines is True, it must be integer"),
        ({"path": "a", "lines": 2.0}, "lines is 2.0, it must be integer"),
        ({"path": "a", "lines": 0}, "lines is 0, it must be at least 1"),
        ({"path": "a", "lines": 11}, "lines is 11, it must be at most 10"),
        ({"path": "a", "mode": "x"}, "mode is 'x', it must be one of 'r', 'w'"),
        ({"path": "a", "tags": "x"}, "tags is 'x', it must be array"),
        ({"path": "a", "tags": ["x", 1]}, "tags[1] is 1, it must be string"),
        ({"path": "a", "size": "1"}, "size is '1', it must be number; or size is '1', it must be null"),
        ({"path": "a", "where": {}}, "where lacks 'x'"),
        ({"path": "a", "where": {"x": "1"}}, "where.x is '1', it must be number"),
        ({"path": "a", "where": {"x": 1, "y": 1}}, "no argument 'y': did you mean 'x'?"),
        ({"path": "a", "either": 1.5}, "either is 1.5, it must be string or integer"),
        ({"path": "a", "pat": 1}, "no argument 'pat': did you mean 'path'?"),
        (["a"], "arguments is ['a'], it must be object"),
    ],
)
def test_what_is_wrong(arguments, fault):
    said = fault_in(arguments, SCHEMA)
    assert said is not None and said.startswith(fault.removesuffix("did you mean 'x'?"))


def test_schemas_of_other_people_may_allow_more():
    assert fault_in({"a": 1}, {"type": "object"}) is None
    assert fault_in({"a": 1}, {"type": "object", "properties": {}, "additionalProperties": True}) is None
    assert fault_in({"a": 1}, {"properties": {}, "additionalProperties": {"type": "string"}}) is not None
    assert fault_in({"a": 1}, {"properties": {"a": {"$ref": "#/$defs/Gone"}}}) is None
    assert fault_in({"a": 1}, {"properties": {"a": {"type": "of tomorrow"}}}) is None
