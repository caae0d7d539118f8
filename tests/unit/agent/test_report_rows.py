"""Which row a number of a sentence is meant for: cases that once went wrong."""

from __future__ import annotations

import pytest

from qwq.agent.report import NumberSource, check_numbers

BY_SEX = NumberSource(
    "cell 1",
    "Sex         female       male\n"
    "Pclass                      \n"
    "1       106.125798  67.226127\n"
    "2        21.970121  19.741782",
)
YEARS = NumberSource(
    "cell 2",
    "         gdp_1952   gdp_1982   gdp_2007\n"
    "Japan   3216.9563  19384.105  31656.068\n"
    "India    546.5657  855.72353  2452.2104",
)
SAVED = NumberSource("cell 3", "children: 83 saved: 59.0%\nadults: 631 saved: 38.2%")
INFO = NumberSource("cell 4", " 3   Cards      400 non-null    int64\ncards without a balance: 90 (22.5%)")
GRADES = NumberSource("cell 5", "grade   n      rate\n    A 262  0.034351\n    B 310  0.090322")
AGES = NumberSource(
    "cell 6",
    "        mean  median   min   max\nstaff  41.25   40.50  19.0  67.0\nguests 30.75   29.50   2.0  88.0",
)
ROWS = NumberSource("cell 7", "[(36, 512, 12.75), (60, 388, 14.25)]")
SOURCES = [BY_SEX, YEARS, SAVED, INFO, GRADES, AGES, ROWS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # `men` is no part of female.
        ("| class | women | men |\n|---|---|---|\n| 1 | 106.1 | 106.1 |", [True, False]),
        # Years are no competitors for a country, and a year behind the number is its own.
        ("In 1982 Japan stood at 19,384 and India at 856.", [True, True]),
        ("In 1982 Japan stood at 856 and India at 19,384.", [False, False]),
        ("Japan rose from 3,217 in 1952 to 31,656 in 2007.", [True, True]),
        ("Japan rose from 19,384 in 1952 to 31,656 in 2007.", [False, True]),
        # The first key of a line names the row where other lines have the same keys behind it.
        ("Of 83 children 59.0% were saved, among adults (631 people) 38.2%.", [True, True, True, True]),
        ("Of the children 38.2% were saved.", [False]),
        # A line of DataFrame.info() names no row.
        ("Card holders without a balance: 90 (22.5%).", [True, True]),
        # A grade called A is no article.
        ("The default rate is 3.4% for grade A and 9.0% for grade B.", [True, True]),
        ("The default rate is 9.0% for grade A and 3.4% for grade B.", [False, False]),
        # The ends of a range.
        ("The age of staff ranges from 19.0 to 67.0, the mean is 41.25.", [True, True, True]),
        ("The age of staff ranges from 67.0 to 19.0.", [False, False]),
        # A statistic that the sentence names, and one that no table has.
        ("The median age of staff is 41.25.", [False]),
        # Rows of a query, called by their first value.
        ("Loans over 36 months: 512 at 12.75; over 60 months: 388 at 14.25.", [True] * 4),
        ("There are 388 loans over 36 months.", [False]),
    ],
)  # fmt: skip
def test_rows_of_sentences_and_tables(text: str, expected: list[bool]) -> None:
    checks = [c for c in check_numbers(text, SOURCES) if c.text not in ("36", "60")]
    assert [c.source is not None for c in checks] == expected
