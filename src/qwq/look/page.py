"""Answers in the browser: one self-contained page for some, a page served on loopback for many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from qwq.common.files import write_atomic
from qwq.errors import ConfigError
from qwq.look.index import AnswerIndex
from qwq.look.pages import page
from qwq.look.query import SORTS, Query, select
from qwq.look.server import Reply, Route, as_json, make_server
from qwq.look.tokens import Shader
from qwq.report.wording import text, visible

MAX_PAGE_BYTES = 16 << 20  # of answers inside one page; a browser opens that in a second
LIST_ROWS = 100
PREVIEW_CHARS = 80


def write_page(index: AnswerIndex, rows: Sequence[int], path: Path) -> int:
    """Write `rows` as a self-contained page, as many as it may hold; returns how many these are."""
    shader, size = Shader(index.target), 0
    answers: list[dict[str, Any]] = []
    for row in rows:
        answer = whole(index, row, shader)
        size += sum(len(value) for value in answer.values() if isinstance(value, str)) + 24 * len(answer["pieces"])
        if size > MAX_PAGE_BYTES and answers:
            break
        answers.append(answer)
    html, _ = _page(index, len(rows), {"answers": answers}, served=False)
    write_atomic(path, html.encode(errors="replace"))
    return len(answers)


def serve(open_index: Callable[[], AnswerIndex], port: int) -> ThreadingHTTPServer:
    """A server of the page for all answers; they are read again when the page is loaded again."""
    state = {"index": open_index()}
    shader = Shader(state["index"].target)

    def start(_: Mapping[str, str]) -> Reply:
        state["index"] = open_index()
        html, policy = _page(state["index"], len(state["index"]), {}, served=True)
        return Reply(html.encode(errors="replace"), "text/html; charset=utf-8", policy=policy)

    def listed(fields: Mapping[str, str]) -> Reply:
        index = state["index"]
        rows, first = select(index, query_of(fields)), _whole_number(fields, "from")
        shown = [brief(index, int(row)) for row in rows[first : first + LIST_ROWS]]
        return as_json({"total": len(rows), "rows": shown})

    def answer(fields: Mapping[str, str]) -> Reply:
        index, row = state["index"], _whole_number(fields, "n") - 1
        if not 0 <= row < len(index):
            return as_json({"error": f"there is no answer {row + 1}: they are 1 to {len(index):,}"}, 404)
        group = [brief(index, r) for r in index.group_of(row)]
        return as_json(whole(index, row, shader) | {"group": group})

    routes: dict[str, Route] = {"/": start, "/list": listed, "/answer": answer}
    return make_server(port, routes)


def query_of(fields: Mapping[str, str]) -> Query:
    """A filter from a page's fields. ConfigError for a value that is none."""
    return Query(
        outcome=fields.get("outcome", ""), place=fields.get("stage", ""), task=fields.get("task", ""),
        step=fields.get("step", ""), min_reward=_figure(fields, "min"), max_reward=_figure(fields, "max"),
        text=fields.get("text", ""), sort=fields.get("sort") or SORTS[0], reverse=bool(fields.get("reverse")),
    )  # fmt: skip


def whole(index: AnswerIndex, row: int, shader: Shader) -> dict[str, Any]:
    """An answer as the page shows it: all of its text made visible, its tokens by probability."""
    shown = index.entry(row)
    pieces = [(visible(piece), None if p is None else round(p, 3)) for piece, p in shader.pieces(shown)]
    key = f"{index.columns['file'][row]}/{shown.group}"
    return _visible(index.public(row)) | {"pieces": pieces, "group_key": visible(key)}


def brief(index: AnswerIndex, row: int) -> dict[str, Any]:
    """An answer as a list or a group shows it."""
    keys = (
        "number",
        "stage",
        "step",
        "task",
        "outcome",
        "reward",
        "advantage",
        "tokens",
        "answer",
        "thinking",
        "final",
    )
    shown = index.public(row)
    return _visible({key: shown[key] for key in keys})


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    return {visible(k): _visible(v) for k, v in value.items()} if isinstance(value, dict) else value


def _figure(fields: Mapping[str, str], name: str) -> float | None:
    value = fields.get(name, "")
    try:
        return float(value) if value else None
    except ValueError:
        raise ConfigError(f"{value!r} is no number") from None


def _whole_number(fields: Mapping[str, str], name: str) -> int:
    value = fields.get(name, "0")
    if not value.isascii() or not value.isdecimal() or len(value) > 12:
        raise ConfigError(f"{name} is {value[:20]!r}: give a whole number")
    return int(value)


def _page(index: AnswerIndex, count: int, data: Mapping[str, Any], *, served: bool) -> tuple[str, str]:
    held = len(data["answers"]) if "answers" in data else len(index)
    names = {"outcome": index.names["outcome"], "stage": index.names["place"], "task": index.names["task"]}
    facts = [f"<li>answers <b>{held:,}</b></li>"]
    if held < count:
        facts.append(f"<li>of <b>{count:,}</b>; filter, or use <b>--serve</b>, to see the others</li>")
    if index.damaged:
        facts.append(f"<li>damaged lines left out <b>{index.damaged:,}</b></li>")
    title = f"Answers of {index.target.name}"
    body = _BODY.format(title=text(title), facts="".join(facts))
    return page(title, "look", body, {"names": _names(names), "total": held, **data}, served=served)


def _names(names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {key: sorted(visible(word) for word in words) for key, words in names.items()}


_BODY = """<a class="skip" href="#answer">Skip to the answer</a>
<main class="wide"><header><h1>{title}</h1><ul class="meta">{facts}</ul></header>
<noscript><p>This page lists and filters answers by a script of its own; scripts are switched off.</p></noscript>
<form id="filters" class="panel filters" role="search" aria-label="Filter answers">
<label class="text">Text
<input id="text" type="search" placeholder="in prompt, answer, reason" autocomplete="off"></label>
<label>Outcome<select id="outcome"></select></label>
<label>Stage<select id="stage"></select></label>
<label>Task<select id="task"></select></label>
<label>Step<input id="step" inputmode="numeric" placeholder="3 or 3:10" autocomplete="off"></label>
<label>Reward from<input id="min" type="number" step="any"></label>
<label>Reward to<input id="max" type="number" step="any"></label>
<label>Order<select id="sort"><option value="order">as sampled</option><option value="reward">reward</option>
<option value="advantage">advantage</option><option value="tokens">tokens</option></select></label>
<label class="check"><input id="reverse" type="checkbox">largest or last first</label>
<button type="reset">Clear</button></form>
<p class="small soft">Keys: j and k open the next and the previous answer, / goes to the search.
The advantage is the reward minus the mean of its group.</p>
<div class="columns"><section id="list" class="list" aria-label="List of answers"><p id="count" role="status"></p>
<div class="scroll" tabindex="0" role="region" aria-label="Answers"><table class="answers"><thead><tr>
<th scope="col">#</th>
<th scope="col" class="words extra">step</th>
<th scope="col" class="words extra">task</th><th scope="col" class="words">outcome</th><th scope="col">reward</th>
<th scope="col" class="extra">advantage</th><th scope="col" class="extra">tokens</th>
<th scope="col" class="words">answer</th></tr></thead><tbody id="rows"></tbody></table></div>
<div class="pager"><button type="button" id="before">Earlier</button><button type="button" id="next">More</button></div>
</section><section id="answer" class="answer" tabindex="-1" aria-label="Chosen answer">
<p class="soft">Choose an answer from the list.</p></section></div></main>"""
