"""A test's setup code, sorted by who needs it: the program, its tests beside it, or only the judge.

Expected values and a reference solution in a setup stay away from the program. What it gets of the
setup is what it reads itself (base classes, helpers, constants), before it runs, and what its tests
need beside it, after.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import UsageError
from qwq.sandbox.jail.child import PROGRAM_MODULES

BUILTIN_NAMES = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "__builtins__"}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
_NEUTRAL = (None, True, False, 0, 1, -1, 2, "", b"", ...)
MAX_PROGRAM = 200_000  # characters of a program whose names are looked at


def loaded_names(node: ast.AST) -> set[str]:
    """Names that are read in `node` and not bound inside it."""
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return read - bound_names(node) - modules_used(node)


def modules_used(node: ast.AST) -> set[str]:
    """Names read as `name.attribute` that are modules of the standard library: tests often forget
    the import.
    """
    bases = [n.value for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    return {base.id for base in bases if isinstance(base, ast.Name) and base.id in sys.stdlib_module_names}


def bound_names(node: ast.AST) -> set[str]:
    """Names that are bound anywhere in `node`, inside functions too."""
    bound = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and isinstance(n.ctx, (ast.Store, ast.Del)):
            bound.add(n.id)
        elif isinstance(n, _DEFINITIONS):
            bound.add(n.name)
        elif isinstance(n, ast.arg):
            bound.add(n.arg)
        elif isinstance(n, ast.alias):
            bound.add((n.asname or n.name).split(".")[0])
        elif isinstance(n, ast.ExceptHandler) and n.name:
            bound.add(n.name)
    return bound


def _top_level_names(statement: ast.stmt) -> set[str]:
    """Names that a statement binds at module level."""
    return {statement.name} if isinstance(statement, _DEFINITIONS) else bound_names(statement)


def program_reads(code: str) -> frozenset[str]:
    """Names that a program reads and does not define. Empty for one that is not Python."""
    if len(code) > MAX_PROGRAM:
        return frozenset()
    try:
        return frozenset(loaded_names(parse_python(code.removeprefix("\ufeff"))) - BUILTIN_NAMES)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a setup: names it binds at module level, names it reads, and whether it
    needs the program.
    """

    node: ast.stmt
    source: str
    bound: frozenset[str]
    read: frozenset[str]
    needs_program: bool

    @property
    def is_import(self) -> bool:
        return _is_import(self.node)

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, _DEFINITIONS)

    @property
    def carries_answers(self) -> bool:
        """Whether an expected value could lie in it: a constant beyond the everyday ones, in code
        that is no import.
        """
        if self.is_import:
            return False
        documents = {
            id(n.body[0].value)
            for n in ast.walk(self.node)
            if isinstance(n, _DEFINITIONS) and n.body and isinstance(n.body[0], ast.Expr)
        }
        return any(
            isinstance(n, ast.Constant)
            and id(n) not in documents
            and not any(n.value is v or n.value == v for v in _NEUTRAL)
            for n in ast.walk(self.node)
        )


@dataclass(frozen=True)
class Setup:
    """All statements of a setup in order."""

    statements: tuple[Statement, ...]

    @cached_property
    def imports(self) -> str:
        return self.text(i for i, s in enumerate(self.statements) if s.is_import)

    @cached_property
    def pure(self) -> str:
        """What runs without the program."""
        return self.text(i for i, s in enumerate(self.statements) if not s.needs_program)

    @cached_property
    def known(self) -> frozenset[str]:
        """Names that are bound without the program."""
        return frozenset().union(*(s.bound for s in self.statements if not s.needs_program))

    @cached_property
    def imported(self) -> frozenset[str]:
        return frozenset().union(*(s.bound for s in self.statements if s.is_import))

    @cached_property
    def data(self) -> frozenset[str]:
        """Known names that stand for values, not for functions, classes or modules."""
        pure = [s for s in self.statements if not s.needs_program]
        return frozenset().union(*(s.bound for s in pure if not s.is_import and not s.is_definition))

    @cached_property
    def literals(self) -> dict[str, Any]:
        """Data that is written down as it is: bound once, by a literal, and changed by no other
        statement.
        """
        found: dict[str, Any] = {}
        changed: set[str] = set()
        for statement in self.statements:
            if statement.is_import or statement.is_definition:
                continue
            values = _literal_assignment(statement.node)
            changed |= statement.read | (set(statement.bound) & found.keys())
            if values is None:
                changed |= statement.bound
            else:
                found |= values
        return {name: value for name, value in found.items() if name not in changed}

    def text(self, indices: Iterable[int]) -> str:
        return "\n".join(self.statements[i].source for i in sorted(indices))

    def needed(self, names: Iterable[str], *, with_program: bool = False) -> set[int]:
        """Indices of what binds `names`, or changes what they stand for, and of all that these need
        in turn.

        `with_program` adds every statement that needs the program.
        """
        wanted = set(names)
        chosen: set[int] = set()
        grown = True
        while grown:
            grown = False
            for index, s in enumerate(self.statements):
                if index in chosen or s.is_import or (s.needs_program and not with_program):
                    continue
                # A statement that binds nothing may change what it reads: `table["a"] = 1`,
                # `items.append(2)`.
                if s.needs_program or (s.bound or s.read - BUILTIN_NAMES) & wanted:
                    chosen.add(index)
                    wanted |= s.read | s.bound
                    grown = True
        return chosen


def _is_import(node: ast.stmt) -> bool:
    """Whether a statement imports; what it imports from the program itself is no import, but needs
    the program.
    """
    if isinstance(node, ast.ImportFrom):
        return node.module not in PROGRAM_MODULES
    return isinstance(node, ast.Import) and not any(alias.name in PROGRAM_MODULES for alias in node.names)


def _literal_assignment(node: ast.stmt) -> dict[str, Any] | None:
    """The names and values of `a = 1`, `a = b = [2]` or `a, b = [1], {2: 3}`; None for any other
    statement.
    """
    if not isinstance(node, ast.Assign):
        return None
    try:
        values: dict[str, Any] = {}
        for target in node.targets:
            if isinstance(target, ast.Name):
                values[target.id] = ast.literal_eval(node.value)
            elif isinstance(target, ast.Tuple) and all(isinstance(e, ast.Name) for e in target.elts):
                values |= zip((e.id for e in target.elts), ast.literal_eval(node.value), strict=True)  # type: ignore[attr-defined]
            else:
                return None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return values


def read_setup(source: str) -> Setup:
    """Sort the statements of a setup. One that needs a name of the program belongs to the program's
    side.

    Raises UsageError where the setup is not Python.
    """
    try:
        nodes = parse_python(source).body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"tests.setup is not Python: {error}") from error
    bound = [_top_level_names(n) for n in nodes]
    own = set().union(set(), *bound)
    unknown = [
        not _is_import(n) and (isinstance(n, _IMPORTS) or bool(loaded_names(n) - own - BUILTIN_NAMES)) for n in nodes
    ]
    changed = True
    while changed:  # what uses a tainted name is tainted, also through functions
        tainted = set().union(set(), *(b for b, bad in zip(bound, unknown, strict=True) if bad))
        changed = False
        for index, node in enumerate(nodes):
            if not unknown[index] and not _is_import(node) and (loaded_names(node) | bound[index]) & tainted:
                unknown[index] = changed = True
    return Setup(
        tuple(
            Statement(n, ast.unparse(n), frozenset(b), frozenset(loaded_names(n)), bad)
            for n, b, bad in zip(nodes, bound, unknown, strict=True)
        )
    )
