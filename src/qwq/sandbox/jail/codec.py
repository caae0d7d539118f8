"""Values across the jail wall: a flat, tagged JSON that keeps exact Python types.

One value is one JSON array of nodes in prefix order, so a list nested 100,000 deep is a long array
and never a deep one. Plain nodes: null, true, false, a number, a string. Tagged nodes, a small
array each:

    ["l", n] list   ["t", n] tuple   ["s", n] set   ["z", n] frozenset   followed by n values
    ["q", n] deque   ["d", n] dict, ["O", n] OrderedDict, followed by n keys and values in turn
    ["i", hex] int beyond 63 bits    ["f", "nan" | "inf" | "-inf"]    ["c", hex, hex] complex
    ["b", hex] bytes    ["y", hex] bytearray    ["r", start, stop, step] range
    ["D", text] Decimal    ["F", hex, hex] Fraction
    ["dt", [6 ints, microsecond]] datetime   ["da", [3 ints]] date   ["ti", [4 ints]] time   ["td", [3 ints]] timedelta
    ["dz", [7 ints], microseconds of the offset] datetime with a time zone   ["P", "posix" | "windows", text] path
    ["U", hex] UUID   ["a", type code, base64] array.array   ["n", dtype, shape, base64] array of numpy
    ["o", type name] an object without a plain form

`encode` runs beside untrusted code. It reads the exact `type()` and calls unbound methods of the
builtin base class, so a subclass with its own `__eq__`, `__iter__` or `__int__` is sent as the
plain value it is made of. `decode` trusts nothing: it bounds nodes, depth and hash collisions and
raises `CodecError` for anything else.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from math import prod
from typing import Any

MAX_DEPTH = 200
MAX_NODES = 2_000_000
MAX_COLLISIONS = 200
CONTAINERS = {"l": list, "t": tuple, "s": set, "z": frozenset, "d": dict, "O": OrderedDict, "q": deque}
_PAIRED = ("d", "O")
_DTYPE = re.compile(r"[<>|=](b1|[iuf][1248]|f16|c(8|16|32)|[SU]\d{1,6}|[mM]8(\[\d*\w{1,2}\])?)")


class CodecError(ValueError):
    """Bytes or a value that the format does not hold."""


class Opaque:
    """Stands for an object without a plain form; equal to nothing but itself."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str):
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"<object of type {self.type_name}>"


_all = slice(None)
_mro = type.__dict__["__mro__"].__get__
_name = type.__dict__["__name__"].__get__

_items = {
    list: lambda v: list.__getitem__(v, _all),
    tuple: lambda v: tuple.__getitem__(v, _all),
    set: lambda v: list(set.__iter__(v)),
    frozenset: lambda v: list(frozenset.__iter__(v)),
    deque: lambda v: list(deque.__iter__(v)),
    OrderedDict: lambda v: [x for pair in list(OrderedDict.items(v)) for x in pair],
    dict: lambda v: [x for pair in list(dict.items(v)) for x in pair],
}
_container_tag = {kind: tag for tag, kind in CONTAINERS.items()}


def _int_node(v: int) -> object:
    v = int.__int__(v)
    return v if -(1 << 63) <= v < 1 << 63 else ["i", format(v, "x")]


def _float_node(v: float) -> object:
    v = float.__float__(v)
    if v != v:  # noqa: PLR0124 (NaN)
        return ["f", "nan"]
    if v in (float("inf"), float("-inf")):
        return ["f", "inf" if v > 0 else "-inf"]
    return v


def _datetime_node(v: datetime) -> object:
    parts = [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond]
    if v.tzinfo is None:
        return ["dt", parts]
    if type(v.tzinfo) is not timezone and _late_name(type(v.tzinfo)) != "ZoneInfo":
        return ["o", "datetime with a time zone"]
    offset = v.utcoffset()
    assert offset is not None
    return ["dz", parts, offset // timedelta(microseconds=1)]


_scalars: dict[type, Callable[[Any], object]] = {
    type(None): lambda v: None,
    bool: lambda v: v,
    int: _int_node,
    float: _float_node,
    str: lambda v: str.__str__(v),
    bytes: lambda v: ["b", bytes.hex(v)],
    bytearray: lambda v: ["y", bytearray.hex(v)],
    complex: lambda v: ["c", float.hex(complex.real.__get__(v)), float.hex(complex.imag.__get__(v))],
    range: lambda v: ["r", v.start, v.stop, v.step],
}
# Classes of the standard library are sent by exact type only: their methods are Python code or call
# it.
_exact: dict[type, Callable[[Any], object]] = {
    Decimal: lambda v: ["D", str(v)],
    Fraction: lambda v: ["F", format(v.numerator, "x"), format(v.denominator, "x")],
    datetime: _datetime_node,
    date: lambda v: ["da", [v.year, v.month, v.day]],
    time: lambda v: ["ti", [v.hour, v.minute, v.second, v.microsecond]] if v.tzinfo is None else ["o", "time"],
    timedelta: lambda v: ["td", [v.days, v.seconds, v.microseconds]],
    array: lambda v: ["a", v.typecode, base64.b64encode(v.tobytes()).decode()],
}

# The same for modules that few programs import, which then cost the others nothing.
_late: dict[str, Callable[[Any], object]] = {
    "PosixPath": lambda v: ["P", "posix", str(v)],
    "PurePosixPath": lambda v: ["P", "posix", str(v)],
    "PureWindowsPath": lambda v: ["P", "windows", str(v)],
    "UUID": lambda v: ["U", format(v.int, "x")],
    "ZoneInfo": lambda v: ["o", "ZoneInfo"],
}
_LATE_MODULES = ("pathlib", "uuid", "zoneinfo")


def _late_name(exact: type) -> str:
    """The name of a class of the late modules, or ""."""
    name = str.__str__(_name(exact))
    if name in _late and any(getattr(sys.modules.get(module), name, None) is exact for module in _LATE_MODULES):
        return name
    return ""


def _numpy_scalar(v: object, kinds: tuple[type, ...]) -> object | None:
    """The plain value of a numpy scalar, found without importing numpy."""
    for kind in kinds:
        if kind.__module__ == "numpy" and kind.__name__ == "generic":
            return kind.__dict__["item"](v)
    return None


def _numpy_array(v: object, kinds: tuple[type, ...]) -> list[object] | None:
    """The node of an array of numpy whose elements are plain, found without importing numpy."""
    for kind in kinds:
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            dtype = kind.__dict__["dtype"].__get__(v).str
            shape = [int(n) for n in kind.__dict__["shape"].__get__(v)]
            if _DTYPE.fullmatch(dtype) is None:
                return None
            return ["n", dtype, shape, base64.b64encode(kind.__dict__["tobytes"](v)).decode()]
    return None


def encode(value: Any) -> list[object]:
    """Nodes of `value` in prefix order. Raises CodecError beyond MAX_DEPTH or MAX_NODES."""
    nodes: list[object] = []
    stack: list[list[Any]] = [[value]]
    while stack:
        if not stack[-1]:
            stack.pop()
            continue
        v = stack[-1].pop()
        if len(nodes) >= MAX_NODES:
            raise CodecError(f"a value of more than {MAX_NODES} parts")
        exact = type(v)
        if exact in _scalars:
            nodes.append(_scalars[exact](v))
            continue
        if exact is Opaque:
            nodes.append(["o", v.type_name])
            continue
        if exact in _exact:
            nodes.append(_exact[exact](v))
            continue
        kinds = _mro(exact)
        base = next((kind for kind in kinds if kind in _items or kind in _scalars), None)
        if base in _items:
            if len(stack) > MAX_DEPTH:
                raise CodecError(f"a value nested deeper than {MAX_DEPTH}")
            parts = _items[base](v)
            tag = _container_tag[base]
            nodes.append([tag, len(parts) // 2 if tag in _PAIRED else len(parts)])
            parts.reverse() if type(parts) is list else None
            stack.append(parts if type(parts) is list else list(parts)[::-1])
        elif base is not None:
            nodes.append(_scalars[base](v))
        elif late := _late_name(exact):
            nodes.append(_late[late](v))
        else:
            plain = _numpy_scalar(v, kinds)
            if plain is not None and type(plain) in _scalars:
                nodes.append(_scalars[type(plain)](plain))
            else:
                nodes.append(_numpy_array(v, kinds) or ["o", str.__str__(_name(exact))[:100]])
    return nodes


def _check_hashes(items: list[object]) -> None:
    """Refuse keys that were chosen to collide: building the set would take quadratic time."""
    if len(items) <= MAX_COLLISIONS:
        return
    try:
        worst = Counter(map(hash, items)).most_common(1)[0][1]
    except TypeError as error:
        raise CodecError("an unhashable member of a set or dict") from error
    if worst > MAX_COLLISIONS:
        raise CodecError(f"{worst} members with the same hash")


def _build(tag: str, items: list[object]) -> object:
    try:
        if tag == "l":
            return items
        if tag == "t":
            return tuple(items)
        if tag == "q":
            return deque(items)
        members = items[::2] if tag in _PAIRED else items
        _check_hashes(members)
        built = CONTAINERS[tag](zip(members, items[1::2], strict=True) if tag in _PAIRED else items)
    except TypeError as error:
        raise CodecError("an unhashable member of a set or dict") from error
    if len(built) != len(members):
        # Keys whose own __eq__ calls them different: taking the last would let a program give one
        # key several values.
        raise CodecError("a set or dict with equal members")
    return built


def _ints(values: object, count: int) -> list[Any]:
    if type(values) is not list or len(values) != count or any(type(v) is not int for v in values):
        raise CodecError("malformed tagged value")
    return values


def _built_array(dtype: str, shape: list[int], text: str) -> object:
    """An array of numpy; its stand-in where numpy is not installed."""
    try:
        import numpy
    except ImportError:
        return Opaque("ndarray")
    if _DTYPE.fullmatch(dtype) is None or len(shape) > 32 or any(n < 0 for n in shape):
        raise CodecError("malformed array")
    kind, data = numpy.dtype(dtype), base64.b64decode(text, validate=True)
    if prod(shape) * kind.itemsize != len(data):
        raise CodecError("an array of another size than it says")
    if 0 in shape or not kind.itemsize:
        return numpy.empty(shape, kind)
    return numpy.frombuffer(data, kind).reshape(shape).copy()


def _decode_tagged(node: list[object]) -> object:
    """The value of a tagged node that holds no further values."""
    match node:
        case ["i", str(text)]:
            return int(text, 16)
        case ["f", "nan" | "inf" | "-inf" as text]:
            return float(text)
        case ["c", str(real), str(imag)]:
            return complex(float.fromhex(real), float.fromhex(imag))
        case ["b", str(text)]:
            return bytes.fromhex(text)
        case ["y", str(text)]:
            return bytearray.fromhex(text)
        case ["r", int(start), int(stop), int(step)]:
            return range(start, stop, step)
        case ["D", str(text)] if len(text) < 5000:
            return Decimal(text)
        case ["F", str(top), str(bottom)] if len(top) + len(bottom) < 5000:
            return Fraction(int(top, 16), int(bottom, 16))
        case ["P", "posix" | "windows" as kind, str(text)]:
            import pathlib

            return pathlib.PurePosixPath(text) if kind == "posix" else pathlib.PureWindowsPath(text)
        case ["U", str(text)]:
            import uuid

            return uuid.UUID(int=int(text, 16))
        case ["a", str(code), str(text)] if len(code) == 1:
            return array(code, base64.b64decode(text, validate=True))
        case ["n", str(dtype), list(shape), str(text)]:
            return _built_array(dtype, _ints(shape, len(shape)), text)
        case ["o", str(name)]:
            return Opaque(name[:100])
    return _decode_date(node)


def _decode_date(node: list[object]) -> object:
    match node:
        case ["dt", parts]:
            return datetime(*_ints(parts, 7))
        case ["da", parts]:
            return date(*_ints(parts, 3))
        case ["ti", parts]:
            return time(*_ints(parts, 4))
        case ["td", parts]:
            return timedelta(*_ints(parts, 3))
        case ["dz", parts, int(offset)]:
            return datetime(*_ints(parts, 7)).replace(tzinfo=timezone(timedelta(microseconds=offset)))
    raise CodecError("unknown tag")


def _decode_scalar(node: object) -> object:
    if node is None or type(node) in (bool, int, float, str):
        return node
    if type(node) is not list:
        raise CodecError("neither a plain nor a tagged node")
    try:
        return _decode_tagged(node)
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise CodecError("malformed tagged value") from error


def decode(nodes: object) -> Any:
    """The value that `nodes` describe.

    Raises CodecError for anything that `encode` would not write.
    """
    if type(nodes) is not list or not nodes or len(nodes) > MAX_NODES:
        raise CodecError("not an array of nodes, or too long")
    open_: list[tuple[str, int, list[object]]] = []
    for position, node in enumerate(nodes):
        if type(node) is list and len(node) == 2 and type(node[0]) is str and node[0] in CONTAINERS:
            tag, count = node
            if type(count) is not int or not 0 <= count <= len(nodes):
                raise CodecError("a container with an impossible length")
            if len(open_) >= MAX_DEPTH:
                raise CodecError(f"a value nested deeper than {MAX_DEPTH}")
            open_.append((tag, count * 2 if tag in _PAIRED else count, []))
        else:
            value = _decode_scalar(node)
            if not open_:
                if position != len(nodes) - 1:
                    raise CodecError("nodes after the end of the value")
                return value
            open_[-1][2].append(value)
        while open_ and len(open_[-1][2]) == open_[-1][1]:
            tag, _, items = open_.pop()
            value = _build(tag, items)
            if not open_:
                if position != len(nodes) - 1:
                    raise CodecError("nodes after the end of the value")
                return value
            open_[-1][2].append(value)
    raise CodecError("a value that does not end")


def to_bytes(text: str) -> bytes:
    """UTF-8; bytes that were not UTF-8 come back as they were, and other halves of surrogate pairs
    as three bytes each.
    """
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="surrogatepass")


def text_to_base64(text: str) -> str:
    """Program text for a file of the working folder."""
    return base64.b64encode(to_bytes(text)).decode()


def _refuse(name: str) -> object:
    raise CodecError(f"{name} outside its tag")


def loads(line: bytes | str) -> Any:
    """JSON, strictly: no NaN literals, no nesting beyond the format's, one CodecError for every
    fault.
    """
    try:
        return json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CodecError("not JSON") from error
