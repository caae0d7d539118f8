"""Tests in the form of asserts: the program's side beside it, the comparison where the program
never is.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import DataError
from qwq.sandbox import CaseResult, Item
from qwq.types import Outcome
from qwq.verify.code.plan import EvaluationPlan, Planned, has_opaque, literal_value, make_plan
from qwq.verify.code.setup import BUILTIN_NAMES, Setup, bound_names, modules_used, program_reads
from qwq.verify.code.split import INSPECTORS, SplitAssert, judge_plain, split_all
from qwq.verify.code.tally import CodeRun, Tally, failure_of
from qwq.verify.code.values import short

OWN_BUILTIN = "_judge_"  # `jail/child.py` binds the builtins as they were under these names


@functools.lru_cache(maxsize=2048)
def _split(setup: str, sources: tuple[str, ...]) -> tuple[Setup, list[SplitAssert]]:
    return split_all(setup, sources)


def run_asserts(job: CodeRun, tests: Mapping[str, Any], tally: Tally) -> None:
    setup, splits = _split(tests.get("setup", ""), tuple(tests["asserts"]))
    grading = _Grading(job, tests.get("prelude", ""), setup, splits, tally)
    grading.run()


class _Grading:
    """The tests of one program on their way: what is decided goes to the tally, the rest is run
    whole at the end.
    """

    def __init__(self, job: CodeRun, prelude: str, setup: Setup, splits: Sequence[SplitAssert], tally: Tally):
        self.job = job
        self.prelude = prelude
        self.setup = setup
        self.tally = tally
        self.plan: EvaluationPlan = make_plan(setup, splits, program_reads(job.code) if setup.known else ())
        self.values: dict[str, Any] = {}
        self.whole: set[int] = set()

    def run(self) -> None:
        self.values = self._setup_values()
        given = self.plan.before | self.plan.beside(self.values)
        results = self._beside_program(given)
        asked: dict[int, Item] = {}
        for index, (test, cases) in enumerate(zip(self.plan.tests, results, strict=True)):
            if test.judge is None:
                self.whole.add(index)
                continue
            item = self._look(index, test, cases, given)
            if item is not None:
                asked[index] = item
        self._judge(asked, given)
        self._run_whole()

    # -- the setup, once

    def _setup_values(self) -> dict[str, Any]:
        """The plain values of what the tests read of the setup, each evaluated once, away from the
        program.
        """
        wanted = self.plan.setup_expressions()
        values = {}
        for name, node in wanted.items():
            try:
                values[name] = literal_value(node, self.setup.literals)
            except LookupError:
                break
        else:
            return values
        items = [Item(ast.unparse(node)) for node in wanted.values()]
        done = self.job.sandbox.evaluate([self.prelude, self._pure()], items, program=-1, **self.job.limits)
        self.tally.saw(done, of_program=False)
        if done.load_error is not None:
            raise _setup_fails(done.load_error)
        return {
            name: case.value
            for name, case in zip(wanted, done.cases, strict=True)
            if case.has_value and not has_opaque(case.value)
        }

    def _pure(self) -> str:
        return f"{self.setup.imports}\n{self.setup.pure}"

    def _check_setup(self) -> None:
        """A setup that fails without any program is a fault of the data, not of the program."""
        alone = self.job.sandbox.evaluate([self.prelude, self._pure()], [], program=-1, **self.job.limits)
        if alone.load_error is not None:
            raise _setup_fails(alone.load_error)

    # -- the program's side

    def _sources(self, after: set[int], modules: set[str]) -> list[str]:
        before = f"{self.setup.imports}\n{self.setup.text(self.plan.before)}"
        missing = "".join(f"try: {name}\nexcept NameError: import {name}\n" for name in sorted(modules))
        return [self.prelude, before, self.job.code, missing + self.setup.text(after)]

    def _beside_program(self, given: set[int]) -> list[list[CaseResult]]:
        """What each hole of each test gave."""
        items, modules = [], set()
        bound: set[str] = set()
        for test in self.plan.tests:
            for hole, part in zip(test.split.holes, test.holes, strict=True):
                bind = {name: self.values[name] for name in part.cut if name in self.values and name not in bound}
                bound |= bind.keys()
                source = part.source(self.values)
                modules |= modules_used(parse_python(source, mode="eval"))
                items.append(Item(_with_own_builtins(source, self.setup.known | test.split.own), hole.mode, bind))
        sources = self._sources(given - self.plan.before, modules - self.setup.known)
        done = self.job.sandbox.evaluate(sources, items, program=2, **self.job.limits)
        self.tally.saw(done)
        if done.load_error is not None:
            self._check_setup()
        self.status = done.status
        cases = iter(done.cases)
        return [[next(cases) for _ in test.holes] for test in self.plan.tests]

    def _look(self, index: int, test: Planned, cases: Sequence[CaseResult], given: set[int]) -> Item | None:
        """Decide a test here where that can be done, or give what a jail of the judge's has to
        decide.
        """
        failures = [f for f in (failure_of(case, self.status) for case in cases) if f is not None]
        if failures:
            self._decide(index, test, given, *failures[0])
            return None
        assert test.judge is not None
        names = [hole.name for hole in test.split.holes]
        values = {name: c.value if c.has_value else c.truth for name, c in zip(names, cases, strict=True)}
        opaque = {name for name, value in values.items() if has_opaque(value)}
        if opaque and _asks_an_object(test.judge.tree, opaque, self.setup):
            self.whole.add(index)
            return None
        expected = {name: self.values[name] for name in test.judge.cut if name in self.values}
        source = test.judge.source(self.values)
        try:
            passed = judge_plain(source, values | expected)
        except LookupError:
            return Item(source, "truth", values | expected)
        self._decide(index, test, given, *self._outcome(passed, test, values))
        return None

    def _outcome(self, passed: bool, test: Planned, values: Mapping[str, Any]) -> tuple[Outcome, str]:
        if passed:
            return Outcome.CORRECT, ""
        gave = ", ".join(f"{hole.source} gave {short(values[hole.name])}" for hole in test.split.holes)
        return Outcome.WRONG, f"{short(test.split.source)} fails{f': {gave}' if gave else ''}"

    def _decide(self, index: int, test: Planned, given: set[int], outcome: Outcome, reason: str) -> None:
        if outcome is Outcome.WRONG and self.plan.loose(test, given):
            self.whole.add(index)
            return
        self.tally.add(index, outcome, reason)
        if outcome is Outcome.CORRECT and self.plan.exposed(test, given):
            self.tally.forgeable = True

    # -- the judge's side

    def _judge(self, items: Mapping[int, Item], given: set[int]) -> None:
        """Decide what needs more than a literal, in a jail that never sees the program."""
        if not items:
            return
        modules = sorted({module for index in items for module in self.plan.tests[index].split.modules})
        imports = "\n".join(f"import {module}" for module in modules)
        sources = [self.prelude, imports, self._pure()]
        done = self.job.sandbox.evaluate(sources, list(items.values()), program=-1, **self.job.limits)
        self.tally.saw(done, of_program=False)
        if done.load_error is not None:
            self._check_setup()
        for (index, item), case in zip(items.items(), done.cases, strict=True):
            test = self.plan.tests[index]
            if case.truth is not None:
                self._decide(index, test, given, *self._outcome(case.truth, test, item.bind))
            elif case.error is not None:
                reason = f"{short(test.split.source)} raised {case.error[0]} when compared"
                self._decide(index, test, given, Outcome.WRONG, reason)
            else:
                self.tally.repeatable = False
                self.tally.add(index, Outcome.UNDECIDED, f"the comparison was {case.fault}")

    # -- whole tests

    def _run_whole(self) -> None:
        """Run what cannot be split, beside the program and apart from the others. All tests run, in
        order, where the setup holds data that they share; only those that are still open count.
        """
        if not self.whole:
            return
        self.tally.forgeable = True
        chosen = list(range(max(self.whole) + 1)) if self.setup.data else sorted(self.whole)
        everything = set(range(len(self.setup.statements))) - self.plan.before
        everything -= {i for i in everything if self.setup.statements[i].is_import}
        items = [Item(self._whole_source(self.plan.tests[index].split), "exec") for index in chosen]
        done = self.job.sandbox.evaluate(self._sources(everything, set()), items, program=2, **self.job.limits)
        self.tally.saw(done)
        if done.load_error is not None:
            self._check_setup()
        for index, case in zip(chosen, done.cases, strict=True):
            if index not in self.whole:
                continue
            source = short(self.plan.tests[index].split.source)
            if case.error is not None and case.error[0] == "ModuleNotFoundError" and "'pytest'" in case.error[1]:
                raise DataError(f"{source} needs pytest: `qwq sandbox packages add pytest` brings it into the jail")
            failure = failure_of(case, done.status)
            if failure is None and case.truth is not True:
                failure = Outcome.WRONG, f"{source} gave no result"
            elif failure is not None and case.error is not None and case.error[0] == "AssertionError":
                failure = failure[0], f"{source} fails{f': {case.error[1]}' if case.error[1] else ''}"
            self.tally.add(index, *(failure or (Outcome.CORRECT, "")))

    def _whole_source(self, split: SplitAssert) -> str:
        return _with_own_builtins(split.source.strip(), self.setup.known | split.own, "exec")


def _setup_fails(error: tuple[str, str]) -> DataError:
    said = f"tests.setup fails by itself: {': '.join(error)}"
    absent = error[1].split("'")[1::2][:1] if error[0] == "ModuleNotFoundError" else []
    return DataError(f"{said}; `qwq sandbox packages add {absent[0]}` may bring it into the jail" if absent else said)


class _OwnBuiltins(ast.NodeTransformer):
    def __init__(self, others: frozenset[str] | set[str]):
        self.others = others

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if isinstance(node.ctx, ast.Load) and node.id in BUILTIN_NAMES - self.others and node.id[:1] != "_":
            return ast.Name(OWN_BUILTIN + node.id, node.ctx)
        return node


def _with_own_builtins(source: str, others: frozenset[str], mode: str = "eval") -> str:
    """A test's code in which `isinstance`, `sorted` ... are the builtins, whatever the program
    calls so.
    """
    tree = parse_python(source, mode=mode)
    return ast.unparse(_OwnBuiltins(others | bound_names(tree)).visit(tree))


def _asks_an_object(judge: ast.expr, opaque: set[str], setup: Setup) -> bool:
    """Whether a judge's expression needs to ask an object that has no plain form: compares two of
    them, or hands one to a function of the setup, of another package, or one that inspects it.
    Numbers and text do not: to them it is unequal.
    """

    def holds(node: ast.AST) -> int:
        return len({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & opaque)

    for node in ast.walk(judge):
        if isinstance(node, ast.Compare) and sum(holds(side) > 0 for side in (node.left, *node.comparators)) > 1:
            return True
        if isinstance(node, (ast.Attribute, ast.Subscript)) and holds(node.value):
            return True
        if isinstance(node, ast.Call) and any(holds(a) for a in (*node.args, *(k.value for k in node.keywords))):
            func = node.func
            if isinstance(func, ast.Name) and (func.id in INSPECTORS or func.id in setup.known - setup.imported):
                return True
            if isinstance(func, ast.Attribute) and not (modules_used(func) or _is_standard(func, setup)):
                return True
    return False


def _is_standard(func: ast.Attribute, setup: Setup) -> bool:
    """Whether `name.attribute` is of a module of the standard library that the setup imports under
    another name.
    """
    for statement in setup.statements:
        if isinstance(statement.node, ast.Import) and isinstance(func.value, ast.Name):
            for alias in statement.node.names:
                if (alias.asname or alias.name) == func.value.id:
                    return bool(modules_used(parse_python(f"{alias.name.split('.')[0]}.x")))
    return False
