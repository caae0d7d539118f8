"""Types for the benchmarks' options: a value that cannot be measured is refused in one line, before
anything is made.

    parser.add_argument("--rounds", type=at_least(1), default=5)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from qwq.errors import QwqError
from qwq.pipeline import resolve

N = TypeVar("N", int, float)


def at_least(low: N) -> Callable[[str], N]:
    """A number, `low` or more; a whole one where `low` is."""
    kind = type(low)

    def number(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not low <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: give at least {low:g}")
        return value

    return number


def positive(text: str) -> float:
    """A number above zero."""
    value = at_least(0.0)(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value


def sizes(*lows: int) -> Callable[[str], str]:
    """Whole numbers joined by x, as 4x8x64, each at least its `low`; the text is kept."""
    example = "x".join(str(4 * 2**i) for i in range(len(lows)))

    def checked(text: str) -> str:
        parts = text.split("x")
        if len(parts) != len(lows) or not all(part.isdecimal() for part in parts):
            raise argparse.ArgumentTypeError(f"{text!r}: write {len(lows)} whole numbers as {example}")
        if any(int(part) < low for part, low in zip(parts, lows, strict=True)):
            raise argparse.ArgumentTypeError(f"{text!r}: give at least {'x'.join(map(str, lows))}")
        return text

    return checked


def model_folder(text: str) -> str:
    """A Hugging Face folder that is there, or a run's folder and so its last model."""
    try:
        path = Path(resolve.model_folder(text)).expanduser()
    except QwqError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not (path / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"no model at {text}: give a Hugging Face folder")
    return str(path)


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Names joined by commas, each one of these."""

    def checked(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in names:
                raise argparse.ArgumentTypeError(f"no {name!r}: choose from {', '.join(names)}")
        return given

    return checked


def run_folder(text: str) -> Path:
    """The folder of a run."""
    path = Path(text)
    if not (path / "recipe.toml").is_file():
        raise argparse.ArgumentTypeError(f"no run at {text}: give a folder that `qwq train` wrote")
    return path
