r"""The rules of the math verifier with their own examples: `docs/verify_math.md` prints them, a
test runs each.

`same` are pairs (gold, answer) that count as correct, `apart` pairs that do not. `forms` other than
"bare" say how the answer is read. `rule_of` names the rule that a gold answer falls under, for the
audit of a training set.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwq.verify.math import typed
from qwq.verify.math.lexer import GREEK
from qwq.verify.math.normal import clean
from qwq.verify.math.read import read

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`what` it says, in one sentence; `kinds`: the value types that fall under it."""

    name: str
    what: str
    same: Pairs
    apart: Pairs
    form: str = "bare"
    kinds: tuple[type, ...] = ()


RULES = (
    Rule(
        "numbers",
        "Exact fractions: grouped digits, e-notation, mixed numbers, repeating decimals in any notation.",
        (
            ("12,345.60", "12345.6"),
            ("10^{-30}", "1e-30"),
            (r"3\frac12", "7/2"),
            (r"\frac16", "0.1(6)"),
            ("1500", "1.5 x 10^3"),
        ),
        (("123456789123456789", "123456789123456788"), ("12", "1 2"), ("2,3", "2.3"), ("1e-30", "1e-31")),
    ),
    Rule(
        "rounding",
        (
            "A decimal is a value that is no finite decimal where it is that value correctly rounded, to five "
            "significant digits (three in a gold)."
        ),
        ((r"\frac23", "0.66667"), ("0.667", r"\frac23"), (r"\sqrt2", "1.41421")),
        ((r"\frac23", "0.67"), (r"\pi", "3.14"), ("0.1", "0.10000000001")),
    ),
    Rule(
        "percent",
        "50% is 0.5 and, from 1 up, also 50.",
        ((r"50\%", "0.5"), ("50", r"50\%"), (r"12.5\%", r"\frac18")),
        ((r"12.5\%", "1.25"), (r"0.05\%", "0.05")),
    ),
    Rule(
        "words",
        "Numbers in words, scale words and fractions in words.",
        (
            ("twenty-one", "21"),
            (r"\frac23", r"\text{two thirds}"),
            ("5000000", r"5\text{ million}"),
            (r"\frac32", r"3\text{ halves}"),
            ("12", "十二"),
        ),
        (
            (r"5\text{ million}", r"5\text{ billion}"),
            (r"3\text{ halves}", r"3\text{ quarters}"),
            ("5", r"5\text{ squared}"),
        ),
    ),
    Rule(
        "radix",
        "Digits with a base, and prefixes; the base must be the same.",
        (("2A_{16}", "2a_{16}"), ("255", "0xFF"), ("10", "0b1010"), ("1011_2", r"1011\text{ base }2")),
        (("1011_2", "1011_3"), ("5", r"5\text{ base }7")),
    ),
    Rule(
        "units",
        (
            "A unit that one side alone gives does not matter; two units must have the same dimension and size, two "
            "nouns a word in common."
        ),
        (
            ("25", r"25\text{ cm}^2"),
            (r"10\text{ m/s}", "10 meters per second"),
            (r"36\text{ square meters}", r"36\ \text{m}^2"),
            (r"5\text{ ft }3\text{ in}", "5 feet 3 inches"),
            ("12", "12个"),
        ),
        (
            (r"5\text{ mg}", r"5\text{ kg}"),
            (r"60\text{ mph}", r"60\text{ km/h}"),
            (r"5\text{ cm}", r"5\text{ cm}^2"),
            (r"100\text{ cm}", r"1\text{ m}"),
            ("5 apples", "5 oranges"),
        ),
    ),
    Rule(
        "money",
        "A currency is a unit; dollars and cents are one amount.",
        ((r"\$5", "5 dollars"), (r"\$5.25", "5 dollars and 25 cents"), (r"\$2.5\text{ million}", r"\$2{,}500{,}000")),
        ((r"\$5", "€5"), (r"\$5", r"5\text{ cents}")),
    ),
    Rule(
        "times and dates",
        "A time of day with its half or on 24 hours; day and month in any order.",
        (("7:30 pm", "19:30"), ("7:30 pm", "7:30"), (r"\text{March 5}", "5th of March")),
        (("7:30 pm", "7:30 am"), ("12:00", "1:00"), (r"\text{March 5}", "March 15")),
        kinds=(typed.Time, typed.Day),
    ),
    Rule(
        "expressions",
        "Exactly where they are rational, else at several points with a hundred digits and more.",
        (
            ("x^2-1", "(x-1)(x+1)"),
            (r"\sin 2x", r"2\sin x\cos x"),
            (r"\sqrt8", "2sqrt(2)"),
            ("120", "C(10,3)"),
            (r"\Gamma(n+1)", "n!"),
        ),
        (
            (r"\frac{a}{b+c}", "a/b+c"),
            ("5!", "5"),
            (r"\frac{x}{1000!}", r"\frac{x}{1001!}"),
            (r"\pi", r"\pi+10^{-60}"),
            (r"\chi^2_5", r"\chi^2_6"),
        ),
        kinds=(typed.Expr,),
    ),
    Rule(
        "angles",
        "Degrees, minutes and radians; a degree sign that one side leaves out does not matter.",
        ((r"\frac{\pi}{6}", r"30^\circ"), (r"60^\circ", "60"), (r"30.25^\circ", r"30^\circ 15'")),
        ((r"45^\circ", r"45\text{ rad}"), (r"30^\circ\text{E}", r"30^\circ\text{W}")),
    ),
    Rule(
        "complex numbers",
        "Cartesian, exponential, and cis. A number plus a multiple of j is engineers' form; 4j alone may be a vector.",
        (
            (r"1+i\sqrt3", r"2e^{i\pi/3}"),
            ("1+i", r"\sqrt2\operatorname{cis}\frac{\pi}{4}"),
            ("3+4i", "3+4j"),
        ),
        (("1+i", "1-i"), ("i", "-i"), ("3+4i", "3+5j"), ("4i", "4j")),
    ),
    Rule(
        "constants of integration",
        "Two integrals with a constant each are the same where they differ by a number.",
        ((r"\sin^2 x + C", r"-\cos^2 x + C"), (r"\frac12x^2+C", r"\frac{x^2}{2}+c")),
        (("x^2+C", "2x^2+C"), ("a+b+c", "a+b+7+c")),
    ),
    Rule(
        "sums, integrals, limits",
        "Left to sympy, in a child of a worker process; what it cannot show to differ is undecided.",
        (("385", r"\sum_{k=1}^{10} k^2"), (r"\frac13", r"\int_0^1 x^2 dx")),
        (("384", r"\sum_{k=1}^{10} k^2"), (r"\lim_{x\to 0^+} f(x)", r"\lim_{x\to 0^-} f(x)")),
    ),
    Rule(
        "lists and sets",
        "In any order; in a set the same element twice is one. Dots are a part of a list.",
        (
            (r"\{1,2\}", "2, 1"),
            (r"x=1 \text{ or } x=2", "2, 1"),
            (r"\pm 2", "2, -2"),
            (r"\{1,1,2\}", r"\{1,2\}"),
            (r"\{1,2\}\cup\{2,3\}", r"\{1,2,3\}"),
            (r"\{1,2\}\cup\{3\}", r"\{1,2,3\}"),
            ("x=2或x=-3", "2,-3"),
        ),
        (("1, 2", "1, 2, 3"), (r"1, 2, \ldots, 10", "1, 2, ..., 9"), ("12", "12 or 15")),
        kinds=(typed.Bag, typed.Dots),
    ),
    Rule(
        "tuples and vectors",
        "In order, with the same brackets; columns, rows, and i, j, k are vectors too.",
        (
            ("(1,0,-1)", r"\begin{pmatrix}1\\0\\-1\end{pmatrix}"),
            (r"\langle 1,2,3\rangle", r"\mathbf{i}+2\mathbf{j}+3\mathbf{k}"),
            (r"\langle 2,-1\rangle", r"2\mathbf{i}-\mathbf{j}"),
        ),
        (("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,23)", "(1,2 3)"), (r"\vec a\times\vec b", r"\vec a\cdot\vec b")),
        kinds=(typed.Seq,),
    ),
    Rule(
        "matrices",
        "Entry by entry, after sums, products, transposes and determinants of small ones.",
        (
            (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),
            (r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{bmatrix}1\\2\end{bmatrix}"),
            (r"-2", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
        ),
        ((r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),),
    ),
    Rule(
        "regions",
        (
            "Intervals, inequalities of one quantity that is linear, an absolute value or a square, unions, "
            "intersections, differences."
        ),
        (
            (r"[1,\infty)", r"x\ge1"),
            ("4<x<8", r"2<\frac{x}{2}<4"),
            ("[-1,3]", r"|x-1|\le 2"),
            (r"(0,\infty)", r"\mathbb{R}^+"),
            (r"\mathbb{R}\setminus\{0\}", r"x\ne0"),
            (r"1<a+b<3", r"a+b\in(1,3)"),
        ),
        (
            (r"[1,\infty)", "x>1"),
            ("1<x<5", "1<2x<5"),
            ("1<x<4", "1<x^2<4"),
            ("1<x<3", "1<a+b<3"),
            ("12", r"\ge 12"),
            ("x>3", "y>3"),
        ),
        kinds=(typed.Region,),
    ),
    Rule(
        "whole numbers of a region",
        "A restriction to integers is never dropped.",
        (
            (r"\{x\in\mathbb{Z}\mid -1\le x\le 2\}", r"\{-1,0,1,2\}"),
            (r"\{x\in\mathbb{Z}: x>0\}", r"\{x\in\mathbb{Z}: x\ge 1\}"),
        ),
        ((r"\{x\in\mathbb{Z}\mid -1\le x\le 2\}", "[-1,2]"), (r"\mathbb{N}", r"\mathbb{Z}")),
        kinds=(typed.NumberSet,),
    ),
    Rule(
        "equations",
        "Proportional ones; a solution of one that does not solve the other tells two apart.",
        (("y=2x+1", "2x-y+1=0"), ("x+y=3", "2x+2y=6"), ("x^2+y^2=4", r"\frac{x^2}{4}+\frac{y^2}{4}=1")),
        (("y=2x+1", "y=2x-1"), ("y^2=4x", "y^2=8x"), (r"x^2+y^2\le1", "x^2+y^2<1")),
        kinds=(typed.Relation,),
    ),
    Rule(
        "named values",
        "A name that one side alone gives does not matter; two must name the same thing. A calculation is its result.",
        (
            ("5", "x=5"),
            ("12", "|AB|=12"),
            (r"\frac12", r"P(X>1)=\frac12"),
            ("12", "5+7=12"),
            ("12", "a+b+c=12"),
            ("y=2x", "f(x)=2x"),
            ("E(X)=2", r"\mathbb{E}[X]=2"),
        ),
        (
            ("x=5", "y=5"),
            ("f(2)=3", "f(3)=3"),
            ("f'(x)=2", "f''(x)=2"),
            (r"\frac{dy}{dx}=2x", r"\frac{dx}{dy}=2x"),
            ("E(X)=2", "V(X)=2"),
            ("12", "5+7=13"),
            ("5", "2x=5"),
        ),
    ),
    Rule(
        "systems",
        (
            "Rows of cases, array or aligned are a list; named values are matched by their names, or a tuple by the "
            "order of the alphabet."
        ),
        (
            (r"\begin{cases}x=1\\y=2\end{cases}", "x=1, y=2"),
            (r"\left\{\begin{array}{l}x=1\\ y=2\end{array}\right.", "(1,2)"),
            (r"x=1, y=2 \text{ or } x=2, y=1", "(1,2),(2,1)"),
            ("a=1, b=2", "b=2, a=1"),
        ),
        ((r"\begin{cases}x=1\\y=2\end{cases}", "x=2, y=1"), ("f(0)=1, f(1)=2", "f(0)=2, f(1)=1")),
    ),
    Rule(
        "piecewise functions",
        "Rows in any order.",
        ((r"\begin{cases}x&x\ge0\\-x&x<0\end{cases}", r"\begin{cases}-x&\text{if }x<0\\x&\text{if }x\ge0\end{cases}"),),
        ((r"\begin{cases}x&x\ge0\\-x&x<0\end{cases}", r"\begin{cases}-x&x\ge0\\x&x<0\end{cases}"),),
        kinds=(typed.Piecewise,),
    ),
    Rule(
        "congruences",
        "The same modulus, and the same residues of it.",
        (
            (r"n\equiv1\pmod 4", r"n \equiv 5 \ (\text{mod } 4)"),
            (r"n\equiv1\pmod 4", r"1 \bmod 4"),
            (r"n\equiv1\pmod 4", "n=4k+1"),
        ),
        ((r"n\equiv1\pmod 4", r"n\equiv1\pmod 8"), ("2", r"2\pmod 5"), (r"n\equiv1\pmod 4", "n=8k+1")),
        kinds=(typed.Congruence,),
    ),
    Rule(
        "families",
        "The parameter has no name of its own; where both sides give its domain, it is the same.",
        ((r"2k\pi, k\in\mathbb{Z}", r"2n\pi"), (r"\frac{\pi}{2}+k\pi", r"\frac{\pi}{2}+n\pi")),
        ((r"k\pi, k\in\mathbb{Z}", r"k\pi, k\in\mathbb{N}"), (r"2k\pi", r"k\pi")),
        kinds=(typed.SolutionFamily,),
    ),
    Rule(
        "ratios",
        "Proportional.",
        (("1:2:3", "2:4:6"), ("3:4", r"\frac34")),
        (("1:2:3", "1:4:9"), ("3:4", "4:3")),
        kinds=(typed.Ratio,),
    ),
    Rule(
        "choices",
        "The letter, with or without its text.",
        (
            ("B", r"(B)\ 5"),
            ("B", "Option B"),
            ("E", "E - a score over many genes"),
            (r"\textbf{(A)}\ 5", "5"),
            ("ABD", "A, B, D"),
            ("B", "选B"),
        ),
        (("B", "(C) 5"), ("ABD", "A, B")),
    ),
    Rule(
        "text",
        "The same words, in any case, without articles and markup.",
        ((r"\text{Monday}", "monday"), (r"\text{DNE}", "does not exist"), (r"\text{no solution}", r"\emptyset")),
        (("yes", "no"), (r"\text{exactly } 5 \text{ ways}", r"\text{exactly } 5! \text{ ways}")),
        kinds=(typed.Text,),
    ),
    Rule(
        "logic and sets by name",
        "The same signs, in any order where the sign allows it.",
        ((r"p \lor q", r"q \vee p"), (r"A\cup B", r"B\cup A")),
        ((r"p \land q", r"p \lor q"), (r"A\cap B", r"A\cup B")),
        kinds=(typed.Logic,),
    ),
    Rule(
        "Unicode",
        "As people write it.",
        (
            ("x^4", "x⁴"),
            ("x_1", "x₁"),
            (r"\frac13", "⅓"),
            (r"\frac{\sqrt3}{2}", "√3/2"),
            ("36", "３６"),
            ("12", "12\u200b"),
        ),
        (("x^4", "x³"), (r"\lambda", "μ")),
    ),
    Rule(
        "boxes",
        "The last box of a response.",
        (
            ("12", r"\boxed{5+7=12}"),
            ("12", r"\boxed{\text{The answer is } 12}"),
            ("12", r"\boxed{\color{red}{12}}"),
            ("12", r"\framebox{12}"),
            ("7", r"First \boxed{5}, which is wrong: \boxed{7}."),
        ),
        (
            ("12", r"\boxed{12} or maybe \boxed{15}"),
            ("12", r"\boxed{12\text{ or }15}"),
            ("12", r"\boxed{}"),
            ("4,5", r"\boxed{4} and \boxed{5}"),
        ),
        form="response",
    ),
    Rule(
        "announcements",
        "The last announced answer, in any usual wording and many languages; reasons, asides and comments behind it "
        "go.",
        (
            ("12", "The answer turns out to be 12, as desired."),
            ("12", "The final answer is 12. I checked it, and this answer is correct."),
            ("B", "The correct option is B."),
            ("12", "### Answer 12".replace(" 12", "\n\n12")),
            ("12", "<answer>\n12\n</answer>"),
            ("12", "所以答案是 $12$ 平方厘米。"),
            ("B", "故选B。"),
            ("12", "Ответ: 12"),
            ("12", "La respuesta es 12."),
            ("12", "答えは12です。"),
            ("12", "정답은 12입니다."),
            ("12", "所以共有12种。"),
            ("12", "Thus, x turns out to be 12."),
            ("12", "It turns out to be 12."),
            ("12", "So we get 12."),
            ("C", "It must be C, not B."),
            ("C", "Neither A nor B; so C."),
        ),
        (
            ("12", "The answer is 12 or 15."),
            ("12", "The answer is not 12."),
            ("12", "The answer is 12. Or maybe it is 15."),
            ("12", "If the answer is 12, then x is 3."),
            ("12", "所以共有12种或15种。"),
            ("12", "Thus, x turns out to be about 12."),
            ("12", "If we are lucky, we get 12."),
            ("C", "I do not choose C."),
        ),
        form="response",
    ),
)


def rule_of(gold: str) -> str | None:
    """The rule that a cleaned gold answer falls under by its type; None where none reads it."""
    value = read(clean(gold))
    if (
        isinstance(value, typed.Expr)
        and value.tree[0] == "sym"
        and len(value.tree[1]) > 3
        and value.tree[1].isalpha()
        and value.tree[1] not in GREEK
    ):
        return "text"  # \text{Monday}
    return next((rule.name for rule in RULES if isinstance(value, rule.kinds)), None)


def table() -> str:
    """The rules as a Markdown table, for the documentation."""
    lines = ["| rule | counts | does not count |", "| --- | --- | --- |"]
    for rule in RULES:
        cells = [f"**{rule.name}**: {rule.what}", *(_cell(pairs, rule.form) for pairs in (rule.same, rule.apart))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(pairs: Pairs, form: str) -> str:
    sign = ": " if form == "response" else " and "
    return "<br>".join(f"{_code(gold)}{sign}{_code(answer)}" for gold, answer in pairs)


def _code(text: str) -> str:
    shown = text.replace("\n", "↵").replace("\u200b", "[U+200B]").replace("|", "\\|")
    return f"`{shown}`"
