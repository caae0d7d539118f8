"""Cells of a notebook, one after another in one namespace: what each printed, showed and raised.

The one implementation behind sessions (`jail/cell_loop.py`) and SandboxFusion's /run_jupyter.
Results have the form of Jupyter's messages: `display` is a list of {"data": {MIME type: text},
...}, `error` one of {"ename", "evalue", "traceback"}.
"""

# ruff: noqa: BLE001 (whatever a cell raises is a result)

from __future__ import annotations

import ast
import base64
import contextlib
import inspect
import io
import linecache
import sys
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

from .report_values import Report

MAX_TEXT = 1 << 20
MAX_FIGURES = 8
MAX_FIGURE_BYTES = 1 << 20
_DPI = 100
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def _nothing() -> None:
    pass


class Notebook:
    """Cells share `space`.

    A cell may call `display(value, ...)`; its last expression is shown unless a semicolon ends it.
    `with_report` gives it `report` (`report_values.py`).
    """

    def __init__(self, space: dict[str, Any], *, with_report: bool = False):
        self.space = space
        self._display: list[dict[str, Any]] = []
        space["display"] = self._show
        if with_report:
            space["report"] = Report(self._show)

    def run(
        self, source: str, number: int, *, exit_ends: bool = False, restore: Callable[[], None] = _nothing
    ) -> dict[str, Any]:
        """Run one cell on the standard streams. An error ends the cell and not the notebook; with
        `exit_ends` SystemExit is raised, else it is an error like others. `restore` is called when
        the code has ended, before anything else.
        """
        self._display.clear()
        error: list[dict[str, Any]] = []
        try:
            try:
                self._execute(source, number)
            finally:
                restore()
            self._display += figures()
        except BaseException as raised:
            if exit_ends and isinstance(raised, SystemExit):
                raise
            error.append(_described(raised))
        return {"display": list(self._display), "error": error}

    def run_captured(self, source: str, number: int) -> dict[str, Any]:
        """The same with what the cell printed; SystemExit is raised."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            shown = self.run(source, number, exit_ends=True)
        return {"stdout": out.getvalue()[:MAX_TEXT], "stderr": err.getvalue()[:MAX_TEXT], **shown}

    def _execute(self, source: str, number: int) -> None:
        name = f"cell {number}"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        tree = ast.parse(source, name)
        ends_in_expression = bool(tree.body) and isinstance(tree.body[-1], ast.Expr)
        last = tree.body.pop() if ends_in_expression and not source.rstrip().endswith(";") else None
        _run(compile(tree, name, "exec", _FLAGS, dont_inherit=True), self.space)
        if isinstance(last, ast.Expr):
            value = _run(compile(ast.Expression(last.value), name, "eval", _FLAGS, dont_inherit=True), self.space)
            if value is not None:
                data = _bundle(value)
                if "text/plain" in data:
                    self.space["_"] = value
                self._display.append({"data": data, "metadata": {}, "execution_count": number})

    def _show(self, *values: Any) -> None:
        self._display += [{"data": _bundle(value), "metadata": {}} for value in values]


def _run(code: CodeType, space: dict[str, Any]) -> Any:
    value = eval(code, space)
    if code.co_flags & inspect.CO_COROUTINE:  # the cell awaits
        import asyncio

        return asyncio.run(value)
    return value


def _bundle(value: Any) -> dict[str, str]:
    """A value as text, and as HTML where it has such a form (tables of pandas); what has a
    `_repr_mimebundle_` says itself how it is shown.
    """
    own = getattr(type(value), "_repr_mimebundle_", None)
    if own is not None:
        with contextlib.suppress(Exception):
            shown = own(value)
            if isinstance(shown, dict) and all(isinstance(text, str) for text in shown.values()):
                return {str(kind): _cut(text) for kind, text in shown.items()}
    data = {"text/plain": _cut(repr(value))}
    as_html = getattr(type(value), "_repr_html_", None)
    if as_html is not None:
        with contextlib.suppress(Exception):
            html = as_html(value)
            if isinstance(html, str):
                data["text/html"] = _cut(html)
    return data


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + f"... ({len(text) - MAX_TEXT} characters more)"


def _described(error: BaseException) -> dict[str, Any]:
    below = error.__traceback__
    while below is not None and not below.tb_frame.f_code.co_filename.startswith("cell "):
        below = below.tb_next
    try:
        text = str(error)[:MAX_TEXT]
    except BaseException:
        text = "(no message)"
    try:
        lines = [line[:MAX_TEXT] for line in traceback.format_exception(type(error), error, below)]
    except BaseException:
        lines = [f"{type(error).__name__}\n"]
    return {"ename": type(error).__name__, "evalue": text, "traceback": lines}


# -- figures


def figures() -> list[dict[str, Any]]:
    """The open figures of matplotlib, as PNG and SVG and in words, in order; they are closed.

    The same figure gives the same bytes: no date, and SVG ids from a fixed salt.
    """
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not pyplot.get_fignums():
        return []
    shown = []
    for number in pyplot.get_fignums()[:MAX_FIGURES]:
        figure = pyplot.figure(number)
        words = _in_words(number, figure)
        data = {"text/plain": words}
        try:
            data |= _drawn(figure)
        except Exception as error:
            data["text/plain"] = f"{words}; it could not be drawn: {type(error).__name__}: {error}"
        shown.append({"data": data, "metadata": {}})
    pyplot.close("all")
    return shown


def _drawn(figure: Any) -> dict[str, str]:
    from matplotlib import rc_context

    data = {}
    with rc_context({"svg.hashsalt": "qwq"}):
        for kind, mime in (("png", "image/png"), ("svg", "image/svg+xml")):
            image = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(image, format=kind, dpi=_DPI, bbox_inches="tight", metadata=metadata)
            if image.tell() <= MAX_FIGURE_BYTES:  # a scatter of a million points is no SVG for a report
                drawn = image.getvalue()
                data[mime] = base64.b64encode(drawn).decode() if kind == "png" else drawn.decode()
    return data


def _in_words(number: int, figure: Any) -> str:
    """What a model that sees no pictures is told."""
    parts = [f"figure {number}"]
    for axes in figure.axes:
        drawn = {
            ("line", "lines"): len(axes.lines),
            ("bar or area", "bars or areas"): len(axes.patches),
            ("collection", "collections"): len(axes.collections),
            ("image", "images"): len(axes.images),
        }
        named = (("title", axes.get_title()), ("x", axes.get_xlabel()), ("y", axes.get_ylabel()))
        words = [f"{name} {text!r}" for name, text in named if text]
        words += [f"{count} {one if count == 1 else many}" for (one, many), count in drawn.items() if count]
        parts.append(", ".join(words) or "empty axes")
    return ": ".join([parts[0], "; ".join(parts[1:])]) if len(parts) > 1 else parts[0]
