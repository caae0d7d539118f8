"""MBPP: a function is asked for and its tests are shown; they decide, in the sandbox (Austin et al.
2021, arXiv 2108.07732).

One file, divided by task id as in its paper (section 2.1): 1-10 few-shot prompts (unused here),
11-510 test, 511-600 validation, 601-974 train.

    {"task_id", "text" or "prompt", "test_list", "test_setup_code" or "test_imports"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.errors import DataError
from qwq.tasks.downloads import Published
from qwq.tasks.file_task import FileTask
from qwq.tasks.questions import CODE_INSTRUCTION, TESTS_HINT, canonical, need, text_of
from qwq.types import Message, Problem

MBPP_IDS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
# Tasks of MBPP's training split that repeat a test task word for word (217, 248 and 216); training
# leaves them out.
MBPP_REPEATED = frozenset({602, 704, 872})


class Mbpp(FileTask):
    name = "mbpp"
    domain = "code"
    published = Published(
        "mbpp.jsonl", hub=("google-research-datasets/mbpp",),
        known=("147e0434ec6b0e9a69b43d82084ac5afbce79f9f9c085cae6c21c3ace23236dd",),
    )  # fmt: skip

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem:
        number, asserts = need(row, "task_id", where, int), need(row, "test_list", where, list)
        if not asserts or not all(isinstance(a, str) and a.strip() for a in asserts):
            raise DataError(f"{where}: field 'test_list' must hold at least one assert as text")
        asserts = [a.replace("\r\n", "\n").strip() for a in asserts]
        setup = str(row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())).replace("\r\n", "\n")
        question = text_of(row, "text" if "text" in row else "prompt", where)
        message = Message("user", question + TESTS_HINT + "\n".join(asserts) + CODE_INSTRUCTION)
        truth = {"tests": {"kind": "asserts", "setup": setup, "asserts": asserts}}
        return Problem(f"mbpp/{number}", "code", (message,), truth, canonical("code", question), source="mbpp")

    def owns(self, problem: Problem, split: str, file_split: str | None) -> bool:
        number = int(problem.id.removeprefix("mbpp/"))
        return number in MBPP_IDS[split] and not (split == "train" and number in MBPP_REPEATED)

    def left_out(self, split: str) -> str:
        return f"not of the {split} split"

    def why_none(self, split: str, rows: int) -> str:
        ids = MBPP_IDS[split]
        return (
            f" ({rows} rows; a task's id decides its split: {split} is {ids[0]} to {ids[-1]}; tasks of your own "
            'are kind = "code")'
        )
