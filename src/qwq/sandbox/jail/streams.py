"""Standard streams of a run, over descriptors 0 to 2."""

# ruff: noqa: SIM115 (the streams stay open)

from __future__ import annotations

import codecs
import sys


def as_given(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes that are not UTF-8 and halves of surrogate pairs pass in and out as they are."""
    handlers = ["surrogatepass", "surrogateescape"]
    if isinstance(error, UnicodeEncodeError):
        handlers.reverse()
    try:
        return codecs.lookup_error(handlers[0])(error)
    except UnicodeError:
        return codecs.lookup_error(handlers[1])(error)


codecs.register_error("asgiven", as_given)


def use_standard_streams() -> None:
    """Fresh stream objects: the ones that are there were opened on other files, or replaced by a
    program.
    """
    streams = {
        "stdin": open(0, encoding="utf-8", errors="asgiven", closefd=False),
        "stdout": open(1, "w", encoding="utf-8", errors="asgiven", closefd=False),
        "stderr": open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False),
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
