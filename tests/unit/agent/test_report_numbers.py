"""Numbers of a report: what is read, what outputs gave, and which is traced to what."""

from __future__ import annotations

import pytest

from qwq.agent.report import NumberSource, check_numbers
from qwq.agent.report.code_limits import literals
from qwq.agent.report.grid import lines_grid
from qwq.agent.report.output_numbers import read_figures
from qwq.agent.report.reader import read_numbers


def values(text: str) -> list[float]:
    return [n.value for n in read_numbers(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.5 and 12.3% of $1.2 M, €3.4bn, 120k", [1234.5, 12.3, 1.2e6, 3.4e9, 120e3]),
        ("a loss of -3.5, \u22124.25 or $(1.9) million", [-3.5, -4.25, -1.9e6]),
        ("between 10-20 and 15\u201325 units", [10, 20, 15, 25]),
        ("the 90th percentile, the 21st row, 1.5e-3", [90, 21, 1.5e-3]),
        ("two million users, twenty-five shops, three hundred", [2e6, 25, 300]),
        ("共 3.5 万人,增长 12%,达 2 亿元,百分之45", [35000, 12, 2e8, 45]),
        ("36-month loans cost 7x", [36, 7]),
    ],
)
def test_numbers_are_read(text: str, expected: list[float]) -> None:
    assert values(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "On 2024-03-15, March 3, 2024, 3 May 2023 and 12:30:05",
        "3月15日, 2024年3月",
        "1. first\n2. second\n   3) third",
        "## 3.2 Results\n\nSee Table 4, Figure 12, cell 15 and Section 2.1",
        "`df.head(20)` and\n```python\nx = 17\n```\n",
        "pandas 2.2.1, Python 3.11, v1.20.3",
        "report_2024.csv, https://example.org/a/12345, Q3 2024, COVID-19, FY2023",
        "[^12] ![figure 14](artefacts/figure-14.png) [text](page-99.html)",
    ],
)
def test_dates_lists_code_versions_and_references_are_no_numbers(text: str) -> None:
    assert values(text) == []


def test_numbers_without_a_finite_value_are_left_out() -> None:
    assert values(f"1e999, 1e-999, {'9' * 400} and 12.5") == [12.5]
    assert check_numbers("It is 12.5.", [NumberSource("cell 1", f"1e999\n{'9' * 400}\n12.5")])[0].source == "cell 1"


def test_a_small_whole_number_counts_with_a_unit_only() -> None:
    counted = {n.text: n.is_counted for n in read_numbers("3 classes, 7%, $5, 4 days, 2.5, 11 rows, 9")}
    assert counted == {"3": False, "7%": True, "5": True, "4": True, "2.5": True, "11": True, "9": False}


def figures(text: str) -> dict[tuple[str, ...], float]:
    return {f.labels: f.value for f in read_figures(text, 0, lines_grid()) if f.labels}


def test_a_frame_gives_rows_and_columns() -> None:
    text = (
        "        Survived        Age\nPclass                     \n"
        "1       0.549020  38.552000\n2       0.400000  31.326733"
    )
    assert figures(text) == {
        ("1", "Survived"): 0.54902, ("1", "Age"): 38.552, ("2", "Survived"): 0.4, ("2", "Age"): 31.326733,
    }  # fmt: skip


def test_levels_of_a_series_and_of_columns() -> None:
    series = (
        "Sex     Pclass\nfemale  1         0.88\n        2         0.65\nmale    1         0.37\n"
        "Name: Survived, dtype: float64"
    )
    assert figures(series) == {
        ("female", "1", "Survived"): 0.88, ("female", "2", "Survived"): 0.65, ("male", "1", "Survived"): 0.37,
    }  # fmt: skip
    columns = (
        "         temperature        pm25      \n"
        "                mean   max  mean   max\n"
        "station                               \n"
        "Airport         9.13  22.5  23.9  43.2\n"
        "Old Town       13.34  24.0  30.2  47.6"
    )
    assert figures(columns)[("Old Town", "pm25", "max")] == 47.6


@pytest.mark.parametrize(
    ("text", "labels", "value"),
    [
        ("| city | price |\n|---|---|\n| Oslo | 251.2 |", ("Oslo", "price"), 251.2),
        ("city,price\nOslo,251.2\nRome,99.5", ("Rome", "price"), 99.5),
        ("grade   n  rate\n    A 262  0.03\n    B  12  0.40", ("B", "rate"), 0.40),
        ("{'female': 0.65, 'male': 0.21}", ("male",), 0.21),
        ("total revenue: 1,312.50\nmean order value: 18.2", ("total revenue", ""), 1312.5),
        ("junior: n=235, average tenure 3.92 years", ("junior", "average tenure"), 3.92),
        ("older than 60: 10", ("older than 60", ""), 10),
    ],
)
def test_other_forms_of_output(text: str, labels: tuple[str, ...], value: float) -> None:
    assert figures(text)[labels] == value


def test_limits_in_code_are_known_and_assigned_figures_are_not() -> None:
    code = (
        "x = 84.15\nold = df[df.age > 60].head(12)\nprint(3.5)\nq = df.a.quantile([0.1, 0.9])\n"
        "c.execute('select a from t where b > 250')"
    )
    assert set(literals(code)) == {60.0, 12.0, 0.1, 0.9, 250.0}


BY_CLASS = NumberSource(
    "cell 3",
    "        Survived       Fare\nPclass                     \n"
    "1       0.629630  84.154687\n2       0.472826  20.662183\n3       0.242363  13.675550",
    "df.groupby('Pclass')[['Survived', 'Fare']].mean()",
)
SHAPE = NumberSource("cell 1", "(891, 12)", "df.shape")
TASK = NumberSource("task", "Who survived? Compare passengers above 60.")
SOURCES = [TASK, SHAPE, BY_CLASS, NumberSource("cell 4", "0.3838383838", "df['Survived'].mean()")]


def sources_of(text: str) -> list[str | None]:
    return [check.source for check in check_numbers(text, SOURCES)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Of 891 passengers 38.4% survived.", ["cell 1", "cell 4"]),
        ("First class paid 84.15, third class 13.68.", ["cell 3", "cell 3"]),
        ("A share of 0.384, about 38 percent.", ["cell 4", "cell 4"]),
        ("Passengers above 60 were few.", ["task"]),
        ("The fare was 84.2 in first class and 20.7 in second class.", ["cell 3", "cell 3"]),
        # The check computes the difference of two named rows, and finds a wrong one.
        ("First class paid 70.48 more than third class.", ["cell 3"]),
        ("First class paid 71.48 more than third class.", [None]),
        # A digit, a sign, percent for the fraction, a digit more than was printed.
        ("First class paid 84.25.", [None]),
        ("First class paid -84.15.", [None]),
        ("0.384% survived.", [None]),
        ("Of the third class 24.23634% survived.", [None]),
    ],
)
def test_numbers_are_traced_to_calls(text: str, expected: list[str | None]) -> None:
    assert sources_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Third class paid 84.15.", [None]),
        ("First class paid 13.68, third class 84.15.", [None, None]),
        ("A fare of 13.68 in third class, 84.15 in second class.", ["cell 3", None]),
        ("In class 3 the survival rate was 63.0%.", [None]),
        ("| class | fare |\n|---|---|\n| 1 | 84.15 |\n| 2 | 13.68 |", ["cell 3", None]),
        ("### Third class\n- mean fare: 84.15\n- survival: 24.2%", [None, "cell 3"]),
        # The sentence names no class: nothing speaks against the number.
        ("The highest fare was 84.15.", ["cell 3"]),
    ],
)
def test_a_number_of_another_row_is_caught_where_the_text_names_rows(text: str, expected: list[str | None]) -> None:
    assert sources_of(text) == expected


def test_the_reason_names_the_right_number() -> None:
    (check,) = check_numbers("Third class paid 84.15.", SOURCES)
    assert check.reason == "cell 3: 84.154687 belongs to Pclass 1, 13.675550 to Pclass 3"
    assert (check.text, check.start, check.end) == ("84.15", 17, 22)


def test_a_fall_needs_no_minus_and_a_rise_is_no_fall() -> None:
    given = [NumberSource("cell 2", "change: -0.123", "print('change:', change)")]
    assert check_numbers("Sales fell by 12.3%.", given)[0].source == "cell 2"
    assert check_numbers("Sales changed by -12.3%.", given)[0].source == "cell 2"
    assert check_numbers("Sales rose by 12.3%.", given)[0].source is None


def test_thousands_and_millions() -> None:
    given = [NumberSource("cell 2", "revenue: 1234567.8")]
    for text in ("Revenue was $1.23 million.", "Revenue was 1,235 thousand.", "Revenue was 123.5 万元."):
        assert check_numbers(text, given)[0].source == "cell 2"
    assert check_numbers("Revenue was $1.24 million.", given)[0].source is None
    table = "| | revenue (in thousands) |\n|---|---|\n| all | 1,235 |"
    assert check_numbers(table, given)[0].source == "cell 2"
