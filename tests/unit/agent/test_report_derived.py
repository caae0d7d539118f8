"""Numbers that follow from others, names of numbers and wordings, by kind."""

from __future__ import annotations

import pytest

from qwq.agent.report import NumberSource, check_numbers
from qwq.agent.report.reader import read_numbers

SALES = NumberSource(
    "cell 1", "region\nNorth    91105.32\nSouth    30942.82\nEast     12000.00\nName: sum, dtype: float64"
)
YEARS = NumberSource(
    "cell 2", "      revenue  growth\nyear\n2022   5000.0     NaN\n2023   6000.0  0.2000\n2024   5400.0 -0.1000"
)
SCORES = NumberSource("cell 3", "r = 0.0612, p = 0.0321")
PRICES = NumberSource(
    "cell 4", "count    40.000\nmean     20.500\nstd       4.250\nmin       3.100\n25%      15.400\nmax      77.900"
)
GIVEN = [NumberSource("task", "Analyse it."), SALES, YEARS, SCORES, PRICES]


def unsupported(text: str) -> list[str]:
    return [c.text for c in check_numbers(text, GIVEN) if c.source is None]


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("North sold {} more than South.", "60,162.50", "61,162.50"),
        ("North (91,105) sold {} times as much as South (30,943).", "2.9", "3.9"),
        ("North and South together took {}.", "122,048.14", "122,148.14"),
        ("Revenue rose from 5,000 in 2022 to 6,000 in 2023, by {}.", "1,000.00", "1,100.00"),
        ("South reaches {} of the revenue of North.", "34%", "43%"),
        ("The gap between the best and the worst region is {}.", "79,105.32", "79,105.23"),
        ("The table covers {} years.", "3", "7"),
        ("Of all sales 68.0% are from the North, leaving {} for the rest.", "32.0%", "42.0%"),
    ],
)
def test_what_follows_from_shown_numbers_is_computed(text: str, right: str, wrong: str) -> None:
    assert unsupported(text.format(right)) == []
    assert unsupported(text.format(wrong)) == [wrong]


def test_a_derivation_says_how_it_was_computed() -> None:
    (check,) = check_numbers("North sold 60,162.50 more than South.", GIVEN)
    assert (check.kind, check.source, check.given) == ("derived", "cell 1", "91105.32 - 30942.82")


@pytest.mark.parametrize(
    "text",
    [
        "North took 91 105 and South 30'943, 91_105 in all.",
        "In thousands, North had 91.1.",
        "The correlation is 0.061 (p < 0.05, at the 5% level).",
        "The mean is 20.5 \u00b1 4.25.",
        "Revenue changed by +20.00% in 2023.",
        "FY2024 closed at 5,400.",
        "| No. | region | sum, k\u20ac |\n|---|---|---|\n| 1 | North | 91.1 |\n| 2 | South | 30.9 |",
        "Week 28, room 214, +49 30 1234567, ISO 8601, a 16:9 chart, the 80/20 rule, a 12-month plan, the top 20.",
        "We recommend to shift 10% of the budget.",
    ],
)
def test_wordings_by_kind(text: str) -> None:
    assert unsupported(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "No sale was below 20.50.",  # the mean, not the lowest
        "75% of the sales are from the North.",
        "FY2024 closed at 6,000.",
        "North sold more than South: 30,942.82 against 91,105.32.",
        "The average is 4.25 (SD 4.25).",
    ],
)
def test_what_stays_caught(text: str) -> None:
    assert unsupported(text)


def test_a_spaced_number_is_one_in_a_report_and_several_in_an_output() -> None:
    assert [n.value for n in read_numbers("In all 12 345 rows.")] == [12345]
    assert [n.value for n in read_numbers("[120 300 415]", skip=False)] == [120, 300, 415]


ORDERS = NumberSource(
    "cell 5",
    "year | orders | revenue\n2022 | 4812 | 391204.55\n2023 | 5377 | 468830.1\n2024 | 5106 | 455917.84\n(3 rows)",
)


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("An order of 2022 was worth {} on average.", "81.30", "91.30"),  # 391204.55 / 4812
        ("In all there were {} orders.", "15,295", "15,925"),
        ("Orders rose in 2023 by {} on the year before.", "11.7%", "17.1%"),  # 5377 / 4812 - 1
        ("Orders averaged {} a year.", "5,098", "5,908"),
        ("In 2023 there were 5,377 orders, {} of all.", "35.2%", "53.2%"),
    ],
)
def test_rows_and_columns_that_are_named_give_more(text: str, right: str, wrong: str) -> None:
    def found(number: str) -> list[str]:
        checks = check_numbers(text.format(number), [ORDERS])
        return [c.text for c in checks if c.source is None]

    assert found(right) == []
    assert found(wrong) == [wrong]


def test_what_any_pair_of_a_long_column_could_give_counts_for_nothing() -> None:
    rows = "\n".join(f"shop{i:02d},{700 + 13 * i * i % 400}" for i in range(40))
    given = [NumberSource("cell 1", f"shop,sold\n{rows}")]
    checks = check_numbers("Against shop07 with 937 this is 12% more.", given)
    assert [(c.text, c.source) for c in checks] == [("937", "cell 1"), ("12%", None)]
