"""HumanEval: a function is completed, its published tests decide, in the sandbox (Chen et al. 2021,
arXiv 2107.03374).

A row gives the beginning of a file: what comes before the function, imports and helpers, is put
before the answer too. pass@1 is the headline, pass@k if there are several samples.

    {"task_id", "prompt", "entry_point", "test"}
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping
from typing import Any

from qwq.common.source import parse_python
from qwq.errors import DataError
from qwq.tasks.downloads import Published
from qwq.tasks.file_task import FileTask
from qwq.tasks.published import PLACES
from qwq.tasks.questions import canonical, need
from qwq.types import Message, Problem, Response, Verdict

INSTRUCTION = (
    "Complete the following Python function. Answer with the whole program in one ```python block.\n\n```python\n"
    "{prompt}\n```"
)
TIMEOUT_S = 20.0


def run_tests(code: str, tests: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S, memory_mb: int = 1024) -> Verdict:
    # The sandbox is loaded only where programs are run.
    from qwq.verify.code import verify

    return verify(code, tests, timeout_s=timeout_s, memory_mb=memory_mb)


class HumanEval(FileTask):
    name = "humaneval"
    domain = "code"
    published = Published(
        "HumanEval.jsonl", PLACES["humaneval/HumanEval.jsonl"],
        "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2",
        known=("621ff099e7d6a9b630619acd3568aef441dec51a8c84f881a9dd1f2d2ed15914",),
    )  # fmt: skip

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem:
        from qwq.verify.code import asserts_from_check

        name, prompt, entry = (need(row, key, where) for key in ("task_id", "prompt", "entry_point"))
        try:
            setup, asserts = asserts_from_check(need(row, "test", where), entry)
        except (SyntaxError, DataError, ValueError) as error:
            raise DataError(f"{where}: field 'test': {error}") from None
        tests = {"kind": "asserts", "setup": setup, "asserts": asserts}
        truth = {"tests": tests, "prompt": prompt, "entry_point": entry}
        message = Message("user", INSTRUCTION.format(prompt=prompt.rstrip()))
        return Problem(name, "code", (message,), truth, canonical("code", prompt), source=self.name)

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        code = whole_program(self.answer(response), problem.truth["prompt"], problem.truth["entry_point"])
        if code is None:
            return self.verdict(None, "the answer holds no code")
        return run_tests(code, problem.truth["tests"])


def whole_program(answer: str, prompt: str, entry: str) -> str | None:
    """The program that an answer makes of HumanEval's beginning: the function written again, or its
    missing body.
    """
    from qwq.verify.code import extract_code

    code = extract_code(answer)
    if code is not None and _defines(code, entry):
        return prompt[: prompt.rfind(f"def {entry}")] + "\n\n" + code
    # A response has no blanks before it, so a body alone has lost the indentation of its first
    # line.
    for body in (answer, f"    {answer}", code or "", textwrap.indent(code or "", "    ")):
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
