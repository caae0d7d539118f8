"""Colours of the reports' pictures, in light and in dark.

Pictures are drawn in the light colours. `swatch` wraps each in a custom property that only a page
in dark mode sets (`dark_css`), so a picture alone still shows its own colour.
"""

from __future__ import annotations

import re

# Okabe and Ito's palette: told apart also by readers who do not see all colours.
COLOURS = {"math": "#0072b2", "code": "#d55e00", "instructions": "#009e73", "tools": "#cc79a7", "preference": "#a07d00"}
OTHERS = (
    "#56b4e9", "#7f3c8d", "#444444", "#11a579", "#e73f74", "#3969ac", "#b35806",
    "#80ba5a", "#8c564b", "#6a6a00", "#cf1c90", "#008695",
)  # fmt: skip
OUTCOMES = {
    "correct": "#2e9e6b", "wrong": "#d9826b", "no_answer": "#b9c0cc", "unfinished": "#8f7fc0",
    "timeout": "#e0b13c", "undecided": "#7db3d8", "infra_error": "#4d4d4d",
}  # fmt: skip
LINE = "#1f6f8b"
INK, GRID, EDGE, ZERO, ALARM = "#333333", "#e4e4e4", "#999999", "#888888", "#c62828"
_DARK = {INK: "#cdd3df", GRID: "#2d3442", EDGE: "#6b7486", ZERO: "#8a93a5"}  # what is no colour of data
DARK_CARD = "#1a1f29"  # --card of style.css in dark mode
READABLE = 4.5  # contrast of WCAG's level AA
_PAINT = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})\b")


def swatch(colour: str) -> str:
    """`colour` as a CSS value that follows the reader's dark mode."""
    return f"var(--p-{colour[1:]}, {colour})"


def themed(svg: str) -> str:
    """A drawn picture whose colours follow the reader's dark mode."""
    return _PAINT.sub(lambda found: f"{found[1]}: {swatch(found[2])}", svg)


def dark_css() -> str:
    """The rule that sets every colour's dark form."""
    light = [*COLOURS.values(), *OTHERS, *OUTCOMES.values(), LINE, ALARM]
    pairs = _DARK | {colour: on_dark(colour) for colour in light}
    rules = "".join(f"--p-{colour[1:]}:{dark};" for colour, dark in pairs.items())
    return f"@media (prefers-color-scheme: dark){{:root.themed{{{rules}}}}}\n"


def on_dark(colour: str) -> str:
    """`colour`, mixed with as much white as it takes to be read on a dark card."""
    rgb = _rgb(colour)
    for tenth in range(10):
        mixed = [round(c + (255 - c) * tenth / 10) for c in rgb]
        if contrast(mixed, _rgb(DARK_CARD)) >= READABLE:
            break
    return "#" + "".join(f"{c:02x}" for c in mixed)


def contrast(a: list[int], b: list[int]) -> float:
    """Ratio of two colours' luminances, 1 to 21 (WCAG 2.2)."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(rgb: list[int]) -> float:
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
