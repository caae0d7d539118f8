"""The part of Go's text/template that an Ollama template uses, for tests: text, if, range,
variables, comparisons, slices. Checked once against Go's own engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|,|:=|=|[^\s(),]+')


class Json(dict):
    """A value that writes itself as JSON, as Ollama's tools and arguments do."""


def render(source: str, data: Mapping[str, Any]) -> str:
    pieces = ACTION.split(source)
    tokens = [("text" if n % 2 == 0 else "action", piece.strip() if n % 2 else piece) for n, piece in enumerate(pieces)]
    nodes, rest = _parse(tokens, 0)
    assert rest == len(tokens), f"more ends than beginnings at {tokens[rest]}"
    out: list[str] = []
    _run(nodes, {"$": data}, data, out)
    return "".join(out)


def _parse(tokens, at):
    nodes = []
    while at < len(tokens):
        kind, text = tokens[at]
        word = text.split(" ", 1)[0] if kind == "action" else ""
        if word in ("end", "else"):
            return nodes, at
        if word in ("if", "range"):
            node, at = _parse_block(tokens, at, word)
            nodes.append(node)
        else:
            nodes.append((kind, text))
        at += 1
    return nodes, at


def _parse_block(tokens, at, word):
    head = tokens[at][1][len(word) :].strip()
    body, at = _parse(tokens, at + 1)
    other = []
    text = tokens[at][1]
    if text.startswith("else if"):
        inner = [("action", text[len("else ") :]), *tokens[at + 1 :]]
        node, used = _parse_block(inner, 0, "if")
        return (word, head, body, [node]), at + used
    if text == "else":
        other, at = _parse(tokens, at + 1)
    assert tokens[at][1] == "end", tokens[at]
    return (word, head, body, other), at


def _run(nodes, scope, dot, out):
    for node in nodes:
        kind = node[0]
        if kind == "text":
            out.append(node[1])
        elif kind == "action":
            _act(node[1], scope, dot, out)
        elif kind == "if":
            _run(node[2] if _value(node[1], scope, dot) else node[3], dict_view(scope), dot, out)
        else:
            _loop(node, scope, dot, out)


class dict_view(dict):
    """A scope inside another: `=` reaches the variable where it was declared."""

    def __init__(self, parent):
        super().__init__(parent)
        self.parent = parent

    def assign(self, name, value):
        self[name] = value
        if isinstance(self.parent, dict_view):
            self.parent.assign(name, value) if name in self.parent else None
        elif name in self.parent:
            self.parent[name] = value


def _act(text, scope, dot, out):
    if match := re.fullmatch(r"(\$\w+) (:?=) (.*)", text):
        value = _value(match[3], scope, dot)
        if match[2] == ":=" or not isinstance(scope, dict_view):
            scope[match[1]] = value
        else:
            scope.assign(match[1], value)
        return
    value = _value(text, scope, dot)
    out.append(
        json.dumps(value, separators=(", ", ": "), ensure_ascii=False) if isinstance(value, Json) else str(value)
    )


def _loop(node, scope, dot, out):
    match = re.fullmatch(r"(?:(\$\w+), (\$\w+) := )?(.*)", node[1])
    values = _value(match[3], scope, dot)
    items = sorted(values.items()) if isinstance(values, Mapping) else list(enumerate(values))
    for key, value in items:
        inner = dict_view(scope)
        if match[1]:
            inner |= {match[1]: key, match[2]: value}
        _run(node[2], inner, value, out)


def _value(text, scope, dot):
    words = WORD.findall(text)
    value, rest = _pipeline(words, 0, scope, dot)
    assert rest == len(words), text
    return value


def _pipeline(words, at, scope, dot):
    values = []
    while at < len(words) and words[at] != ")":
        value, at = _term(words, at, scope, dot)
        values.append(value)
    head, *rest = values
    if not callable(head):
        assert not rest
        return head, at
    return head(*rest), at


def _term(words, at, scope, dot):
    word = words[at]
    at += 1
    if word == "(":
        value, at = _pipeline(words, at, scope, dot)
        at += 1
        if at < len(words) and words[at].startswith("."):
            value, at = _fields(value, words[at]), at + 1
        return value, at
    if word.startswith('"'):
        return json.loads(word), at
    if word.isdigit():
        return int(word), at
    if word in ("true", "false"):
        return word == "true", at
    if word.startswith("."):
        return _fields(dot, word), at
    if word.startswith("$"):
        name, dot_sign, fields = word.partition(".")
        return _fields(scope[name], dot_sign + fields), at
    return FUNCTIONS[word], at


def _fields(value, path):
    for name in filter(None, path.split(".")):
        value = value.get(name, "") if isinstance(value, Mapping) and name in value else getattr(value, name, "")
    return value


def _and(*values):
    return next((v for v in values if not v), values[-1])


FUNCTIONS = {
    "and": _and,
    "or": lambda *v: next((x for x in v if x), v[-1]),
    "not": lambda x: not x,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "len": len,
    "slice": lambda x, a, b=None: x[a:b],
    "index": lambda x, i: x[i] if i < len(x) else {},
}
