"""HumanEval and MBPP: a function is asked for, its published tests decide, in the sandbox.

HumanEval (Chen et al. 2021, arXiv 2107.03374) gives the beginning of a file: what stands there before the function, imports
and helpers, is put before the answer too. MBPP (Austin et al. 2021, arXiv 2108.07732) shows the tests in the prompt; its test
split are the task ids 11 to 510. pass@1 is the headline, pass@k where there are several samples.

    humaneval  {"task_id", "prompt", "entry_point", "test"}
    mbpp       {"task_id", "text" or "prompt", "test_list", "test_setup_code" or "test_imports"}
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import DataError
from qwq.tasks.benchmark import Benchmark, Mark, marked, need
from qwq.tasks.sets import CODE_INSTRUCTION, MBPP_IDS, TESTS_HINT
from qwq.types import Message, Outcome, Problem, Turn, Verdict

HUMANEVAL_INSTRUCTION = "Complete the following Python function. Answer with the whole program in one ```python block.\n\n```python\n{prompt}\n```"
TIMEOUT_S = 20.0


def run_tests(code: str, tests: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S, memory_mb: int = 1024) -> Verdict:
    # The sandbox is loaded only where programs are run.
    from qwq.verify.code import verify

    return verify(code, tests, timeout_s=timeout_s, memory_mb=memory_mb)


class HumanEval(Benchmark):
    name = "humaneval"

    def load(self, data: Any) -> list[Problem]:
        from qwq.verify.code import asserts_from_check

        problems = []
        for where, row in data.rows():
            ident, prompt, entry = (
                need(row, "task_id", where),
                need(row, "prompt", where),
                need(row, "entry_point", where),
            )
            try:
                setup, asserts = asserts_from_check(need(row, "test", where), entry)
            except (SyntaxError, DataError, ValueError) as error:
                raise DataError(f"{where}: field 'test': {error}") from None
            truth = {
                "tests": {"kind": "asserts", "setup": setup, "asserts": asserts},
                "prompt": prompt,
                "entry_point": entry,
            }
            message = Message("user", HUMANEVAL_INSTRUCTION.format(prompt=prompt.rstrip()))
            problems.append(Problem(ident, "code", (message,), truth, ident, source=self.name))
        return problems

    def judge(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        code = whole_program(replies[-1].answer, problem.truth["prompt"], problem.truth["entry_point"])
        if code is None:
            return marked(Verdict(Outcome.NO_ANSWER, "the answer holds no code", self.name))
        return marked(run_tests(code, problem.truth["tests"]))


def whole_program(answer: str, prompt: str, entry: str) -> str | None:
    """The program that an answer makes of HumanEval's beginning: the function anew, or its missing body."""
    from qwq.verify.code import extract_code

    code = extract_code(answer)
    if code is not None and _defines(code, entry):
        return prompt[: prompt.rfind(f"def {entry}")] + "\n\n" + code
    for body in (answer, code or "", textwrap.indent(code or "", "    ")):
        if body.strip() and _defines(whole := prompt.rstrip() + "\n" + body.strip("\n") + "\n", entry):
            return whole
    return code


def _defines(code: str, name: str) -> bool:
    try:
        compile(code, "answer", "exec", dont_inherit=True)  # the parser alone lets a return outside a function pass
        return any(
            isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef) and s.name == name for s in parse_python(code).body
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


class Mbpp(Benchmark):
    name = "mbpp"

    def load(self, data: Any) -> list[Problem]:
        rows = [(where, row, need(row, "task_id", where, int)) for where, row in data.rows()]
        test = [r for r in rows if r[2] in MBPP_IDS["test"]]
        if not test:
            data.say("no task of the test split (ids 11 to 510): all tasks are taken")
        return [self.problem(row, where) for where, row, _ in test or rows]

    def problem(self, row: Mapping[str, Any], where: str) -> Problem:
        asserts = need(row, "test_list", where, list)
        if not asserts or not all(isinstance(a, str) and a.strip() for a in asserts):
            raise DataError(f"{where}: field 'test_list' must hold at least one assert as text")
        asserts = [a.replace("\r\n", "\n").strip() for a in asserts]
        setup = str(row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())).replace("\r\n", "\n")
        question = need(row, "text" if "text" in row else "prompt", where).strip()
        message = Message("user", question + TESTS_HINT + "\n".join(asserts) + CODE_INSTRUCTION)
        truth = {"tests": {"kind": "asserts", "setup": setup, "asserts": asserts}}
        return Problem(f"mbpp/{row['task_id']}", "code", (message,), truth, str(row["task_id"]), source=self.name)

    def judge(self, problem: Problem, replies: Sequence[Turn]) -> Mark:
        from qwq.verify.code import extract_code

        code = extract_code(replies[-1].answer)
        if code is None:
            return marked(Verdict(Outcome.NO_ANSWER, "the answer holds no code", self.name))
        return marked(run_tests(code, problem.truth["tests"]))
