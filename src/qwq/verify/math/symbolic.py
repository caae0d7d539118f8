"""The last rung: Math-Verify and sympy, run inside a worker process and nowhere else.

`python -m qwq.verify.math.symbolic FD` is what `qwq.verify.worker` starts. Math-Verify's own time limits
(signal.alarm) are switched off: the worker limits its children instead.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from qwq.verify import worker


def handle(payload: dict[str, Any]) -> dict[str, Any]:
    """`{"gold", "answer"}` (LaTeX or plain, without markup) to `{"equal": bool | None}`; None: the gold is unreadable.

    An answer that neither reader can make sense of is wrong where the gold can be read.
    """
    from math_verify import verify

    gold, answer = _parse(payload["gold"]), _parse(payload["answer"])
    if all(isinstance(g, str) for g in gold):  # math_verify hands back the text where sympy could not read it
        return {"equal": None}
    if all(isinstance(a, str) for a in answer):
        return {"equal": False}
    return {"equal": bool(verify(gold, answer, timeout_seconds=None, raise_on_error=False))}


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=False)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    handle({"gold": "x+1", "answer": "1+x"})  # imports and builds the grammar before the first real request
    worker.serve(handle, int(sys.argv[1]))
