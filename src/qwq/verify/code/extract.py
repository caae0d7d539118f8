"""The program in a response: which of its code blocks, and what belongs together."""

from __future__ import annotations

import ast
import re
import textwrap
from itertools import islice

from qwq.common.source import parse_python
from qwq.errors import UsageError
from qwq.sandbox.languages import canonical
from qwq.text.thought import THINK_CLOSE
from qwq.verify.code.setup import BUILTIN_NAMES, bound_names, loaded_names

_OPEN = re.compile(r"^(.*?)(`{3,}|~{3,})[ \t]*(\{?\.?[\w+#.-]*\}?)[^\n`]*$")
_CLOSE = re.compile(
    r"^((?:[^`~\n]|`{1,2}(?!`)|~{1,2}(?!~)|(?:`{3,}+|~{3,}+)(?![ \t]*+\}?[.\s]*+$))*+)(`{3,}+|~{3,}+)[ \t]*+\}?[.\s]*+$"
    # Text before, then the last fence with nothing but a full stop or a brace behind it; written so
    # that a long run of ticks is read once.
)
_MAX_INDENT = 3  # a closing fence that is indented further than this belongs to the code, as in a docstring


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of each fenced block; one that is not closed goes to the end of the text.

    A fence with a language may follow words (`Solution: ```python`), and close at the end of
    the last line of code.
    """
    blocks: list[tuple[str, str]] = []
    fence, language, indent = "", "", 0
    body: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        bare = line.rstrip()
        if not fence:
            match = _OPEN.match(bare)
            if match and (not match[1].strip() or (match[3] and "`" not in match[1])):
                fence, language, body = match[2], match[3].strip("{}.").lower(), []
                indent = len(bare) - len(bare.lstrip())
            continue
        match = _CLOSE.match(bare)
        alone = match is not None and not match[1].strip() and len(match[1]) <= indent + _MAX_INDENT
        if match and match[2].startswith(fence) and (alone or (match[1].strip() and _ends_code(body, match[1]))):
            blocks.append((language, "\n".join([*body, match[1]] if match[1].strip() else body)))
            fence = ""
        else:
            body.append(line)
    if fence:
        blocks.append((language, "\n".join(body)))
    return blocks


def _ends_code(body: list[str], line: str) -> bool:
    """Whether a fence behind this last line of code closes the block, and is no part of a string in
    it.
    """
    if "`" in line:
        return False
    return _parsed(textwrap.dedent("\n".join([*body, line]))) is not None or bool(re.search(r"[;}]\s*$", line))


def _is_program(text: str) -> bool:
    """Whether the whole text is Python that does something, not a word or a number that happens to
    parse.
    """
    tree = _parsed(text)
    return tree is not None and any(not isinstance(s, ast.Expr) or isinstance(s.value, ast.Call) for s in tree.body)


def _parsed(text: str) -> ast.Module | None:
    try:
        return parse_python(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_language(tag: str, language: str) -> bool:
    try:
        return canonical(tag) == language
    except UsageError:
        return False


def extract_code(text: str, language: str = "python") -> str | None:
    """The program in a final answer (thinking taken off), or None.

    It is the last fenced block of the language; else the last fenced block without a language; else
    the whole text where it is a Python program. Of Python blocks, one that only uses what an
    earlier block defines (`print(f(2))`, an assert) is an example of it, and is left out; one that
    needs what earlier blocks define is put behind them.
    """
    blocks = [(tag, textwrap.dedent(body)) for tag, body in fenced_blocks(text) if body.strip()]
    own = [body for tag, body in blocks if _is_language(tag, language)]
    if not own:
        own = [body for tag, body in blocks if not tag][-1:] or [body for _, body in blocks][-1:]
    if own:
        return _joined(own) if language == "python" else own[-1]
    if language != "python":
        return None
    return text if _is_program(text) else _tail(text)


_STATEMENT = re.compile(r"(import |from |def |class |@|\w+(, ?\w+)* ?= ?|print\(|for |while |if )")
_MAX_PROSE_LINES = 30


def _tail(text: str) -> str | None:
    """The program behind one paragraph of prose, or directly behind `</think>`, where there are no
    fences at all.
    """
    text = text.strip()
    starts = [match.end() for match in islice(re.finditer("\n", text), _MAX_PROSE_LINES)]
    thought_end = text.find(THINK_CLOSE)
    if thought_end >= 0:
        starts = sorted({*starts, thought_end + len(THINK_CLOSE)})
    for start in starts:
        if _STATEMENT.match(text, start) and _is_program(text[start:]):
            return text[start:]
    return None


def _joined(blocks: list[str]) -> str:
    """One program from Python blocks in the order of the answer."""
    if len(blocks) == 1:
        return blocks[0]
    trees = [_parsed(block) for block in blocks]
    last = len(blocks) - 1
    while last > 0 and _is_example(trees, last):
        last -= 1
    tree = trees[last]
    if tree is None:
        return blocks[last]
    needed = loaded_names(tree) - BUILTIN_NAMES
    before: list[str] = []
    for index in range(last - 1, -1, -1):
        earlier = trees[index]
        defined = _defined(earlier) if earlier is not None else set()
        if defined & needed and not defined & _defined(tree) and not _acts(earlier):
            before.insert(0, blocks[index])
            needed |= loaded_names(earlier) - BUILTIN_NAMES  # type: ignore[arg-type]
    return "\n\n".join([*before, blocks[last]])


def _defined(tree: ast.Module) -> set[str]:
    """Names that a block binds at its top level."""
    names: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)):
            names |= bound_names(statement)
    return names


def _acts(tree: ast.Module | None) -> bool:
    """Whether a block does more than define: reads, prints, calls."""
    allowed = (
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
    )
    return tree is None or any(not isinstance(s, allowed) and not _is_text(s) for s in tree.body)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_example(trees: list[ast.Module | None], index: int) -> bool:
    """Whether a block only shows how to use what an earlier one defines: calls, asserts and results
    in variables, which define no function, no class, and read no input.
    """
    tree = trees[index]
    if tree is None or not tree.body:
        return False
    earlier = set().union(*(_defined(t) for t in trees[:index] if t is not None))
    functions = {
        s.name
        for t in trees[:index]
        if t is not None
        for s in t.body
        if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    if not functions & loaded_names(tree) or any(
        isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for s in tree.body
    ):
        return False
    reads = loaded_names(tree)
    return not reads & {"input", "sys", "open"} and reads <= earlier | BUILTIN_NAMES
