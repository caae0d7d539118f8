"""Decontamination: what counts as a match, by hand; files, names, reports; the recipe's key;
speed.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from qwq.cli import main
from qwq.config import Source
from qwq.errors import ConfigError, DataError
from qwq.tasks.decontaminate import NgramIndex, build_index, decontaminate_file, text_of
from qwq.tasks.sources import load_source

SHARED = Path(__file__).parents[4] / "shared" / "data"
QUESTION = (
    "A farmer has 12 cows and buys 7 more; how many cows does he have, if 3 of them run away at night?"  # 21 words
)


def index(*questions: str, n: int = 13) -> NgramIndex:
    made = NgramIndex(n)
    made.add("bench", questions)
    return made


def words(first: int, last: int) -> str:
    return " ".join(f"w{i}" for i in range(first, last))


def test_thirteen_words_in_a_row_match_and_twelve_do_not() -> None:
    found = index(words(0, 40))
    assert found.match(f"before {words(5, 17)} after") is None
    match = found.match(f"before {words(5, 18)} after")
    assert match and (match.benchmark, match.row, match.words) == ("bench", 1, words(5, 18))


@pytest.mark.parametrize(
    "text",
    [
        QUESTION.upper(),
        QUESTION.replace(" ", "\n  "),
        f"Solve this. {QUESTION} Thanks!",
        QUESTION.replace(",", "").replace(";", " -"),
    ],
)
def test_case_blanks_and_punctuation_do_not_count(text) -> None:
    assert index(QUESTION).match(text)


@pytest.mark.parametrize("text", [QUESTION.replace("cows", "goats"), "A farmer has 12 cows.", "", "?!"])
def test_other_texts_do_not_match(text) -> None:
    assert index(QUESTION).match(text) is None


def test_short_questions_are_looked_for_whole() -> None:
    ten, five = "Write a python function to find the largest given number", "What is two plus two?"
    found = index(ten, five)
    assert found.match(f"Please: {ten}. Thanks") and found.match("what is two plus TWO")
    assert found.match(f"Well. {five} I ask") is None  # five words in a row are chance
    assert found.match(ten.replace("largest", "smallest")) is None


def test_a_question_without_blanks_is_found_inside_another_text() -> None:
    question = "小明有十二个苹果，他每天吃三个苹果，问几天后苹果全部吃完？"
    found = index(question)
    assert found.match(f"请认真思考下面的题目。{question}答案写在最后。")
    assert found.match("从前有一个人。小明有十二个苹果，他每天吃三个，然后他睡觉了。")  # 13 letters in a row
    assert found.match("小明有十二个梨，他每天吃两个，问几天后能吃完？") is None
    assert index("Compute 3+4 の値を求めよ, then add the square root of nine to it").match("x 値を求めよ y") is None


def test_boilerplate_of_a_benchmark_is_no_evidence() -> None:
    suffix = "please reason step by step and put your final answer within the box at the very end of it"
    found = index(*(f"{words(100 * i, 100 * i + 20)} {suffix}" for i in range(11)))
    assert found.match(f"something quite different {suffix}") is None
    assert found.match(f"{words(300, 320)} {suffix}").row == 4


def test_what_is_read_of_a_row() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    assert text_of({"messages": turns}) == "a" and text_of({"messages": turns}, answers=True) == "a\nb"
    assert text_of({"question": [[{"role": "user", "content": "a"}]]}) == "a"
    assert (
        text_of({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, answers=True)
        == "a\nb"
    )
    assert text_of({"problem": "a", "answer": "b", "n": 1}) == "a" and text_of({"n": 1}) == ""


def write(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_the_shapes_of_training_rows_are_read() -> None:
    """Rows whose question stood in content parts, or in pairs without a prompt, went unseen."""
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    for row in (
        {"messages": parts},
        {"prompt": parts, "completion": "a"},
        {"chosen": [*parts, {"role": "assistant", "content": "a"}], "rejected": parts},
    ):
        assert text_of(row).strip() == QUESTION or text_of(row).split("\n") == [QUESTION, QUESTION]
    assert QUESTION in text_of({"prompt": "q", "chosen": QUESTION, "rejected": "b"}, answers=True)


def test_a_file_by_name_and_by_path(tmp_path, capsys) -> None:
    write(tmp_path / "data" / "cows" / "test.jsonl", {"question": words(0, 20)}, {"question": QUESTION})
    write(tmp_path / "data" / "cows" / "train.jsonl", {"question": words(50, 70)})
    rows = [
        {"prompt": "Hello"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": QUESTION}]},
        {"text": words(50, 70)},
    ]
    train, out, report = (
        write(tmp_path / "train.jsonl", *rows),
        tmp_path / "new" / "clean.jsonl",
        tmp_path / "report.jsonl",
    )
    command = [
        "data",
        "decontaminate",
        str(train),
        "--against",
        "cows",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(out),
        "--report",
        str(report),
    ]
    assert main(command) == 0
    printed, said = capsys.readouterr()
    assert json.loads(printed)["dropped"] == {"cows": 1} and "3 rows, 1 dropped (1 by cows); 2 in" in said
    assert [json.loads(x) for x in out.read_text().splitlines()] == [rows[0], rows[2]]
    assert [p.name for p in out.parent.iterdir()] == ["clean.jsonl"]
    entry = json.loads(report.read_text())
    assert (entry["line"], entry["benchmark"], entry["row"]) == (2, "cows", 2) and entry["words"].startswith(
        "a farmer has 12"
    )
    assert main([*command[:3], "--against", str(tmp_path / "data" / "cows" / "train.jsonl"), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == {"cows/train": 1}


def test_errors_are_one_line_and_leave_nothing(tmp_path) -> None:
    bench = write(tmp_path / "cows" / "test.jsonl", {"question": QUESTION})
    found, out = build_index([str(bench)]), tmp_path / "out.jsonl"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n{"prompt"\n')
    for train, target, words in (
        (tmp_path / "no", out, "no file at"),
        (bad, out, "line 2: not JSON"),
        (bad, bad, "is the training file itself"),
        (write(tmp_path / "t.jsonl", {"n": 1}), out, "no row has a text"),
    ):
        with pytest.raises((DataError, ConfigError), match=words):
            decontaminate_file(train, found, target)
    assert not out.exists() or "no row" in words
    assert not list(tmp_path.glob(".*"))
    for benchmarks, data, text in (
        ([], None, "name at least one"),
        (["cow"], tmp_path, "did you mean 'cows'"),
        (["cow"], None, "give a path, or a name with --data"),
    ):
        with pytest.raises((DataError, ConfigError), match=text):
            build_index(benchmarks, data)
    with pytest.raises(DataError, match="no row has a question"):
        build_index([str(tmp_path / "t.jsonl")])
    with pytest.raises(ConfigError, match="--n is 3"):
        NgramIndex(3)


def test_a_source_leaves_out_what_stands_in_a_benchmark(tmp_path, caplog) -> None:
    rows = [{"question": f"{words(100 * i, 100 * i + 20)}?", "answer": "#### 1"} for i in range(40)]
    train = write(tmp_path / "train.jsonl", *rows)
    bench = write(tmp_path / "bench.jsonl", {"prompt": words(700, 720)})
    whole = load_source(Source(kind="gsm8k", path=str(train)))
    clean = load_source(Source(kind="gsm8k", path=str(train), decontaminate=[str(bench)]))
    assert len(clean) == len(whole) - 1 and "1 problems are also in" in caplog.text
    with pytest.raises(DataError, match="is it the benchmark itself"):
        load_source(Source(kind="gsm8k", path=str(train), decontaminate=[str(train)]))


def test_ten_thousand_rows_against_two_thousand_take_seconds(tmp_path) -> None:
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(3000)]
    text = lambda: " ".join(rng.choices(vocabulary, k=150))
    questions = [text() for _ in range(2000)]
    train = write(
        tmp_path / "train.jsonl",
        *({"prompt": text() if i % 100 else f"{text()} {questions[i % 2000]}"} for i in range(10_000)),
    )
    start = time.perf_counter()
    summary = decontaminate_file(train, index(*questions), tmp_path / "out.jsonl")
    assert summary["kept"] == 9900 and time.perf_counter() - start < 20


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_every_benchmark_of_the_folder_is_read() -> None:
    names = ["aime24", "bfcl", "gsm8k", "humaneval", "ifeval", "livecodebench", "mbpp"]
    sizes = build_index(names, SHARED).sizes
    assert (
        sizes["gsm8k"] == 1319
        and sizes["aime24"] == 30
        and sizes["humaneval"] == 164
        and sizes["ifeval"] >= 541
        and sizes["bfcl"] > 4000
    )
    found = build_index(["mbpp"], SHARED)
    rows = [json.loads(line) for line in (SHARED / "mbpp" / "mbpp.jsonl").read_text().splitlines()]
    assert sum(found.match(r["text"]) is not None for r in rows if 11 <= r["task_id"] <= 510) > 480
    repeated = [r["task_id"] for r in rows if r["task_id"] > 600 and found.match(r["text"])]
    assert {602, 704, 872} <= set(repeated) and len(repeated) < 60
