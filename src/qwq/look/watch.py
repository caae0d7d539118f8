"""A running recipe in the terminal, as lines, and as a page with server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qwq.look.exposition import exposition
from qwq.look.live import POLL_S, RunWatch
from qwq.look.pages import page
from qwq.look.server import Reply, Route, as_json, make_server
from qwq.report.wording import duration, text

STATE_STYLES = {"finished": "green", "running": "bold cyan", "to come": "dim"}
STALE_S = 120.0  # without a step for so long, the line says so
HEARTBEAT_S = 15.0
ENGINE_COLUMNS = ("engine", "state", "weights of step", "leases open", "accepted", "lost")


def screen(state: Mapping[str, Any]) -> RenderableType:
    """The whole state: stages, the running one, alarms."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "kind", "", "steps", "time", "scores"):
        table.add_column(name, justify="right" if name in ("steps", "time") else "left")
    for stage in state["stages"]:
        scores = "  ".join(f"{b} {100 * s:.1f}" for b, s in stage["scores"].items() if isinstance(s, int | float))
        steps = f"{stage['step']:,}/{stage['steps']:,}" if isinstance(stage["steps"], int) else f"{stage['step']:,}"
        table.add_row(
            Text(stage["name"]), Text(stage["kind"]), Text(stage["state"], STATE_STYLES[stage["state"]]),
            steps if stage["step"] else "", duration(stage["seconds"]) if stage["seconds"] else "", Text(scores),
        )  # fmt: skip
    parts: list[RenderableType] = [Text(state["run"], "bold"), table]
    stage = state["stage"]
    if stage and isinstance(stage["steps"], int) and not state["finished"]:
        parts.append(ProgressBar(total=max(1, stage["steps"]), completed=stage["step"], width=60))
    parts.append(Text(line(state)))
    if state["engines"]:
        parts.append(_engines(state["engines"]))
    parts += [Text(f"ALARM {a['stage']}, step {a['step']}: {a['text']}", "red") for a in state["alarms"][:3]]
    return Group(*parts)


def _engines(engines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ENGINE_COLUMNS:
        table.add_column(name, justify="left" if name in ("engine", "state") else "right")
    for e in engines:
        style = STATE_STYLES["finished" if e["state"] == "ready" else "to come"]
        numbers = ("" if e[k] is None else str(e[k]) for k in ("version", "open", "accepted", "lost"))
        table.add_row(Text(e["url"]), Text(e["state"], style), *numbers)
    return table


def line(state: Mapping[str, Any]) -> str:
    """The running stage in one line."""
    stage = state["stage"]
    if state["finished"]:
        return "finished"
    if not stage:
        return "no step yet"
    of = f"/{stage['steps']:,}" if isinstance(stage["steps"], int) else ""
    words = f"{stage['name']} {stage['step']:,}{of} {state['words']}"
    if state["left_s"]:
        words += f", {duration(state['left_s'])} left"
    if state["age_s"] is not None and state["age_s"] > STALE_S:
        words += f", last step {duration(state['age_s'])} ago"
    return words


def follow(run: RunWatch, console: Console, poll_s: float = POLL_S) -> None:
    """Show the run until it has finished: live on a terminal, elsewhere a line for what is new."""
    changes = run.changes(poll_s)
    if not console.is_terminal:
        alarms: set[tuple[str, int, str]] = set()
        for state in changes:
            if state is not None:
                console.print(Text(line(state)), soft_wrap=True)
                _new_alarms(state, alarms, console)
                if state["finished"]:
                    return
    with Live(console=console, auto_refresh=False) as live:
        for state in changes:
            live.update(screen(state or run.state()), refresh=True)
            if state is not None and state["finished"]:
                return


def _new_alarms(state: Mapping[str, Any], seen: set[tuple[str, int, str]], console: Console) -> None:
    for alarm in reversed(state["alarms"]):
        key = (alarm["stage"], alarm["step"], alarm["text"])
        if key not in seen:
            seen.add(key)
            console.print(Text(f"ALARM {alarm['stage']}, step {alarm['step']}: {alarm['text']}"), soft_wrap=True)


def serve(folder: Path, port: int, poll_s: float = POLL_S) -> ThreadingHTTPServer:
    """A server of the live page; each open page follows the run's files by itself."""
    name = RunWatch(folder).state()["run"]

    def start(_: Mapping[str, str]) -> Reply:
        body = _BODY.format(title=text(name))
        html, policy = page(f"{name}: live", "watch", body, {"state": RunWatch(folder).state()}, served=True)
        return Reply(html.encode(errors="replace"), "text/html; charset=utf-8", policy=policy)

    def events(_: Mapping[str, str]) -> Reply:
        return Reply(type="text/event-stream", stream=_events(RunWatch(folder), poll_s))

    def metrics(_: Mapping[str, str]) -> Reply:
        return Reply(exposition(RunWatch(folder).state()), "text/plain; version=0.0.4; charset=utf-8")

    def state(_: Mapping[str, str]) -> Reply:
        return as_json(RunWatch(folder).state())

    routes: dict[str, Route] = {"/": start, "/events": events, "/state": state, "/metrics": metrics}
    return make_server(port, routes)


def _events(run: RunWatch, poll_s: float) -> Iterator[bytes]:
    """Server-sent events: the state at each change, and now and then a comment."""
    quiet = 0.0
    for state in run.changes(poll_s):
        quiet = 0.0 if state is not None else quiet + poll_s
        if state is not None:
            yield b"data: " + json.dumps(state).encode() + b"\n\n"
            if state["finished"]:
                return
        elif quiet >= HEARTBEAT_S:
            quiet = 0.0
            yield b": still here\n\n"


_BODY = """<main><header><h1>{title} <span id="state" class="chip"></span></h1>
<p id="line" role="status"></p><progress id="bar" aria-label="Steps of the stage" max="1" value="0"></progress></header>
<noscript><p>This page follows the run by a script of its own; scripts are switched off.</p></noscript>
<div id="stats" class="stats"></div>
<section><h2>Curves of the stage</h2><div id="curves" class="grid"></div></section>
<section id="alarms"></section>
<section id="fleet" hidden><h2>Engines</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Engines"><table class="stacked">
<thead><tr><th scope="col">engine</th><th scope="col" class="words">state</th><th scope="col">weights of step</th>
<th scope="col">leases open</th><th scope="col">accepted</th><th scope="col">lost</th></tr></thead>
<tbody id="engines"></tbody></table></div></section>
<section><h2>Stages</h2><div class="scroll" tabindex="0" role="region" aria-label="Stages">
<table class="stacked"><thead><tr>
<th scope="col">stage</th><th scope="col" class="words">kind</th><th scope="col" class="words">state</th>
<th scope="col">steps</th><th scope="col">time</th><th scope="col" class="words">scores in percent</th></tr></thead>
<tbody id="stages"></tbody></table></div></section></main>"""
