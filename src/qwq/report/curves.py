"""The report's curves: for each stage the quantities in metrics.jsonl, one small picture each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from qwq.report import plots
from qwq.report.palette import LINE, OTHERS, swatch
from qwq.report.run_data import RunData, StageData
from qwq.report.view import SUPERVISED, Panel
from qwq.report.wording import counted, number, text
from qwq.types import DOMAINS

MAX_ALARM_LINES = 8
# An alarm's first words, by the figure that it is about (`train/alarms.py` writes them).
ALARMS = {
    "entropy": "entropy is ", "length": "responses have ", "truncated": " of responses reach ",
    "clip_fraction": " of tokens are clipped", "kl": "KL to the reference model is ",
    "zero_signal": " of groups teach nothing", "mismatch_max": "sampler and trainer differ ",
    "grad_norm": "the gradient was not finite", "outcomes": " verdicts ",
}  # fmt: skip
NO_FIGURES = ("step", "seconds", "tokens", "lr")  # in the heading, or set by the recipe


def curves_section(run: RunData) -> str:
    """All stages that have taken a step."""
    blocks = [stage_curves(stage, run) for stage in run.stages if stage.metrics]
    if not blocks:
        return ""
    return (
        "<h2>Curves</h2><p class='soft small'>Faint: every step. Strong: running mean. Red triangle: a step that "
        "raised an alarm about this figure. At the right of each title: the mean of the first and of the last tenth "
        "of the steps. Point at a curve, or tap it, for the values of a step.</p>" + "".join(blocks)
    )


def stage_curves(stage: StageData, run: RunData) -> str:
    pictures = [_rewards(stage, run), _verdicts(stage), _validation(stage)]
    pictures += [_picture(stage, panel) for panel in _panels(stage)]
    seconds = sum(row.get("seconds", 0.0) for row in stage.metrics)
    tokens = sum(row.get("tokens", 0) for row in stage.metrics)
    speed = f", {tokens:,} tokens at {tokens / seconds:,.0f} a second" if seconds and tokens else ""
    note = "" if stage.record else ' <span class="chip warn">under way</span>'
    steps = counted(len(stage.metrics), "step")
    return (
        f'<section><h3 class="sticky">{text(stage.name)}{note} <span class="soft small">{steps}{speed}</span></h3>'
        f'<div class="grid">{"".join(pictures)}</div>{_alarms(stage)}</section>'
    )


def _panels(stage: StageData) -> Sequence[Panel]:
    """The curves that the stage's kind states; else one for each figure that its steps have."""
    if stage.view.panels is not None:
        return stage.view.panels
    known = {panel.key: panel for panel in SUPERVISED}
    keys = [k for row in stage.metrics for k, v in row.items() if isinstance(v, int | float)]
    return [known.get(k, Panel(k.replace("_", " "), k)) for k in dict.fromkeys(keys) if k not in NO_FIGURES]


def _series(stage: StageData, key: str) -> tuple[list[float], list[float]]:
    rows = [row for row in stage.metrics if isinstance(row.get(key), int | float)]
    return [row["step"] + 1 for row in rows], [float(row[key]) for row in rows]


def _picture(stage: StageData, panel: Panel) -> str:
    xs, ys = _series(stage, panel.key)
    if not ys or (panel.key in ("kl", "mismatch_max", "clip_fraction", "truncated") and not any(ys)):
        return ""
    if len(ys) == 1:
        return _number_of_one_step(panel.title, {"": ys[0]})
    drawn = plots.curve(
        f"{stage.name}-{panel.key}",
        panel.title,
        {"": (xs, ys)},
        colours={"": LINE},
        alarms=alarm_steps(stage, "kl" if panel.key == "kl_to_start" else panel.key),
        log=panel.log,
        unit=panel.unit,
    )
    return _figure(panel.title, _ends(ys), "", drawn)


def alarm_steps(stage: StageData, key: str) -> list[int]:
    """The steps whose alarms are about the figure `key`."""
    words = ALARMS.get(key)
    return [step for step, alarm in stage.alarms if words and words in alarm]


def _number_of_one_step(title: str, values: Mapping[str, float]) -> str:
    """A figure that has one step is a number, not a curve."""
    shown = "".join(
        f'<div><span class="big">{number(value)}</span> <span class="soft small">{text(name)}</span></div>'
        for name, value in values.items()
    )
    return _figure(title, "", "", shown)


def _rewards(stage: StageData, run: RunData) -> str:
    """Mean reward, each domain apart."""
    by_domain: dict[str, tuple[list[float], list[float]]] = {}
    for row in stage.metrics:
        for domain, value in row.get("reward_by_domain", {}).items():
            if value is None:  # it was not finite
                continue
            xs, ys = by_domain.setdefault(domain, ([], []))
            xs.append(row["step"] + 1)
            ys.append(value)
    if not by_domain:
        return ""
    ordered = {d: by_domain[d] for d in [*DOMAINS, *(k for k in by_domain if k not in DOMAINS)] if d in by_domain}
    if len(stage.metrics) == 1:
        return _number_of_one_step("mean reward", {d: ys[0] for d, (_, ys) in ordered.items()})
    colours = {d: c for d, c in plots.colours(run).items() if d in ordered}
    drawn = plots.curve(f"{stage.name}-reward", "mean reward by domain", ordered, colours=colours)
    return _figure("mean reward", _ends(_series(stage, "reward")[1]), legend(colours), drawn)


def _verdicts(stage: StageData) -> str:
    """Share of each outcome but correct and wrong: what is lost to never ending, no answer, time
    limits, infrastructure.
    """
    series: dict[str, tuple[list[float], list[float]]] = {}
    for name in ("unfinished", "no_answer", "timeout", "undecided", "infra_error"):
        rows = [row for row in stage.metrics if row.get("outcomes")]
        shares = [row["outcomes"].get(name, 0) / sum(row["outcomes"].values()) for row in rows]
        if any(shares):
            series[name] = ([row["step"] + 1 for row in rows], shares)
    if not series:
        return ""
    if len(stage.metrics) == 1:
        return _number_of_one_step("neither right nor wrong", {name: ys[0] for name, (_, ys) in series.items()})
    colours = {name: OTHERS[i] for i, name in enumerate(series)}
    drawn = plots.curve(
        f"{stage.name}-verdicts",
        "verdicts that are neither right nor wrong",
        series,
        colours=colours,
        alarms=alarm_steps(stage, "outcomes"),
    )
    return _figure("neither right nor wrong", "", legend(colours), drawn)


def _validation(stage: StageData) -> str:
    """Score on validation problems, where the stage looks at them."""
    entries = (stage.record or {}).get("validation") or [
        row["validation"] for row in stage.metrics if "validation" in row
    ]
    if not entries:
        return ""
    if len(entries) == 1:
        return _number_of_one_step("score on validation problems", {"": entries[0]["score"]})
    series = {"": ([e["step"] + 1 for e in entries], [e["score"] for e in entries])}
    drawn = plots.curve(
        f"{stage.name}-validation", "score on validation problems", series, colours={"": LINE}, unit=True
    )
    return _figure("score on validation problems", _ends([e["score"] for e in entries]), "", drawn)


def legend(colours: Mapping[str, str]) -> str:
    """Names, each with its colour."""
    items = "".join(f'<span><i style="--c:{swatch(c)}"></i>{text(name)}</span>' for name, c in colours.items())
    return f'<div class="legend">{items}</div>'


def _figure(title: str, ends: str, legend: str, drawn: str) -> str:
    caption = f'<figcaption>{text(title)}<span class="ends">{ends}</span></figcaption>'
    return f'<figure class="panel">{caption}{legend}{drawn}</figure>'


def _ends(ys: Sequence[float]) -> str:
    """First and last values, each the mean of a tenth of the steps (at least one)."""
    if not ys:
        return ""
    size = max(1, len(ys) // 10)
    first, last = sum(ys[:size]) / size, sum(ys[-size:]) / size
    return " → ".join(number(v) for v in (first, last))


def _alarms(stage: StageData) -> str:
    """Alarms, equal texts counted together."""
    if not stage.alarms:
        return ""
    first: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for step, alarm in stage.alarms:
        first.setdefault(alarm, step)
        counts[alarm] += 1
    lines = [f"<li>step {first[a]}{_times(counts, a)}: {text(a)}</li>" for a in list(first)[:MAX_ALARM_LINES]]
    if len(first) > MAX_ALARM_LINES:
        lines.append(f"<li>and {len(first) - MAX_ALARM_LINES} more, in metrics.jsonl</li>")
    return f'<ul class="alarms">{"".join(lines)}</ul>'


def _times(counts: Mapping[str, int], alarm: str) -> str:
    return f" and {counts[alarm] - 1} later" if counts[alarm] > 1 else ""
