"""The report's curves as inline SVG. One small picture for each quantity, so that the page can flow
on a phone.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qwq.report.run_data import RunData, smooth

# Okabe and Ito's palette: told apart also by readers who do not see all colours.
COLOURS = {"math": "#0072b2", "code": "#d55e00", "instructions": "#009e73", "tools": "#cc79a7", "preference": "#a07d00"}
OTHERS = (
    "#56b4e9", "#7f3c8d", "#444444", "#11a579", "#e73f74", "#3969ac", "#b35806",
    "#80ba5a", "#8c564b", "#6a6a00", "#cf1c90", "#008695",
)  # fmt: skip
INK, GRID, ALARM = "#333333", "#e4e4e4", "#c62828"
WIDTH_IN, HEIGHT_IN = 4.0, 2.3
MAX_POINTS = 400
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": "#999999",
    "text.color": INK,
    "axes.labelcolor": INK,
}


def colours(run: RunData) -> dict[str, str]:
    """The colour of every benchmark and domain of a run, the same all over the page."""
    unknown = [name for name in run.names if name not in COLOURS]
    return COLOURS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(unknown)}


def figure(salt: str, height: float = HEIGHT_IN, width: float = WIDTH_IN) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(width, height), layout="constrained")
        ax = fig.add_subplot()
    fig.set_label(salt)
    ax.grid(True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=INK, length=2, labelsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return fig, ax


def svg(fig: Figure, label: str) -> str:
    """The figure as an `<svg>` element that takes the width of its place.

    `label` is read out in its stead.
    """
    out = io.StringIO()
    # Each figure gets ids of its own: several of them share one page.
    with mpl.rc_context(STYLE | {"svg.hashsalt": fig.get_label()}):
        fig.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def thin(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most MAX_POINTS points, each the mean of its neighbours: a page stays small."""
    size = math.ceil(len(xs) / MAX_POINTS)
    if size <= 1:
        return list(xs), list(ys)
    lots = [slice(i, i + size) for i in range(0, len(xs), size)]
    return [sum(xs[s]) / len(xs[s]) for s in lots], [sum(ys[s]) / len(ys[s]) for s in lots]


def curve(
    salt: str, label: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *,
    colours: Mapping[str, str], alarms: Sequence[int] = (), log: bool = False, unit: bool = False,
) -> str:  # fmt: skip
    """Lines over steps: the values faint, their running mean strong; a red mark at the foot for
    every alarm.
    """
    fig, ax = figure(salt)
    for name, (xs, ys) in series.items():
        finite = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y) and (y > 0 or not log)]
        if not finite:
            continue
        x, raw = thin([p[0] for p in finite], [p[1] for p in finite])
        _, mean = thin([p[0] for p in finite], smooth([p[1] for p in finite], 0.8 if len(finite) < 200 else 0.95))
        few = len(x) < 8
        ax.plot(x, raw, color=colours[name], linewidth=0.8, alpha=0.3, marker="o" if few else None, markersize=3)
        ax.plot(x, mean, color=colours[name], linewidth=1.8)
    if log:
        ax.set_yscale("log")
    if unit:
        ax.set_ylim(-0.02, 1.02)
    for step in sorted(set(alarms)):
        ax.plot(
            [step], [0.02], transform=ax.get_xaxis_transform(), color=ALARM, marker="^", markersize=6, clip_on=False
        )
    ax.set_xlabel("step", fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return svg(fig, label)


def scores(run: RunData) -> str:
    """Sampled score of every benchmark after each stage that changed the policy, with 95%
    intervals.
    """
    stages, shades = run.evaluated_policies(), colours(run)
    fig, ax = figure("scores", height=3.0, width=7.5)
    for i, b in enumerate(run.benchmarks):
        points = [(x, s.evals[b]) for x, s in enumerate(stages) if b in s.evals]
        shift = (i - (len(run.benchmarks) - 1) / 2) * 0.04  # so that the intervals do not cover each other
        x, y = [x + shift for x, _ in points], [100 * e["score"] for _, e in points]
        low = [max(0.0, v - 100 * e["ci95"][0]) for v, (_, e) in zip(y, points, strict=True)]
        high = [max(0.0, 100 * e["ci95"][1] - v) for v, (_, e) in zip(y, points, strict=True)]
        c = shades[b]
        ax.errorbar(x, y, yerr=[low, high], color=c, marker="o", markersize=5, linewidth=1.8, elinewidth=1.2, capsize=2)
    ax.set_xticks(range(len(stages)), [s.name for s in stages])
    ax.set_xlim(-0.3, len(stages) - 0.7)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("% correct, sampled", fontsize=9)
    return svg(fig, "score of each benchmark after each stage")


def overthinking(benchmark: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Accuracy against mean thinking tokens, a line for each stage; every dot is a thinking budget,
    the ring is none.
    """
    fig, ax = figure(f"overthinking-{benchmark}", height=2.8, width=4.0)
    for i, (stage, points) in enumerate(curves.items()):
        c = OTHERS[i % len(OTHERS)]
        ordered = sorted(points, key=lambda p: p["mean_thinking_tokens"])
        x, y = [p["mean_thinking_tokens"] for p in ordered], [100 * p["score"] for p in ordered]
        low = [max(0.0, v - 100 * p["ci95"][0]) for v, p in zip(y, ordered, strict=True)]
        high = [max(0.0, 100 * p["ci95"][1] - v) for v, p in zip(y, ordered, strict=True)]
        ax.errorbar(
            x,
            y,
            yerr=[low, high],
            color=c,
            marker="o",
            markersize=4,
            linewidth=1.5,
            elinewidth=1,
            capsize=2,
            label=stage,
        )
        free = [(a, b) for a, b, p in zip(x, y, ordered, strict=True) if p["budget"] is None]
        ax.plot(
            [a for a, _ in free],
            [b for _, b in free],
            color=c,
            marker="o",
            markersize=9,
            markerfacecolor="none",
            linestyle="none",
        )
    ax.set_xlabel("mean thinking tokens", fontsize=9)
    ax.set_ylabel("% correct", fontsize=9)
    ax.set_ylim(bottom=0)
    return svg(fig, f"{benchmark}: accuracy against thinking tokens")


def contract(entries: Sequence[Mapping], max_drop: float, domains: Mapping[str, str]) -> str:
    """Change of the held domains against the start of the stage at each check, with the tolerated
    drop as a line. `domains`: each with its colour.
    """
    fig, ax = figure("contract", height=2.4, width=7.5)
    for i, (domain, shade) in enumerate(domains.items()):
        points = [(e["step"] + 1, f) for e in entries for f in e["findings"] if f["domain"] == domain]
        width = 0.012 * max((x for x, _ in points), default=1)
        x, y = [x + i * width for x, _ in points], [100 * f["change"] for _, f in points]
        low = [v - 100 * f["ci95"][0] for v, (_, f) in zip(y, points, strict=True)]
        high = [100 * f["ci95"][1] - v for v, (_, f) in zip(y, points, strict=True)]
        ax.errorbar(x, y, yerr=[low, high], color=shade, marker="o", markersize=4, linewidth=1.5, capsize=2)
    ax.axhline(-100 * max_drop, color=ALARM, linewidth=1.2, linestyle="--")
    ax.axhline(0, color="#888888", linewidth=0.8)
    ax.set_xlabel("step", fontsize=9)
    return svg(fig, "change of the held domains at each check, in points")
