"""Numbers and foreign text as the report shows them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any


def text(value: Any) -> str:
    """Escaped, with characters that steer the direction or the display of text made visible."""
    out = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in str(value))
    return html.escape(out, quote=True)


def points(fraction: float) -> str:
    """A difference in points with its sign, with a true minus."""
    return f"{100 * fraction:+.1f}".replace("-", "\u2212")


def interval(low: float, high: float) -> str:
    return f"[{points(low)}, {points(high)}]"


def tone(low: float, high: float) -> str:
    """good or bad where the whole interval lies on one side of zero."""
    return "good" if low > 0 else "bad" if high < 0 else ""


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
