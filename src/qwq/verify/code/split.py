"""Split a test's `assert` so that the judged program never meets what is expected of it.

    assert f(2) == [4]          the hole f(2) is evaluated beside the program; `hole == [4]` elsewhere, on the plain value
    assert abs(f(2) - 4) < eps  hole f(2) again: subtraction and comparison must not meet the program's own objects
    assert not f(2)             nothing is expected but a truth value: the hole's truth is taken
    assert sorted(f(2)) == [4]  hole sorted(f(2)): turning one result into a value brings nothing in

A *hole* is an expression whose value only the program can give. What cannot be split (an assert
inside a loop, a comparison inside a comprehension, several statements) is marked forgeable and runs
as a whole beside the program.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import UsageError
from qwq.verify.code.setup import BUILTIN_NAMES, Setup, loaded_names, modules_used, read_setup

# With one hole as their only argument these turn a result (an iterator, say) into a plain value.
MATERIALISERS = frozenset(
    [
        "list",
        "tuple",
        "set",
        "frozenset",
        "sorted",
        "dict",
        "str",
        "repr",
        "len",
        "sum",
        "min",
        "max",
        "any",
        "all",
        "int",
        "float",
        "bool",
    ]
)
_BUILTIN_METHODS = frozenset(
    name for kind in (str, bytes, list, tuple, dict, set, frozenset, int, float, complex) for name in dir(kind)
)
# These run, walk or wrap a result and never compare it: beside the program they bring nothing in
# but inputs.
CONSUMERS = frozenset(
    "next iter enumerate reversed zip map filter asyncio.run itertools.islice itertools.chain itertools.takewhile "
    "functools.reduce collections.Counter Counter collections.deque deque copy.copy copy.deepcopy vars dir".split()
)
# What these say of an object without a plain form is for the object itself to show.
INSPECTORS = frozenset(
    ["isinstance", "issubclass", "type", "hasattr", "getattr", "callable", "id", "hash", "vars", "dir"]
)
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class Hole:
    """An expression for the program's jail; `mode` is "value" or "truth". It is `exposed` where
    what it says could be forged: a truth that is not the program's own result, a function of the
    program in the hands of a checker.
    """

    name: str
    source: str
    mode: str
    exposed: bool = False


@dataclass(frozen=True, slots=True)
class SplitAssert:
    """One test. `judge` is the expression over the holes' names; None where the test runs whole
    (forgeable). `modules` are those that the judge must import itself, `own` the builtins that the
    program is to define.
    """

    source: str
    holes: tuple[Hole, ...] = ()
    judge: str | None = None
    modules: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()


class _NotSplittable(Exception):
    pass


class _Splitter:
    """Replaces holes by names, from the outside in."""

    def __init__(self, setup: Setup, program_names: frozenset[str]):
        self.known = (setup.known | BUILTIN_NAMES) - program_names
        self.checkers = setup.known - setup.imported
        self.holes: list[Hole] = []

    def tainted(self, node: ast.AST) -> bool:
        return bool(loaded_names(node) - self.known)

    def hole(self, node: ast.expr, mode: str) -> ast.expr:
        if not self.clean(node):
            raise _NotSplittable
        name = f"_hole_{len(self.holes)}"
        self.holes.append(Hole(name, ast.unparse(node), mode, self._exposed(node, mode)))
        return ast.Name(name, ast.Load())

    def _exposed(self, node: ast.expr, mode: str) -> bool:
        calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and not self.tainted(n.func)]
        if mode == "truth" and node in calls:
            return True
        return any(self._is_checker(c.func) and any(self._is_program(a) for a in _arguments(c)) for c in calls)

    def _is_checker(self, func: ast.expr) -> bool:
        """A function of the setup or a lambda, which may compare; the standard library's do not
        know what is expected.
        """
        if isinstance(func, ast.Name):
            return func.id in self.checkers
        base = func.value if isinstance(func, ast.Attribute) else None
        return not (isinstance(base, ast.Name) and base.id in sys.stdlib_module_names)

    def _is_program(self, node: ast.expr) -> bool:
        return isinstance(node, (ast.Name, ast.Lambda)) and self.tainted(node)

    def clean(self, node: ast.expr) -> bool:
        """Whether a tainted expression brings in nothing but inputs: no comparison or arithmetic of
        results.
        """
        if isinstance(node, ast.Name):
            return True
        if isinstance(node, (ast.Attribute, ast.Subscript, ast.Await, ast.Starred)):
            return self.clean(node.value) or not self.tainted(node.value)
        if isinstance(node, ast.Call):
            if self.tainted(node.func):
                return self.clean(node.func)
            return all(self.clean(a) or not self.tainted(a) for a in node.args)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            elements = node.elt.elts if isinstance(node.elt, (ast.Tuple, ast.List)) else [node.elt]
            sources = [g.iter for g in node.generators]
            conditions = [c for g in node.generators for c in g.ifs]
            return not any(self.tainted(c) for c in conditions) and all(
                not self._compares(e) for e in [*elements, *sources]
            )
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return all(self.clean(e) for e in node.elts)
        return False

    @staticmethod
    def _compares(node: ast.AST) -> bool:
        return any(isinstance(n, (ast.Compare, ast.BinOp, ast.BoolOp)) for n in ast.walk(node))

    def _is_hole(self, node: ast.expr) -> bool:
        """Whether this tainted expression is evaluated beside the program as it is."""
        if isinstance(node, (ast.Name, *_SCOPES, ast.Await, ast.JoinedStr, ast.NamedExpr)):
            return True
        if isinstance(node, ast.Attribute):
            return True
        if not isinstance(node, ast.Call):
            return False
        if self.tainted(node.func):
            called = node.func
            of_result = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Call)
            method = called.attr if isinstance(called, ast.Attribute) else None
            return not (of_result and method in _BUILTIN_METHODS and node.args)
        if any(self._is_program(a) for a in _arguments(node)):
            return True  # a class or function of the program handed to isinstance, map ...
        if _dotted(node.func) in CONSUMERS:
            return True
        only = node.args[0] if len(node.args) == 1 and not node.keywords else None
        simple = isinstance(node.func, ast.Name) and node.func.id in MATERIALISERS
        return bool(
            simple and only is not None and (self._is_hole(only) or not self._descends(only)) and self.clean(only)
        )

    @staticmethod
    def _descends(node: ast.expr) -> bool:
        return isinstance(node, (ast.BinOp, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.IfExp, ast.Call))

    def split(self, node: ast.expr, mode: str = "value") -> ast.expr:
        """The judge's form of `node`; `mode` is "truth" where only the truth value is looked at."""
        if not self.tainted(node):
            return node
        if self._is_hole(node):
            return self.hole(node, mode)
        if isinstance(node, ast.UnaryOp):
            inner = "truth" if isinstance(node.op, ast.Not) else "value"
            return ast.UnaryOp(node.op, self.split(node.operand, inner))
        if isinstance(node, ast.BoolOp) and mode == "truth":
            return ast.BoolOp(node.op, [self.split(v, "truth") for v in node.values])
        if isinstance(node, ast.Compare):
            self._check_identity(node)
            return ast.Compare(self.split(node.left), node.ops, [self.split(c) for c in node.comparators])
        if isinstance(node, ast.BinOp):
            return ast.BinOp(self.split(node.left), node.op, self.split(node.right))
        if isinstance(node, ast.Subscript) and not self.tainted(node.slice):
            return ast.Subscript(self.split(node.value), node.slice, ast.Load())
        if isinstance(node, (ast.Tuple, ast.List)):
            return type(node)([self.split(e) for e in node.elts], ast.Load())
        if isinstance(node, ast.Set):
            return ast.Set([self.split(e) for e in node.elts])
        if isinstance(node, ast.Call):
            return self._split_call(node)
        raise _NotSplittable

    def _check_identity(self, node: ast.Compare) -> None:
        """Which object it is gets lost on the way out of the jail; None, True and False and a
        result's type do not.
        """
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(op, (ast.Is, ast.IsNot)) and not any(isinstance(s, ast.Constant) for s in (left, right)):
                types = [s for s in (left, right) if isinstance(s, ast.Call) and _dotted(s.func) == "type"]
                others = [s for s in (left, right) if s not in types]
                if not types or any(self.tainted(s) for s in others):
                    raise _NotSplittable

    def _split_call(self, node: ast.Call) -> ast.expr:
        func: ast.expr = node.func
        if self.tainted(func):
            assert isinstance(func, ast.Attribute)
            func = ast.Attribute(self.split(func.value), func.attr, ast.Load())
        keywords = [ast.keyword(k.arg, self.split(k.value)) for k in node.keywords]
        return ast.Call(func, [self.split(a) for a in node.args], keywords)


def _dotted(node: ast.expr) -> str:
    """The text of `name` or `module.name`; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return (
        f"{node.value.id}.{node.attr}" if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else ""
    )


def _arguments(node: ast.Call) -> list[ast.expr]:
    return [*node.args, *(k.value for k in node.keywords)]


def split_assert(source: str, setup: Setup, program_names: frozenset[str] = frozenset()) -> SplitAssert:
    """Split one test.

    `program_names` are the program's although they are builtins. Raises UsageError for non-Python.
    """
    try:
        statements = parse_python(source.strip()).body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"a test is not Python: {source[:80]!r}: {error}") from error
    if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
        return SplitAssert(source)
    splitter = _Splitter(setup, program_names)
    try:
        judge = splitter.split(statements[0].test, "truth")
    except _NotSplittable:
        return SplitAssert(source)
    modules = sorted(modules_used(judge) - setup.known)
    own = program_names & BUILTIN_NAMES
    return SplitAssert(
        source, tuple(splitter.holes), ast.unparse(ast.fix_missing_locations(judge)), tuple(modules), own
    )


class _NotPlain(Exception):
    pass


def judge_plain(judge: str, values: dict[str, Any]) -> bool:
    """Decide a judge expression here, where it is one comparison of holes and literals or a truth
    of a hole.

    Raises LookupError where it needs more than that (then it is evaluated in a jail of its own).
    """
    node = parse_python(judge, mode="eval").body
    try:
        return _truth(node, values)
    except _NotPlain as error:
        raise LookupError(judge) from error


def _truth(node: ast.expr, values: dict[str, Any]) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _truth(node.operand, values)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = _plain(node.left, values), _plain(node.comparators[0], values)
        match node.ops[0]:
            case ast.Eq() | ast.NotEq():
                return _equal(left, right) is isinstance(node.ops[0], ast.Eq)
            case ast.Is() if right is None or right is True or right is False:
                return left is right
            case ast.IsNot() if right is None or right is True or right is False:
                return left is not right
    if isinstance(node, (ast.Name, ast.Constant)):
        return bool(_plain(node, values))
    raise _NotPlain


def _equal(left: Any, right: Any) -> bool:
    try:
        return bool(left == right)
    except (ValueError, TypeError) as error:  # arrays of numpy, whose comparison has no truth
        raise _NotPlain from error


def _plain(node: ast.expr, values: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _NotPlain from error


def split_all(setup: str, sources: Sequence[str]) -> tuple[Setup, list[SplitAssert]]:
    """Setup and tests, split; see `read_setup` and `split_assert`.

    A test without a hole asks for a builtin (`assert sum(10, 15) == 6`): then the program defines
    that name itself. Only the tests decide this; a program cannot move a comparison to its own side
    by defining `abs`.
    """
    read = read_setup(setup)
    splits = [split_assert(source, read) for source in sources]
    own = frozenset().union(*(_called_builtins(s.judge) for s in splits if s.judge is not None and not s.holes))
    return read, [split_assert(source, read, own) for source in sources] if own else splits


def _called_builtins(judge: str) -> set[str]:
    """Builtins whose call is the tested expression or one side of its comparison."""
    node = parse_python(judge, mode="eval").body
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node]
    called = {side.func.id for side in sides if isinstance(side, ast.Call) and isinstance(side.func, ast.Name)}
    return called & BUILTIN_NAMES - {"set", "frozenset", "tuple", "list", "dict"}
