"""`qwq watch`: figures of a run's files by hand, a run that goes on, is taken up again and ends;
lines, page, events.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from qwq.cli import main
from qwq.common.files import write_atomic
from qwq.errors import DataError
from qwq.look import watch
from qwq.look.exposition import exposition
from qwq.look.live import RunWatch


def row(stage: str, step: int, **fields: Any) -> dict[str, Any]:
    return {"stage": stage, "step": step, "seconds": 2.0, "tokens": 100, "loss": 1.0 / (step + 1)} | fields


def append(folder: Path, *rows: dict[str, Any]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)


def finish(folder: Path, stage: str, score: float) -> None:
    (folder / "stages").mkdir(exist_ok=True)
    record = {"name": stage, "kind": "rl1", "steps": 4, "evals": {"math": {"score": score}}}
    write_atomic(folder / "stages" / f"{stage}.json", json.dumps(record))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.toml").write_text(
        'name = "tiny"\n[stages.sft]\nkind = "sft"\n[stages.rl1]\nkind = "rl1"\nsteps = 6\n'
    )
    append(folder, row("sft", 0), row("sft", 1))
    finish(folder, "sft", 0.25)
    append(
        folder,
        row("rl1", 0, reward=0.5, pass_rate=0.5, seconds=4.0),
        row("rl1", 1, reward=0.75, tokens=300, alarms=["too long"]),
    )
    return folder


def test_the_state_by_hand(folder: Path) -> None:
    state = RunWatch(folder, clock=lambda: (folder / "metrics.jsonl").stat().st_mtime + 30).state()
    assert [(s["name"], s["state"], s["step"], s["steps"], s["seconds"]) for s in state["stages"]] == [
        ("sft", "finished", 2, 2, 4.0), ("rl1", "running", 2, 6, 6.0),
    ]  # fmt: skip
    assert state["stages"][0]["scores"] == {"math": 0.25}
    assert (state["run"], state["finished"], state["stage"]["name"], state["age_s"]) == ("tiny", False, "rl1", 30.0)
    assert state["tokens_per_s"] == pytest.approx(400 / 6, abs=0.1)
    assert state["left_s"] == 4 * 3.0  # four steps of the mean of 4 s and 2 s
    assert state["curves"]["reward"] == [[1, 0.5], [2, 0.75]] and state["curves"]["loss"] == [[1, 1.0], [2, 0.5]]
    assert state["alarms"] == [{"stage": "rl1", "step": 2, "text": "too long"}]
    assert watch.line(state) == "rl1 2/6 reward 0.75 pass 0.00 len 0 2.0 s/step 150 tokens/s, 12 s left"


def test_a_curve_of_many_steps_is_thinned_and_keeps_its_end(folder: Path) -> None:
    append(folder, *(row("rl1", step, reward=step / 1000) for step in range(2, 1001)))
    points = RunWatch(folder).state()["curves"]["reward"]
    assert len(points) <= 402 and points[0] == [1, 0.5] and points[-1] == [1001, 1.0]


def test_what_comes_is_read_half_lines_wait_and_a_resumed_run_is_read_again(folder: Path) -> None:
    run = RunWatch(folder)
    assert run.state()["stage"]["step"] == 2
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row("rl1", 2))[:30])
    assert run.state()["stage"]["step"] == 2
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row("rl1", 2))[30:] + "\n" + 'not json\n{"stage": "rl1"}\n[]\n')
    assert run.state()["stage"]["step"] == 3
    # A killed run takes its last checkpoint: the steps behind it are gone from the file.
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(row("rl1", s)) + "\n" for s in range(1)))
    state = run.state()
    assert (state["stage"]["step"], state["alarms"]) == (1, [])


def test_before_the_first_step_and_at_the_end(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    run = RunWatch(folder)
    assert watch.line(run.state()) == "no step yet" and run.state()["age_s"] is None
    finish(folder, "rl1", 0.5)
    state = run.state()
    assert state["finished"] and watch.line(state) == "finished"


def test_numbers_that_json_has_no_form_for_and_hostile_words(folder: Path) -> None:
    append(
        folder, row("rl1", 2, loss=float("nan"), reward=float("inf"), alarms=["\x1b[31m<b>"], outcomes={"\u202ex": 1})
    )
    state = RunWatch(folder).state()
    text = json.dumps(state, allow_nan=False)  # a browser reads neither NaN nor Infinity
    assert (state["last"]["loss"], state["last"]["reward"]) == ("nan", "inf") and state["curves"]["loss"] == [
        [1, 1.0],
        [2, 0.5],
    ]
    assert state["alarms"][0]["text"] == "\\x1b[31m<b>" and "\u202e" not in json.loads(text)["last"]["outcomes"]
    assert watch.line(state).startswith("rl1 3/6 reward inf pass 0.00")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run at .*: it has no recipe.toml; give a folder that `qwq train` writes"):
        RunWatch(tmp_path)


def test_lines_elsewhere_than_on_a_terminal(folder: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=60, color_system=None, highlight=False)
    thread = threading.Thread(target=watch.follow, args=(RunWatch(folder), console, 0.01))
    thread.start()
    time.sleep(0.1)
    append(folder, row("rl1", 2, reward=1.0, alarms=["too short"]))
    time.sleep(0.1)
    finish(folder, "rl1", 0.5)
    thread.join(timeout=10)
    assert not thread.is_alive()
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("rl1 2/6 reward 0.75") and lines[1] == "ALARM rl1, step 2: too long"
    assert (
        lines[2].startswith("rl1 3/6 reward 1.00")
        and lines[3] == "ALARM rl1, step 3: too short"
        and lines[-1] == "finished"
    )


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stage"]["step"] == 2
    assert main(["watch", str(folder), "--once"]) == 0
    shown = capsys.readouterr().out
    assert "running" in shown and "2/6" in shown and "math 25.0" in shown and "ALARM rl1, step 2: too long" in shown
    assert main(["watch", str(folder / "nothing")]) == 2


@contextmanager
def served(folder: Path) -> Iterator[Callable[[str], http.client.HTTPResponse]]:
    """The live page's server; what is yielded asks it for a path, on a connection of its own."""
    server = watch.serve(folder, 0, poll_s=0.01)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def get(path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        opened.callback(connection.close)
        connection.request("GET", path)
        return connection.getresponse()

    try:
        with ExitStack() as opened:
            yield get
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_page_is_told_of_each_change(folder: Path) -> None:
    with served(folder) as get:
        response = get("/")
        page = response.read().decode()
        assert "connect-src 'self'" in response.headers["Content-Security-Policy"] and "innerHTML" not in page
        response = get("/events")
        assert response.headers["Content-Type"] == "text/event-stream"
        read: list[Any] = []
        for change in (None, lambda: append(folder, row("rl1", 2)), lambda: finish(folder, "rl1", 0.5)):
            if change:
                change()
            line = response.readline()
            while not line.startswith(b"data: "):
                line = response.readline()
            read.append(json.loads(line[6:]))
        assert [(s["stage"]["step"], s["finished"]) for s in read] == [(2, False), (3, False), (3, True)]
        assert response.read().strip() == b""  # a finished run has no more to tell


def with_fleet(folder: Path) -> None:
    """Engine a holds the weights of step 3, took two groups and lost one; b went away."""
    (folder / "fleet" / "rl1").mkdir(parents=True)
    events = [
        {"event": "ready", "engine": "http://a", "version": 3},
        {"event": "away", "engine": "http://b", "error": "no answer"},
        {"event": "granted", "engine": "http://a", "lease": 1},
        {"event": "granted", "engine": "http://a", "lease": 2},
        {"event": "lost", "lease": 1, "why": "late"},
    ]
    (folder / "fleet" / "rl1" / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def samples(folder: Path) -> dict[tuple[str, ...], float]:
    """What a Prometheus server would read, by name and labels but the run's. Labels come in the
    order of their names.
    """
    families = text_string_to_metric_families(exposition(RunWatch(folder, clock=time.time).state()).decode())
    found = {}
    for sample in (s for family in families for s in family.samples):
        labels = dict(sample.labels)
        assert labels.pop("run") == "tiny"
        found[sample.name, *labels.values()] = sample.value
    return found


def test_prometheus_reads_the_state(folder: Path) -> None:
    found = samples(folder)
    assert found["qwq_stage_step", "rl1"] == 2 and found["qwq_stage_steps", "rl1"] == 6
    assert found["qwq_step", "reward", "rl1"] == 0.75 and found["qwq_step", "tokens", "rl1"] == 300
    assert found["qwq_run_finished",] == 0 and found["qwq_run_recent_alarms",] == 1
    assert found["qwq_run_tokens_per_second",] == 66.7  # 100 and 300 tokens in 4 and 2 s
    assert not any(name[0].startswith("qwq_engine") for name in found)


def test_engines_are_shown_and_exported(folder: Path) -> None:
    with_fleet(folder)
    found = samples(folder)
    a, b = "http://a", "http://b"
    assert found["qwq_engine_ready", a] == 1 and found["qwq_engine_ready", b] == 0
    assert found["qwq_engine_weights_step", a] == 3 and ("qwq_engine_weights_step", b) not in found
    leases = [found["qwq_engine_leases", a, kind] for kind in ("open", "accepted", "lost")]
    assert leases == [1, 0, 1]
    console = Console(file=io.StringIO(), width=100)
    console.print(watch.screen(RunWatch(folder).state()))
    shown = " ".join(console.file.getvalue().split())
    assert "http://a ready 3 1 0 1" in shown and "http://b away" in shown


def test_a_lease_that_expires_is_shown_although_no_file_changes(folder: Path) -> None:
    """As after a kill: nothing is written any more."""
    with_fleet(folder)
    lease = {"event": "granted", "engine": "http://a", "lease": 3, "group": 0, "step": 0, "until": 1060.0}
    ended = {"event": "accepted", "engine": "http://a", "lease": 2}
    with (folder / "fleet" / "rl1" / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in (ended, lease))
    now = 1000.0
    states = RunWatch(folder, clock=lambda: now).changes(poll_s=0)
    assert open_leases(next(states)) == [1, 0]
    assert next(states) is None
    now = 1061.0
    assert open_leases(next(states)) == [0, 0]
    now = 2000.0
    assert next(states) is None  # no lease is open any more


def open_leases(state: dict[str, Any] | None) -> list[int]:
    assert state is not None
    return [engine["open"] for engine in state["engines"]]


def test_the_server_answers_prometheus(folder: Path) -> None:
    with served(folder) as get:
        response = get("/metrics")
        assert response.status == 200 and response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b'qwq_stage_step{run="tiny",stage="rl1"} 2.0' in response.read()
