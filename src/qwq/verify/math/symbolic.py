"""The last rung: Math-Verify and sympy, run inside a worker process and nowhere else.

`python -m qwq.verify.math.symbolic FD` is what `qwq.verify.math.worker` starts. Math-Verify's own
time limits (signal.alarm) are switched off: the worker limits its children instead.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from qwq.verify.math import worker


def handle(payload: dict[str, Any]) -> dict[str, Any]:
    """`{"gold", "answer"}` (LaTeX or plain, without markup) to `{"equal": bool | None}`.

    None: one of them is unreadable, or Math-Verify does not call them equal and they could not be
    shown to differ at any point.
    """
    from math_verify import verify

    gold, answer = _parse(payload["gold"]), _parse(payload["answer"])
    if not gold or not answer or isinstance(gold[0], str) or isinstance(answer[0], str):
        return {"equal": None}  # math_verify hands back the text where sympy could not read it
    if verify(gold, answer, timeout_seconds=None, raise_on_error=False):
        return {"equal": True}
    return {"equal": False if _differ(gold[0], answer[0]) else None}


def _differ(gold: Any, answer: Any) -> bool:
    """Whether two expressions have different values at a point: shown by numbers, not by a failure
    to simplify.
    """
    try:
        gap = (gold - answer).doit()
        for step in (0, 1):
            values = {name: 3 + 2 * index + step for index, name in enumerate(sorted(gap.free_symbols, key=str))}
            number = complex(gap.subs(values).evalf(30))
            if abs(number) > 1e-9 * (1 + abs(complex(gold.subs(values).evalf(30)))):
                return True
    except (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError):
        pass
    return False


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=False)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    handle({"gold": "x+1", "answer": "1+x"})  # imports and builds the grammar before the first real request
    worker.serve(handle, int(sys.argv[1]))
