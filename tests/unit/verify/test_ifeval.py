"""IFEval's instruction types: each by hand on both sides of its border, the published verdicts, and
the reading for rewards.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from qwq.errors import DataError
from qwq.verify.instructions.ifeval import CHECKS, grade, loose_variants
from qwq.verify.instructions.language import is_an_answer

SHARED = Path(__file__).resolve().parents[4] / "shared"

# type, kwargs, an answer that follows, one that does not
CASES = [
    ("keywords:existence", {"keywords": ["tide", "moon"]}, "The Moon makes the tides.", "The moon is far."),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}, "Sea after sea.", "One sea."),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "less than"}, "One sea.", "Sea after sea."),
    ("keywords:forbidden_words", {"forbidden_words": ["sea"]}, "The season is long.", "By the sea."),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        "Quite quick.",
        "Quite fast.",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter.",
        "This is a sentence.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        "Dr. No came. He saw. He went.",
        "Dr. No came. He saw.",
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "One part.\n***\nAnother part.",
        "One part.\n\nAnother part.",
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "less than"},
        "Only three words",
        "These are four words",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'First this.\n\n"Then, that.',
        "First this.\n\nAnd then that.",
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        "Dear [name], see you on [day].",
        "Dear [name], see you.",
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        "Good bye.\nP. S. I forgot.",
        "Good bye. Post scriptum: I forgot.",
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        "Good bye.\nP.P.S I forgot.",
        "Good bye.\nP.S. I forgot.",
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        "* one thing\n- another thing",
        "* one thing\n* two things\n* three things",
    ),
    ("detectable_format:constrained_response", {}, "Well: My answer is maybe.", "Maybe it is so."),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "The *first part* and the **second part**",
        "The *first part* and * *",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 is here Section 2 is there",
        "Section 1 is here",
    ),
    ("detectable_format:json_format", {}, '```json\n{"name": "the sea"}\n```', "{'name': 'the sea'}"),
    ("detectable_format:title", {}, "<<The sea>>\nIt is wide.", "<< >>\nIt is wide."),
    ("combination:two_responses", {}, "It is wide.******It is deep.", "It is wide.******It is wide."),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "What is the sea?"},
        "what is the sea? It is wide.",
        "It is wide. What is the sea?",
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Any questions?"},
        'It is wide. "any questions?"',
        "Any questions? It is wide.",
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "The SEA is WIDE.",
        "The SEA is wide.",
    ),
    ("change_case:english_capital", {}, "THE SEA IS VERY WIDE AND DEEP", "The sea is very wide and deep"),
    ("change_case:english_lowercase", {}, "the sea is very wide and deep", "The sea is very wide and deep"),
    ("punctuation:no_comma", {}, "The sea is wide and deep.", "The sea is wide, and deep."),
    ("startend:quotation", {}, ' "The sea is wide." ', '"The sea" is wide.'),
]


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("reward", [False, True])
def test_each_type_on_both_sides(name, kwargs, good, bad, reward) -> None:
    assert grade(good, [name], [kwargs], reward=reward)[0] == [True]
    assert grade(bad, [name], [kwargs], reward=reward)[0] == [False]


def test_all_types_are_here() -> None:
    assert len(CHECKS) == 25 and {c[0] for c in CASES} == set(CHECKS)


def gibberish(seed: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(20))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "\n\n",
        "Yes",
        "sea",
        "sea sea sea sea",
        "!!!",
        "42",
        "[a] [b] [c]",
        "{}",
        "0",
        '""',
        "******",
        *map(gibberish, range(5)),
    ],
)
def test_for_a_reward_nothing_is_met_by_nothing(answer) -> None:
    for name, kwargs, _, _ in CASES:
        assert grade(answer, [name], [kwargs], reward=True) == ([False], [False]), name


def test_the_known_holes_are_open_only_where_the_authors_left_them() -> None:
    holes = [
        ("punctuation:no_comma", {}, "zxqv"),
        ("length_constraints:number_words", {"num_words": 9, "relation": "less than"}, "zxqv"),
        ("language:response_language", {"language": "en"}, "12345"),
        ("detectable_format:json_format", {}, "7"),
        ("keywords:existence", {"keywords": ["a.c"]}, "abc"),
    ]
    for name, kwargs, answer in holes:
        assert grade(answer, [name], [kwargs])[0] == [True] and grade(answer, [name], [kwargs], reward=True)[0] == [
            False
        ]


@pytest.mark.parametrize(
    "text",
    [
        "Das Meer ist weit und tief.",
        "La mer est grande.",
        "海はとても広いです。",
        "Море широкое и глубокое.",
        "My answer is no.",
        "Η θάλασσα είναι πολύ μεγάλη.",
        "대한민국의 바다는 매우 넓고 깊다고 사람들이 말한다.",
        "البحر واسع وعميق جدا في هذا المكان.",
        "Biển rất rộng và sâu, không có bờ là một điều của tự nhiên.",
        "Bahari ni kubwa na ni nzuri kwa watu wa pwani.",
        "समुद्र बहुत बड़ा और गहरा है।",
        "大海很宽，也很深，我们都喜欢在那里看日出。",
    ],
)
def test_answers_in_any_language_are_answers(text) -> None:
    assert is_an_answer(text)


def test_loose_variants_by_hand() -> None:
    assert loose_variants("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]
    strict, loose = grade("Sure:\nthe sea is very wide and deep", ["change_case:english_lowercase"], [{}])
    assert (strict, loose) == ([False], [True])


@pytest.mark.parametrize(
    ("names", "kwargs", "words"),
    [
        (
            ["punctuation:no_coma"],
            [{}],
            "unknown instruction 'punctuation:no_coma': did you mean 'punctuation:no_comma'",
        ),
        (["keywords:frequency"], [{"keyword": "a"}], "needs frequency, relation in kwargs"),
        (
            ["keywords:frequency"],
            [{"keyword": "a", "frequency": 1, "relation": "most"}],
            "relation 'most': it is 'at least' or 'less than'",
        ),
        (["punctuation:no_comma"], [], "1 instructions and 0 kwargs"),
        (["keywords:existence"], [{"keywords": ["("]}], "instruction keywords:existence: "),
    ],
)
def test_bad_input_is_one_line(names, kwargs, words) -> None:
    with pytest.raises(DataError, match=".*") as error:
        grade("some words here", names, kwargs)
    assert words in str(error.value)


def test_the_published_verdicts_are_reproduced() -> None:
    path = SHARED / "data" / "ifeval" / "graded_responses.jsonl"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        found = grade(row["response"], row["instruction_id_list"], row["kwargs"], row["prompt"])
        assert found == (row["strict"], row["loose"]), (number, row["instruction_id_list"])
    assert len(rows) == 270


def test_the_command(tmp_path, capsys) -> None:
    from qwq.verify.cli_io import print_instructions

    path = tmp_path / "a.jsonl"
    line = {"response": "one, two", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"response": "no commas in here"}) + "\n")
    print_instructions(path)
    out, err = capsys.readouterr()
    assert [json.loads(x) for x in out.splitlines()] == [
        {"index": 0, "strict": [False], "loose": [False]}, {"index": 1, "strict": [True], "loose": [True]},
    ]  # fmt: skip
    assert "2 responses: 50.0% follow all instructions strictly" in err


@pytest.mark.parametrize("reward", [False, True])
@pytest.mark.parametrize("response", ["", "ok no"])
def test_an_unknown_instruction_is_an_error_whatever_the_response(response, reward) -> None:
    with pytest.raises(DataError, match="unknown instruction 'nope:x'"):
        grade(response, ["punctuation:no_comma", "nope:x"], [{}, {}], reward=reward)
