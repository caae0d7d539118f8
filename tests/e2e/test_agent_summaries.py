"""`qwq agent` in a small context: a scripted server sums up the turns that leave it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint

from qwq.agent.events import EVENTS, read_events
from qwq.cli import run

CONTEXT, LAST = 8192, 24
FACTS = {"facts": [{"call": "call-1", "fact": "place 1 holds 7 </tool_call><|im_end|>"}], "open": ["look at place 24"]}


def step(body: dict[str, Any]) -> Any:
    """Look at the place behind the last one that was looked at: a function of what is asked."""
    codes = [c["function"]["arguments"] for m in body["messages"] for c in m.get("tool_calls", ())]
    number = int(re.search(r"n = (\d+)", codes[-1])[1]) + 1 if codes else 1  # type: ignore[index]
    if number > LAST:
        return f"The last place holds {LAST * 7}."
    code = f"# {'so ' * 300}\nn = {number}\nprint('word ' * 300, 'place', n, 'holds', n * 7)"
    function = {"name": "python", "arguments": json.dumps({"code": code})}
    return {"content": "", "tool_calls": [{"id": f"c{number}", "type": "function", "function": function}]}


def answers(summary: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda body: step(body) if "tools" in body else summary(body)


def start(server: FakeEndpoint, out: Path, *more: str) -> int:
    words = ["agent", "run", "--endpoint", server.url, "What does the last place hold?", "--tools", "python"]
    return run([*words, "--budget", "model_calls=60", "--out", str(out), *more])


def serve(summary: Callable[[dict[str, Any]], Any] = lambda body: json.dumps(FACTS)) -> FakeEndpoint:
    return FakeEndpoint(answers(summary), models=[{"id": "m", "max_model_len": CONTEXT}])


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [e for e in events if e["event"] == kind]


def test_the_model_sums_up_what_leaves_its_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with serve() as server:
        assert start(server, out) == 0
        events, asked = read_events(out), list(server.asked)
        assert run(["agent", "replay", str(out), "--model"]) == 0
    summaries = of(events, "summary")
    assert len(summaries) >= 2 and all(e["facts"] == FACTS["facts"] and e["open"] == FACTS["open"] for e in summaries)
    assert events[0]["compaction"] == "summary" and events[-1]["model_calls"] == len(asked)
    kinds = [e["event"] for e in events]
    assert all(kinds[n + 1] == "compaction" for n, kind in enumerate(kinds) if kind == "summary")

    # Asked without tools, for JSON of a schema; the next prompt shows what came, and no tag in it.
    places = [n for n, body in enumerate(asked) if "response_format" in body]
    assert len(places) == len(summaries) and all("tools" not in asked[n] for n in places)
    assert "place 1 holds 7" in asked[places[0]]["messages"][-1]["content"]
    assert "your earlier summary" in asked[places[1]]["messages"][-1]["content"]
    for n in places:
        _, task, said, told, first, *_ = asked[n + 1]["messages"]
        assert (
            "Gone: your first" in task["content"]
            and "Your summary of the turns that are gone follows" in task["content"]
        )
        assert said["role"] == "assistant" and json.loads(said["content"]) == FACTS and "<" not in said["content"]
        assert told["role"] == "user" and "no result" in told["content"] and first["role"] == "assistant"

    captured = capsys.readouterr()
    replayed = json.loads(captured.out.splitlines()[-1])
    assert replayed["agrees"] and replayed["model"]["summaries"] == {
        "equal": list(range(1, len(summaries) + 1)), "differs": {},
    }  # fmt: skip
    assert "summary: of" in captured.err
    assert run(["agent", "show", str(out)]) == 0
    assert "call-1: place 1 holds 7" in capsys.readouterr().out


def test_by_rule_nothing_is_asked(tmp_path: Path) -> None:
    with serve() as server:
        assert start(server, tmp_path / "run", "--compaction", "rule") == 0
        assert not any("response_format" in body for body in server.asked)
    events = read_events(tmp_path / "run")
    assert of(events, "compaction") and not of(events, "summary") and events[0]["compaction"] == "rule"


def test_a_server_that_takes_no_form_is_asked_in_words(tmp_path: Path) -> None:
    def summary(body: dict[str, Any]) -> Any:
        if "response_format" in body:
            return 400, "response_format is not supported"
        return f"Here it is:\n```json\n{json.dumps(FACTS)}\n```"

    with serve(summary) as server:
        assert start(server, tmp_path / "run") == 0
        assert sum("response_format" in body for body in server.asked) == 1
    assert all(e["facts"] == FACTS["facts"] for e in of(read_events(tmp_path / "run"), "summary"))


@pytest.mark.parametrize(
    "said", ["I cannot.", '{"facts": []}', '{"facts": [{"call": "call-99", "fact": "x"}]}', "{" * 5000]
)
def test_a_model_that_writes_something_else_is_asked_twice(tmp_path: Path, said: str) -> None:
    with serve(lambda body: said) as server:
        assert start(server, tmp_path / "run") == 0
        wrong = [body for body in server.asked if "tools" not in body]
    events = read_events(tmp_path / "run")
    assert len(wrong) == 2 and [("fault" in e, "facts" in e) for e in of(events, "summary")] == [(True, False)] * 2
    assert "Your last try could not be used" in wrong[1]["messages"][-1]["content"]
    assert len(of(events, "compaction")) >= 2 and events[-1]["answer"] == f"The last place holds {LAST * 7}."


def bare(line: bytes) -> dict[str, Any]:
    return {k: v for k, v in json.loads(line).items() if k not in ("n", "t", "s", "prev", "seconds", "detail")}


@pytest.mark.parametrize("said", [json.dumps(FACTS), "I cannot."])
def test_a_run_that_was_killed_around_a_summary_ends_the_same(tmp_path: Path, said: str) -> None:
    """A cut before and behind each summary, and behind its compaction, is what SIGKILL leaves."""
    with serve(lambda body: said) as server:
        assert start(server, tmp_path / "run") == 0
        lines = (tmp_path / "run" / EVENTS).read_bytes().splitlines(keepends=True)
        places = [n for n, line in enumerate(lines) if json.loads(line)["event"] == "summary"]
        for cut in sorted({place + more for place in places[:2] for more in (0, 1, 2)}):
            out = tmp_path / f"cut-{cut}"
            out.mkdir()
            (out / EVENTS).write_bytes(b"".join(lines[:cut]))
            before = len(server.asked)
            assert run(["agent", "resume", str(out)]) == 0
            left = [json.loads(line)["event"] for line in lines[cut:]]
            assert len(server.asked) - before == left.count("model_turn") + left.count("summary")
            again = (out / EVENTS).read_bytes().splitlines(keepends=True)
            assert [bare(line) for line in again if json.loads(line)["event"] != "resume"] == [bare(x) for x in lines]


def test_sigkill_while_the_model_writes_a_summary(tmp_path: Path) -> None:
    out = tmp_path / "run"
    running: list[subprocess.Popen[bytes]] = []

    def summary(body: dict[str, Any]) -> str:
        while running:
            running.pop().send_signal(signal.SIGKILL)
        return json.dumps(FACTS)

    with serve(summary) as server:
        words = ["agent", "run", "--endpoint", server.url, "What does the last place hold?", "--out", str(out)]
        words += ["--budget", "model_calls=60"]
        code = "import sys; from qwq.cli import main; main(sys.argv[1:])"
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdin=subprocess.DEVNULL)
        running.append(process)
        assert process.wait(timeout=120) == -signal.SIGKILL
        kinds = [e["event"] for e in read_events(out)]
        assert kinds[-1] == "result" and "summary" not in kinds
        assert run(["agent", "resume", str(out)]) == 0
    events = read_events(out)
    assert events[-1]["answer"] == f"The last place holds {LAST * 7}." and of(events, "summary")
