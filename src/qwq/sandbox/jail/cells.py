"""Cells of a notebook, one after another in one namespace: what each printed, showed and raised."""

# ruff: noqa: BLE001, S102 (whatever a cell raises is a result; running it is the purpose)

from __future__ import annotations

import ast
import contextlib
import io
import sys
import traceback
from typing import Any

MAX_TEXT = 1 << 20


def run_cell(source: str, space: dict[str, Any], number: int) -> dict[str, Any]:
    """One cell in the form of Jupyter's messages. An error ends the cell and not the session; SystemExit ends that."""
    out, err = io.StringIO(), io.StringIO()
    display: list[dict[str, Any]] = []
    error: list[dict[str, Any]] = []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            tree = ast.parse(source, f"cell {number + 1}")
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            _run(compile(tree, f"cell {number + 1}", "exec", _FLAGS, dont_inherit=True), space)
            if last is not None:
                code = compile(ast.Expression(last.value), f"cell {number + 1}", "eval", _FLAGS, dont_inherit=True)
                value = _run(code, space)
                if value is not None:
                    space["_"] = value
                    display.append(
                        {"data": {"text/plain": repr(value)[:MAX_TEXT]}, "metadata": {}, "execution_count": number + 1}
                    )
        except SystemExit:
            raise
        except BaseException as raised:
            lines = traceback.format_exception(type(raised), raised, raised.__traceback__.tb_next)
            error.append(
                {
                    "ename": type(raised).__name__,
                    "evalue": _text(raised),
                    "traceback": [line[:MAX_TEXT] for line in lines],
                }
            )
    return {
        "stdout": out.getvalue()[:MAX_TEXT],
        "stderr": err.getvalue()[:MAX_TEXT],
        "display": display,
        "error": error,
    }


_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def _run(code: Any, space: dict[str, Any]) -> Any:
    value = eval(code, space)
    if code.co_flags & 0x80:  # a coroutine: the cell awaits
        import asyncio

        return asyncio.run(value)
    return value


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except BaseException:
        return "(no message)"


def flush() -> None:
    """What went past the cells' own streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
