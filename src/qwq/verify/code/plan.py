"""What of a test's setup is evaluated where, before the program runs.

    setup    CASES = [(3, 9)]; d = [random() for _ in range(5)]; a = [3, 1]
    assert f(CASES[0][0]) == CASES[0][1]     the judge evaluates both; the program gets 3, and CASES never
    assert f(d) == sorted(d)                 evaluated once, so both sides mean the same d
    assert f(a) is None                      a is bound beside the program under its own name
    assert a == [1, 3]                       so what the program did to it is what is compared: a hole

A setup expression that has no plain value (an object, a generator) is evaluated beside the program
with the statements that it needs. Where the same statement of the setup is at hand for the program
and decides what is expected, the program could read it there: the verdict is `exposed`, which makes
it forgeable. Where a test's two sides may not mean the same (the program changed an argument, or
has changing data of the setup at hand), it is `loose`: a test that fails so is run whole.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwq.common.source import parse_python
from qwq.sandbox.jail.codec import Opaque
from qwq.verify.code.setup import BUILTIN_NAMES, Setup, loaded_names
from qwq.verify.code.split import SplitAssert, split_assert


@dataclass(slots=True)
class SubExpression:
    """An expression of a test with setup expressions cut out of it, each under a name."""

    tree: ast.expr
    cut: dict[str, ast.expr] = field(default_factory=dict)

    def source(self, values: Mapping[str, Any]) -> str:
        """The expression, with the cut-out parts put back that have no plain value."""
        back = {name: node for name, node in self.cut.items() if name not in values}
        return ast.unparse(_PutBack(back).visit(parse_python(ast.unparse(self.tree), mode="eval").body))


class _PutBack(ast.NodeTransformer):
    def __init__(self, parts: Mapping[str, ast.expr]):
        self.parts = parts

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.parts.get(node.id, node)


class _CutOut(ast.NodeTransformer):
    """Replaces the largest expressions that read data of the setup and nothing of the program or of
    enclosing loops.

    What reads a name in `keep` is left alone. With `names`, a bare name keeps itself as its name.
    """

    def __init__(self, setup: Setup, counter: list[int], keep: Collection[str], names: bool):
        self.known = setup.known | BUILTIN_NAMES
        self.data = setup.data
        self.keep = frozenset(keep)
        self.names = names
        self.counter = counter
        self.cut: dict[str, ast.expr] = {}

    def visit(self, node: ast.AST) -> Any:
        if not isinstance(node, ast.expr) or isinstance(node, (ast.Starred, ast.Constant)) or _is_store(node):
            return self.generic_visit(node)
        read = loaded_names(node)
        if not read & self.data or not read <= self.known or read & self.keep:
            return self.generic_visit(node)
        if self.names and isinstance(node, ast.Name):
            self.cut[node.id] = node
            return node
        name = f"_setup_{self.counter[0]}"
        self.counter[0] += 1
        self.cut[name] = node
        return ast.Name(name, ast.Load())


def _is_store(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))


@dataclass(slots=True)
class Planned:
    """One split test: its holes' expressions and the judge's, and the data of the setup that the
    program has been handed by the time when the judge looks.
    """

    split: SplitAssert
    holes: list[SubExpression]
    judge: SubExpression | None
    handed: frozenset[str]

    def judged(self) -> set[str]:
        """Names that decide what is expected."""
        if self.judge is None:
            return set()
        return loaded_names(parse_python(self.judge.source({}), mode="eval"))


@dataclass(slots=True)
class EvaluationPlan:
    """Where each expression of the split tests is evaluated.

    `before` are the statements that the program itself reads.
    """

    setup: Setup
    before: set[int]
    tests: list[Planned]

    def setup_expressions(self) -> dict[str, ast.expr]:
        """All that is cut out, by name, in the order in which the tests read it."""
        parts = [part for test in self.tests for part in (*test.holes, *([test.judge] if test.judge else []))]
        return {name: node for part in parts for name, node in part.cut.items()}

    def beside(self, values: Mapping[str, Any]) -> set[int]:
        """Statements that run after the program: all that need it, and what the holes read of the
        rest.
        """
        read: set[str] = set()
        for part in (part for test in self.tests for part in test.holes):
            read |= loaded_names(parse_python(part.source(values), mode="eval"))
        return self.setup.needed(read - values.keys(), with_program=True) - self.before

    def exposed(self, test: Planned, given: set[int]) -> bool:
        """Whether the program could read, or forge, what a test expects; `given` are the statements
        that it can read.
        """
        decides = self.setup.needed(test.judged() & self.setup.known)
        return any(hole.exposed for hole in test.split.holes) or bool(given & decides)

    def loose(self, test: Planned, given: set[int]) -> bool:
        """Whether the two sides of a test may mean different things."""
        judged = test.judged() & self.setup.data
        fixed = {name for name, value in self.setup.literals.items() if not isinstance(value, (list, dict, set))}
        at_hand = {name for i in given for name in self.setup.statements[i].bound} - fixed
        return bool(judged & (test.handed | at_hand))


def make_plan(setup: Setup, splits: Sequence[SplitAssert], program_reads: Collection[str]) -> EvaluationPlan:
    counter = [0]
    handed: set[str] = set()
    tests = []
    for split in splits:
        if (
            split.judge is not None
            and not split.holes
            and loaded_names(parse_python(split.judge, mode="eval")) & handed
        ):
            # Nothing is called, so what the program did to what it was handed is what this test
            # looks at.
            split = split_assert(split.source, setup, frozenset(handed) | split.own)
        holes = [_cut(hole.source, setup, counter, handed, True) for hole in split.holes]
        handed |= {name for part in holes for name, node in part.cut.items() if isinstance(node, ast.Name)}
        judge = None if split.judge is None else _cut(split.judge, setup, counter, (), False)
        tests.append(Planned(split, holes, judge, frozenset(handed)))
    return EvaluationPlan(setup, setup.needed(set(program_reads) & setup.known), tests)


def _cut(source: str, setup: Setup, counter: list[int], keep: Collection[str], names: bool) -> SubExpression:
    tree = parse_python(source, mode="eval").body
    if not setup.data:
        return SubExpression(tree)
    cutter = _CutOut(setup, counter, keep, names)
    return SubExpression(cutter.visit(tree), cutter.cut)


def literal_value(node: ast.expr, literals: Mapping[str, Any]) -> Any:
    """The value of an expression over literal data that can be had here: a literal, a name, an
    index of one.

    Raises LookupError for any other.
    """
    if isinstance(node, ast.Name) and node.id in literals:
        return literals[node.id]
    if isinstance(node, ast.Subscript):
        try:
            return literal_value(node.value, literals)[literal_value(node.slice, literals)]
        except (TypeError, KeyError, IndexError) as error:
            raise LookupError(ast.unparse(node)) from error
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise LookupError(ast.unparse(node)) from error


def has_opaque(value: Any) -> bool:
    """Whether an object without a plain form is in a value."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if type(part) is Opaque:
            return True
        if isinstance(part, (list, tuple, set, frozenset, deque)):
            waiting += part
        elif isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
    return False
