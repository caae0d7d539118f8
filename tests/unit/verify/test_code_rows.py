"""A user's own problems as RL sources: math rows in their usual shapes, code rows with tests of
their own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwq.config import Source
from qwq.data.examples import FileUse
from qwq.distill.run import DistillPlan, load_problems
from qwq.errors import DataError
from qwq.tasks.questions import CODE_INSTRUCTION, TESTS_HINT, question_of
from qwq.tasks.sources import load_source
from qwq.types import Outcome, Problem, Response
from qwq.verify.grade import grade


def load(kind: str, path: Path, *rows: object, split: str = "test", **more: object) -> list[Problem]:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return load_source(Source.model_validate({"kind": kind, "path": str(path), "split": split, **more}))


# -- math ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"question": "What is 2+3?", "answer": "5"}, "5"),
        ({"question": "What is 2+3?", "answer": 5}, "5"),
        ({"question": "What is 2+3?", "answer": "2+3=<<2+3=5>>5\n#### 5"}, "5"),
        ({"question": "What is 57,000+500?", "answer": "#### 57,500"}, "57500"),
        ({"question": "Half of 9?", "answer": "9/2"}, "9/2"),
        ({"problem": "What is 2+3?", "answer": "5"}, "5"),
        ({"question": "What is 2+3?", "solution": "So $\\boxed{5}$."}, "So $\\boxed{5}$."),
    ],
)
def test_math_rows_by_question_or_problem(tmp_path: Path, row: dict, gold: str) -> None:
    (problem,) = load("math", tmp_path / "mine.jsonl", row)
    assert problem.truth == {"gold": gold} and question_of(problem) == row.get("question", row.get("problem"))
    answer = {"So $\\boxed{5}$.": "5"}.get(gold, gold)
    assert grade(problem, Response(f"\\boxed{{{answer}}}")).outcome is Outcome.CORRECT
    assert grade(problem, Response("\\boxed{77}")).outcome is Outcome.WRONG


def test_a_gold_above_64_bits_keeps_its_digits(tmp_path: Path) -> None:
    big = "123456789012345678901234567890123"
    (problem,) = load("math", tmp_path / "mine.jsonl", f'{{"problem": "big", "answer": {big}}}\n')
    assert problem.truth == {"gold": big}  # 1.2345678901234569e+32 by orjson
    assert grade(problem, Response(f"\\boxed{{{big[:-1]}4}}")).outcome is Outcome.WRONG
    (problem,) = load("math", tmp_path / "mine.jsonl", f'{{"problem": "big", "answer": {2**64}}}\n')
    assert problem.truth == {"gold": "18446744073709551616"}


def test_bad_math_rows_say_what_is_missing(tmp_path: Path) -> None:
    for row, words in (
        ({"question": " ", "answer": "5"}, "line 1: field 'question' must be text"),
        ({"text": "q", "answer": "5"}, "line 1: field 'problem' must be text"),
        ('{"problem": "q", "answer": NaN}\n', "line 1: field 'answer' must be text or a finite number, found nan"),
    ):
        with pytest.raises(DataError, match=words):
            load("math", tmp_path / "mine.jsonl", row)
    with pytest.raises(DataError, match='bare answers are kind = "math"'):
        load("gsm8k", tmp_path / "mine.jsonl", {"question": "q", "answer": "5"})


def test_rows_that_are_not_used_are_counted(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}+1?", "answer": i + 1} for i in range(40)]
    path, use = tmp_path / "mine.jsonl", FileUse("mine")
    train = load("math", path, *rows, split="train")
    problems = load_source(Source(kind="math", path=str(path), limit=10), use)
    held = load_source(Source(kind="math", path=str(path), split="validation"))
    assert len(train) + len(held) == 40 and 0 < len(held) < 8
    assert (
        len(problems) == use.used == 10
        and (use.rows, use.beyond) == (40, len(train) - 10)
        and use.left_out == {"held back for validation": len(held)}
    )
    with pytest.raises(
        DataError,
        match=r"holds no validation problems of math \(1 rows; about 5 in a hundred, by a hash of the question",
    ):
        load("math", path, rows[0] if train[0].id.endswith("/1") else rows[1], split="validation")


# -- code ------------------------------------------------------------------------------------------

ADD = "```python\ndef add(a, b):\n    return a + b\n```"
WRONG = "```python\ndef add(a, b):\n    return a - b\n```"
METHOD = "```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```"
SUM = "```python\nprint(sum(map(int, input().split())))\n```"
CODE = {
    "asserts": ({"prompt": "Write add(a,b)", "tests": ["assert add(1,2)==3", "assert add(2,2)==4"]}, ADD, WRONG),
    "one text of asserts": (
        {
            "prompt": "Write add(a,b)",
            "tests": "import math\none = 1\nassert add(one, 2) == 3\nfor i in range(3):\n    assert add(i, 0) == i\n",
        },
        ADD,
        WRONG,
    ),
    "asserts as JSON text": ({"problem": "Write add(a,b)", "tests": '["assert add(1,2)==3"]'}, ADD, WRONG),
    "MBPP's fields": (
        {"text": "Write add(a,b)", "test_list": ["assert add(1,2)==3"], "test_setup_code": "x = 1"},
        ADD,
        WRONG,
    ),
    "programs": (
        {"question": "Add the numbers of a line.", "tests": [{"input": "1 2\n", "output": "3\n"}]},
        SUM,
        "```python\nprint(4)\n```",
    ),
    "APPS's lists": (
        {"problem": "Add the numbers of a line.", "tests": {"inputs": ["1 2\n"], "outputs": ["3\n"]}},
        SUM,
        "```python\nprint(4)\n```",
    ),
    "calls": (
        {"prompt": "Write add(a,b)", "entry_point": "add", "tests": [{"args": [1, 2], "expected": 3}]},
        ADD,
        WRONG,
    ),
    "APPS's calls": (
        {"prompt": "Write add(a,b)", "tests": {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}},
        ADD,
        WRONG,
    ),
    "HumanEval's check": (
        {
            "prompt": "Write add(a,b)",
            "entry_point": "add",
            "tests": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
        },
        ADD,
        WRONG,
    ),
    "a check that is called": (
        {
            "prompt": "Write add(a,b) of class Solution",
            "tests": "def check(candidate):\n    assert candidate(a=1, b=2) == 3\n\n\ncheck(Solution().add)",
        },
        METHOD,
        METHOD.replace("+", "-"),
    ),
    "functions for pytest": (
        {
            "prompt": "Write add(a,b)",
            "tests": "def test_one():\n    assert add(1, 2) == 3\n\n\ndef test_two():\n    x = add(2, 2)\n"
            "    assert x == 4\n",
        },
        ADD,
        WRONG,
    ),
    "as verify code reads them": (
        {
            "prompt": "Write add(a,b)",
            "tests": {"kind": "call", "entry_point": "add", "cases": [{"args": [1, 2], "expected": 3}]},
        },
        ADD,
        WRONG,
    ),
}


@pytest.mark.parametrize("form", CODE)
def test_own_code_tasks_with_own_tests(tmp_path: Path, form: str) -> None:
    row, right, wrong = CODE[form]
    (problem,) = load("code", tmp_path / "mine.jsonl", row)
    text = problem.messages[0].content
    assert (problem.domain, problem.id, problem.source) == ("code", "code/mine/1", "code")
    assert (
        text.endswith(CODE_INSTRUCTION)
        and "assert" not in text
        and question_of(problem) == next(row[k] for k in ("prompt", "problem", "question", "text") if k in row)
    )
    assert grade(problem, Response(right)).outcome is Outcome.CORRECT
    assert grade(problem, Response(wrong)).outcome is Outcome.WRONG


def test_tests_are_shown_only_where_the_prompt_does_not_name_what_they_call(tmp_path: Path) -> None:
    hidden, shown, named = load(
        "code", tmp_path / "mine.jsonl",
        {"prompt": "Write add(a,b)", "tests": ["assert add(1,2)==3 and len(str(add(1,2)))==1"]},
        {"prompt": "Write a function that adds.", "tests": ["assert add(1,2)==3"]},
        {"prompt": "Write a function that adds.", "entry_point": "add", "tests": [{"args": [1, 2], "expected": 3}]},
    )  # fmt: skip
    assert "assert" not in hidden.messages[0].content
    assert (
        shown.messages[0].content
        == "Write a function that adds." + TESTS_HINT + "assert add(1,2)==3" + CODE_INSTRUCTION
    )
    assert "Name the function `add`." in named.messages[0].content
    assert question_of(shown) == "Write a function that adds."


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p"}, r"line 1: tests are None: give an object with kind, a list of asserts"),
        ({"prompt": "p", "tests": []}, r"line 1: tests are \[\]"),
        ({"prompt": "p", "tests": ["assert f( == 1"]}, r"line 1: .*is not Python: 'assert f\( == 1'"),
        ({"prompt": "p", "tests": "x = 1"}, r"line 1: tests.asserts\[0\] tests nothing: 'x = 1' has no assert"),
        (
            {"prompt": "p", "tests": "def check(candidate):\n    assert candidate(1) == 1\n"},
            r"line 1: the test defines check\(candidate\), and nothing says of what",
        ),
        ({"prompt": "p", "tests": "def test_it():\n    f(1)\n"}, "line 1: "),
        (
            {"prompt": "p", "tests": [{"args": [1], "expected": 1}]},
            "line 1: tests.entry_point must be the name of a function",
        ),
        (
            {"prompt": "p", "tests": ["assert 1", {"input": "", "output": ""}]},
            "line 1: tests are a list that begins with 'assert 1'",
        ),
        ({"prompt": "p", "tests": {"inputs": ["1"]}}, "line 1: tests.kind is not there, and an object with inputs"),
        (
            {"prompt": "p", "tests": {"kind": "stdio", "cases": [{"input": 1, "output": "1"}]}},
            "line 1: .*input is a int: give text",
        ),
        ({"tests": ["assert f() == 1"]}, "line 1: prompt is null: give a list of objects"),
    ],
)
def test_bad_code_rows_are_named_by_line(tmp_path: Path, row: dict, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        load("code", tmp_path / "mine.jsonl", row)
    assert "\n" not in str(error.value)


def test_mbpp_says_by_what_it_divides(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"\(1 rows; a task's id decides its split: train is 601 to 974; tasks of your own are kind = \"code\"\)",
    ):
        load(
            "mbpp",
            tmp_path / "mine.jsonl",
            {"task_id": 1, "text": "t", "test_list": ["assert f() == 1"]},
            split="train",
        )


def test_content_parts_of_prompts_are_joined(tmp_path: Path) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]}]
    (problem,) = load("prompts", tmp_path / "mine.jsonl", {"prompt": parts})
    assert problem.messages[0].content == "Say hi."


def test_rows_of_two_files_of_one_name_are_all_kept(tmp_path: Path) -> None:
    """One id for two problems lost the first of them to distillation."""
    names = []
    for folder, question in (("a", "What is 1+1?"), ("b", "What is 2+2?")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "train.jsonl"
        path.write_text(
            "".join(json.dumps({"question": f"{question} {i}", "answer": "#### 2"}) + "\n" for i in range(8))
        )
        names.append(f"gsm8k={path}")
    apart = [load_problems(DistillPlan((name,))) for name in names]
    assert (
        len(load_problems(DistillPlan(tuple(names))))
        == sum(map(len, apart))
        == len({p.id for p in load_problems(DistillPlan(tuple(names)))})
    )
    assert len(load_problems(DistillPlan((names[0], names[0])))) == len(apart[0])


def test_the_parts_of_a_set_have_ids_of_their_own(tmp_path: Path) -> None:
    for part in ("train-00000-of-00002", "train-00001-of-00002"):
        (tmp_path / f"{part}.jsonl").write_text(
            "".join(json.dumps({"question": f"{part} {i}?", "answer": "1"}) + "\n" for i in range(8))
        )
    problems = load_source(Source(kind="math", path=str(tmp_path)))
    assert len({p.id for p in problems}) == len(problems) > 8
