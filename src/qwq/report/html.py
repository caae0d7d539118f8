"""`report.html`: one self-contained page. Sections in reading order; each returns HTML, empty where
it has nothing to say.

Everything that a recipe, a model or a verifier wrote goes through `text`, which escapes it. The
page has no scripts and loads nothing; its content policy forbids both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwq.report import plots
from qwq.report.curves import curves_section, legend
from qwq.report.document import document
from qwq.report.last_rollouts import rollout_section
from qwq.report.palette import OTHERS, OUTCOMES, swatch
from qwq.report.run_data import RunData, ScoreChange, ScorePair, StageData, compare, transcripts
from qwq.report.view import Comparison
from qwq.report.wording import (
    counted,
    grey_thinking,
    interval,
    joined,
    minutes,
    outcome_bar,
    points,
    text,
    tone,
    without_end,
)


def page(run: RunData) -> str:
    sections = (
        header(run), cards(run), score_section(run), comparison_section(run), overthinking_section(run),
        facts_section(run), contract_section(run), curves_section(run), verdict_section(run),
        transcript_section(run), rollout_section(run),
    )  # fmt: skip
    title = f"qwq run {run.recipe['name']}, seed {run.recipe.get('seed', 0)}"
    return document(title, "\n".join(s for s in sections if s), contents=True)


# -- sections --------------------------------------------------------------------------------------


def header(run: RunData) -> str:
    state = '<span class="chip good">finished</span>'
    if not run.finished:
        left = [s.name for s in run.stages if not s.record]
        state = f'<span class="chip warn">not finished: {text(", ".join(left))} to come</span>'
    model = run.recipe["model"]
    facts = {
        "seed": run.recipe.get("seed", 0),
        "model": model.get("preset") or model.get("path"),
        "device": run.recipe.get("compute", {}).get("device", "cpu"),
        "wall time": minutes(run.wall_s),
        "stages": " → ".join(s.name for s in run.stages),
    }
    items = "".join(f"<li>{text(k)} <b>{text(v)}</b></li>" for k, v in facts.items())
    return f'<header><h1>{text(run.recipe["name"])} {state}</h1><ul class="meta">{items}</ul></header>'


def cards(run: RunData) -> str:
    """For each benchmark the last score, and the one after the supervised cold start."""
    stages = run.evaluated_policies()
    if not stages:
        return ""
    last, first, colours = stages[-1], before_rl(run), plots.colours(run)
    out = []
    for b in run.benchmarks:
        if b not in last.evals:
            continue
        note = f"after {last.name}"
        if first and first is not last and b in first.evals:
            note = f"{100 * first.evals[b]['score']:.1f} after {first.name}"
        out.append(
            f'<div class="panel" style="--c:{swatch(colours[b])}"><div class="soft small">{text(b)}</div>'
            f'<div class="big">{100 * last.evals[b]["score"]:.1f}</div><div class="soft small">{text(note)}</div></div>'
        )
    return f'<div class="cards">{"".join(out)}</div>'


def before_rl(run: RunData) -> StageData | None:
    """The stage to compare the end with: the last SFT stage, else the first policy that was
    evaluated.
    """
    evaluated = run.evaluated_policies()
    baselines = [s for s in evaluated if s.view.is_baseline]
    return baselines[-1] if baselines else evaluated[0] if evaluated else None


def overthinking_section(run: RunData) -> str:
    """Accuracy against thinking tokens by stage, where the recipe reads its benchmarks under
    thinking budgets.
    """
    stages = [s for s in run.evaluated_policies() if s.record and s.record.get("budgets")]
    if not stages:
        return ""
    colours = {s.name: OTHERS[i % len(OTHERS)] for i, s in enumerate(stages)}
    figures = []
    for b in run.benchmarks:
        curves = {s.name: s.record["budgets"][b] for s in stages if s.record and b in s.record["budgets"]}
        if curves:
            drawn = plots.overthinking(b, curves)
            figures.append(f'<figure class="panel"><figcaption>{text(b)}</figcaption>{drawn}</figure>')
    return (
        "<h2>Accuracy against thinking tokens</h2><p class='soft small'>Each dot is a thinking budget that the "
        "sampler enforced, the ring is "
        "no budget; bars are 95% intervals. A curve that reaches its height further to the left thinks less for the "
        "same answers.</p>"
        f'{legend(colours)}<div class="grid">{"".join(figures)}</div>'
    )


def score_section(run: RunData) -> str:
    stages = [s for s in run.stages if s.evals and s.view.trains_policy]
    if not stages:
        return ""
    head = "".join(f"<th>{text(b)}</th>" for b in run.benchmarks)
    rows = []
    for s in stages:
        aside = "" if s.changes_policy else ' class="aside"'
        cells = "".join(_score_cell(s, b) for b in run.benchmarks)
        rows.append(f"<tr{aside}><td>{_stage_cell(s)}</td>{cells}</tr>")
    counts = {b: e["n"] for s in stages for b, e in s.evals.items()}
    sizes = ", ".join(f"{text(b)} {n:,}" for b, n in counts.items())
    return (
        "<h2>Scores by stage</h2><p class='soft small'>Percent correct on the test split, sampled at temperature 1, "
        "with the 95% "
        "interval; then the greedy score; then the change against the stage that it started from, in points, "
        "problem by problem "
        f"(green or red where the 95% interval excludes zero). Problems: {sizes}.</p>"
        '<div class="scroll"><table '
        f'class="scores stack"><thead><tr><th>stage</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"{_score_pictures(run, stages)}"
    )


def _stage_cell(stage: StageData) -> str:
    assert stage.record
    kind = "" if stage.kind == stage.name else text(f"{stage.kind}, ")
    aside = ""
    if comparison := stage.view.comparison:
        aside = f"<div>beside the sequence: SFT for as long as {text(comparison.against)}</div>"
    return f"<b>{text(stage.name)}</b><div>{kind}{minutes(stage.record['wall_s'])}</div>{aside}"


def _score_pictures(run: RunData, stages: Sequence[StageData]) -> str:
    """One small picture a benchmark, where more than one stage was evaluated."""
    if len(stages) < 2:
        return ""
    shades, figures = plots.colours(run), []
    for b in run.benchmarks:
        drawn = plots.scores([s for s in stages if b in s.evals], b, shades[b])
        figures.append(f'<figure class="panel"><figcaption>{text(b)}</figcaption>{drawn}</figure>')
    hollow = "" if all(s.changes_policy for s in stages) else " Hollow: a stage beside the sequence."
    return f"<p class='soft small'>Bars: 95% intervals.{hollow}</p><div class=\"grid\">{''.join(figures)}</div>"


def _score_cell(stage: StageData, benchmark: str) -> str:
    e = stage.evals.get(benchmark)
    if e is None:
        return "<td></td>"
    low, high = e["ci95"]
    lines = [f"<b>{100 * e['score']:.1f}</b>", f"<div>[{100 * low:.1f}, {100 * high:.1f}]</div>"]
    if g := stage.evals_greedy.get(benchmark):
        lines.append(f"<div>greedy {100 * g['score']:.1f}</div>")
    if "change" in e:
        low, high = e["change_ci95"]
        lines.append(f'<div class="{tone(low, high)}">{points(e["change"])} {interval(low, high)}</div>')
    return f'<td data-label="{text(benchmark)}"><div class="cell">{"".join(lines)}</div></td>'


def comparison_section(run: RunData) -> str:
    """Each control against the stage whose time it was given, in one sentence."""
    out = [
        f"<p>{_control_sentence(control, comparison, changes)}</p>"
        for control in run.stages
        if (comparison := control.view.comparison) and (changes := compare(run, control.name, comparison.against))
    ]
    return "<h2>Reinforcement learning against more SFT</h2>" + "".join(out) if out else ""


def _control_sentence(control: StageData, comparison: Comparison, changes: Sequence[ScoreChange]) -> str:
    def say(c: ScoreChange) -> str:
        return f'{text(c.benchmark)} by <b class="{tone(c.low, c.high)}">{points(c.mean)}</b> {interval(c.low, c.high)}'

    better = [say(c) for c in changes if c.low > 0]
    worse = [say(c) for c in changes if c.high < 0]
    same = [say(c) for c in changes if c.low <= 0 <= c.high]
    other = f"SFT continued on its own demonstrations (<b>{text(control.name)}</b>)"
    parts = []
    if better:
        parts.append(f"is ahead of {other} on {joined(better)}")
    if worse:
        parts.append(f"is behind {'it' if parts else other} on {joined(worse)}")
    if same:
        parts.append(f"cannot be told from {'it' if parts else other} on {joined(same)}")
    return (
        f"After {text(comparison.took)} of training from the same start, <b>{text(comparison.against)}</b> "
        f"{'; it '.join(parts)} (points, sampled, 95% paired interval)."
    )


def facts_section(run: RunData) -> str:
    """What stages say of themselves, by heading."""
    by_heading: dict[str, list[str]] = {}
    for fact in (fact for stage in run.stages for fact in stage.view.facts):
        by_heading.setdefault(fact.heading, []).append(f"<p>{_bold(text(fact.text))}</p>")
    return "".join(f"<h2>{text(heading)}</h2>{''.join(lines)}" for heading, lines in by_heading.items())


def _bold(escaped: str) -> str:
    """`**word**` as bold."""
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escaped)


def contract_section(run: RunData) -> str:
    """What the contract found at its checks of stage 2."""
    out, colours = [], plots.colours(run)
    for stage in run.stages:
        if not stage.contract:
            continue
        max_drop = stage.config.get("contract", {}).get("max_drop", 0.03)
        entries = stage.contract
        domains = list(dict.fromkeys(f["domain"] for e in entries for f in e["findings"]))
        breaches = sum(f["state"] == "breach" for e in entries for f in e["findings"])
        warnings = sum(f["state"] == "warning" for e in entries for f in e["findings"])
        verdict = "kept at every check" if not breaches else f"broken {counted(breaches, 'time')}"
        ended = (stage.record or {}).get("contract_outcome")
        end = f" At the end it was {text(ended['text'])}." if ended else ""
        table = _contract_table(entries, domains)
        if not domains:
            out.append(
                f"<p>In <b>{text(stage.name)}</b> the contract held nothing; "
                f"{counted(len(entries), 'check')}.</p>{table}"
            )
            continue
        shades = {d: colours[d] for d in domains}
        figures = "".join(
            f'<figure class="panel"><figcaption>{text(d)}, change in points<span>dashed: the tolerated '
            f"drop</span></figcaption>{plots.contract(entries, max_drop, d, shade)}</figure>"
            for d, shade in shades.items()
        )
        out.append(
            f"<p>In <b>{text(stage.name)}</b> the contract (at most {100 * max_drop:g} points lost on "
            f"{text(joined(domains))}, on validation "
            f"problems, against the start of the stage) was {verdict}; {counted(warnings, 'warning')} in "
            f'{counted(len(entries), "check")}.{end}</p><div class="grid">{figures}</div>{table}'
        )
    return "<h2>Stage contract</h2>" + "".join(out) if out else ""


_STATES = {"ok": "good", "warning": "warn", "breach": "bad"}


def _finding(f: Mapping[str, Any]) -> str:
    chip = f'<span class="chip {_STATES[f["state"]]}">{text(f["state"])}</span>'
    return f'{points(f["change"])} <span class="soft">{interval(*f["ci95"])}</span> {chip}'


def _contract_table(entries: Sequence[Mapping[str, Any]], domains: Sequence[str]) -> str:
    head = "".join(f"<th>{text(d)}</th>" for d in domains)
    rows = []
    for e in entries:
        findings = {f["domain"]: f for f in e["findings"]}
        cells = []
        for d in domains:
            f = findings.get(d)
            shown = "" if f is None else f"<div>{_finding(f)}</div>"
            cells.append(f'<td class="wrap" data-label="{text(d)}">{shown}</td>')
        preference = e.get("validation", {}).get("preference")
        score = e.get("reward_model")
        beaten = {k: v for k, v in (e.get("canaries") or {}).items() if v}
        canaries = (
            ", ".join(f"{k} {v:.0%}" for k, v in beaten.items())
            if beaten
            else "all refused"
            if e.get("canaries")
            else ""
        )
        shown = "" if preference is None else f"{100 * preference:.1f}"
        cells.append(f'<td data-label="preference rule, %">{shown}</td>')
        shown = "" if score is None else f"{score:.2f}"
        cells.append(f'<td data-label="reward model">{shown}</td>')
        rows.append(
            f'<tr><td><span class="narrow">step </span>{e["step"] + 1}</td>{"".join(cells)}'
            f'<td class="words" data-label="canaries it fell for">{text(canaries)}</td>'
            f'<td class="words" data-label="action">{text(e.get("action", ""))}</td></tr>'
        )
    return (
        "<details open><summary>Checks</summary><div><table "
        f'class="small stack"><thead><tr><th>step</th>{head}<th>preference rule, %</th>'
        '<th>reward model</th><th class="words">canaries it fell for</th><th class="words">action</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def verdict_section(run: RunData) -> str:
    """Counts of verdict outcomes: over training rollouts, and of every evaluation."""
    blocks = []
    training = [(s.name, s.outcomes) for s in run.stages if s.outcomes]
    if training:
        blocks.append(_outcome_block("Training rollouts", training, "stage", opened=True))
    for s in run.stages:
        rows = [(b, e["outcomes"]) for b, e in s.evals.items() if e.get("outcomes")]
        if rows:
            blocks.append(_outcome_block(f"Evaluation after {s.name}, sampled", rows, "task"))
    if not blocks:
        return ""
    return "<h2>Verdicts</h2>" + legend(OUTCOMES) + "".join(blocks)


def _outcome_block(
    title: str, rows: Sequence[tuple[str, Mapping[str, int]]], named: str, *, opened: bool = False
) -> str:
    """Counts and shares of each row, which is a `named`."""
    names = [o for o in OUTCOMES if any(counts.get(o) for _, counts in rows)]
    head = "".join(f"<th>{text(o)}</th>" for o in names)
    body = []
    for name, counts in rows:
        total = sum(counts.values())
        bar = outcome_bar({o: counts.get(o, 0) for o in names}, total)
        cells = "".join(f'<td data-label="{text(o)}">{counts.get(o, 0):,}</td>' for o in names)
        body.append(f'<tr><td>{text(name)}</td><td class="barred">{bar}</td>{cells}</tr>')
    return (
        f"<details{' open' if opened else ''}><summary>{text(title)}</summary><div><table "
        f"class='small stack'><thead><tr><th>{named}</th><th>shares</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
        "</div></details>"
    )


def transcript_section(run: RunData) -> str:
    """The same problems before and after reinforcement learning."""
    first, stages = before_rl(run), run.evaluated_policies()
    if first is None or stages[-1] is first:
        return ""
    last = stages[-1]
    found = transcripts(run, first.name, last.name)
    if not found:
        return ""
    blocks = []
    for benchmark, pairs in found.items():
        blocks.append(f"<h3>{text(benchmark)}</h3>" + "".join(_pair(p, first.name, last.name) for p in pairs))
    return (
        f"<h2>Before and after</h2><p class='soft small'>Test problems that failed after {text(first.name)} and "
        f"passed after {text(last.name)}, and one that went the other way, where there is one: the first of each in "
        "the file, not chosen. Sampled; thinking is grey.</p>" + "".join(blocks)
    )


def _pair(pair: ScorePair, before: str, after: str) -> str:
    chip = '<span class="chip bad">lost</span>' if pair.kind == "broken" else '<span class="chip good">learnt</span>'
    sides = _side(pair.before, before) + _side(pair.after, after)
    return (
        f'<div class="pair panel"><div class="ask">{chip} {text(pair.after["prompt"])}</div><div '
        f'class="sides">{sides}</div></div>'
    )


def _side(row: Mapping[str, Any], stage: str) -> str:
    verdict = row["verdict"]
    correct = verdict["outcome"] == "correct"
    return (
        f'<div class="side{" right" if correct else ""}"><div class="small soft">after {text(stage)}, '
        f"{row['tokens']} tokens</div><pre>{grey_thinking(without_end(row['text']))}</pre>"
        '<div class="small"><b '
        f'class="{"good" if correct else "bad"}">{text(verdict["outcome"].replace("_", " "))}</b> '
        f"{text(verdict['reason'])}</div></div>"
    )
