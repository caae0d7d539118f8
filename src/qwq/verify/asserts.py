"""Split a test's `assert` so that the judged program never meets what is expected of it.

    assert f(2) == [4]          the hole f(2) is evaluated beside the program; `hole == [4]` elsewhere, on the plain value
    assert abs(f(2) - 4) < eps  hole f(2) again: subtraction and comparison must not meet the program's own objects
    assert not f(2)             nothing is expected but a truth value: the hole's truth is taken
    assert sorted(f(2)) == [4]  hole sorted(f(2)): turning one result into a value brings nothing in

A *hole* is an expression whose value only the program can give. What cannot be split (an assert inside a loop, a
comparison inside a comprehension, several statements) is marked forgeable and runs as a whole beside the program.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.errors import UsageError

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
_BUILTIN_NAMES = frozenset(dir(builtins))
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class Hole:
    """An expression for the program's jail; `mode` is "value" or "truth"."""

    name: str
    source: str
    mode: str


@dataclass(frozen=True, slots=True)
class SplitAssert:
    """One test. `judge` is the expression over the holes' names; None where the test runs whole (forgeable).
    `modules` are those that the judge must import itself."""

    source: str
    holes: tuple[Hole, ...] = ()
    judge: str | None = None
    modules: tuple[str, ...] = ()


def _loaded_names(node: ast.AST) -> set[str]:
    """Names that are read in `node` and not bound inside it."""
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return read - _bound_names(node) - _modules_used(node)


def _modules_used(node: ast.AST) -> set[str]:
    """Names read as `name.attribute` that are modules of the standard library: tests often forget the import."""
    bases = [n.value for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    return {base.id for base in bases if isinstance(base, ast.Name) and base.id in sys.stdlib_module_names}


def _bound_names(node: ast.AST) -> set[str]:
    bound = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and isinstance(n.ctx, (ast.Store, ast.Del)):
            bound.add(n.id)
        elif isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
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
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    return _bound_names(statement)


@dataclass(frozen=True, slots=True)
class Setup:
    """A test's setup code, sorted by who needs it.

    `pure` runs without the program and binds `known`; `statements` holds all of it in order, each with its source, the
    names it binds, the names it reads, and whether it needs the program.
    """

    imports: str
    pure: str
    known: frozenset[str]
    statements: tuple[tuple[str, frozenset[str], frozenset[str], bool], ...]

    def beside_program(self, sources: Iterable[str] | None) -> str:
        """What of the setup runs beside the program: what needs the program, what `sources` read, and what these need.

        The rest (expected values, a reference solution) stays away from it. None asks for all.
        """
        if sources is None:
            return "\n".join(text for text, *_ in self.statements)
        needed = set().union(*(_loaded_names(ast.parse(source)) for source in sources))
        chosen: set[int] = set()
        grown = True
        while grown:
            grown = False
            for index, (_, bound, read, uses_program) in enumerate(self.statements):
                # A statement that binds nothing may change what it reads: `table["a"] = 1`, `items.append(2)`.
                changes = bound or read - _BUILTIN_NAMES
                if index not in chosen and (uses_program or changes & needed):
                    chosen.add(index)
                    needed |= read | bound
                    grown = True
        return "\n".join(self.statements[index][0] for index in sorted(chosen))


def read_setup(source: str) -> Setup:
    """Sort the statements of a setup. One that needs a name of the program belongs to the program's side.

    Raises UsageError where the setup is not Python.
    """
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"tests.setup is not Python: {error}") from error
    imports = [s for s in statements if isinstance(s, (ast.Import, ast.ImportFrom))]
    bound = [_top_level_names(s) for s in statements]
    own = set().union(*bound) if bound else set()
    unknown = [bool(_loaded_names(s) - own - _BUILTIN_NAMES) for s in statements]
    changed = True
    while changed:  # what uses a tainted name is tainted, also through functions
        tainted = set().union(set(), *(b for b, bad in zip(bound, unknown, strict=True) if bad))
        changed = False
        for index, statement in enumerate(statements):
            if not unknown[index] and (_loaded_names(statement) | bound[index]) & tainted:
                unknown[index] = changed = True
    pure = [s for s, bad in zip(statements, unknown, strict=True) if not bad]
    known = set().union(set(), *(b for b, bad in zip(bound, unknown, strict=True) if not bad))

    def text(parts: Iterable[ast.stmt]) -> str:
        return "\n".join(ast.unparse(part) for part in parts)

    described = tuple(
        (ast.unparse(s), frozenset(b), frozenset(_loaded_names(s)), bad)
        for s, b, bad in zip(statements, bound, unknown, strict=True)
    )
    return Setup(text(imports), text(pure), frozenset(known), described)


class _NotSplittable(Exception):
    pass


class _Splitter:
    """Replaces holes by names, from the outside in."""

    def __init__(self, known: frozenset[str], program_names: frozenset[str]):
        self.known = (known | _BUILTIN_NAMES) - program_names
        self.holes: list[Hole] = []

    def tainted(self, node: ast.AST) -> bool:
        return bool(_loaded_names(node) - self.known)

    def hole(self, node: ast.expr, mode: str) -> ast.expr:
        if not self.clean(node):
            raise _NotSplittable
        name = f"_hole_{len(self.holes)}"
        self.holes.append(Hole(name, ast.unparse(node), mode))
        return ast.Name(name, ast.Load())

    def clean(self, node: ast.expr) -> bool:
        """Whether a tainted expression brings in nothing but inputs: no comparison or arithmetic of results."""
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
        """Whether this tainted expression is evaluated beside the program as it stands."""
        if isinstance(node, (ast.Name, *_SCOPES, ast.Await, ast.JoinedStr, ast.NamedExpr)):
            return True
        if isinstance(node, ast.Attribute):
            return True
        if not isinstance(node, ast.Call):
            return False
        if self.tainted(node.func):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else None
            on_result = method is not None and isinstance(node.func.value, ast.Call)
            return not (on_result and method in _BUILTIN_METHODS and node.args)
        if any(isinstance(a, ast.Name) and self.tainted(a) for a in node.args):
            return True  # a class or function of the program handed to isinstance, map ...
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

    def _split_call(self, node: ast.Call) -> ast.expr:
        func: ast.expr = node.func
        if self.tainted(func):
            assert isinstance(func, ast.Attribute)
            func = ast.Attribute(self.split(func.value), func.attr, ast.Load())
        keywords = [ast.keyword(k.arg, self.split(k.value)) for k in node.keywords]
        return ast.Call(func, [self.split(a) for a in node.args], keywords)


def split_assert(source: str, setup: Setup, program_names: frozenset[str] = frozenset()) -> SplitAssert:
    """Split one test. `program_names` are the program's although they are builtins. Raises UsageError for non-Python."""
    try:
        statements = ast.parse(source.strip()).body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"a test is not Python: {source[:80]!r}: {error}") from error
    if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
        return SplitAssert(source)
    splitter = _Splitter(setup.known, program_names)
    try:
        judge = splitter.split(statements[0].test, "truth")
    except _NotSplittable:
        return SplitAssert(source)
    modules = sorted(_modules_used(judge) - setup.known)
    return SplitAssert(source, tuple(splitter.holes), ast.unparse(ast.fix_missing_locations(judge)), tuple(modules))


class _NotPlain(Exception):
    pass


def judge_plain(judge: str, values: dict[str, Any]) -> bool:
    """Decide a judge expression here, where it is one comparison of holes and literals or a truth of a hole.

    Raises LookupError where it needs more than that (then it is evaluated in a jail of its own).
    """
    node = ast.parse(judge, mode="eval").body
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
            case ast.Eq():
                return bool(left == right)
            case ast.NotEq():
                return bool(left != right)
            case ast.Is() if right is None or right is True or right is False:
                return left is right
            case ast.IsNot() if right is None or right is True or right is False:
                return left is not right
    if isinstance(node, (ast.Name, ast.Constant)):
        return bool(_plain(node, values))
    raise _NotPlain


def _plain(node: ast.expr, values: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _NotPlain from error


def asserts_from_check(source: str, entry_point: str) -> tuple[str, list[str]]:
    """Setup and asserts of a HumanEval test, a function `check(candidate)`, with the candidate called by its name.

    A straight-line body gives one assert each; loops and assignments stay together with what follows as one test.
    Raises UsageError where there is no `check`.
    """
    module = ast.parse(source)
    checks = [s for s in module.body if isinstance(s, ast.FunctionDef) and s.name == "check"]
    if not checks:
        raise UsageError("the test defines no check(candidate)")
    parameter = checks[0].args.args[0].arg
    renamed = [_Rename(parameter, entry_point).visit(s) for s in checks[0].body]
    setup = [s for s in module.body if s is not checks[0]]
    asserts: list[str] = []
    for index, statement in enumerate(renamed):
        if isinstance(statement, ast.Assert):
            asserts.append(ast.unparse(statement))
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            asserts.append("\n".join(ast.unparse(s) for s in renamed[index:]))
            break
    return "\n".join(ast.unparse(s) for s in setup), asserts


class _Rename(ast.NodeTransformer):
    def __init__(self, old: str, new: str):
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.new, node.ctx) if node.id == self.old else node


def split_all(setup: str, sources: Sequence[str]) -> tuple[Setup, list[SplitAssert]]:
    """Setup and tests, split; see `read_setup` and `split_assert`.

    A test without a hole asks for a builtin (`assert sum(10, 15) == 6`): then the program defines that name itself. Only
    the tests decide this; a program cannot move a comparison to its own side by defining `abs`.
    """
    read = read_setup(setup)
    splits = [split_assert(source, read) for source in sources]
    own = frozenset().union(*(_called_builtins(s.judge) for s in splits if s.judge is not None and not s.holes))
    return read, [split_assert(source, read, own) for source in sources] if own else splits


def _called_builtins(judge: str) -> set[str]:
    """Builtins whose call is the tested expression or one side of its comparison."""
    node = ast.parse(judge, mode="eval").body
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node]
    called = {side.func.id for side in sides if isinstance(side, ast.Call) and isinstance(side.func, ast.Name)}
    return called & _BUILTIN_NAMES - {"set", "frozenset", "tuple", "list", "dict"}
