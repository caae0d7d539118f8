"""`report.html` of a results folder: the announcement's table beside the model's own figures,
curves, samples to read.

Self-contained and without scripts; its content policy forbids both. Everything that a model, a
benchmark or a server wrote is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.files import write_atomic
from qwq.eval.baselines import ANNOUNCED, BENCHMARKS, BFCL_NOTE
from qwq.eval.folder import latest, read_object, samples_path
from qwq.eval.summarise import size_of
from qwq.report import plots
from qwq.report.curves import legend
from qwq.report.document import document
from qwq.report.palette import OUTCOMES
from qwq.report.wording import both_ends, grey_thinking, outcome_bar, text, transcript, without_end

READ, SHOWN = 400, 40  # samples of each benchmark that are looked at and shown; all are in samples/
SHOWN_CHARS = 6000


def write_page(out: Path) -> Path:
    results = read_object(out / "results.json")
    models = sorted({Path(str(f.get("model", ""))).name for f in results.values()})
    title = f"qwq eval: {', '.join(models)}"
    body = "\n".join(
        [
            f"<header><h1>{text(title)}</h1></header>",
            figures(results),
            announced(results, models),
            curves(results),
            *(samples(out, n) for n in results),
        ]
    )
    path = out / "report.html"
    write_atomic(path, document(title, body, contents=True).encode(errors="replace"))
    return path


def announced(results: Mapping[str, Any], models: Sequence[str]) -> str:
    """The announcement's table with the model's own row on top; empty where none of it was run."""
    if not any(b in results for b in BENCHMARKS):
        return ""
    head = "".join(f"<th>{text(title)}</th>" for title in BENCHMARKS.values())
    own = "".join(
        f'<td data-label="{text(title)}"><div class="cell">'
        f"{_own(results[b]) if b in results else '<span class=soft>not run</span>'}</div></td>"
        for b, title in BENCHMARKS.items()
    )
    rows = "".join(
        f"<tr><td>{text(name)}</td>"
        + "".join(
            f'<td data-label="{text(title)}">' + ("–" if row[b] is None else f"{row[b]:.1f}") + "</td>"
            for b, title in BENCHMARKS.items()
        )
        + "</tr>"
        for name, row in ANNOUNCED.items()
    )
    return (
        "<section><h2>Beside the announcement of QwQ-32B</h2><div class='scroll'><table class='scores stack'>"
        f"<thead><tr><th></th>{head}</tr></thead><tbody><tr><td><b>{text(', '.join(models))}</b></td>{own}</tr>"
        f"{rows}</tbody></table></div><p "
        f"class='small soft'>{text(BFCL_NOTE)} A dash: no figure in a source that could be read. The announced "
        "figures are for whole benchmarks with 64 samples of AIME24 and 8 of LiveCodeBench; intervals in brackets "
        "are 95%, by bootstrap over problems.</p></section>"
    )


def _own(f: Mapping[str, Any]) -> str:
    low, high = f["ci95"]
    part = "<div>in part, see below</div>" if f.get("not_run") else ""
    return (
        f"<b>{100 * f['score']:.1f}</b><div>[{100 * low:.1f}, {100 * high:.1f}] of {f['n']} x "
        f"{f['samples']}</div>{part}"
    )


def _more(f: Mapping[str, Any]) -> str:
    """Further figures of a task, in percent where they are shares."""
    more = {
        k: v
        for k, v in f.items()
        if k.startswith("maj_at_") or k in ("prompt_loose", "instruction_strict", "instruction_loose")
    }
    more |= {f"pass@{k}": v for k, v in f.get("pass_at_k", {}).items()} | f.get("parts", {}) | f.get("categories", {})
    more |= {k: f[k]["share"] for k in ("part_share", "recoveries") if k in f and f[k]["share"] is not None}
    more |= {f"pass^{k}": entry["value"] for k, entry in f.get("pass_hat_k", {}).items() if k != "1"}
    for key in ("levels", "hardness", "kinds", "right_within_tries"):
        more |= {f"{key} {k}": entry["share"] for k, entry in f.get(key, {}).items()}
    listed = ", ".join(f"{text(k)} {100 * v:.1f}" for k, v in more.items())
    if "calls" in f:
        listed += f"; {f['calls']['mean']:.1f} calls a sample, {f['failed_calls']['mean']:.1f} failed"
    if "thinking" in f:
        listed += (
            f"; thinking {f['thinking']['p50']:,} tokens at the median, {f['thinking']['p99']:,} at 99%; "
            f"{100 * f['cut']['share']:.1f}% cut"
        )
    return listed


def figures(results: Mapping[str, Any]) -> str:
    rows = []
    for name, f in results.items():
        listed = _more(f)
        bar = outcome_bar(f["outcomes"], sum(f["outcomes"].values()))
        told = ", ".join(f"{v} {text(k)}" for k, v in f["outcomes"].items())
        p = f["protocol"]
        tokens = f"{f['mean_thinking_tokens']:.0f} + {f['mean_answer_tokens']:.0f}"
        sampling = (
            f"T {p['temperature']:g}, top-p {p['top_p']:g}, top-k {p['top_k']}, {p['max_new_tokens']:,} new tokens, "
            f"seed {f['seed']}"
        )
        rows.append(
            f'<tr><td><b>{text(name)}</b></td><td data-label="score"><div class="cell">{_own(f)}</div></td>'
            f'<td class="barred" data-label="outcomes"><div class="cell">{bar}<div>{told}</div></div></td>'
            f'<td data-label="tokens: thinking + answer">{tokens}</td>'
            f'<td class="small words" data-label="sampling">{sampling}</td>'
            f'<td class="small words" data-label="more, in %">{listed}</td></tr>'
        )
    missing = "".join(
        f"<p class='small soft'>{text(name)} is run in part; not run: {text(', '.join(f['not_run']))}. Its score is "
        "the mean of the parts that were.</p>"
        for name, f in results.items()
        if f.get("not_run")
    )
    return (
        "<section><h2>Figures</h2><div class='scroll'><table class='scores stack'><thead><tr><th></th><th>score</th>"
        "<th>outcomes of samples</th><th class='wrap'>tokens: thinking + answer</th><th class='words'>sampling</th>"
        f"<th class='words'>more, in %</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{legend({k: c for k, c in OUTCOMES.items() if k != 'infra_error'})}{missing}</section>"
    )


def curves(results: Mapping[str, Any]) -> str:
    """Accuracy against thinking tokens, one point a budget; empty where no budgets were swept."""
    swept = {name: f["by_budget"] for name, f in results.items() if f.get("by_budget")}
    if not swept:
        return ""
    pictures = [
        f"<figure class='panel'><figcaption>{text(name)}</figcaption>{plots.budgets(name, points)}</figure>"
        for name, points in swept.items()
    ]
    return (
        "<section><h2>Accuracy against thinking</h2><p class='small soft'>One point for each thinking budget, "
        f"which is written beside it.</p><div class='grid'>{''.join(pictures)}</div></section>"
    )


def samples(out: Path, name: str) -> str:
    """Some samples to open, problem by problem."""
    path = samples_path(out, name)
    if not path.is_file():
        return ""
    total = 0
    head: list[dict[str, Any]] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            total += 1
            if len(head) < READ and line.endswith("\n"):
                head.append(json.loads(line))
    records = latest(head)
    # They are in the order in which they were done.
    place: dict[str, int] = {}
    for record in records:
        place.setdefault(record["problem_id"], len(place))
    records.sort(key=lambda r: (place[r["problem_id"]], r["sample"], size_of(r["thinking_budget"])))
    blocks = [_sample(r) for r in records[:SHOWN]]
    shown = f"{len(blocks)} of {total:,}; all are in samples/{path.name}" if total > len(blocks) else f"all {total:,}"
    return (
        f"<section><h2>Samples of {text(name)}</h2><p class='small soft'>{text(shown)}</p>{''.join(blocks)}</section>"
    )


def _sample(r: Mapping[str, Any]) -> str:
    verdict = r["verdict"]
    right = verdict["outcome"] == "correct"
    budget = "" if r["thinking_budget"] is None else f", budget {r['thinking_budget']}"
    turns = transcript(r.get("turns", ()))
    calls = f"<pre>{text(_cut(turns))}</pre>" if turns else ""
    return (
        f"<details><summary>{text(r['problem_id'])}, sample {r['sample']}{budget} <span class='chip "
        f"{'good' if right else 'bad'}'>{text(verdict['outcome'])}</span> <span class='soft small'>{r['tokens']:,} "
        f"tokens, {r['thinking_tokens']:,} thinking, {r['seconds']:.1f} s, ended by "
        f"{text(r['stop_reason'])}</span></summary><div class='pair'><div "
        f"class='ask'>{text(_cut(r['prompt']))}</div><div class='side "
        f"{'right' if right else ''}'><pre>{grey_thinking(without_end(r['output']), _cut)}</pre>{calls}<div class='small "
        f"soft'>{text(verdict['reason'])}</div></div></div></details>"
    )


def _cut(value: str) -> str:
    return both_ends(value, SHOWN_CHARS)
