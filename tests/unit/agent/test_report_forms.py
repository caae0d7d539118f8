"""Forms of numbers, units and directions in reports."""

from __future__ import annotations

import pytest

from qwq.agent.report import NumberSource, check_numbers
from qwq.agent.report.directions import direction
from qwq.agent.report.number_forms import factors, unit_of_label
from qwq.agent.report.reader import read_numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It cost 1.234.567,89 EUR, 58,3 % more than the 12,5 Mio. of before.", [1234567.89, 58.3, 12.5e6]),
        ("Der Umsatz liegt bei 1.245 und die Kosten sind von 58,25 auf 60,5 gestiegen.", [1245, 58.25, 60.5]),
        ("1,11,94,550 people, \u20b94,613.35 crore and 62.3 lakh", [11194550, 46133500000, 6230000]),
        ("1 234 567,89 EUR, le prix moyen est de 1 234,57.", [1234567.89, 1234.57]),
        ("In 2024 300 units, 12 234 of them", [2024, 300, 12234]),
        ("1.2346 × 10^6, $1.5 \\times 10^{-3}$, 3×10⁶ and 2.5 x 10⁻²", [1234600, 1.5e-3, 3e6, 0.025]),
        ("3 x 10 fields, 2 * 10 rows", [3, 10, 2, 10]),
        ("The host 192.168.10.254 runs 1.20.3.", []),
        ("close to one and a half million", [1.5e6]),
        ("a Km of 0.438 mM and a rate of 5 M", [0.438, 5e6]),
        ("3 hours and 14 minutes, 2 min 5 s", [194, 125]),
    ],
)
def test_forms_of_other_places(text: str, expected: list[float]) -> None:
    assert [n.value for n in read_numbers(text)] == pytest.approx(expected)


def test_a_power_of_ten_is_rounded_as_it_is_shown() -> None:
    given = [NumberSource("cell 1", "flux: 1234567.89")]
    for text, source in {
        "1.23 × 10^6": "cell 1",
        "1.235 × 10⁶": "cell 1",
        "1.32 × 10^6": None,
        "1.23 × 10^5": None,
    }.items():
        assert check_numbers(f"The flux is {text}.", given)[0].source == source, text


CHANGES = NumberSource("cell 1", "growth: 0.0375\nchange: -12.5\nrefunds: -1830.55\nPaid vs Organic revenue: +20.92%")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("The change was -12.5.", "cell 1"),
        ("The change was +12.5.", None),  # nor is it 0.0375 - -12.5
        ("Refunds of 1,830.55 were paid.", "cell 1"),
        ("Refunds came to +1,830.55.", None),
        ("Paid revenue is 20.92% higher than that of Organic.", "cell 1"),
        ("Revenue fell by 20.92% from Organic to Paid.", None),
    ],
)
def test_a_sign_is_not_turned(text: str, source: str | None) -> None:
    assert check_numbers(text, [CHANGES])[0].source == source


def test_so_many_in_a_hundred_is_a_share_and_may_be_a_count() -> None:
    (number,) = read_numbers("Right in 86 out of 100 cases.")
    assert (number.value, number.share, number.is_odds) == (86, 100, True)
    (number,) = read_numbers("three in a hundred")
    assert (number.value, number.share) == (3, 100)
    for given in ("accuracy: 0.858", "right answers: 86"):
        assert check_numbers("Right in 86 out of 100 cases.", [NumberSource("cell 1", given)])[0].source == "cell 1"
        assert check_numbers("Right in 68 out of 100 cases.", [NumberSource("cell 1", given)])[0].source is None


def test_an_output_prints_a_duration_as_a_clock() -> None:
    assert [n.value for n in read_numbers("14:20:45", skip=False)] == [51645]


@pytest.mark.parametrize(
    ("shown", "given", "expected"),
    [("mwh", "kwh", 1e-3), ("hours", "min", 1 / 60), ("gib", "bytes", 2**-30), ("km", "kwh", None)],
)
def test_units_of_a_kind(shown: str, given: str, expected: float | None) -> None:
    assert (expected in factors(shown, given)) if expected else factors(shown, given) == ()


def test_the_unit_of_a_column_is_the_end_of_its_name() -> None:
    labels = ("rain_mm", "weight (kg)", "kwh_2024", "latency_ms", "min", "price_min", "mean")
    assert [unit_of_label(label) for label in labels] == ["mm", "kg", "kwh", "ms", "", "", ""]


USE = NumberSource(
    "cell 1", "          kwh_2023  kwh_2024\nbuilding\nLibrary     412600    388150\nGym         958300    991720"
)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("In 2024 the gym used 991.7 MWh.", True),
        ("In 2024 the gym used 991,720 kWh.", True),
        ("In 2024 the gym used 0.99 GWh.", True),
        ("In 2024 the gym used 991.7 GWh.", False),
        ("In 2024 the gym used 991,720 MWh.", False),
    ],
)
def test_a_number_may_be_in_another_unit_of_its_kind(text: str, is_right: bool) -> None:
    assert (check_numbers(text, [USE])[0].source == "cell 1") is is_right


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sales rose by 12", 1), ("a decline of 12", -1), ("12% less than before", -1), ("more than 12", 0),
        ("the price is 12", 0), ("Costs fell, then went up 12", 1), ("\u589e\u957f\u4e8612", 1),
    ],
)  # fmt: skip
def test_direction(text: str, expected: int) -> None:
    start = text.index("12")
    assert direction(text, start, start + 2) == expected


def test_a_column_with_both_signs_says_which_way() -> None:
    given = [NumberSource("cell 1", "Library     -0.0593\nGym          0.0349\ndtype: float64", "change.round(4)")]
    assert check_numbers("The library fell by 5.9%.", given)[0].source == "cell 1"
    assert check_numbers("The library rose by 5.9%.", given)[0].source is None
    assert check_numbers("The gym went up 3.5%.", given)[0].source == "cell 1"
    assert check_numbers("The gym went down 3.5%.", given)[0].source is None


def test_a_number_of_a_name_is_no_claim() -> None:
    given = [NumberSource("cell 1", "         gpu  tokens\n RTX 4090   127.8\n      9B    48.2")]
    assert all(c.source for c in check_numbers("The RTX 4090 and class 9B are fine.", given))
    assert [c.source for c in check_numbers("The RTX 4080 is fine.", given)] == [None]
