"""Function calls written as text, read into BFCL's shape `[{"name": {"parameter": value}}]`; and
tools for models that call natively.

In BFCL's prompt mode a model writes `[f(a=1), g(b="x")]`. Python's values are read as literals,
never run; Java's and JavaScript's stay the text they are, which the checker reads by the declared
type. Facts of the format: gorilla's bfcl-eval (Apache-2.0).
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.source import parse_python
from qwq.verify.tools.bfcl import split_top

Calls = list[dict[str, dict[str, Any]]]

# BFCL's own wording (bfcl_eval/constants/default_prompts.py, Apache-2.0): it is part of what is
# measured.
SYSTEM_PROMPT = """You are an expert in composing functions. You are given a question and a set of possible functions. Based on the question, you will need to make one or more function/tool calls to achieve the purpose.
If none of the functions can be used, point it out. If the given question lacks the parameters required by the function, also point it out.
You should only return the function calls in your response.

If you decide to invoke any of the function(s), you MUST put it in the format of [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]
You SHOULD NOT include any other text in the response.

At each turn, you should try your best to complete the tasks requested by the user within the current turn. Continue to output functions to call until you have fulfilled the user's request to the best of your ability. Once you have no more functions to call, the system will consider the current turn complete and proceed to the next turn or task.

Here is a list of functions in JSON format that you can invoke.
{functions}
"""
SYNTAX = {
    "python": " Note that the provided function is in Python 3 syntax.",
    "java": " Note that the provided function is in Java 8 SDK syntax.",
    "javascript": " Note that the provided function is in JavaScript syntax.",
}
JSON_TYPES = {
    "integer": "integer", "number": "number", "float": "number", "double": "number", "long": "integer",
    "short": "integer", "byte": "integer", "Bigint": "integer", "boolean": "boolean", "Boolean": "boolean",
    "bool": "boolean", "array": "array", "list": "array", "tuple": "array", "Array": "array", "ArrayList": "array",
    "Queue": "array", "Stack": "array", "Set": "array", "dict": "object", "object": "object", "HashMap": "object",
    "Hashtable": "object", "string": "string", "String": "string", "char": "string", "any": "string",
}  # fmt: skip


class NotCalls(ValueError):
    """A text that is no list of calls."""


def described(functions: Sequence[Mapping[str, Any]], language: str) -> list[dict[str, Any]]:
    """The functions as a model is shown them: the language named, Java's and JavaScript's arguments
    asked for as text.
    """
    out = copy.deepcopy([dict(f) for f in functions])
    for function in out:
        function["description"] = str(function.get("description", "")) + SYNTAX[language]
        if language == "python":
            continue
        name = {"java": "Java", "javascript": "JavaScript"}[language]
        for schema in function["parameters"]["properties"].values():
            kind, inner = schema["type"], (schema.pop("items", None) or {}).get("type")
            schema["description"] = (
                f"{schema.get('description', '')} This is {name} {kind} type parameter in string representation."
            )
            if inner:
                schema["description"] += (
                    f" The list elements are of type {inner}; they are not in string representation."
                )
            schema["type"] = "string"
    return out


def system_prompt(functions: Sequence[Mapping[str, Any]], language: str) -> str:
    return SYSTEM_PROMPT.format(functions=json.dumps(described(functions, language), indent=4, ensure_ascii=False))


def tools(functions: Sequence[Mapping[str, Any]], language: str) -> list[dict[str, Any]]:
    """The functions as OpenAI's API takes them;

    APIs forbid dots in names, so an underscore stands for one.
    """
    return [
        {
            "type": "function",
            "function": {**f, "name": f["name"].replace(".", "_"), "parameters": _json_schema(f["parameters"])},
        }
        for f in described(functions, language)
    ]


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(schema)
    if isinstance(out.get("type"), str):
        if out["type"] == "float":
            out["format"] = "float"
        out["type"] = JSON_TYPES.get(out["type"], "string")
    if isinstance(out.get("properties"), Mapping):
        out["properties"] = {k: _json_schema(v) if isinstance(v, Mapping) else v for k, v in out["properties"].items()}
    if isinstance(out.get("items"), Mapping):
        out["items"] = _json_schema(out["items"])
    return out


# -- from text -------------------------------------------------------------------------------------


def read_calls(text: str, language: str = "python") -> Calls:
    """The calls of an answer in prompt mode. NotCalls where it is anything else."""
    text = text.strip("`\n ")
    text = text if text.startswith("[") else f"[{text}"
    text = text if text.endswith("]") else f"{text}]"
    return _python_calls(text) if language == "python" else _foreign_calls(text[1:-1])


def _python_calls(text: str) -> Calls:
    try:
        body = parse_python(text.strip("'"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotCalls("not a list of calls") from None
    elements = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
    try:
        return [_call(e) for e in elements]
    except RecursionError:
        raise NotCalls("nested too deeply") from None


def _call(node: ast.expr) -> dict[str, dict[str, Any]]:
    if not isinstance(node, ast.Call):
        raise NotCalls(f"{ast.unparse(node)[:60]} is no call")
    name = ast.unparse(node.func)
    if not re.fullmatch(r"[\w.]+", name):
        raise NotCalls(f"{name[:60]} is no function's name")
    # BFCL drops positional arguments; the checker then finds a required one missing.
    return {name: {k.arg: _value(k.value) for k in node.keywords if k.arg is not None}}


def _value(node: ast.expr) -> Any:
    """A literal's value; a name, call or other expression is the text it is."""
    if isinstance(node, ast.Constant):
        return "..." if node.value is Ellipsis else node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, int | float) and not isinstance(value, bool) else ast.unparse(node)
    if isinstance(node, ast.List):
        return [_value(e) for e in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(e) for e in node.elts)
    if isinstance(node, ast.Dict):
        return _dictionary(node)
    if isinstance(node, ast.BinOp):
        return _arithmetic(node)
    if isinstance(node, ast.Call) and node.keywords:
        return _call(node)
    return ast.unparse(node)


def _dictionary(node: ast.Dict) -> dict[Any, Any]:
    if any(k is None for k in node.keys):
        raise NotCalls("a dict with ** in it")
    try:
        return {_value(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    except TypeError:
        raise NotCalls("a dict whose key is a list or a dict") from None


def _arithmetic(node: ast.expr) -> Any:
    """A sum, product or quotient of numbers, or the text."""
    if isinstance(node, ast.BinOp):
        a, b = _arithmetic(node.left), _arithmetic(node.right)
        if type(a) in (int, float) and type(b) in (int, float):
            if isinstance(node.op, ast.Add):
                return a + b
            if isinstance(node.op, ast.Sub):
                return a - b
            if isinstance(node.op, ast.Mult):
                return a * b
            if isinstance(node.op, ast.Div) and b:
                return a / b
            if isinstance(node.op, ast.Pow) and abs(a) <= 1e6 and 0 <= b <= 32:
                return a**b
        return ast.unparse(node)
    return _value(node)


def _foreign_calls(text: str) -> Calls:
    """`f(a=..., b=...)` in Java's or JavaScript's spelling: values stay text, quoted strings
    without their quotes.
    """
    calls: Calls = []
    for part in _parts(text):
        match = re.fullmatch(r"([\w.$]+)\s*\((.*)\)", part.strip(), re.DOTALL)
        if match is None:
            raise NotCalls(f"{part.strip()[:60]!r} is no call")
        arguments: dict[str, Any] = {}
        for argument in _parts(match[2]):
            key, equals, value = argument.partition("=")
            if not equals or not re.fullmatch(r"[\w$]+", key.strip()):
                raise NotCalls(f"{argument.strip()[:60]!r} is no name=value")
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            arguments[key.strip()] = value[1:-1] if quoted else value
        calls.append({match[1]: arguments})
    return calls


def _parts(text: str) -> list[str]:
    try:
        return split_top(text, closed=True)
    except ValueError as error:
        raise NotCalls(str(error)) from None
