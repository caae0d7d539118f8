"""LiveCodeBench, release v5, contests from 2024-08-03 to 2025-01-04 (279 problems), 8 samples each.

Source: Jain et al. 2024 (arXiv 2403.07974) and the prompts of QwQ's evaluation. The program is the
text between the last two fences of the answer. Three forms of rows are read:

    the data set's own   {"question_id", "question_content", "starter_code", "public_test_cases", "private_test_cases", "metadata", "contest_date"}
    QwQ's prompts        {"prompt", "question_id", "tests": {"fname", "md5"}}, with the tests in livecodebench_v5_tests/FNAME
    SandboxFusion's      {"id", "content", "test"}

Packed tests are read by `verify.code.livecodebench`, which never unpickles. Rows whose tests are
not at hand are left out, with a note.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwq.data.examples import FileUse
from qwq.errors import DataError
from qwq.tasks.base import Protocol
from qwq.tasks.downloads import DataFiles, Published
from qwq.tasks.file_task import FileTask
from qwq.tasks.humaneval import run_tests
from qwq.tasks.questions import canonical, need
from qwq.types import Message, Problem, Response, Verdict

FIRST, LAST = "2024-08-03", "2025-01-04"
TESTS_FOLDER = "livecodebench_v5_tests"
TIMEOUT_S, MEMORY_MB = 30.0, 2048
# The wording of QwQ's evaluation (QwenLM/QwQ, eval/data/process_data.py, Apache-2.0), which follows
# LiveCodeBench's.
OPENING = (
    "You will be given a question (problem specification) and will generate a correct Python program that matches the "
    "specification and passes all tests.\n\nQuestion: {question}\n\n"
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters.\n```python\n{starter}\n```\n\n"
)
WITH_STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the "
    "sample inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it "
    "reads the inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)


def last_block(text: str) -> str | None:
    """What is between the last two lines with a fence, as LiveCodeBench reads it;

    None without two.
    """
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else None


class LiveCodeBench(FileTask):
    name = "livecodebench"
    domain = "code"
    protocol = Protocol(samples=8)
    published = Published(
        "prompts_v5_2408_2501.jsonl", hub=("livecodebench/code_generation_lite",),
        hub_files=("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl"),
        known=("6441538a8f5f4d598480315fb5b0b4ca47489bfb7d496972e290d06e39679905",),
    )  # fmt: skip

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        problems, without_tests, outside = [], [], []
        for _, row in data.rows(split):
            problem = self.problem(row.fields, row.where, data.folder)
            if problem is None:
                without_tests.append(row.where)
            elif "question_content" in row.fields and not FIRST <= str(row.fields.get("contest_date", ""))[:10] <= LAST:
                outside.append(problem)
            else:
                problems.append(problem)
        if without_tests and not problems + outside:
            raise DataError(
                f"{len(without_tests)} problems and none with tests ({without_tests[0]} names a file of "
                f"{TESTS_FOLDER}, which is not in {data.folder}): get {', '.join(self.published.hub_files)} from "
                f"{self.published.place}, and put them there"
            )
        if without_tests:
            data.say(
                f"{len(without_tests)} problems without tests are left out: {TESTS_FOLDER} is not in {data.folder}"
            )
        if outside:
            data.say(
                f"{len(outside)} problems are not of {FIRST} to {LAST}: "
                f"{'they are left out' if problems else 'there are no others, so they are taken'}"
            )
        return problems or outside

    def problem(self, row: Mapping[str, Any], where: str, folder: Path | None) -> Problem | None:
        if "question_content" in row:
            tests = {"kind": "livecodebench", "public_test_cases": need(row, "public_test_cases", where)}
            tests |= {k: row[k] for k in ("private_test_cases", "metadata") if row.get(k)}
            prompt = question_prompt(need(row, "question_content", where), str(row.get("starter_code") or ""))
        elif "content" in row:
            prompt, tests = need(row, "content", where), {"kind": "livecodebench", "test": need(row, "test", where)}
        else:
            prompt, about = need(row, "prompt", where), need(row, "tests", where, dict)
            path = (folder or Path()) / TESTS_FOLDER / Path(need(about, "fname", where)).name
            if not path.is_file():
                return None
            tests = {"kind": "file", "path": str(path), "md5": need(about, "md5", where)}
        ident = str(row.get("question_id") or need(row, "id", where, (str, int)))
        message = Message("user", prompt)
        return Problem(
            f"livecodebench/{ident}", "code", (message,), {"tests": tests}, canonical("code", prompt), source=self.name
        )

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        code = last_block(self.answer(response))
        if code is None or not code.strip():
            return self.verdict(None, "no fenced block in the answer")
        tests = problem.truth["tests"]
        if tests["kind"] == "file":
            tests = tests_of_file(tests["path"], tests["md5"])
        return run_tests(code, tests, timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB)


def question_prompt(question: str, starter: str) -> str:
    return OPENING.format(question=question) + (WITH_STARTER.format(starter=starter) if starter else WITH_STDIN)


@functools.lru_cache(maxsize=16)
def tests_of_file(path: str, md5: str) -> dict[str, Any]:
    """Tests as QwQ's evaluation stores them, `{"input_output":

    JSON text}`. DataError where the checksum differs.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        data = json.loads(content["input_output"])
        pairs, function = list(zip(data["inputs"], data["outputs"], strict=True)), data.get("fn_name")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no tests ({type(error).__name__}: {error}): make it again with QwQ's process_data.py"
        ) from None
    found = hashlib.md5(json.dumps(content).encode(), usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} has md5 {found}, {md5} is expected: it is of another release; make it again with QwQ's "
            "process_data.py"
        )
    cases = json.dumps([{"input": i, "output": o} for i, o in pairs])
    return {
        "kind": "livecodebench",
        "public_test_cases": cases,
        "metadata": json.dumps({"func_name": function} if function else {}),
    }
