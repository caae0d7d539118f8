"""Checkers of outputs and interactive problems: what each accepts, what it refuses, and who is at
fault where it fails.
"""

from __future__ import annotations

import pytest

from qwq.errors import UsageError
from qwq.sandbox import Sandbox
from qwq.sandbox.languages import available
from qwq.types import Outcome
from qwq.verify.code import verify


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


def judged(box, code, output, checker, given="", **options):
    tests = {"kind": "stdio", "checker": checker, "cases": [{"input": given, "output": output}]}
    return verify(code, tests, sandbox=box, **options)


@pytest.mark.parametrize(
    ("checker", "printed", "expected", "right"),
    [
        ("lines", "1 2", "1 2", True), ("lines", "1  2", "1 2", False), ("tokens", "1  2\n\n 3", "1 2 3", True),
        ("tokens", "1 2 3", "1 2", False), ("tokens", "a", "A", False), ("case", "Yes no", "YES\nNO", True),
        ("case", "Yes", "NO", False), ("floats", "0.3333333333", "0.333333333", True),
        ("floats", "0.34", "0.33", False), ("floats", "x 1.0", "x 1", True), ("floats", "nan", "1", False),
        ("any_order", "b\na\n", "a\nb\n", True), ("any_order", "b  1\na", "a\nb 1", True),
        ("any_order", "a\na", "a\nb", False), ("any_order", "a", "a\na", False), ("floats", "1 2", "1", False),
    ],
)  # fmt: skip
def test_named_checkers(box, checker, printed, expected, right):
    verdict = judged(box, f"print({printed!r})", expected, checker)
    assert verdict.correct is right and verdict.outcome in (Outcome.CORRECT, Outcome.WRONG)


def test_a_tolerance_goes_with_floats(box):
    assert judged(box, "print(0.34)", "0.33", "floats", tolerance=0.1).correct


FACTORS = """
import sys
given, got, answer = (open(name).read().split() for name in sys.argv[1:])
if len(got) != 2 or int(got[0]) * int(got[1]) != int(given[0]) or 1 in map(int, got):
    print("no factors", file=sys.stderr)
    sys.exit(1)
"""


def test_a_program_that_checks(box):
    assert judged(box, "print(7, 13)", "13 7", {"program": FACTORS}, "91\n").correct
    wrong = judged(box, "print(1, 91)", "13 7", {"program": FACTORS}, "91\n")
    assert wrong.outcome is Outcome.WRONG and "no factors" in wrong.reason and not wrong.forgeable
    broken = judged(box, "print(7, 13)", "13 7", {"program": "1 / 0"}, "91\n")
    assert broken.outcome is Outcome.UNDECIDED and "the checker ended with" in broken.reason
    slow = judged(box, "print(7, 13)", "13 7", {"program": "while True: pass", "timeout_s": 0.3}, "91\n")
    assert slow.outcome is Outcome.UNDECIDED


def test_a_checker_in_another_language(box):
    if not available()["cpp"].startswith("/"):
        pytest.skip("no g++ on this machine")
    source = (
        "#include <fstream>\n#include <cstdlib>\nint main(int c, char** v) { std::ifstream in(v[1]), out(v[2]); "
        "long n, a, b;\n"
        "in >> n; if (!(out >> a >> b) || a * b != n) return 1; return 0; }"
    )
    for code, right in (("print(7, 13)", True), ("print(7, 14)", False), ("print('x')", False)):
        assert judged(box, code, "", {"program": source, "language": "cpp"}, "91\n").correct is right


@pytest.mark.parametrize(
    ("checker", "words"),
    [
        ("token", "did you mean 'tokens'"),
        ({"language": "cpp"}, "an object with program"),
        ({"program": "x", "lang": "cpp"}, "did you mean 'language'"),
        ({"program": "x", "language": "cobol"}, "cobol"),
        (3, "give one of"),
    ],
)
def test_unknown_checkers_are_refused(box, checker, words):
    with pytest.raises(UsageError, match=words):
        judged(box, "print(1)", "1", checker)


GUESS = """
import sys
secret = int(open("input.txt").read())
for turn in range(10):
    line = sys.stdin.readline()
    if not line: sys.exit("it said nothing") if False else (print("it said nothing", file=sys.stderr), sys.exit(1))
    word, number = line.split()
    if word == "!":
        if int(number) != secret: print("wrong number", file=sys.stderr)
        sys.exit(0 if int(number) == secret else 1)
    print("<" if secret < int(number) else ">=", flush=True)
print("too many questions", file=sys.stderr)
sys.exit(1)
"""
BISECT = """
low, high = 0, 256
while high - low > 1:
    middle = (low + high) // 2
    print("?", middle, flush=True)
    low, high = (low, middle) if input() == "<" else (middle, high)
print("!", low, flush=True)
"""


def conversation(box, code, *secrets, **options):
    tests = {"kind": "interactive", "interactor": {"program": GUESS}, "cases": [{"input": str(n)} for n in secrets]}
    return verify(code, tests, sandbox=box, timeout_s=options.pop("timeout_s", 5.0), **options)


def test_interactive_problems(box):
    assert conversation(box, BISECT, 0, 77, 255).correct
    wrong = conversation(box, "print('!', 5, flush=True)", 5, 6)
    assert (wrong.outcome, wrong.passed) == (Outcome.WRONG, 1) and "wrong number" in wrong.reason
    assert (
        "too many questions" in conversation(box, "while True:\n    print('?', 3, flush=True)\n    input()", 9).reason
    )
    assert "it said nothing" in conversation(box, "pass", 9).reason
    crashed = conversation(box, "1 / 0", 9)
    assert crashed.outcome is Outcome.WRONG and "ZeroDivisionError" in crashed.reason
    silent = conversation(box, "import time\ntime.sleep(60)", 9, timeout_s=0.5)
    assert silent.outcome is Outcome.TIMEOUT
    assert not conversation(box, BISECT, 7).forgeable


def test_interactive_problems_in_another_language(box):
    if not available()["cpp"].startswith("/"):
        pytest.skip("no g++ on this machine")
    source = (
        "#include <iostream>\n#include <string>\nint main() { int low = 0, high = 256; std::string s;\n"
        "while (high - low > 1) { int m = (low + high) / 2;\n"
        'std::cout << "? " << m << std::endl; std::cin >> s; if (s == "<") high = m; else low = m; }\n'
        'std::cout << "! " << low << std::endl; }'
    )
    assert conversation(box, source, 3, 200, language="cpp").correct


@pytest.mark.parametrize(
    "program",
    [
        "print(1)",
        "import time; time.sleep(0.5); print(1, flush=True)",  # the pipe is closed by now
        "import time; time.sleep(0.5); print(1)",  # met when the interpreter flushes at its end
    ],
)
def test_a_broken_interactor_is_not_the_program_s_fault(box, program):
    tests = {"kind": "interactive", "interactor": {"program": "1 / 0"}, "cases": [{"input": ""}]}
    assert verify(program, tests, sandbox=box).outcome is Outcome.UNDECIDED


def test_a_program_that_fails_by_itself_is_wrong_beside_a_broken_interactor(box):
    tests = {"kind": "interactive", "interactor": {"program": "input(); input()"}, "cases": [{"input": ""}]}
    assert verify("print(1); raise ValueError('mine')", tests, sandbox=box).outcome is Outcome.WRONG
