"""Judge a program by its tests: the code verifier.

    verify("def f(x): return x + 1", {"kind": "call", "entry_point": "f", "cases": [{"args": [1], "expected": 2}]})

Tests are one of
    {"kind": "stdio", "cases": [{"input", "output"}]}                          one process a case
    {"kind": "call", "entry_point", "cases": [{"args", "kwargs", "expected"}]}  all cases in one process
    {"kind": "asserts", "setup", "asserts": ["assert ..."]}                     all cases in one process
    {"kind": "interactive", "interactor": {"program"}, "cases": [{"input"}]}    the program talks with another one
or in a form that data sets keep them in (`forms.py`), LiveCodeBench's rows among them
(`livecodebench.py`). Covered: a program cannot learn what is expected, and cannot pass by lying
objects, by patching what compares, or by ending early. Not covered: a test that cannot be split
(`split.py`), or whose setup shows the program what is expected (`plan.py`); its verdict is marked
forgeable.
"""

from qwq.common.callables import make_callable
from qwq.verify.code.checks import KINDS
from qwq.verify.code.extract import extract_code
from qwq.verify.code.forms import BESIDE_TESTS, ROW_TESTS, asserts_from_check, read_row, read_tests
from qwq.verify.code.grade import (
    OPTIONS,
    Judged,
    check_tests,
    clear_cache,
    judge,
    judge_response,
    options_of,
    verify,
    verify_response,
)
from qwq.verify.code.guess import guess_language
from qwq.verify.code.tally import VERIFIER

__all__ = [
    "BESIDE_TESTS",
    "KINDS",
    "OPTIONS",
    "ROW_TESTS",
    "VERIFIER",
    "Judged",
    "asserts_from_check",
    "check_tests",
    "clear_cache",
    "extract_code",
    "guess_language",
    "judge",
    "judge_response",
    "options_of",
    "read_row",
    "read_tests",
    "verify",
    "verify_response",
]

make_callable(__name__, f"{__name__}:verify")
