"""BFCL's verdict on tool calls: the names, types and values of calls against the possible answers,
for Python, Java and JavaScript.

Source: the AST checker of the Berkeley Function Calling Leaderboard (Patil et al. 2023; gorilla's
bfcl-eval), whose rules these are: every required parameter is there and none that is unknown; a
value has its declared type, or that of the possible answers (the name of a variable); an integer
passes for a float in Python; strings are compared without case, blanks and `,./-_*^`; an optional
parameter may be left out where the possible answers hold ""; parallel calls match in any order.
Java and JavaScript arguments are literals in that language's spelling; arguments that are not
strings are taken as already read. Multi-turn is judged by `verify.bfcl_multi_turn`; memory and web
search are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.errors import DataError
from qwq.types import Outcome, Verdict

VERIFIER = "tools"
PYTHON = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
JAVA = {
    "byte": int, "short": int, "integer": int, "long": int, "float": float, "double": float, "boolean": bool,
    "char": str, "String": str, "any": str, "Array": list, "ArrayList": list, "Queue": list, "Stack": list, "Set": list,
    "HashMap": dict, "Hashtable": dict,
}  # fmt: skip
JAVASCRIPT = {
    "String": str,
    "integer": int,
    "float": float,
    "Bigint": int,
    "Boolean": bool,
    "dict": dict,
    "array": list,
    "any": str,
}
NUMBERS = {
    "byte": r"-?\d+", "short": r"-?\d+", "integer": r"-?\d+", "long": r"-?\d+[lL]",
    "float": r"-?\d+\.?\d*([eE][+-]?\d+)?[fF]", "double": r"-?\d+\.?\d*([eE][+-]?\d+)?",
}  # fmt: skip
JS_NUMBERS = {"integer": r"-?\d+", "float": r"-?\d+\.?\d*([eE][+-]?\d+)?", "Bigint": r"-?\d+n"}
Call = Mapping[str, Mapping[str, Any]]


class _Wrong(Exception):
    """Why a call is not one of the possible answers; the text begins with the kind of fault."""


def verify(
    category: str, functions: Sequence[Mapping[str, Any]], ground_truth: Sequence[Call], calls: Sequence[Call]
) -> Verdict:
    """Correct or wrong, with the rule that was broken. `calls` as BFCL writes them, `[{"name":
    {"parameter": value}}]`.

    Irrelevance categories are right without any call, relevance with at least one. DataError where
    the truth or a function's description cannot be used.
    """
    try:
        _check(category, functions, ground_truth, calls)
    except _Wrong as fault:
        return Verdict(Outcome.WRONG, str(fault), VERIFIER)
    return Verdict(Outcome.CORRECT, "the calls are among the possible answers", VERIFIER)


def _check(category: str, functions: Sequence[Mapping[str, Any]], truth: Sequence[Call], calls: Sequence[Call]) -> None:
    malformed = not isinstance(calls, list) or not all(
        isinstance(c, dict) and len(c) == 1 and isinstance(next(iter(c.values())), dict) for c in calls
    )
    if "irrelevance" in category:
        if not malformed and calls:
            raise _Wrong(f"irrelevance: no function fits, and {len(calls)} were called")
        return
    if malformed:
        raise _Wrong("format: the calls are not a list of {name: {parameter: value}}")
    if "relevance" in category:
        if not calls:
            raise _Wrong("relevance: a function fits, and none was called")
        return
    language = "java" if category.endswith("java") else "javascript" if "javascript" in category else "python"
    if not truth:
        raise DataError(f"category {category} needs ground_truth")
    if "parallel" in category:
        _parallel(functions, truth, calls, language)
        return
    if len(calls) != 1 or ("multiple" not in category and len(truth) != 1):
        raise _Wrong(f"count: {len(calls)} calls where 1 is asked for")
    described = _described(functions, next(iter(truth[0]))) if "multiple" in category else functions[0]
    _one(described, truth[0], calls[0], language)


def _described(functions: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    for function in functions:
        if function["name"] == name:
            return function
    raise DataError(
        f"ground_truth calls {name}, which is not among the functions: {', '.join(f['name'] for f in functions)}"
    )


def _parallel(
    functions: Sequence[Mapping[str, Any]], truth: Sequence[Call], calls: Sequence[Call], language: str
) -> None:
    if len(calls) != len(truth):
        raise _Wrong(f"count: {len(calls)} calls where {len(truth)} are asked for")
    free = list(range(len(calls)))
    for expected in truth:
        faults = []
        for i in free:
            try:
                _one(_described(functions, next(iter(expected))), expected, calls[i], language)
            except _Wrong as fault:
                faults.append(str(fault))
                continue
            free.remove(i)
            break
        else:
            raise _Wrong(f"match: no call is {next(iter(expected))} as asked for ({'; '.join(faults[:3])})")


def _one(function: Mapping[str, Any], expected: Call, call: Call, language: str) -> None:
    """One call against one possible answer."""
    answers = next(iter(expected.values()))
    name, given = next(iter(call.items()))
    # Some APIs forbid dots in names, so an underscore stands for one.
    if function["name"] != name and function["name"].replace(".", "_") != name:
        raise _Wrong(f"name: {name} was called, {function['name']} is right")
    schema = function["parameters"]
    properties = schema["properties"]
    for required in schema.get("required", ()):
        if required not in given:
            raise _Wrong(f"missing: required parameter {required} of {name}")
    for parameter, value in given.items():
        if parameter not in properties or parameter not in answers:
            raise _Wrong(f"unexpected: {name} has no parameter {parameter}")
        _value(f"{name}.{parameter}", value, properties[parameter], answers[parameter], language)
    for parameter, possible in answers.items():
        if parameter not in given and "" not in possible:
            raise _Wrong(f"missing: parameter {parameter} of {name}")


def _value(where: str, value: Any, schema: Mapping[str, Any], possible: Sequence[Any], language: str) -> None:
    """_Wrong where a value is none of the possible ones."""
    types = {"python": PYTHON, "java": JAVA, "javascript": JAVASCRIPT}[language]
    declared = schema["type"]
    if declared not in types:
        raise DataError(f"{where}: type {declared!r} is not one of {language}'s: {', '.join(types)}")
    expected: type = types[declared]
    inner = (schema.get("items") or {}).get("type")
    nested = types.get(inner, str) if expected is list and inner not in (None, "any") else None
    value = _as_declared(value, declared, inner, expected, language)
    if value == [] == list(possible):  # a few answers of the set mean the empty list so
        return
    variable = _typed(where, value, possible, declared, expected, nested)
    if not variable and expected in (dict, list, str):
        _one_of(where, value, possible, expected, nested)
    elif value not in possible:
        raise _Wrong(f"value: {where} is {value!r}, possible are {possible}")


def _as_declared(value: Any, declared: str, inner: str | None, expected: type, language: str) -> Any:
    """The value as its language means it: literals read, tuples as lists, whole numbers as
    floats.
    """
    if language != "python" and isinstance(value, str):
        value = _java(value, declared, inner) if language == "java" else _javascript(value, declared, inner)
    if isinstance(value, tuple):
        value = list(value)
    if type(value) is int and declared == "float" and (language == "python" or expected is float):
        value = float(value)
    return value


def _one_of(where: str, value: Any, possible: Sequence[Any], expected: type, nested: type | None) -> None:
    """_Wrong where a dictionary, list or text is none of the possible ones, compared without case
    and some signs.
    """
    if expected is dict or (expected is list and nested is dict):
        same = _same_dict if expected is dict else _same_dicts
        _in(where, value, [p for p in possible if p != ""], same)
    else:
        _in(where, value, [p for p in possible if isinstance(p, expected)], lambda a, b: _plain(a) == _plain(b))


def _typed(where: str, value: Any, possible: Sequence[Any], declared: str, expected: type, nested: type | None) -> bool:
    """Whether the value is a variable's name in the possible answers (so of their type); _Wrong
    where its type fits neither.
    """
    answer_type = next((type(p) for p in possible if p != ""), None)
    variable = (
        answer_type is not None and answer_type is not expected and not (expected is float and answer_type is int)
    )
    if type(value) is expected:
        if nested is None or _nested(value, possible, nested):
            return variable
        raise _Wrong(f"type: {where} holds elements that are not {nested.__name__}")
    if answer_type is not None and type(value) is answer_type:
        return True
    raise _Wrong(f"type: {where} is {type(value).__name__}, {declared} is declared")


def _nested(value: Any, possible: Sequence[Any], nested: type) -> bool:
    for answer in possible:
        if not isinstance(answer, list):
            continue
        answer_type = next((type(a) for a in answer if a != ""), None)
        if all(type(v) is nested or (answer_type is not None and type(v) is answer_type) for v in value):
            return True
    return False


def _in(where: str, value: Any, possible: Sequence[Any], same: Any) -> None:
    if not any(same(value, p) for p in possible):
        raise _Wrong(f"value: {where} is {value!r}, possible are {list(possible)}")


def _plain(value: Any) -> Any:
    """Strings as they are compared: without case, blanks and some signs; in lists too."""
    if isinstance(value, str):
        return re.sub(r"[ \,\.\/\-\_\*\^]", "", value).lower().replace("'", '"')
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _same_dict(value: Any, possible: Any) -> bool:
    """A dict against one whose values are lists of possible values."""
    if not isinstance(value, dict) or not isinstance(possible, dict):
        return False
    for key, found in value.items():
        if key not in possible or _plain(found) not in [_plain(p) for p in _options(possible[key])]:
            return False
    return all(key in value or "" in _options(allowed) for key, allowed in possible.items())


def _options(allowed: Any) -> list[Any]:
    """A few answers of the set give one value where a list of possible ones is meant."""
    return allowed if isinstance(allowed, list) else [allowed]


def _same_dicts(value: Any, possible: Any) -> bool:
    return (
        isinstance(possible, list)
        and len(value) == len(possible)
        and all(_same_dict(v, p) for v, p in zip(value, possible, strict=True))
    )


# -- literals of Java and JavaScript; what is none stays the text it is ----------------------------


def _java(text: str, declared: str, inner: str | None) -> Any:
    if declared in NUMBERS:
        if not re.fullmatch(NUMBERS[declared], text):
            return text
        number = text.rstrip("lLfF") if declared in ("long", "float") else text
        return float(number) if declared in ("float", "double") else int(number)
    if declared == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if JAVA[declared] is list:
        return _java_list(text, inner)
    if JAVA[declared] is dict:
        return _java_map(text)
    return text


def _java_list(text: str, inner: str | None) -> Any:
    """`new String[]{"a", "b"}`, `Arrays.asList(1, 2)`, `new ArrayList<>(Arrays.asList(...))`,
    `List.of(...)`.
    """
    code = text.strip()
    array = re.fullmatch(r"(?:new\s++\w++(?:<[^>]*+>)?\s*+\[\s*+\d*+\s*+\]\s*+)?\{(.*)\}", code, re.DOTALL)
    called = re.search(r"(?:Arrays\.asList|List\.of|Set\.of)\(", code)
    if re.fullmatch(r"new\s++\w++(?:<[^>]*+>)?\(\)", code):
        return []
    if array:
        inside = array[1]
    elif called and code.endswith(")"):
        inside = code[called.end() :].rstrip(")")
    else:
        return text
    return [_java_item(part, inner) for part in split_top(inside)]


def _java_item(part: str, inner: str | None) -> Any:
    part = part.strip()
    if len(part) > 1 and part[0] == part[-1] and part[0] in "\"'":
        return part[1:-1]
    return _java(part, inner, None) if inner in NUMBERS or inner == "boolean" else _literal(part)


# A value may not hold another `put(`: so that each start is read once.
_JAVA_PUT = re.compile(r"put\(\s*+(\"[^\"]*+\"|'[^']*+'|[^,()]++)\s*+,\s*+((?:(?!put\()[^\n])+?)\)\s*+;")


def _java_map(text: str) -> Any:
    """`new HashMap<String, String>() {{ put("a", "b"); put("c", "d"); }}`."""
    if not re.match(r"\s*new\s+\w+", text):
        return text
    return {_literal(k.strip()): _literal(v.strip()) for k, v in _JAVA_PUT.findall(text)}


def _javascript(text: str, declared: str, inner: str | None) -> Any:
    if declared in JS_NUMBERS:
        if not re.fullmatch(JS_NUMBERS[declared], text):
            return text
        return (
            int(text.rstrip("n"))
            if declared != "float"
            else float(text)
            if "." in text or "e" in text.lower()
            else int(text)
        )
    if declared == "Boolean":
        return {"true": True, "false": False}.get(text, text)
    if JAVASCRIPT[declared] in (list, dict):
        value = _literal(text)
        return value if isinstance(value, JAVASCRIPT[declared]) else text
    return text


def _literal(text: str) -> Any:
    """JSON, or a JavaScript literal with bare keys and single quotes; the text itself where it is
    neither.
    """
    quoted = re.sub(r"'((?:[^'\\\\]|\\\\.)*)'", lambda m: json.dumps(m[1]), text)
    for candidate in (text, quoted, re.sub(r"([{,]\s*)([A-Za-z_$][\w$]*)\s*:", r'\1"\2":', quoted)):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return text


def split_top(text: str, *, closed: bool = False) -> list[str]:
    """Parts at commas outside quotes and brackets, without blank ones.

    ValueError where brackets or quotes must close and do not.
    """
    parts, depth, quote, start, i = [], 0, "", 0, 0
    while i < len(text):
        c = text[i]
        if quote:
            i += c == "\\"
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    if closed and (depth or quote):
        raise ValueError("brackets or quotes that do not close")
    return [p for p in [*parts, text[start:]] if p.strip()]
