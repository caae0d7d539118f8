"""Values of another row that no word gives away, and tables in forms of their own."""

from __future__ import annotations

from qwq.agent.report import NumberSource, check_numbers

TIMES = NumberSource("cell 1", "{'bubble': 41.2, 'merge': 2.31, 'radix': 0.94}")
CODES = NumberSource("cell 2", "  48213 200\n   3127 304\n    688 502")
SPAM = NumberSource(
    "cell 3",
    "              precision    recall  f1-score   support\n\n"
    "         ham      0.974     0.988     0.981      1258\n"
    "        spam      0.953     0.904     0.928       342\n",
)
MODELS = NumberSource("cell 4", "logistic       0.9246  fit 4.8s\nforest         0.9073  fit 61.5s")
FIT = NumberSource("cell 5", "D52N: Vmax=11.38+-0.42 n=24\nWT: Vmax=24.70+-0.55 n=25")
WAIT = NumberSource("cell 6", "{2023: 34.2, 2024: 29.7}")
ENERGY = NumberSource("cell 7", "Hilltop  191320\nSchool    42615", "d.pivot(index='site', values='kwh')")


def traced(text: str, *sources: NumberSource) -> list[bool]:
    return [check.source is not None for check in check_numbers(text, sources)]


def test_a_value_that_was_given_once_is_not_of_two_things() -> None:
    assert traced("The one takes 2.31 ms, the other 0.94 ms.", TIMES) == [True, True]
    assert traced("The one takes 0.94 ms, the other 0.94 ms.", TIMES) == [False, False]
    assert traced("The last takes 0.94 ms.\n\nIn short: 0.94 ms.", TIMES) == [True, True]
    for blank in ("\n \n", "\r\n\r\n", "\n\n\n", "\n## Summary\n"):  # other ends of a paragraph
        assert traced(f"The last takes 0.94 ms.{blank}In short: 0.94 ms.", TIMES) == [True, True], blank
    assert traced("# Radix sort: 0.94 ms\nIt takes 0.94 ms.", TIMES) == [True, True]
    twice = NumberSource("cell 8", "{'heap': 0.94}")
    assert traced("The one takes 0.94 ms, the other 0.94 ms.", TIMES, twice) == [True, True]


def test_counts_in_front_of_keys_add_up() -> None:
    assert traced("The log has 52,028 lines, 1.3% of which are bad gateways: 688.", CODES) == [True, True, True]
    assert traced("The log has 52,128 lines.", CODES) == [False]


def test_rows_below_a_blank_line_have_names() -> None:
    assert traced("Spam has a precision of 0.953 and a recall of 0.904.", SPAM) == [True, True]
    assert traced("Spam has a precision of 0.974.", SPAM) == [False]


def test_lines_of_one_form_are_a_table() -> None:
    assert traced("The forest scored 0.907.", MODELS) == [True]
    assert traced("The forest scored 0.925.", MODELS) == [False]
    assert traced("D52N has a Vmax of 11.38 ± 0.42.", FIT) == [True, True]


def test_the_words_agree_with_the_two_values() -> None:
    assert traced("The wait dropped by 4.5 days, from 34.2 to 29.7.", WAIT) == [True, True, True]
    assert traced("The wait climbed by 4.5 days, from 34.2 to 29.7.", WAIT) == [False, True, True]


def test_code_names_the_unit_of_its_output() -> None:
    assert traced("Hilltop gave 191 MWh.", ENERGY) == [True]
    assert traced("Hilltop gave 191 GWh.", ENERGY) == [False]
