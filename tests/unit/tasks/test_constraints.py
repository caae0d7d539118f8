"""Constraints for training: each type by hand on both sides, what they ask for, rewards for
nothing, and problems made of them.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qwq.cli import main
from qwq.config import Source
from qwq.errors import DataError
from qwq.tasks.constraints import constraint_problem
from qwq.tasks.sources import load_source
from qwq.types import Outcome, Response
from qwq.verify.grade import grade as grade_problem
from qwq.verify.instructions.constraints import CONSTRAINTS, compatible
from qwq.verify.instructions.ifeval import CHECKS, grade
from qwq.verify.instructions.ifeval_requests import IFEVAL, REQUESTS, describe
from qwq.verify.instructions.language import is_an_answer

TABLE = "| name | size |\n|---|---|\n| cat | small |\n| dog | large |\n| cow | huge |"
# type, kwargs, answers that follow, answers that do not
CASES = [
    ("words:longest", {"letters": 6}, ["The river is quiet today."], ["The mountain is quiet today."]),
    (
        "words:long",
        {"n": 2, "letters": 9},
        ["Wonderful mountains stand around the beautiful valley."],
        ["The mountain is beautiful."],
    ),
    (
        "words:once",
        {"keyword": "river"},
        ["The River is quiet and wide."],
        ["The river meets another river.", "The rivers are quiet."],
    ),
    (
        "words:order",
        {"first": "summer", "second": "winter"},
        ["After summer there is winter."],
        ["After winter comes the summer.", "It is summer now."],
    ),
    ("words:repeat_limit", {"n": 1}, ["The sea and the sky and the quiet river."], ["The river and another river."]),
    (
        "words:from_end",
        {"keyword": "river", "n": 3},
        ["We walk along the river every morning."],
        ["We walk along the river in the morning."],
    ),
    ("words:hyphenated", {"n": 2}, ["A well-known and long-lived tree."], ["A well-known tree - long lived."]),
    ("words:same_ends", {}, ["Quiet is the night, and the river is quiet."], ["Quiet is the night."]),
    ("words:first", {"keyword": "river"}, ["**River** water is cold."], ["The river is cold."]),
    ("words:last", {"keyword": "river"}, ['We went to the "river."'], ["The river is cold."]),
    ("letters:total", {"low": 10, "high": 20}, ["The sea is wide."], ["The sea is wide and very deep.", "The sea."]),
    ("letters:without", {"letter": "z"}, ["The sea is wide."], ["The ZOO is wide."]),
    ("letters:start", {"n": 3, "letter": "s"}, ["Seven ships Sail home."], ["Seven boats sail home."]),
    ("numbers:none", {}, ["There are seven of them."], ["There are 7 of them."]),
    (
        "numbers:ascending",
        {"n": 3},
        ["We had 2 cats, 3.5 dogs and 1,200 bees."],
        ["We had 3 cats, 2 dogs and 9 bees.", "We had 2 cats and 3 dogs."],
    ),
    (
        "sentences:range",
        {"low": 2, "high": 3},
        ["Dr. No came. He saw."],
        ["Dr. No came.", "He came. He saw. He went. He slept."],
    ),
    ("sentences:longest", {"n": 4}, ["The sea is wide. It is deep."], ["The sea is wide and deep."]),
    (
        "sentences:different_starts",
        {"n": 3},
        ["The sea is wide. It is deep. Fish live there."],
        ["The sea is wide. It is deep. The fish live there.", "The sea is wide. It is deep."],
    ),
    (
        "sentences:acrostic",
        {"word": "sea", "n": 3},
        ["Some fish swim. Every one does. All of them are fast."],
        ["Some fish swim. All of them are fast. Every one is."],
    ),
    (
        "sentences:questions",
        {"n": 1},
        ["Is the sea wide? It is."],
        ["Is the sea wide? Is it deep?", "The sea is wide."],
    ),
    (
        "sentences:growing",
        {"n": 3},
        ["Fish swim. The fish swim fast. The fish in the sea swim fast."],
        ["The fish swim. Fish swim. The fish in the sea swim."],
    ),
    (
        "sentences:keyword_ends",
        {"keyword": "sea"},
        ["The sea is wide. Fish live there. We love the sea."],
        ["The sea is wide. The sea is deep. We love the sea.", "The sea is wide. We swim. We love it."],
    ),
    ("sentences:last_question", {}, ['The sea is wide. Is it "deep?"'], ["Is the sea wide? It is."]),
    ("lines:count", {"n": 2}, ["The sea is wide.\n\nIt is deep."], ["The sea is wide. It is deep."]),
    (
        "lines:numbered",
        {"n": 2},
        ["Two things:\n1. The sea\n2. The sky"],
        ["1. The sea\n3. The sky", "1. The sea\n2. The sky\n3. The wind"],
    ),
    ("lines:width", {"n": 20}, ["The sea is wide\nand very deep."], ["The sea is wide and very deep."]),
    ("lines:prefix", {"prefix": "> ", "n": 2}, ["> The sea\n> is wide"], ["> The sea\nis wide", "> The sea is wide"]),
    ("lines:longer_down", {"n": 3}, ["Sea\nThe sea\nThe wide sea"], ["The sea\nSea\nThe wide sea", "Sea\nThe sea"]),
    (
        "paragraphs:shape",
        {"paragraphs": 2, "sentences": 2},
        ["The sea is wide. It is deep.\n\nFish swim. They are fast."],
        ["The sea is wide. It is deep.\n\nFish swim.", "The sea is wide. It is deep. Fish swim. They are fast."],
    ),
    (
        "paragraphs:first_word",
        {"keyword": "river", "n": 2},
        ["River water is cold.\n\nRiver fish are fast."],
        ["River water is cold.\n\nThe fish are fast."],
    ),
    (
        "format:table",
        {"columns": 2, "rows": 3},
        [TABLE],
        [
            TABLE.replace("|---|---|\n", ""),
            TABLE.rpartition("\n")[0],
            TABLE.replace("| cat | small |", "| cat | small | old |"),
        ],
    ),
    (
        "format:headings",
        {"n": 2},
        ["## The sea\nIt is wide.\n## The sky\nIt is blue."],
        ["## The sea\nIt is wide.\n### The sky\nIt is blue."],
    ),
    (
        "format:bold_keyword",
        {"keyword": "sea"},
        ["The **sea** is wide, and the **Sea** is deep."],
        ["The **sea** is wide, and the sea is deep.", "The **sea** is wide."],
    ),
    (
        "format:json_keys",
        {"keys": ["title", "reason"]},
        [
            '{"title": "The wide sea", "reason": "It is deep"}',
            '```json\n{"title": "The wide sea", "reason": "It is deep"}\n```',
        ],
        [
            '{"title": "The wide sea"}',
            '{"title": "The sea", "reason": ""}',
            '["title", "reason"]',
            "The title is the wide sea.",
        ],
    ),
    (
        "format:checklist",
        {"n": 3, "done": 1},
        ["- [x] buy the bread\n- [ ] bake the cake\n- [ ] wash the car"],
        ["- [x] buy the bread\n- [x] bake the cake\n- [ ] wash the car", "- [x] buy the bread"],
    ),
    (
        "format:tag",
        {"tag": "note"},
        ["<note>The sea is wide.</note>"],
        ["<note>The sea is wide.", "See: <note>The sea is wide.</note>"],
    ),
    (
        "format:terms",
        {"n": 2},
        ["Sea: a wide water\nSky: the air above"],
        ["Sea: a wide water\nThe sky is the air above"],
    ),
    (
        "format:signature",
        {"name": "Mara"},
        ["The sea is wide.\n-- Mara"],
        ["-- Mara\nThe sea is wide.", "The sea is wide. -- Mara"],
    ),
    ("marks:without", {"mark": "!"}, ["The sea is wide."], ["The sea is wide!"]),
    (
        "marks:count",
        {"mark": ";", "n": 2},
        ["The sea is wide; it is deep; it is blue."],
        ["The sea is wide; it is deep."],
    ),
    (
        "case:one_sentence",
        {"n": 1},
        ["The sea is wide. IT IS DEEP."],
        ["THE SEA IS WIDE. IT IS DEEP.", "The sea is wide. It is deep."],
    ),
    (
        "copy:phrase",
        {"phrase": "step by step", "n": 2},
        ["Step by step we go, and step by step we come."],
        ["Step by step we go."],
    ),
    (
        "copy:frame",
        {"line": "Remember this above all."},
        ["Remember this above all.\nThe sea is wide.\nRemember this above all."],
        ["Remember this above all.\nThe sea is wide."],
    ),
]


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("reward", [False, True])
def test_each_type_on_both_sides(name, kwargs, good, bad, reward) -> None:
    for text in good:
        assert grade(text, [name], [kwargs], reward=reward)[0] == [True], text
    for text in bad:
        assert grade(text, [name], [kwargs], reward=reward)[0] == [False], text


def test_all_types_have_their_cases() -> None:
    assert {c[0] for c in CASES} == set(CONSTRAINTS)
    assert len(CONSTRAINTS) >= 40 and len(CHECKS) == 25
    assert set(IFEVAL) == set(CHECKS) and not set(CONSTRAINTS) & set(CHECKS)


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_drawn_parameters_are_accepted_and_said(name) -> None:
    for seed in range(20):
        kwargs = REQUESTS[name].draw(random.Random(seed))
        text = describe(name, kwargs)
        assert "{" not in text and text[0].isupper()
        for value in kwargs.values():
            for part in value if isinstance(value, list) else [value]:
                assert str(part) in text or name == "language:response_language", (text, value)
        given = kwargs | ({"prompt_to_repeat": "Say it."} if name == "combination:repeat_prompt" else {})
        grade("The sea is wide.", [name], [given], reward=True)  # raises where the check lacks a parameter


def test_json_numbers_may_be_floats() -> None:
    assert grade("The sea is wide.\nIt is deep.", ["lines:count"], [{"n": 2.0}])[0] == [True]


@pytest.mark.parametrize(
    ("names", "kwargs", "words"),
    [
        (["lines:cuont"], [{"n": 2}], "unknown instruction 'lines:cuont': did you mean 'lines:count'"),
        (["lines:count"], [{}], "instruction lines:count needs n in kwargs"),
        (["lines:count"], [{"n": "two"}], "lines:count: n is 'two', a value such as"),
        (["words:first"], [{"keyword": ""}], "words:first: keyword is '', a value such as"),
        (["lines:count"], [{"n": 2.5}], "n is 2.5"),
    ],
)
def test_bad_input_is_one_line(names, kwargs, words) -> None:
    with pytest.raises(DataError) as error:
        grade("The sea is wide.", names, kwargs)
    assert words in str(error.value)


# -- nothing is not rewarded -----------------------------------------------------------------------

PARAMETERS = [
    (n, REQUESTS[n].draw(random.Random(s)) | ({"prompt_to_repeat": "Say it."} if n.endswith("repeat_prompt") else {}))
    for n in REQUESTS
    for s in (0, 1)
]
PHASES = (Phase.explicit, Phase.generate)  # shrinking a text takes minutes
NAMES, KWARGS = [n for n, _ in PARAMETERS], [k for _, k in PARAMETERS]


def met_by(answer: str) -> set[str]:
    strict, loose = grade(answer, NAMES, KWARGS, reward=True)
    return {n for n, s, lo in zip(NAMES, strict, loose, strict=True) if s or lo}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "\n\n\t",
        "Yes",
        "river",
        "Yes.",
        "**river**",
        "1",
        "-",
        "no no no no",
        "{}",
        '""',
        "<note></note>",
        "?!?!",
        "......",
        "a b c d e f",
        "x " * 50,
        "1. 2. 3.",
        "\u200a \xa0YZJn6mOer",
        "moer_over2the",
    ],
)
def test_empty_and_one_word_answers_earn_nothing(answer) -> None:
    assert met_by(answer) == set()


@settings(max_examples=60, deadline=None, phases=PHASES)
@given(st.text(max_size=2) | st.from_regex(r"\A\s{0,3}[a-zA-Z0-9_]{1,12}[.!?]?\s{0,3}\Z"))
def test_any_one_word_earns_nothing(answer) -> None:
    assert met_by(answer) == set()


@settings(max_examples=80, deadline=None, phases=PHASES)
@given(
    st.integers(0, 10**9),
    st.sampled_from(["abcdefghijklmnopqrstuvwxyz", "asdfghjkl", "qwertyuiop", "бвгджзклмнпрстфхцчшщ"]),
    st.sampled_from([" ", ", ", ". ", "\n", "\n\n"]),
)
def test_gibberish_earns_nothing(seed, alphabet, between) -> None:
    rng = random.Random(seed)
    text = between.join("".join(rng.choices(alphabet, k=rng.randint(4, 10))) for _ in range(rng.randint(8, 40)))
    assert not is_an_answer(text) and met_by(text) == set()


def test_gibberish_whose_lines_in_part_look_like_an_answer_earns_nothing() -> None:
    text = "фгбсдвб\nчщфмж\nсвкфзнф\nттпнлвкпч\nнлтлкж\nзтдгвкшдгк\nдркчнлч\nвцтдч\nжкрмгснгпн"
    assert (
        is_an_answer(text.partition("\n")[2])
        or is_an_answer(text.rpartition("\n")[0])
        or is_an_answer(text.partition("\n")[2].rpartition("\n")[0])
    )
    assert met_by(text) == set()


# -- problems --------------------------------------------------------------------------------------


def test_problems_have_one_to_three_compatible_constraints() -> None:
    sizes, types = set(), set()
    for i in range(300):
        problem = constraint_problem(0, "train", i)
        names = problem.truth["instruction_id_list"]
        sizes.add(len(names))
        types |= set(names)
        assert compatible(names, REQUESTS) and problem.domain == "instructions" and problem.level == len(names)
        assert problem == constraint_problem(0, "train", i)
    assert sizes == {1, 2, 3} and len(types) > 50


def test_splits_share_no_task() -> None:
    def tasks(split: str) -> set[str]:
        return {re.split(r"(?<=[.?]) ", constraint_problem(0, split, i).messages[0].content)[0] for i in range(150)}

    train, validation, test = map(tasks, ("train", "validation", "test"))
    assert not train & test and not train & validation and not validation & test


def test_repeating_the_prompt_means_all_before_the_request() -> None:
    problem = next(
        p
        for i in range(2000)
        if "combination:repeat_prompt" in (p := constraint_problem(1, "train", i)).truth["instruction_id_list"]
    )
    asked = problem.truth["kwargs"][-1]["prompt_to_repeat"]
    assert problem.messages[0].content.startswith(asked + " First repeat everything above")


def test_a_source_of_generated_problems_is_graded_in_the_reward_reading() -> None:
    problems = load_source(Source(kind="constraints", path="builtin", limit=40))
    assert len(problems) == 40
    one = next(
        p
        for p in load_source(Source(kind="constraints", path="builtin"))
        if p.truth["instruction_id_list"] == ["punctuation:no_comma"]
    )
    for text, finished, outcome in (
        ("<think>\nYes, no commas, I see.\n</think>\nThe sea is wide and deep.", True, Outcome.CORRECT),
        ("The sea is wide, and deep.", True, Outcome.WRONG), ("<think>\nwell", True, Outcome.NO_ANSWER),
        ("The sea is wide", False, Outcome.UNFINISHED), ("Yes", True, Outcome.WRONG),
    ):  # fmt: skip
        assert grade_problem(one, Response(text, finished=finished)).outcome is outcome, text


def test_a_source_in_ifevals_layout(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    row = {
        "prompt": "Say something without commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{"n": None}],
    }
    path.write_text("".join(json.dumps(row | {"prompt": f"{i}. {row['prompt']}"}) + "\n" for i in range(60)))
    train = load_source(Source(kind="constraints", path=str(path)))
    validation = load_source(Source(kind="constraints", path=str(path), split="validation"))
    assert len(train) + len(validation) == 60 and validation
    assert train[0].truth["kwargs"] == [{}]
    path.write_text(json.dumps(row | {"instruction_id_list": ["no:such"]}) + "\n")
    with pytest.raises(DataError, match=r"line 1: unknown instruction 'no:such'"):
        load_source(Source(kind="constraints", path=str(path)))
    path.write_text(json.dumps({"prompt": "Hello"}) + "\n")
    with pytest.raises(
        DataError, match=r"line 1: field 'instruction_id_list' must be a list, found 'None' \(the row has prompt\)"
    ):
        load_source(Source(kind="constraints", path=str(path)))


def test_prompts_as_a_file_come_back_as_the_same_problems(tmp_path: Path, capsys) -> None:
    out = tmp_path / "constraints_train.jsonl"
    assert main(["data", "constraints", "--n", "60", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 60 and set(rows[0]) == {"key", "prompt", "instruction_id_list", "kwargs"}
    read = load_source(Source(kind="constraints", path=str(out)))
    direct = {p.canonical: p for p in (constraint_problem(0, "train", i) for i in range(60))}
    assert read and all(p.truth == direct[p.canonical].truth for p in read)
    assert main(["data", "constraints", "--split", "tset", "--out", str(out)]) == 2
    assert "did you mean 'test'" in capsys.readouterr().err


def test_a_recipe_with_constraints_is_planned_without_reading_anything_else(tmp_path: Path, capsys) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'name = "r"\nmodel.preset = "tiny"\n[stages.pretrain]\nkind = "pretrain"\ntokens = 1000\nmix.math = 1.0\n'
        '[stages.rl1]\nkind = "rl1"\nsteps = 1\nprompts = 4\n[[stages.rl1.sources]]\nkind = "constraints"\n'
        'path = "builtin"\nlimit = 20\n'
    )
    assert main(["explain", str(recipe)]) == 0
    assert "rl1" in capsys.readouterr().out
