"""LiveCodeBench's tests, read without pickle, and what it compares differently.

A row of the data set has `public_test_cases` (JSON text), `private_test_cases` (JSON text, or
base64 of zlib of a pickle that holds JSON text) and `metadata` (JSON text with `func_name` where
functions are tested). SandboxFusion's rows have one `test`: base64 of zlib of a pickle of
{"input_output": JSON text}. Facts of the format and of the comparison: LiveCodeBench/LiveCodeBench,
lcb_runner/benchmarks/code_generation.py and evaluation/testing_util.py (MIT).

The pickles are never unpickled: `read_plain_pickle` walks their opcodes and knows strings, lists
and dicts, nothing else.

Departures from LiveCodeBench's runner:
1. Each stdin case is a process of its own, so no state passes from one to the next, and a program
   must end with status 0.
2. Function cases share one time limit.
3. Numbers of a line are compared as decimals only if both lines have the same number of words, and
   none is NaN.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import pickletools
import zlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from qwq.errors import DataError
from qwq.verify.code import values

KIND = "livecodebench"
MAX_BYTES = 1 << 30
_ROW_KEYS = {"public_test_cases", "private_test_cases", "metadata"}

# What its runner imports before a program, in its order: LeetCode's solutions use these names
# without an import.
_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
).split()
PRELUDE = "\n".join(
    [f"from {name} import *" for name in (*_MODULES, "builtins", "typing")]
    + [f"import {name}" for name in _MODULES]
    + ["sys.setrecursionlimit(50000)"]
)


def read_plain_pickle(data: bytes) -> Any:
    """The strings, lists and dicts of a pickle.

    Raises DataError at the first opcode that makes anything else.
    """
    machine = _PlainPickle()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if machine.step(opcode.name, argument):
                return machine.stack[-1]
    except (ValueError, IndexError, KeyError, TypeError, UnicodeError) as error:
        raise DataError(f"not a pickle of strings, lists and dicts: {error}") from error
    raise DataError("a pickle without an end")


class _PlainPickle:
    """The few opcodes that build strings, lists and dicts."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> bool:
        """Obey one opcode; True at the end of the pickle."""
        if name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"):
            self.stack.append(argument)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            self.stack.append([] if name == "EMPTY_LIST" else {})
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._fill(name)
        elif name == "STOP":
            return True
        elif name not in ("PROTO", "FRAME"):
            raise DataError(f"a pickle with the opcode {name}: only strings, lists and dicts are read")
        return False

    def _fill(self, name: str) -> None:
        start = self.marks.pop() if name.endswith("S") else len(self.stack) - (1 if name == "APPEND" else 2)
        parts = self.stack[start:]
        del self.stack[start:]
        target = self.stack[-1]
        if name.startswith("APPEND") and type(target) is list:
            target.extend(parts)
        elif name.startswith("SETITEM") and type(target) is dict and all(type(key) is str for key in parts[::2]):
            target.update(zip(parts[::2], parts[1::2], strict=True))
        else:
            raise DataError("a pickle that fills something other than a list or a dict of strings")


def _unpack(text: str) -> Any:
    """The content of base64 of zlib of a pickle."""
    try:
        machine = zlib.decompressobj()
        data = machine.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise DataError(f"tests that are not base64 of zlib: {error}") from error
    if not machine.eof:
        raise DataError(f"tests that are cut off, or larger than {MAX_BYTES} bytes")
    return read_plain_pickle(data)


def _json(what: str, text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{what} is not JSON: {str(error)[:100]}") from error


def _cases_of(what: str, text: str) -> list[tuple[str, str]]:
    try:
        cases = json.loads(text)
    except ValueError:
        cases = _json(what, _unpack(text))
    pairs = [(c.get("input"), c.get("output")) for c in cases if isinstance(c, dict)] if isinstance(cases, list) else []
    texts = [(i, o) for i, o in pairs if type(i) is str and type(o) is str]
    if len(texts) != len(cases):
        raise DataError(f"{what} is not a list of objects with input and output as text")
    return texts


def _form(pairs: list[tuple[str, str]], function: str | None) -> dict[str, Any]:
    """The tests in the form of `verify.code`. A function's arguments are one JSON value a line."""
    if not function:
        cases: list[dict[str, Any]] = [{"input": given, "output": output} for given, output in pairs]
        return {"kind": "stdio", "compare": KIND, "cases": cases}
    cases = [
        {"args": [_json("an argument", part) for part in given.split("\n")], "expected": _json("an output", output)}
        for given, output in pairs
    ]
    return {"kind": "call", "compare": KIND, "entry_point": function, "cases": cases}


@functools.lru_cache(maxsize=64)
def _from_pack(text: str) -> dict[str, Any]:
    content = _unpack(text)
    if not isinstance(content, dict) or type(content.get("input_output")) is not str:
        raise DataError("tests.test holds no input_output")
    data = _json("input_output", content["input_output"])
    if not isinstance(data, dict) or len(data.get("inputs", ())) != len(data.get("outputs", ())):
        raise DataError("input_output needs as many inputs as outputs")
    pairs = [(str(given), str(output)) for given, output in zip(data["inputs"], data["outputs"], strict=True)]
    return _form(pairs, data.get("fn_name"))


@functools.lru_cache(maxsize=64)
def _from_row(public: str, private: str, metadata: str) -> dict[str, Any]:
    pairs = _cases_of("public_test_cases", public) + _cases_of("private_test_cases", private)
    about = _json("metadata", metadata)
    if not isinstance(about, dict):
        raise DataError("metadata is not a JSON object")
    return _form(pairs, about.get("func_name"))


def expand(tests: Any) -> Any:
    """Tests of kind "livecodebench" in the form of `verify.code`; any other tests as they are.

    {"kind": "livecodebench"} with `public_test_cases`, `private_test_cases` and `metadata`, or with
    `test`, each as the data set has it. Raises DataError for what does not hold tests.
    """
    if not isinstance(tests, Mapping) or tests.get("kind") != KIND:
        return tests
    parts = {name: value for name, value in tests.items() if name != "kind"}
    if not all(type(value) is str for value in parts.values()):
        raise DataError("livecodebench tests hold text only: give the fields of the row as they are")
    if set(parts) == {"test"}:
        return _from_pack(parts["test"])
    if "public_test_cases" in parts and set(parts) <= _ROW_KEYS:
        private, metadata = parts.get("private_test_cases", "[]"), parts.get("metadata", "{}")
        return _from_row(parts["public_test_cases"], private, metadata)
    raise DataError(
        f"livecodebench tests need {', '.join(sorted(_ROW_KEYS))}, or test; there is {', '.join(sorted(parts))}"
    )


def output_difference(got: bytes, expected: str, tolerance: float | None = None) -> str | None:
    """None where LiveCodeBench takes the output for right: both texts are stripped, then compared
    line by line.
    """
    return values.output_difference(got.strip(), expected.strip(), tolerance, line_matches)


def line_matches(got: str, expected: str) -> bool:
    """LiveCodeBench's rule for one line, both ends stripped: equal, or the same exact numbers word
    for word.
    """
    if got.strip() == expected.strip():
        return True
    words, wanted = got.split(), expected.split()
    if len(words) != len(wanted):
        return False
    try:
        return all(Decimal(a) == Decimal(b) for a, b in zip(words, wanted, strict=True))
    except InvalidOperation:
        return False
