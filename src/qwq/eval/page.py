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
from qwq.report import plots
from qwq.report.document import document
from qwq.report.wording import grey_thinking, text, transcript

READ, SHOWN = 400, 40  # samples of each benchmark that are looked at and shown; all are in samples/
EXTRA_CSS = ".wrap { white-space: normal; min-width: 22ch; max-width: 40ch; }"
SHOWN_CHARS = 6000
OUTCOME_COLOURS = {
    "correct": "#2e9e6b", "wrong": "#d9826b", "no_answer": "#b9c0cc", "unfinished": "#8f7fc0", "timeout": "#e0b13c",
    "undecided": "#7db3d8",
}  # fmt: skip


def write_page(out: Path) -> Path:
    results = read_object(out / "results.json")
    models = sorted({Path(str(f.get("model", ""))).name for f in results.values()})
    title = f"qwq eval: {', '.join(models)}"
    body = "\n".join(
        [
            f"<header><h1>{text(title)}</h1></header>",
            announced(results, models),
            figures(results),
            curves(results),
            *(samples(out, n) for n in results),
        ]
    )
    path = out / "report.html"
    write_atomic(path, document(title, body, css=EXTRA_CSS).encode(errors="replace"))
    return path


def announced(results: Mapping[str, Any], models: Sequence[str]) -> str:
    """The announcement's table with the model's own row on top."""
    head = "".join(f"<th>{text(title)}</th>" for title in BENCHMARKS.values())
    own = "".join(
        f"<td>{_own(results[b]) if b in results else '<span class=soft>not run</span>'}</td>" for b in BENCHMARKS
    )
    rows = "".join(
        f"<tr><td>{text(name)}</td>"
        + "".join("<td>" + ("–" if row[b] is None else f"{row[b]:.1f}") + "</td>" for b in BENCHMARKS)
        + "</tr>"
        for name, row in ANNOUNCED.items()
    )
    return (
        "<section><h2>Beside the announcement of QwQ-32B</h2><div class='scroll'><table "
        f"class='scores'><tr><th></th>{head}</tr><tr><td><b>{text(', '.join(models))}</b></td>{own}</tr>{rows}</table></div><p "
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


def figures(results: Mapping[str, Any]) -> str:
    rows = []
    for name, f in results.items():
        more = {
            k: v
            for k, v in f.items()
            if k.startswith("maj_at_") or k in ("prompt_loose", "instruction_strict", "instruction_loose")
        }
        more |= (
            {f"pass@{k}": v for k, v in f.get("pass_at_k", {}).items()} | f.get("parts", {}) | f.get("categories", {})
        )
        more |= {k: f[k]["share"] for k in ("part_share", "recoveries") if k in f and f[k]["share"] is not None}
        more |= {f"pass^{k}": entry["value"] for k, entry in f.get("pass_hat_k", {}).items() if k != "1"}
        for key in ("levels", "hardness", "kinds", "right_within_tries"):
            more |= {f"{key} {k}": entry["share"] for k, entry in f.get(key, {}).items()}
        listed = ", ".join(f"{text(k)} {100 * v:.1f}" for k, v in more.items())
        if "calls" in f:
            listed += f"; {f['calls']['mean']:.1f} calls a sample, {f['failed_calls']['mean']:.1f} failed"
        total = sum(f["outcomes"].values())
        bar = "".join(
            f'<i style="--c:{OUTCOME_COLOURS.get(k, "#444")};width:{100 * v / total:.2f}%" title="{text(k)} {v}"></i>'
            for k, v in f["outcomes"].items()
        )
        told = ", ".join(f"{v} {text(k)}" for k, v in f["outcomes"].items())
        p = f["protocol"]
        rows.append(
            f"<tr><td><b>{text(name)}</b></td><td>{_own(f)}</td><td><div "
            f"class='bar'>{bar}</div><div>{told}</div></td><td>{f['mean_thinking_tokens']:.0f} + "
            f"{f['mean_answer_tokens']:.0f}</td><td class='small wrap'>T {p['temperature']:g}, top-p "
            f"{p['top_p']:g}, top-k {p['top_k']}, {p['max_new_tokens']:,} new tokens, seed {f['seed']}</td><td "
            f"class='small wrap'>{listed}</td></tr>"
        )
    missing = "".join(
        f"<p class='small soft'>{text(name)} is run in part; not run: {text(', '.join(f['not_run']))}. Its score is "
        "the mean of the parts that were.</p>"
        for name, f in results.items()
        if f.get("not_run")
    )
    legend = "".join(f'<span><i style="--c:{c}"></i>{text(k)}</span>' for k, c in OUTCOME_COLOURS.items())
    return (
        "<section><h2>Figures</h2><div class='scroll'><table "
        "class='scores'><tr><th></th><th>score</th><th>outcomes of samples</th><th>tokens: thinking + "
        "answer</th><th>sampling</th><th>more, in %</th></tr>"
        + "".join(rows)
        + f"</table></div><div class='legend'>{legend}</div>{missing}</section>"
    )


def curves(results: Mapping[str, Any]) -> str:
    """Accuracy against thinking tokens, one point a budget; empty where no budgets were swept."""
    swept = {name: f["by_budget"] for name, f in results.items() if f.get("by_budget")}
    if not swept:
        return ""
    pictures = []
    for name, points in swept.items():
        fig, ax = plots.figure(f"budget-{name}")
        points = sorted(points, key=lambda p: p["mean_thinking_tokens"])
        x, y = [p["mean_thinking_tokens"] for p in points], [100 * p["score"] for p in points]
        low = [max(0.0, 100 * (p["score"] - p["ci95"][0])) for p in points]
        high = [max(0.0, 100 * (p["ci95"][1] - p["score"])) for p in points]
        ax.errorbar(x, y, yerr=[low, high], color="#0072b2", marker="o", markersize=4, linewidth=1.6, capsize=2)
        for p, at_x, at_y in zip(points, x, y, strict=True):
            ax.annotate(
                "no limit" if p["thinking_budget"] is None else f"{p['thinking_budget']:,}",
                (at_x, at_y),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=8,
            )
        ax.set_xlabel("thinking tokens, mean", fontsize=9)
        ax.set_ylabel("% correct", fontsize=9)
        ax.set_ylim(bottom=0)
        pictures.append(
            "<figure "
            f"class='panel'><figcaption>{text(name)}</figcaption>{plots.svg(fig, f'accuracy of {name} against thinking tokens')}</figure>"
        )
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
    records.sort(key=lambda r: (place[r["problem_id"]], r["sample"], r["thinking_budget"] or 0))
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
        f"{'right' if right else ''}'><pre>{grey_thinking(r['output'], _cut)}</pre>{calls}<div class='small "
        f"soft'>{text(verdict['reason'])}</div></div></div></details>"
    )


def _cut(value: str) -> str:
    """Both ends of a long text: the answer is at its end."""
    half = SHOWN_CHARS // 2
    return (
        value
        if len(value) <= SHOWN_CHARS
        else f"{value[:half]}\n[... {len(value) - SHOWN_CHARS:,} characters ...]\n{value[-half:]}"
    )
