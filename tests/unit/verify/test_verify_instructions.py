"""Rules on an answer: each with an answer that meets it and one that does not."""

import pytest

from qwq.errors import DataError
from qwq.types import Outcome
from qwq.verify import instructions
from qwq.verify.instructions.rules import RULES, sentences, words

CASES = [
    ({"id": "num_words", "n": 3}, "one, two - three!", "one two"),
    ({"id": "num_words", "n": 3, "relation": "at_least"}, "a b c d", "a b"),
    ({"id": "num_words", "n": 3, "relation": "at_most"}, "a b", "a b c d"),
    ({"id": "num_sentences", "n": 2}, "It costs 3.5 euros. Fine!", "It costs 3.5 euros."),
    ({"id": "num_lines", "n": 2}, "a\n\nb", "a b"),
    ({"id": "num_items", "n": 3, "separator": " * "}, "a * b c * d", "a * b"),
    ({"id": "num_items", "n": 2, "separator": ","}, "a,b", "a, "),
    ({"id": "upper_case"}, "ALL 3 UP", "All up"),
    ({"id": "lower_case"}, "all 3 low", "All low"),
    ({"id": "title_case"}, 'The "Red" 3 Foxes', "The red Foxes"),
    ({"id": "starts_with", "text": "Well,"}, "Well, yes", "well, yes"),
    ({"id": "ends_with", "text": "Done."}, "It is Done.", "It is done"),
    ({"id": "contains", "text": "cat"}, "A Cat sat", "concatenate"),
    ({"id": "contains", "text": "cat", "times": 2, "relation": "exactly"}, "cat and CAT", "cat cat cat"),
    ({"id": "avoids", "text": "cat"}, "concatenate", "the Cat"),
    ({"id": "avoids_letter", "letter": "e"}, "a b", "E"),
    ({"id": "every_word_starts_with", "letter": "s"}, "Sam 'saw' six", "Sam saw one"),
    ({"id": "no_commas"}, "a b", "a, b"),
    ({"id": "quoted"}, '"yes"', '""'),
    ({"id": "json_object"}, '{"a": NaN}'.replace("NaN", "1"), '{"a": NaN}'),
    ({"id": "json_object", "keys": ["a", "b"]}, '{"a": 1, "b": 2, "c": 3}', '{"a": 1}'),
    ({"id": "json_object"}, "{}", "[1]"),
    ({"id": "bullets", "n": 2}, "- a\n- b", "- a\n* b"),
    ({"id": "wrapped_in", "left": "<<", "right": ">>"}, "<<a>>", "<<>>"),
    ({"id": "repeats_prompt", "text": "Say hello to Bob"}, "say hello  to bob: Hello", "Hello Bob"),
    ({"id": "max_chars", "n": 3}, "abc", "abcd"),
    ({"id": "from_set", "words": ["red", "blue", "green"]}, "Red, blue", "red, red"),
    ({"id": "from_set", "words": ["red", "blue"], "n": 2}, "red\nblue", "red"),
    ({"id": "from_set", "words": ["red", "blue"], "repeats": True}, "red red blue", "red pink"),
    (
        {
            "id": "items",
            "words": ["cat", "dog", "owl"],
            "n": 2,
            "separator": "; ",
            "prefix": "Sure: ",
            "suffix": " End.",
        },
        "Sure: owl; cat End.",
        "Sure: owl; owl End.",
    ),
    ({"id": "sorted", "order": "ascending", "separator": ", "}, "2, 9, 10", "10, 2, 9"),
    ({"id": "sorted", "order": "descending", "separator": " "}, "pear fig Apple", "apple pear"),
]


@pytest.mark.parametrize(("rule", "good", "bad"), CASES)
def test_rule_holds_and_breaks(rule: dict, good: str, bad: str) -> None:
    assert instructions.verify(good, [rule]).outcome is Outcome.CORRECT
    broken = instructions.verify(bad, [rule])
    assert broken.outcome is Outcome.WRONG and rule["id"] in broken.reason


def test_every_rule_has_a_case() -> None:
    assert {rule["id"] for rule, _, _ in CASES} == set(RULES)


def test_all_rules_must_hold_and_are_counted() -> None:
    rules = [{"id": "lower_case"}, {"id": "num_words", "n": 2}, {"id": "no_commas"}]
    verdict = instructions.verify("one, two", rules)
    assert (verdict.outcome, verdict.passed, verdict.total) == (Outcome.WRONG, 2, 3)
    assert instructions.verify("one two", rules).passed == 3


def test_only_the_answer_counts_not_the_thinking() -> None:
    rules = [{"id": "lower_case"}]
    assert instructions.verify("<think>BIG</think>small", rules).correct
    assert instructions.verify("BIG</think>small", rules, thinking_open=True).correct
    assert instructions.verify("<think>small</think>", rules).outcome is Outcome.NO_ANSWER
    assert instructions.verify("small", rules, thinking_open=True).outcome is Outcome.NO_ANSWER
    assert instructions.verify("small", rules, finished=False).outcome is Outcome.UNFINISHED


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ({"id": "num_word", "n": 3}, "num_words"),
        ({"id": "num_words"}, "'n'"),
        ({"id": "num_words", "n": 3, "relatoin": "exactly"}, "relation"),
        ({"id": "num_words", "n": "3"}, "whole number"),
        ({"id": "num_words", "n": True}, "whole number"),
        ({"id": "num_words", "n": 3, "relation": "about"}, "at_least"),
        ({"id": "upper_case", "n": 3}, "takes none"),
        ({"id": "starts_with", "text": ""}, "not empty"),
        ({"n": 3}, '"id"'),
    ],
)
def test_unusable_rules_name_the_repair(rule: dict, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        instructions.verify("x", [rule])


def test_no_rules_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one rule"):
        instructions.verify("x", [])


def test_words_and_sentences() -> None:
    assert words('He said: "go" -- now!') == ["He", "said", "go", "now"]
    assert len(sentences('One. "Two?" three... four')) == 4
