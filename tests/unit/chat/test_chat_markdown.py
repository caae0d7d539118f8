"""Markdown, formulas and wrapping of `qwq chat`: what is shown, wherever the text is cut into
pieces.
"""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.chat.formula import formula
from qwq.chat.markdown import BOLD, CODE, FAINT, ITALIC, RESET, Markdown
from qwq.chat.screen import Screen, Wrapped


def shown(*pieces: str) -> str:
    made = Markdown()
    out = [p for piece in pieces for p in made.push(piece)] + made.push("", final=True)
    return "".join(text for _, text in out)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize(
    ("text", "styled"),
    [
        ("a **b** c", f"a {RESET}{BOLD}b{RESET} c"), ("*x* y", f"{RESET}{ITALIC}x{RESET} y"),
        ("## Sum\nso", f"{RESET}{BOLD}Sum{RESET}\nso"), ("use `f(*x)` now", f"use {CODE}f(*x){RESET} now"),
        ("- one\n  * two\n+ three", "• one\n  • two\n• three"), ("> said\n---\n", f"│ said\n{'─' * 24}\n"),
        ("```py\na *= 2\n```\nso", f"{FAINT}```py\n{RESET}{CODE}a *= 2\n{RESET}{FAINT}```{RESET}\nso"),
        # Signs that are no Markdown stay.
        ("2 * 3 * 4", "2 * 3 * 4"), ("2*3*4", "2*3*4"), ("#hash -dash >", "#hash -dash >"),
        ("a_b_c and snake_case", "a_b_c and snake_case"), ("`open", "`open"), ("**open", f"{RESET}{BOLD}open{RESET}"),
        ("it costs $5 and $6", "it costs $5 and $6"), ("| a | *b* |\n|---|\n", "| a | *b* |\n|---|\n"),
        ("1. one\n2. two", "1. one\n2. two"), (r"\*no\*", "*no*"), ("C:\\dir", "C:\\dir"),
        ("**a**\n\nb", f"{RESET}{BOLD}a{RESET}\n\nb"),
    ],
)  # fmt: skip
def test_what_is_shown_of_markdown(text: str, styled: str) -> None:
    assert shown(text) == styled
    for at in range(len(text)):
        assert shown(text[:at], text[at:]) == styled
    assert shown(*text) == styled


@pytest.mark.parametrize(
    ("text", "styled"),
    [
        (r"so $x^2 \le \frac{1}{2}$.", "so x² ≤ 1/2."), (r"\(a_{10}\) is", "a₁₀ is"),
        ("thus\n\\[\n\\boxed{5}\n\\]\n", "thus\n    ⟦5⟧\n"), ("$$a$$", "    a"), ("$open", "$open"),
        (r"\begin{x}", r"\begin{x}"), ("$$open\n\nb", "$$open\n\nb"),
    ],
)  # fmt: skip
def test_formulas_in_an_answer(text: str, styled: str) -> None:
    assert shown(text) == styled == shown(*text)


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"\frac{a+b}{2}", "(a+b)/2"), (r"x^{2}+y_{10}=\sqrt{x+1}", "x²+y₁₀=√(x+1)"), (r"\sum_{i=1}^{n} i", "∑ᵢ₌₁ⁿ i"),
        (r"90^\circ", "90°"), (r"e^{i\pi}", "e^(iπ)"), (r"\sqrt[3]{8}", "³√8"),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "a = b\nc = d"), (r"\left(\frac12\right.", "(1/2"),
        (r"x \implies \text{so it is}", "x ⇒ so it is"), (r"\mathbb{R}^n", "ℝⁿ"), (r"\foo{x}", r"\foo{x}"),
        (r"\alpha\beta", "αβ"), (r"\sin x", "sin x"), ("}{^", "^"), ("", ""), ("\\", "\\"), (r"5\%", "5%"),
        (r"\binom{n}{2}", "C(n, 2)"),
    ],
)  # fmt: skip
def test_formulas_in_characters(tex: str, text: str) -> None:
    assert formula(tex) == text


SIGNS = st.sampled_from(
    [
        "**",
        "*",
        "`",
        "```",
        "\n",
        "\n\n",
        " ",
        "word",
        "$",
        "$$",
        r"\(",
        r"\)",
        r"\[",
        r"\]",
        "#",
        "- ",
        "> ",
        "|",
        "---",
        "\\",
        "2",
        r"\frac{1}{2}",
        "{",
        "}",
        "^",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(SIGNS, max_size=14), st.randoms(use_true_random=False))
def test_where_the_text_is_cut_changes_nothing(signs: list[str], random) -> None:
    text = "".join(signs)
    expected = shown(text)
    assert shown(*text) == expected
    cut = random.randrange(len(text) + 1)
    assert shown(text[:cut], text[cut:]) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="bd \n*`$\\{}_^#|>-~", max_size=60))
def test_no_word_is_lost(text: str) -> None:
    letters = [c for c in text if c in "bd"]
    assert [c for c in plain(shown(text)) if c in "bd"] == letters


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wrapped(text: str, width: int = 20) -> str:
    out = Terminal()
    made = Wrapped(out)
    made.width = width
    made.write(text)
    made.flush()
    return out.getvalue()


def test_words_are_wrapped_whole() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    lines = wrapped(text).split("\n")
    assert all(len(line) <= 20 for line in lines) and " ".join(" ".join(lines).split()) == text
    assert wrapped("x" * 50) == "x" * 50  # what no line can hold is left to the terminal
    assert wrapped("一二三四五六七八九十一二三") == "一二三四五六七八九十\n一二三"
    assert wrapped("a\nb") == "a\nb"


def test_answers_are_styled_and_thinking_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    screen = Screen(out)
    for text, thinking in (("I *think*", True), ("so **it", False), (" is** $x^2$", False)):
        screen.show(text, thinking)
    screen.end()
    assert "I *think*" in out.getvalue() and plain(out.getvalue()) == "I *think*so it is x²\n"
    for raw in (Screen(Terminal(), raw=True), Screen(io.StringIO())):
        raw.show("so **it** is $x^2$", False)
        raw.end()
        assert "so **it** is $x^2$" in raw.out.getvalue()
