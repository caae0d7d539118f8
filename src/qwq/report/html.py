"""`report.html`: one self-contained page. Sections in reading order; each returns HTML, empty where
it has nothing to say.

Everything that a recipe, a model or a verifier wrote goes through `text`, which escapes it. The
page has no scripts and loads nothing; its content policy forbids both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwq.report import plots
from qwq.report.curves import curves_section
from qwq.report.document import document
from qwq.report.run_data import RunData, ScoreChange, ScorePair, StageData, compare, transcripts
from qwq.report.view import Comparison
from qwq.report.wording import grey_thinking, interval, joined, minutes, points, text, tone

OUTCOME_COLOURS = {
    "correct": "#2e9e6b", "wrong": "#d9826b", "no_answer": "#b9c0cc", "unfinished": "#8f7fc0",
    "timeout": "#e0b13c", "undecided": "#7db3d8", "infra_error": "#444444",
}  # fmt: skip


def page(run: RunData) -> str:
    sections = (
        header(run), cards(run), score_section(run), comparison_section(run), overthinking_section(run),
        facts_section(run), contract_section(run), curves_section(run), verdict_section(run),
        transcript_section(run),
    )  # fmt: skip
    title = f"qwq run {run.recipe['name']}, seed {run.recipe.get('seed', 0)}"
    return document(title, "\n".join(s for s in sections if s))


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
            f'<div class="panel" style="--c:{colours[b]}"><div class="soft small">{text(b)}</div>'
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
    colours = {s.name: plots.OTHERS[i % len(plots.OTHERS)] for i, s in enumerate(stages)}
    legend = "".join(f'<span><i style="--c:{c}"></i>{text(name)}</span>' for name, c in colours.items())
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
        f'<div class="legend">{legend}</div><div class="grid">{"".join(figures)}</div>'
    )


def score_section(run: RunData) -> str:
    stages = [s for s in run.stages if s.evals and s.view.trains_policy]
    if not stages:
        return ""
    head = "".join(f"<th>{text(b)}</th>" for b in run.benchmarks)
    rows = []
    for s in stages:
        aside = "" if s.changes_policy else ' class="aside"'
        assert s.record
        kind = "" if s.kind == s.name else text(f"{s.kind}, ")
        name = f"<b>{text(s.name)}</b><div>{kind}{minutes(s.record['wall_s'])}</div>"
        rows.append(f"<tr{aside}><td>{name}</td>" + "".join(_score_cell(s, b) for b in run.benchmarks) + "</tr>")
    counts = {b: e["n"] for s in stages for b, e in s.evals.items()}
    sizes = ", ".join(f"{text(b)} {n:,}" for b, n in counts.items())
    chart = ""
    if len(run.evaluated_policies()) > 1:
        chart = f'<div class="panel wide">{_legend(run.benchmarks, plots.colours(run))}{plots.scores(run)}</div>'
    return (
        "<h2>Scores by stage</h2><p class='soft small'>Percent correct on the test split, sampled at temperature 1, "
        "with the 95% "
        "interval; then the greedy score; then the change against the stage that it started from, in points, "
        "problem by problem "
        f"(green or red where the 95% interval excludes zero). Problems: {sizes}.</p>"
        '<div class="scroll"><table '
        f'class="scores"><thead><tr><th>stage</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<div style="height:14px"></div>{chart}'
    )


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
    return f"<td>{''.join(lines)}</td>"


def _legend(names: Iterable[str], colours: Mapping[str, str]) -> str:
    items = "".join(f'<span><i style="--c:{colours[n]}"></i>{text(n)}</span>' for n in names)
    return f'<div class="legend">{items}</div>'


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
        verdict = "kept at every check" if not breaches else f"broken {_times(breaches, 'time')}"
        ended = (stage.record or {}).get("contract_outcome")
        end = f" At the end it was {text(ended['text'])}." if ended else ""
        table = _contract_table(entries, domains)
        if not domains:
            out.append(
                f"<p>In <b>{text(stage.name)}</b> the contract held nothing; "
                f"{_times(len(entries), 'check')}.</p>{table}"
            )
            continue
        shades = {d: colours[d] for d in domains}
        drawn = plots.contract(entries, max_drop, shades)
        out.append(
            f"<p>In <b>{text(stage.name)}</b> the contract (at most {100 * max_drop:g} points lost on "
            f"{text(joined(domains))}, on validation "
            f"problems, against the start of the stage) was {verdict}; {_times(warnings, 'warning')} in "
            f"{_times(len(entries), 'check')}.{end}</p>"
            '<figure class="panel wide"><figcaption>change against the start of the stage, points<span>dashed: the '
            "tolerated drop</span>"
            f"</figcaption>{_legend(shades, shades)}{drawn}</figure>{table}"
        )
    return "<h2>Stage contract</h2>" + "".join(out) if out else ""


def _times(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _contract_table(entries: Sequence[Mapping[str, Any]], domains: Sequence[str]) -> str:
    chips = {"ok": "good", "warning": "warn", "breach": "bad"}
    head = "".join(f"<th>{text(d)}</th>" for d in domains)
    rows = []
    for e in entries:
        findings = {f["domain"]: f for f in e["findings"]}
        cells = []
        for d in domains:
            f = findings.get(d)
            shown = (
                f
                and f'{points(f["change"])} {interval(*f["ci95"])} <span class="chip '
                f'{chips[f["state"]]}">{text(f["state"])}</span>'
            )
            cells.append(f"<td>{shown or ''}</td>")
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
        cells.append(f"<td>{'' if preference is None else f'{100 * preference:.1f}'}</td>")
        cells.append(f"<td>{'' if score is None else f'{score:.2f}'}</td>")
        rows.append(
            f"<tr><td>{e['step'] + 1}</td>{''.join(cells)}"
            f"<td class='words'>{text(canaries)}</td><td class='words'>{text(e.get('action', ''))}</td></tr>"
        )
    return (
        "<details open><summary>Checks</summary><div><table "
        f'class="small"><thead><tr><th>step</th>{head}<th>preference rule, %</th>'
        '<th>reward model</th><th class="words">canaries it fell for</th><th class="words">action</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def verdict_section(run: RunData) -> str:
    """Counts of verdict outcomes: over training rollouts, and of every evaluation."""
    blocks = []
    training = [(s.name, s.outcomes) for s in run.stages if s.outcomes]
    if training:
        blocks.append(_outcome_block("Training rollouts", training, opened=True))
    for s in run.stages:
        rows = [(b, e["outcomes"]) for b, e in s.evals.items() if e.get("outcomes")]
        if rows:
            blocks.append(_outcome_block(f"Evaluation after {s.name}, sampled", rows))
    if not blocks:
        return ""
    return "<h2>Verdicts</h2>" + _legend(list(OUTCOME_COLOURS), OUTCOME_COLOURS) + "".join(blocks)


def _outcome_block(title: str, rows: Sequence[tuple[str, Mapping[str, int]]], *, opened: bool = False) -> str:
    names = [o for o in OUTCOME_COLOURS if any(counts.get(o) for _, counts in rows)]
    head = "".join(f"<th>{text(o)}</th>" for o in names)
    body = []
    for name, counts in rows:
        total = sum(counts.values())
        bar = "".join(
            f'<i style="--c:{OUTCOME_COLOURS[o]};width:{100 * counts[o] / total:.2f}%"></i>'
            for o in names
            if counts.get(o)
        )
        cells = "".join(f"<td>{counts.get(o, 0):,}</td>" for o in names)
        body.append(f'<tr><td>{text(name)}</td><td style="width:45%"><div class="bar">{bar}</div></td>{cells}</tr>')
    return (
        f"<details{' open' if opened else ''}><summary>{text(title)}</summary><div><table "
        f"class='small'><thead><tr><th></th><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></details>"
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
        f"{row['tokens']} tokens</div><pre>{grey_thinking(row['text'])}</pre>"
        '<div class="small"><b '
        f'class="{"good" if correct else "bad"}">{text(verdict["outcome"].replace("_", " "))}</b> '
        f"{text(verdict['reason'])}</div></div>"
    )
