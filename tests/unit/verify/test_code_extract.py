"""The program in a response: which blocks, where fences stand, what is thinking."""

from __future__ import annotations

import pytest

from qwq.sandbox import Sandbox
from qwq.types import Response
from qwq.verify.code import extract_code, verify_response

PROGRAM = "n = int(input())\nprint(n * 2)"
STDIO = {"kind": "stdio", "cases": [{"input": "2\n", "output": "4\n"}]}
CALL = {"kind": "call", "entry_point": "f", "cases": [{"args": [2], "expected": 4}, {"args": [5], "expected": 10}]}
F = "def f(n): return n * 2"


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1) as made:
        yield made


RIGHT = {
    "fence": (f"</think>Here:\n```python\n{PROGRAM}\n```\nDone.", STDIO),
    "its output behind it": (f"</think>\n```python\n{PROGRAM}\n```\nExample output:\n```\n4\n```", STDIO),
    "how to run it": (f"</think>\n```python\n{PROGRAM}\n```\nRun it with\n```bash\necho 2 | python a.py\n```", STDIO),
    "usage in a block of its own": (
        f"</think>\n```python\n{F}\n```\nExample usage:\n```python\nprint(f(2))  # 4\n```",
        CALL,
    ),
    "asserts in a block of their own": (
        f"</think>\n```python\n{F}\n```\n```python\nassert f(2) == 4\nx = f(3)\nprint(x)\n```",
        CALL,
    ),
    "a loop of examples": (
        f"</think>\n```python\n{F}\n```\nTest:\n```python\nfor n in range(3):\n    print(n, f(n))\n```",
        CALL,
    ),
    "helper and solution": (
        "</think>\n```python\ndef g(n): return n * 2\n```\nand\n```python\ndef f(n): return g(n)\n```",
        CALL,
    ),
    "imports and solution": (
        "</think>\n```python\nimport math\nTWO = 2\n```\nand\n```python\ndef f(n): return math.floor(n * TWO)\n```",
        CALL,
    ),
    "helper, solution, usage": (
        "</think>\n```python\ndef g(n): return n * 2\n```\n```python\ndef f(n): return g(n)\n```\n```python\n"
        "print(f(1))\n```",
        CALL,
    ),
    "class and main": (
        f"</think>\n```python\n{F}\n```\nNow read the input:\n```python\nn = int(input())\nprint(f(n))\n```",
        STDIO,
    ),
    "a better one later": (
        f"</think>\n```python\nprint(0)\n```\nThat was naive. Better:\n```python\n{PROGRAM}\n```",
        STDIO,
    ),
    "the same function again": (f"</think>\n```python\ndef f(n): return 0\n```\nFixed:\n```python\n{F}\n```", CALL),
    "closed at the end of the code": (f"</think>\n```python\n{PROGRAM}```", STDIO),
    "opened behind words": (f"</think>Solution: ```python\n{PROGRAM}\n```", STDIO),
    "boxed": ("</think>\\boxed{```python\n" + PROGRAM + "\n```}", STDIO),
    "tag of pandoc": ("</think>\n```{.python}\n" + PROGRAM + "\n```", STDIO),
    "space before the tag": (f"</think>\n``` python\n{PROGRAM}\n```", STDIO),
    "tag in capitals": (f"</think>\n```Python\n{PROGRAM}\n```", STDIO),
    "tildes": (f"</think>\n~~~python\n{PROGRAM}\n~~~", STDIO),
    "CRLF": (f"</think>\n```python\n{PROGRAM}\n```\n".replace("\n", "\r\n"), STDIO),
    "in a list": ("</think>\n1. so\n   ```python\n   n = int(input())\n   print(n * 2)\n   ```", STDIO),
    "</think> in a string": (f"</think>\n```python\nS = '</think>'\n{PROGRAM}\n```", STDIO),
    "</think> in a string, behind a thought": (f"so I think</think>\n```python\nS = '</think>'\n{PROGRAM}\n```", STDIO),
    "fence in a docstring": (
        '</think>\n```python\ndef f(n):\n    """Like this:\n\n    ```\n    f(2)\n    ```\n    """\n'
        "    return n * 2\n```",
        CALL,
    ),
    "backticks in a string": ("</think>\n```python\nT = '```'\ndef f(n): return n * 2\n```", CALL),
    "four backticks": (f"</think>\n````python\n{PROGRAM}\n````", STDIO),
    "no closing fence": (f"</think>\n```python\n{PROGRAM}", STDIO),
    "no fence": (f"</think>{PROGRAM}", STDIO),
    "prose, then the program": (f"</think>The answer is:\n{PROGRAM}", STDIO),
    "answer tags": (f"</think><answer>\n```python\n{PROGRAM}\n```\n</answer>", STDIO),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_are_found(box, name):
    text, tests = RIGHT[name]
    verdict = verify_response(Response(text, thinking_open=True), tests, sandbox=box)
    assert verdict.correct, (verdict.reason, verdict.answer)


def test_the_last_program_counts_also_where_it_is_wrong(box):
    text = f"</think>\n```python\n{PROGRAM}\n```\nOr rather:\n```python\nprint(0)\n```"
    assert not verify_response(Response(text, thinking_open=True), STDIO, sandbox=box).correct
    again = f"</think>\n```python\n{F}\n```\nNo:\n```python\ndef f(n): return 0\n```"
    assert not verify_response(Response(again, thinking_open=True), CALL, sandbox=box).correct


def test_thinking_is_no_answer(box):
    for text, opened in (
        (f"<think>```python\n{PROGRAM}\n```", False),
        (f"```python\n{PROGRAM}\n```", True),
        (f"<think>```python\n{PROGRAM}\n```</think>no", False),
    ):
        assert verify_response(Response(text, thinking_open=opened), STDIO, sandbox=box).outcome.value == "no_answer"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Wrap it in ``` please.", None),
        ("Use ```fences``` for code: 42.", None),
        ("```text\nhello\n```\n```python\nx = 1\n```\n```output\n1\n```", "x = 1"),
        ("```python\nx = 1\n```\n```python\ny = x + 1\nprint(y)\n```", "x = 1\n\ny = x + 1\nprint(y)"),
        ("```python\na = 1\n```\n```python\nb = 2\n```", "b = 2"),
        ("```python\ndef f(:\n```", "def f(:"),
        # Where no thought was open, `</think>` is text, and no line of the program belongs to it.
        ("</think>n = int(input())\nprint(n * 2)", "n = int(input())\nprint(n * 2)"),
        ("So 2n.</think>n = int(input())\nprint(n * 2)", "n = int(input())\nprint(n * 2)"),
        ("The answer is:\ns = '</think>'\nprint(s)", "s = '</think>'\nprint(s)"),
    ],
)
def test_edges(text, code):
    assert extract_code(text) == code


def test_other_languages_take_their_own_last_block():
    text = "```python\nx\n```\n```cpp\nint main(){}\n```\nOutput:\n```\n4\n```"
    assert extract_code(text, "cpp") == "int main(){}"
    assert extract_code("```c++\nint a;\n```", "cpp") == "int a;"
    assert extract_code("int main(){}", "cpp") is None
