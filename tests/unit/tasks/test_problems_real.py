"""GSM8K, MATH and MBPP as problems: what is asked, what judges it, and which split a row is in."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from qwq.config import Source
from qwq.data.row_files import choose_files, split_in_name
from qwq.errors import DataError
from qwq.tasks import file_task
from qwq.tasks.mbpp import MBPP_IDS
from qwq.tasks.questions import canonical, contaminated, normalise, question_of
from qwq.tasks.sources import load_source
from qwq.types import Outcome, Problem, Response
from qwq.verify.grade import grade

DATA = Path(__file__).parents[2] / "data" / "real"
SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the whole sets in ../shared/data")


def load(kind: str, path: Path | str, split: str = "train", limit: int | None = None) -> list[Problem]:
    return load_source(Source(kind=kind, path=str(path), split=split, limit=limit))  # type: ignore[arg-type]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return path


# -- rows ------------------------------------------------------------------------------------------


def test_gsm8k_row() -> None:
    problem = load("gsm8k", DATA / "gsm8k_test.jsonl", "test")[0]
    assert problem.messages[0].content.startswith("Janet’s ducks lay 16 eggs per day.")
    assert problem.messages[0].content.endswith("put your final answer within \\boxed{}.")
    assert (problem.domain, problem.source, problem.truth, problem.tools) == ("math", "gsm8k", {"gold": "18"}, ())
    assert grade(problem, Response("9 eggs at $2 make \\boxed{18}")).outcome is Outcome.CORRECT
    assert grade(problem, Response("\\boxed{19}")).outcome is Outcome.WRONG


def test_gsm8k_golds_have_no_thousands_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", {"question": "How much?", "answer": "much\n#### 57,500"})
    assert load("gsm8k", path, "test")[0].truth == {"gold": "57500"}


def test_math_row_and_rows_without_an_answer(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_task, "_said", set())
    problems = [*load("math", DATA / "math_train.jsonl"), *load("math", DATA / "math_train.jsonl", "validation")]
    rows = [json.loads(line) for line in (DATA / "math_train.jsonl").read_text().splitlines()]
    assert sorted(p.truth["gold"] for p in problems) == sorted(r["answer"] for r in rows if r["answer"] is not None)
    assert len(problems) == len(rows) - 1
    assert caplog.text.count("1 rows without an answer are left out") == 1  # of two splits
    boxed = [grade(p, Response(f"\\boxed{{{p.truth['gold']}}}")).outcome for p in problems]
    assert boxed == [Outcome.CORRECT] * len(problems)


def test_math_reads_the_answer_of_a_solution_and_numbers(tmp_path: Path) -> None:
    solution = {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "level": "Level 1"}
    first, second = load("math", write(tmp_path / "a.jsonl", solution, {"problem": "And $2+2$?", "answer": 4}), "test")
    assert grade(first, Response("\\boxed{2}")).correct and not grade(first, Response("\\boxed{3}")).correct
    assert second.truth == {"gold": "4"}


def test_mbpp_row_shows_its_tests_and_is_judged_by_them() -> None:
    problem = load("mbpp", DATA / "mbpp.jsonl", "test")[0]
    text = problem.messages[0].content
    assert (problem.id, problem.domain, problem.source) == ("mbpp/11", "code", "mbpp")
    assert text.startswith("Write a python function to remove first and last occurrence of a given character")
    assert 'Your code should pass these tests:\n\nassert remove_Occ("hello","l") == "heo"\n' in text
    assert "```python" in text and "\r" not in text
    right = 'def remove_Occ(s, c):\n    s = s.replace(c, "", 1)\n    return s[::-1].replace(c, "", 1)[::-1]\n'
    assert grade(problem, Response(f"```python\n{right}```")).outcome is Outcome.CORRECT
    assert grade(problem, Response(f"```python\n{right.replace('s[::-1].', 's.')}```")).outcome is Outcome.WRONG


def test_mbpp_reference_programs_pass_also_with_setup_code() -> None:
    codes = {row["task_id"]: row["code"] for row in map(json.loads, (DATA / "mbpp.jsonl").read_text().splitlines())}
    problems = [p for split in MBPP_IDS for p in load("mbpp", DATA / "mbpp.jsonl", split)]
    assert any(p.truth["tests"]["setup"] for p in problems)
    for problem in problems:
        code = codes[int(problem.id.removeprefix("mbpp/"))]
        verdict = grade(problem, Response(f"```python\n{code}\n```"))
        assert verdict.outcome is Outcome.CORRECT, (problem.id, verdict.reason)


# -- splits ----------------------------------------------------------------------------------------


def test_mbpp_is_divided_by_task_id_as_in_its_paper() -> None:
    ids = {split: [p.id for p in load("mbpp", DATA / "mbpp.jsonl", split)] for split in MBPP_IDS}
    assert ids["test"] == ["mbpp/11", "mbpp/14", "mbpp/217", "mbpp/367"]
    assert ids["validation"] == ["mbpp/511", "mbpp/512"]
    # 602 asks what test task 217 asks, and 2 is one of the prompt's examples.
    assert ids["train"] == ["mbpp/601", "mbpp/604"]


def test_validation_is_carved_out_of_train() -> None:
    path = DATA / "gsm8k_train.jsonl"
    train, validation = load("gsm8k", path), load("gsm8k", path, "validation")
    assert [p.id for p in validation] == ["gsm8k/train/5", "gsm8k/train/6"]
    assert sorted(p.id for p in [*train, *validation]) == [f"gsm8k/train/{i}" for i in range(1, 8)]


def test_limit_takes_the_first_rows_of_the_split() -> None:
    path = DATA / "mbpp.jsonl"
    assert load("mbpp", path, "test", limit=2) == load("mbpp", path, "test")[:2]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train.jsonl", "test"), ("test.jsonl", "train"), ("test.jsonl", "validation"), ("gsm8k_dev.jsonl", "train")],
)
def test_a_file_of_another_split_is_refused(tmp_path: Path, name: str, split: str) -> None:
    path = write(tmp_path / name, {"question": "q", "answer": "#### 1"})
    with pytest.raises(DataError, match=f"rows by its name, split '{split}' is asked for"):
        load("gsm8k", path, split)


def test_split_in_name() -> None:
    names = [
        "train.jsonl",
        "leetcode_train.jsonl",
        "test-00000-of-00001.parquet",
        "val.jsonl",
        "contest.jsonl",
        "trainer.jsonl",
        "mbpp.jsonl",
    ]
    assert [split_in_name(n) for n in names] == ["train", "train", "test", "validation", None, None, None]


# -- bad input -------------------------------------------------------------------------------------

GOOD = {"question": "q", "answer": "#### 1"}
TASK = {"task_id": 601, "text": "t", "test_list": ["assert f() == 1"], "test_setup_code": ""}


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("gsm8k", [GOOD, '{"question": "q", \n'], r"train.jsonl, line 2: not JSON"),
        ("gsm8k", [GOOD, "\n", "[1]\n"], r"line 3: holds a list, an object is needed"),
        (
            "gsm8k",
            [{"problem": "q", "answer": "1"}],
            r"line 1: field 'question' must be text, found 'None' \(the row has problem, answer\)",
        ),
        ("gsm8k", [GOOD, {"question": "q", "answer": "1"}], r"line 2: the answer has no '#### RESULT'"),
        ("gsm8k", [GOOD, {"question": "q", "answer": "####  "}], r"line 2: the answer has no '#### RESULT'"),
        ("math", [{"problem": "q", "solution": "so 2"}], r"line 1: no `answer`, and the solution has no \\boxed"),
        ("math", [{"problem": "q", "answer": ["2"]}], r"line 1: field 'answer' must be text or a number, found"),
        ("math", [{"problem": " ", "answer": "2"}], r"line 1: field 'problem' must be text"),
        ("mbpp", [TASK, TASK | {"task_id": "602"}], r"line 2: field 'task_id' must be a number, found '602'"),
        ("mbpp", [TASK | {"test_list": []}], r"line 1: field 'test_list' must hold at least one assert"),
        ("mbpp", [TASK | {"task_id": 12}], r"holds no train problems of mbpp"),
        ("gsm8k", [], r"train.jsonl is empty"),
        ("gsm8k", ["\n \n"], r"train.jsonl is empty"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, kind: str, rows: list, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(kind, write(tmp_path / "train.jsonl", *rows))
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_repair(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match="no data file at .*nope.jsonl: give a JSON-lines file .* or a hub data set such as openai/gsm8k",
    ):
        load("gsm8k", tmp_path / "nope.jsonl")


def test_parquet_without_pyarrow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        load("gsm8k", tmp_path / "train.parquet")


# -- folders and the hub ---------------------------------------------------------------------------


def test_choose_files() -> None:
    gsm8k = ["README.md", *(f"{f}/{s}-00000-of-00001.parquet" for f in ("socratic", "main") for s in ("train", "test"))]
    assert choose_files(gsm8k, "test", "x") == ["main/test-00000-of-00001.parquet"]
    assert choose_files(gsm8k, "validation", "x") == ["main/train-00000-of-00001.parquet"]
    mbpp = [f"full/{s}-00000-of-00001.parquet" for s in ("prompt", "test", "train", "validation")]
    assert choose_files(mbpp, "validation", "x") == ["full/validation-00000-of-00001.parquet"]
    assert choose_files(["a/train-1.jsonl", "a/train-0.jsonl", "a/train-0.parquet"], "train", "x") == [
        "a/train-0.jsonl",
        "a/train-1.jsonl",
    ]
    assert choose_files(["sanitized-mbpp.json", "mbpp.jsonl"], "test", "x") == ["mbpp.jsonl"]
    with pytest.raises(DataError, match="x has files in a, b: give the path of one data file"):
        choose_files(["a/train.jsonl", "b/train.jsonl"], "train", "x")
    with pytest.raises(DataError, match=r"x has no test file, only train\.jsonl"):
        choose_files(["train.jsonl"], "test", "x")


def test_a_folder_is_read_as_a_data_set(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *(GOOD | {"question": f"q{i}"} for i in range(20)))
    write(tmp_path / "test.jsonl", GOOD | {"question": "tested"})
    assert [question_of(p) for p in load("gsm8k", tmp_path, "test")] == ["tested"]
    assert len(load("gsm8k", tmp_path)) + len(load("gsm8k", tmp_path, "validation")) == 20


def test_a_hub_id_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def listed(self: object, name: str, **options: object) -> list[str]:
        return ["README.md", "test.jsonl", "train.jsonl"]

    def download(name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns, repo_type))
        write(tmp_path / allow_patterns[0], GOOD)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load("gsm8k", "org/set", "test")[0].truth == {"gold": "1"}
    assert asked == [("org/set", ["test.jsonl"], "dataset")]


def test_a_hub_that_does_not_answer_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> list[str]:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fails)
    with pytest.raises(DataError, match=r"no data file at org/set, .*no route to host.*local JSON-lines file"):
        load("gsm8k", "org/set")


# -- canonical forms -------------------------------------------------------------------------------


def test_normalise() -> None:
    assert normalise("It's $1,250.50,\n  e.g. 3.5%!") == "it s 1250.50 e g 3.5 %"
    assert normalise("Find $x + y$.") != normalise("Find $x - y$.")
    assert normalise("$88 \\div (4 \\div 2)$") != normalise("$88 \\div 4 \\div 2$")
    assert canonical("math", "How many  EGGS?") == canonical("math", "how many eggs")
    assert canonical("math", "q") != canonical("code", "q")


def test_contaminated_finds_a_question_inside_a_text() -> None:
    problems = load("gsm8k", DATA / "gsm8k_test.jsonl", "test")
    text = f"From a web page: {question_of(problems[2]).upper().replace(' ', '  ')} -- and more"
    assert contaminated([text, "nothing here"], problems) == [problems[2]]
    cut = " ".join(question_of(problems[1]).split()[:-2])
    assert contaminated([cut], problems) == []
    code = load("mbpp", DATA / "mbpp.jsonl", "test")
    assert contaminated([f"# {question_of(code[0])}\ndef remove_Occ(s, ch): ..."], code) == [code[0]]


@needs_shared
def test_whole_sets_have_their_published_sizes_and_no_problem_in_two_splits() -> None:
    gsm8k = {s: load("gsm8k", SHARED / "gsm8k", s) for s in MBPP_IDS}
    assert len(gsm8k["train"]) + len(gsm8k["validation"]) == 7473 and len(gsm8k["test"]) == 1319
    assert 0.04 < len(gsm8k["validation"]) / 7473 < 0.06
    mbpp = {s: load("mbpp", SHARED / "mbpp" / "mbpp.jsonl", s) for s in MBPP_IDS}
    assert {s: len(p) for s, p in mbpp.items()} == {"test": 500, "validation": 90, "train": 371}
    for sets in (gsm8k, mbpp):
        forms = {s: {p.canonical for p in problems} for s, problems in sets.items()}
        assert not forms["train"] & forms["test"] and not forms["train"] & forms["validation"]
        assert not forms["validation"] & forms["test"]
    assert contaminated([question_of(p) for p in gsm8k["train"]], gsm8k["test"]) == []
    math = [*load("math", SHARED / "math/train.jsonl"), *load("math", SHARED / "math/train.jsonl", "validation")]
    assert len(math) == 7474 - 4
