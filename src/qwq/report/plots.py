"""The report's curves as inline SVG. One small picture for each quantity, so that the page can flow
on a phone.

A page has no scripts: what is under the pointer is shown by transparent areas (`Spot`) whose text
appears while they are hovered or tapped.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qwq.report.palette import ALARM, COLOURS, EDGE, GRID, INK, OTHERS, ZERO, themed
from qwq.report.run_data import RunData, StageData, smooth
from qwq.report.wording import number, text

WIDTH_IN, HEIGHT_IN = 4.0, 2.3
MAX_POINTS = 400
MAX_SPOTS = 32  # of a picture
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": EDGE,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
Points = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Spot:
    """A column of a picture around `x` (a row around it where `across`), in the axes' units, and
    the lines that it shows.
    """

    x: float
    lines: tuple[str, ...]
    across: bool = False


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
    ax.tick_params(which="both", colors=INK, length=2, labelsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return fig, ax


def svg(fig: Figure, label: str, spots: Sequence[Spot] = ()) -> str:
    """The figure as an `<svg>` element that takes the width of its place.

    `label` is read out in its stead.
    """
    out = io.StringIO()
    # Each figure gets ids of its own: several of them share one page.
    with mpl.rc_context(STYLE | {"svg.hashsalt": fig.get_label()}):
        fig.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\b(width|height)="[\d.]+pt"', "", drawn, count=2)
    drawn = themed(re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", drawn))
    drawn = drawn.replace("</svg>", f"{_areas(fig, spots)}</svg>")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _areas(fig: Figure, spots: Sequence[Spot]) -> str:
    """The areas that show a value, each as wide as the way to its neighbours allows."""
    if not spots:
        return ""
    ax, (width, height) = fig.axes[0], 72 * fig.get_size_inches()  # of the viewBox, which counts from the top
    box = ax.get_position()
    left, right, top, bottom = box.x0 * width, box.x1 * width, (1 - box.y1) * height, (1 - box.y0) * height
    corner = ax.get_xlim()[0], ax.get_ylim()[0]  # a place on both axes, on logarithmic ones too
    ends = ax.transData.transform([(corner[0], s.x) if s.across else (s.x, corner[1]) for s in spots])
    share = ax.transAxes.inverted().transform(ends)
    out = []
    for spot, (x, y) in zip(spots, share, strict=True):
        along = bottom - y * (bottom - top) if spot.across else left + x * (right - left)
        extent = (bottom - top if spot.across else right - left) / max(len(spots), 2)
        place = f"M{left:.0f} {along:.1f}H{right:.0f}" if spot.across else f"M{along:.1f} {top:.0f}V{bottom:.0f}"
        at_x, anchor = (right, "end") if spot.across or along > (left + right) / 2 else (along + 3, "start")
        if anchor == "end" and not spot.across:
            at_x = along - 3
        at_y = along - 4 if spot.across else top + 8
        rows = "".join(
            f'<tspan x="{at_x:.1f}" dy="{11 * bool(i)}">{text(line)}</tspan>' for i, line in enumerate(spot.lines)
        )
        out.append(
            f'<g class="spot"><path d="{place}" stroke-width="{extent:.1f}"/>'
            f'<text y="{at_y:.1f}" text-anchor="{anchor}">{rows}</text></g>'
        )
    return "".join(out)


def thin(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most MAX_POINTS points, each the mean of its neighbours: a page stays small."""
    size = math.ceil(len(xs) / MAX_POINTS)
    if size <= 1:
        return list(xs), list(ys)
    parts = [slice(i, i + size) for i in range(0, len(xs), size)]
    return [sum(xs[s]) / len(xs[s]) for s in parts], [sum(ys[s]) / len(ys[s]) for s in parts]


def curve(
    salt: str, label: str, series: Mapping[str, Points], *,
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
    return svg(fig, label, _steps(series))


def _steps(series: Mapping[str, Points]) -> list[Spot]:
    """Steps evenly over the curve, each with the values of every line at it."""
    by_step: dict[float, list[str]] = {}
    for name, (xs, ys) in series.items():
        for x, y in zip(xs, ys, strict=True):
            by_step.setdefault(x, []).append(f"{name} {number(y)}".strip())
    steps = sorted(by_step)
    count = min(len(steps), MAX_SPOTS)
    chosen = dict.fromkeys(steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count))
    return [Spot(step, (f"step {step:,.0f}", *by_step[step])) for step in chosen]


def scores(stages: Sequence[StageData], benchmark: str, colour: str) -> str:
    """The sampled score on one benchmark after each stage, with its 95% interval, one stage a row.

    Hollow: a stage beside the sequence, such as a control.
    """
    fig, ax = figure(f"scores-{benchmark}", height=0.62 + 0.27 * len(stages))
    spots = []
    for row, stage in enumerate(stages):
        e = stage.evals[benchmark]
        score, (low, high) = 100 * e["score"], (100 * end for end in e["ci95"])
        error = [[max(0.0, score - low)], [max(0.0, high - score)]]
        fill = colour if stage.changes_policy else "none"
        ax.errorbar(
            score, row, xerr=error, color=colour, marker="o", markersize=6, markerfacecolor=fill, elinewidth=1.6
        )
        greedy = stage.evals_greedy.get(benchmark)
        more = f", greedy {100 * greedy['score']:.1f}" if greedy else ""
        spots.append(Spot(row, (f"{score:.1f} [{low:.1f}, {high:.1f}]{more}",), across=True))
    ax.set_yticks(range(len(stages)), [s.name for s in stages])
    ax.set_ylim(len(stages) - 0.4, -0.6)
    ax.set_xlim(-3, 103)
    ax.set_xlabel("% correct, sampled", fontsize=9)
    return svg(fig, f"{benchmark}: score after each stage", spots)


def overthinking(benchmark: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Accuracy against mean thinking tokens, a line for each stage; every dot is a thinking budget,
    the ring is none.
    """
    fig, ax = figure(f"overthinking-{benchmark}", height=2.8)
    for i, (stage, points) in enumerate(curves.items()):
        c = OTHERS[i % len(OTHERS)]
        ordered = sorted(points, key=lambda p: p["mean_thinking_tokens"])
        x, y = [p["mean_thinking_tokens"] for p in ordered], [100 * p["score"] for p in ordered]
        ax.errorbar(
            x, y, yerr=_errors(ordered, "score"), color=c, marker="o", markersize=4,
            linewidth=1.5, elinewidth=1, capsize=2, label=stage,
        )  # fmt: skip
        free = [(a, b) for a, b, p in zip(x, y, ordered, strict=True) if p["budget"] is None]
        ax.plot(
            [a for a, _ in free], [b for _, b in free],
            color=c, marker="o", markersize=9, markerfacecolor="none", linestyle="none",
        )  # fmt: skip
    ax.set_xlabel("mean thinking tokens", fontsize=9)
    ax.set_ylabel("% correct", fontsize=9)
    ax.set_ylim(bottom=0)
    return svg(fig, f"{benchmark}: accuracy against thinking tokens")


def budgets(benchmark: str, points: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against mean thinking tokens of one model, one point a thinking budget, which is
    written beside it.
    """
    fig, ax = figure(f"budget-{benchmark}")
    points = sorted(points, key=lambda p: p["mean_thinking_tokens"])
    x, y = [p["mean_thinking_tokens"] for p in points], [100 * p["score"] for p in points]
    ax.errorbar(
        x, y, yerr=_errors(points, "score"), color=COLOURS["math"], marker="o", markersize=4, linewidth=1.6, capsize=2
    )
    for p, at_x, at_y in zip(points, x, y, strict=True):
        said = "no limit" if p["thinking_budget"] is None else f"{p['thinking_budget']:,}"
        ax.annotate(said, (at_x, at_y), xytext=(4, 5), textcoords="offset points", fontsize=8)
    ax.set_xlabel("thinking tokens, mean", fontsize=9)
    ax.set_ylabel("% correct", fontsize=9)
    ax.set_ylim(bottom=0)
    return svg(fig, f"accuracy of {benchmark} against thinking tokens")


def contract(entries: Sequence[Mapping], max_drop: float, domain: str, colour: str) -> str:
    """Change of a held domain against the start of the stage at each check, with the tolerated drop
    as a line.
    """
    fig, ax = figure(f"contract-{domain}")
    points = [(e["step"] + 1, f) for e in entries for f in e["findings"] if f["domain"] == domain]
    x, y = [x for x, _ in points], [100 * f["change"] for _, f in points]
    errors = _errors([f for _, f in points], "change")
    ax.errorbar(x, y, yerr=errors, color=colour, marker="o", markersize=4, linewidth=1.5, capsize=2)
    if len(x) == 1:
        ax.set_xlim(x[0] - 1, x[0] + 1)  # whole steps, not parts of one
    ax.axhline(-100 * max_drop, color=ALARM, linewidth=1.2, linestyle="--")
    ax.axhline(0, color=ZERO, linewidth=0.8)
    ax.set_xlabel("step", fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    said = [
        f"{v:+.1f} [{100 * f['ci95'][0]:+.1f}, {100 * f['ci95'][1]:+.1f}]" for v, (_, f) in zip(y, points, strict=True)
    ]
    spots = [Spot(step, (f"step {step}", line)) for step, line in zip(x, said, strict=True)]
    return svg(fig, f"change of {domain} at each check, in points", spots)


def _errors(rows: Sequence[Mapping[str, Any]], key: str) -> list[list[float]]:
    """Lengths of the error bars below and above, in percent."""
    below = [max(0.0, 100 * (r[key] - r["ci95"][0])) for r in rows]
    return [below, [max(0.0, 100 * (r["ci95"][1] - r[key])) for r in rows]]
