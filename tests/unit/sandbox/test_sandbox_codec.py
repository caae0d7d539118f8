"""The tagged JSON between jail and parent: exact both ways, strict inwards."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.sandbox.jail.codec import MAX_DEPTH, CodecError, decode, encode, loads

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = st.recursive(scalars, lambda s: st.tuples(s, s) | st.frozensets(s, max_size=3), max_leaves=8)
values = st.recursive(
    scalars | st.complex_numbers(allow_nan=False),
    lambda s: (
        st.lists(s, max_size=4)
        | st.tuples(s, s)
        | st.dictionaries(hashable, s, max_size=4)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=20,
)


def same(a: object, b: object) -> bool:
    return repr(a) == repr(b) or (a == b and type(a) is type(b))


@settings(max_examples=150, deadline=None)
@given(values)
def test_round_trip(value):
    assert same(decode(loads(json.dumps(encode(value)))), value)


def test_form_by_hand():
    assert encode([1, (2.5, "a")]) == [["l", 2], 1, ["t", 2], 2.5, "a"]
    assert encode({True: {b"\x01"}}) == [["d", 1], True, ["s", 1], ["b", "01"]]
    assert decode([["d", 2], 1, "x", ["t", 0], ["f", "-inf"]]) == {1: "x", (): float("-inf")}


def test_depth_is_bounded_both_ways():
    value: list = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(CodecError, match="deeper"):
        encode([[value]])
    with pytest.raises(CodecError, match="deeper"):
        decode([["l", 1]] * (MAX_DEPTH + 1) + [0])


@pytest.mark.parametrize(
    "nodes",
    [
        [], None, 3, "x", {}, [1, 2], [["l", 2], 1], [["l", -1]], [["l", 10**9]], [["l", True]], [["q", 1]],
        [["i", "zz"]], [["f", "1e400"]], [["s", 1], ["l", 0]], [["d", 1], ["l", 0], 1], [["dt", [1, 2]]],
        [["r", 1, 2, 0]], [["F", "1", "0"]], [["b", "0"]], [{}], [["D", "x"]], [["o", 1]], [[]],
        [["td", [10**12, 0, 0]]], [["c", "x", "1"]],
    ],
)  # fmt: skip
def test_anything_else_is_refused(nodes):
    with pytest.raises(CodecError):
        decode(nodes)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, "{", "\xff", "1" * 5000, ""])
def test_json_is_strict(text):
    with pytest.raises(CodecError):
        loads(text)


def test_colliding_members_are_refused_quickly():
    nodes = [["s", 1000]] + [["i", format((2**61 - 1) * k * 16, "x")] for k in range(1, 1001)]
    with pytest.raises(CodecError, match="same hash"):
        decode(nodes)
