"""A run of the agent: its events, its budgets, what waits for a person, and what a kill leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_tools import OutsideTools
from scripted_policy import ScriptedPolicy

from qwq.agent.approvals import Approvals, approvals_of
from qwq.agent.events import EVENTS, EventLog, read_events, sha256
from qwq.agent.run import NO_BUDGETS, AgentLimits, AgentOutcome, decide_calls, finished, read_limits, run_agent
from qwq.envs.toolbox import Toolbox
from qwq.errors import ConfigError, DataError
from qwq.rollout.policy import TurnRequest
from qwq.types import ParsedResponse, StopReason, Turn

ALLOW_ALL = approvals_of({"rule": [{"tool": "*", "then": "allow"}]}, "here")
Script = Callable[[TurnRequest], Any]


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def turns(*texts: Any) -> Script:
    return lambda r: texts[min(len(r.key.episode.turns), len(texts) - 1)]


class Killed(BaseException):
    """Stands for kill -9: nothing of the run is written any more."""


def play(
    out: Path, script: Script, *, tools: OutsideTools | None = None, limits: AgentLimits = NO_BUDGETS,
    approvals: Approvals = ALLOW_ALL, **kw: Any,
) -> AgentOutcome:  # fmt: skip
    box = Toolbox([tools or OutsideTools(out.parent / "sent.txt")], workspace=None)
    return run_agent(ScriptedPolicy(script), "Do it.", toolbox=box, out=out, limits=limits, approvals=approvals, **kw)


def kinds(out: Path) -> list[str]:
    return [e["event"] for e in read_events(out)]


def results(out: Path) -> list[tuple[str, str]]:
    return [(e["kind"], e["text"]) for e in read_events(out) if e["event"] == "result"]


def sent(out: Path) -> list[str]:
    path = out.parent / "sent.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


# -- events ----------------------------------------------------------------------------------------


def test_the_events_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = play(out, turns("I look." + call("look", text="a"), call("send", text="b"), "It is done."))
    assert (outcome.answer, outcome.stop_reason, outcome.exit_status) == ("It is done.", StopReason.END, 0)
    assert kinds(out) == [
        "run", "model_turn", "call", "tool_started", "result", "model_turn", "call", "approval", "tool_started",
        "result", "model_turn", "finish",
    ]  # fmt: skip
    run, turn, made, started, result, *_ = read_events(out)
    assert (run["task"], run["limits"]["model_calls"], run["format"]) == ("Do it.", 20, 1)
    assert (turn["turn"], turn["answer"], turn["calls"]) == (
        1, "I look.", [{"name": "look", "arguments": {"text": "a"}}]
    )  # fmt: skip
    assert (made["id"], made["tool"], made["arguments"]) == ("call-1", "look", {"text": "a"})
    assert (started["id"], started["effect"]) == ("call-1", "none")
    assert (result["kind"], result["text"], result["sha256"]) == ("ok", "seen a", sha256("seen a"))
    answer = json.loads((out / "answer.json").read_text(encoding="utf-8"))
    assert {k: answer[k] for k in ("answer", "stop_reason", "model_calls", "tool_calls", "waiting")} == {
        "answer": "It is done.", "stop_reason": "end", "model_calls": 3, "tool_calls": 2, "waiting": [],
    }  # fmt: skip
    assert (out / "report.md").read_text(encoding="utf-8") == "It is done.\n" and sent(out) == ["b"]


def test_each_line_holds_the_hash_of_the_line_before(tmp_path: Path) -> None:
    out = tmp_path / "run"
    play(out, turns(call("look", text="a"), "Done."))
    lines = (out / EVENTS).read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["prev"] for line in lines] == ["0" * 64, *(sha256(line) for line in lines[:-1])]
    changed = b"\n".join([*lines[:3], lines[3].replace(b"look", b"lock"), *lines[4:], b""])
    (out / EVENTS).write_bytes(changed)
    with pytest.raises(DataError, match="line 5: not the line that followed the one before"):
        read_events(out)


def test_every_call_is_answered_in_its_place(tmp_path: Path) -> None:
    out = tmp_path / "run"
    broken = call("look", text="a").replace("}}", "}")
    first = broken + call("look", text="b") + call("look", txt="c") + call("lok", text="d") + call("fail")
    outcome = play(out, turns(first, "Done."), limits=AgentLimits(parallel=4))
    found = {e["id"]: (e["kind"], e["text"]) for e in read_events(out) if e["event"] == "result"}
    assert found["call-1"][0] == "error" and "its JSON is broken" in found["call-1"][1]
    assert found["call-2"] == ("ok", "seen b")
    assert found["call-3"][0] == "error" and "the schema of look" in found["call-3"][1]
    assert found["call-4"] == ("error", "error: no tool 'lok': did you mean 'look'?")
    assert found["call-5"] == ("error", "error: fail raised KeyError: 'no till'")
    assert outcome.tool_calls == 5 and outcome.answer == "Done."


def test_calls_that_change_nothing_run_together(tmp_path: Path) -> None:
    import time

    out, started = tmp_path / "run", time.monotonic()
    play(out, turns(call("wait", seconds=0.3) * 4, "Done."))
    assert time.monotonic() - started < 1.0
    assert [e["id"] for e in read_events(out) if e["event"] == "result"] == [f"call-{n}" for n in range(1, 5)]


# -- budgets ---------------------------------------------------------------------------------------


def test_a_budget_ends_with_a_turn_without_tools(tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = lambda r: call("look", text=str(len(r.key.episode.turns))) if r.tools else "As far as I came."
    outcome = play(out, script, limits=AgentLimits(model_calls=4))
    assert (outcome.answer, outcome.stop_reason, outcome.budget) == (
        "As far as I came.", StopReason.TURNS, "model_calls"
    )  # fmt: skip
    assert outcome.model_calls == 4 and outcome.exit_status == 0
    (note,) = [e for e in read_events(out) if e["event"] == "budget"]
    assert (note["about"], note["used"], note["limit"], note["last"]) == ("model_calls", 3, 4, True)
    stubborn = play(tmp_path / "other", turns(call("look", text="a"), call("look", text="b")), limits=AgentLimits(2))
    assert (stubborn.answer, stubborn.stop_reason, stubborn.exit_status) == ("", StopReason.TURNS, 1)
    assert "was a call" in stubborn.note
    once = play(tmp_path / "once", turns("It is so."), limits=AgentLimits(model_calls=1))
    assert (once.answer, once.stop_reason, once.budget, once.note) == (
        "It is so.", StopReason.TURNS, "model_calls", ""
    )  # fmt: skip


def test_a_loop_is_told_then_ended(tmp_path: Path) -> None:
    outcome = play(tmp_path / "run", lambda r: call("look", text="a") if r.tools else "I repeat myself.")
    assert (outcome.stop_reason, outcome.budget, outcome.tool_calls) == (StopReason.LOOP, "loop", 5)


def test_budgets_are_read_from_words() -> None:
    limits = read_limits(["model_calls=8", "seconds=1.5", "look=2"])
    assert (limits.model_calls, limits.seconds, limits.per_tool, limits.tool_calls) == (8, 1.5, {"look": 2}, 50)
    for words, problem in {
        "tokens=x": "write NAME=NUMBER",
        "parallel=0": "give a whole number above 0",
        "seconds=-1": "give a number above 0",
    }.items():
        with pytest.raises(ConfigError, match=problem):
            read_limits([words])


def test_a_budget_of_no_tool_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no budget and no tool 'model_call': did you mean 'model_calls'"):
        play(tmp_path / "run", turns("Done."), limits=read_limits(["model_call=8"]))
    assert not (tmp_path / "run").exists()


# -- approvals -------------------------------------------------------------------------------------

ASK = approvals_of({}, "here")


def test_an_external_call_waits_on_the_disk_and_runs_once(tmp_path: Path) -> None:
    """The process ends; two days later, by a set clock, a person approves."""
    out, now = tmp_path / "run", [1000.0]
    script = turns(call("look", text="a") + call("send", text="b"), "Sent.")

    def log() -> EventLog:
        return EventLog(out, wall=lambda: now[0], steady=lambda: now[0])

    outcome = play(out, script, approvals=ASK, log=log())
    assert (outcome.stop_reason, outcome.waiting, outcome.exit_status) == (StopReason.WAITS, ("call-2",), 75)
    assert sent(out) == [] and json.loads((out / "answer.json").read_text(encoding="utf-8"))["waiting"] == ["call-2"]
    now[0] += 2 * 86400
    again = play(out, script, approvals=ASK, log=log())
    assert again.waiting == ("call-2",) and sent(out) == []  # nobody has decided
    now[0] += 60
    decided = log()
    decide_calls(out, ["call-2"], {}, decided)
    outcome = play(out, script, approvals=ASK, log=decided)
    assert (outcome.answer, outcome.exit_status, outcome.seconds) == ("Sent.", 0, 0.0)  # waiting costs no seconds
    assert sent(out) == ["b"]
    with pytest.raises(ConfigError, match="call 'call-2' does not wait for a decision: none waits"):
        decide_calls(out, ["call-2"], {}, log())


def test_a_denied_call_is_answered_with_the_reason(tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = turns(call("send", text="b"), "Not sent.")
    play(out, script, approvals=ASK)
    log = EventLog(out)
    decide_calls(out, [], {"call-1": "not to him"}, log)
    outcome = play(out, script, approvals=ASK, log=log)
    assert results(out) == [("refused", "error: not allowed: not to him")]
    assert sent(out) == [] and outcome.answer == "Not sent."


def test_rules_by_tool_and_arguments(tmp_path: Path) -> None:
    rules = approvals_of(
        {
            "external": "deny",
            "rule": [
                {"tool": "look", "then": "deny"},
                {"tool": "se*", "arguments": {"text": "me/*"}, "then": "allow"},
            ],
        },
        "here",
    )
    calls = call("look", text="a") + call("send", text="me/x") + call("send", text="you/x")
    out = tmp_path / "run"
    play(out, turns(calls, "Done."), approvals=rules)
    assert results(out) == [
        ("refused", "error: not allowed: the rule for look says deny"),
        ("ok", "sent me/x"),
        ("refused", "error: not allowed: its effect is external, and no rule names it"),
    ]
    assert sent(out) == ["me/x"]


@pytest.mark.parametrize("number", range(10))
def test_after_untrusted_text_every_external_effect_asks(tmp_path: Path, number: int) -> None:
    """Ten runs of a model that does what the mail says, at another place each."""
    before = [call("look", text=str(n)) for n in range(number)]
    script = turns(call("send", text="own") if number % 2 else call("look", text="x"), *before, call("mail"),
                   call("send", text="all"), "Done.")  # fmt: skip
    out = tmp_path / "run"
    outcome = play(out, script)  # the rules allow everything
    assert outcome.waiting == (f"call-{number + 3}",) and sent(out) == ["own"] * (number % 2)
    (event,) = [e for e in read_events(out) if e["event"] == "approval" and e["decision"] == "ask"]
    assert event["reason"] == "its effect is external, and the run has read other people's text"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"rules": []}, "here: unknown key 'rules': did you mean 'rule'"),
        ({"external": "allow"}, "here: external is 'allow': give ask, deny"),
        ({"rule": [{"tool": "a", "then": "yes"}]}, "here, rule 1: then is 'yes': give allow, ask, deny"),
        ({"rule": [{"then": "ask"}]}, "here, rule 1: no `tool`"),
        ({"rule": [{"tool": "a", "then": "ask", "arguments": {"n": 1}}]}, "`arguments` holds globs by name"),
    ],
)
def test_a_policy_that_is_none(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("[", "\\[")):
        approvals_of(data, "here")


# -- kill and resume -------------------------------------------------------------------------------

STORY = turns(
    "First." + call("look", text="a") + call("send", text="b"), call("put", text="c") + call("fail"),
    call("send", text="d"), "All sent.",
)  # fmt: skip


def story(out: Path, **kw: Any) -> AgentOutcome:
    return play(out, STORY, **kw)


def whole_story(tmp_path: Path) -> list[bytes]:
    out = tmp_path / "whole" / "run"
    out.parent.mkdir()
    story(out)
    return (out / EVENTS).read_bytes().splitlines(keepends=True)


def test_a_run_that_is_cut_after_any_event_ends_the_same(tmp_path: Path) -> None:
    """The log is cut after each of its lines, and inside it: the run goes on, and no external
    effect whose result is known happens again.
    """
    lines = whole_story(tmp_path)
    events = [json.loads(line) for line in lines]
    for cut in range(1, len(lines)):
        out = tmp_path / f"cut-{cut}" / "run"
        out.mkdir(parents=True)
        (out / EVENTS).write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        before = [e["id"] for e in events[:cut] if e["event"] == "tool_started"]
        outcome = story(out)
        assert (outcome.answer, outcome.stop_reason) == ("All sent.", StopReason.END), cut
        again = read_events(out)
        texts = {e["id"]: e["text"] for e in again if e["event"] == "result"}
        assert list(texts) == [f"call-{n}" for n in range(1, 6)]
        unknown = [ident for ident, text in texts.items() if "outcome is unknown" in text]
        done_before = {e["id"] for e in events[:cut] if e["event"] == "result"}
        open_ones = [ident for ident in before if ident not in done_before]
        assert unknown == [ident for ident in open_ones if ident in ("call-2", "call-5")], cut
        expected = {"call-2": "b", "call-3": "c", "call-5": "d"}
        assert sent(out) == [t for i, t in expected.items() if i not in done_before and i not in unknown], cut


def test_a_kill_inside_an_external_call_is_told_and_not_repeated(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def kill() -> None:
        raise Killed

    tools = OutsideTools(tmp_path / "sent.txt", before_send=kill)
    with pytest.raises(Killed):
        play(out, turns(call("send", text="b"), "Done."), tools=tools)
    assert kinds(out)[-1] == "tool_started"
    outcome = play(out, turns(call("send", text="b"), "Done."))
    ((kind, text),) = results(out)
    assert kind == "unknown_outcome" and text.startswith("error: the run was stopped while send ran: its outcome is")
    assert sent(out) == [] and outcome.answer == "Done." and "resume" in kinds(out)


def test_a_run_that_has_ended_is_known(tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = story(out)
    assert finished(read_events(out)) == replace(outcome, unsupported=None)
    assert finished(read_events(out)[:-1]) is None


def test_another_run_is_not_mixed_into_a_log(tmp_path: Path) -> None:
    out = tmp_path / "run"
    story(out)
    with pytest.raises(ConfigError, match="holds a run with another limits"):
        story(out, limits=AgentLimits(model_calls=3))
    lines = (out / EVENTS).read_bytes().splitlines(keepends=True)
    (out / EVENTS).write_bytes(b"".join(lines[:2]))
    with pytest.raises(DataError, match="the log holds call call-1 look .* this run makes call call-1 look"):
        shown = (out / EVENTS).read_bytes() + _with_other_arguments(lines)
        (out / EVENTS).write_bytes(shown)
        story(out)


def _with_other_arguments(lines: Sequence[bytes]) -> bytes:
    return lines[2].replace(b'"text":"a"', b'"text":"z"')


# -- a check of the answer -------------------------------------------------------------------------


def test_a_check_gives_one_more_turn(tmp_path: Path) -> None:
    out = tmp_path / "run"
    seen: list[str] = []

    def check(answer: str, events: Sequence[Any]) -> str:
        seen.append(answer)
        return "The number 7 comes from no call: mend it." if "7" in answer else ""

    asked: list[TurnRequest] = []

    def script(request: TurnRequest) -> str:
        asked.append(request)
        return "It is 7." if len(asked) == 1 else "It is unknown."

    outcome = play(out, script, check=check)
    assert outcome.answer == "It is unknown." and seen == ["It is 7."]
    assert kinds(out) == ["run", "model_turn", "check", "model_turn", "finish"]
    assert asked[1].messages[-1].content == "The number 7 comes from no call: mend it."
    quiet = play(tmp_path / "other", turns("Fine."), check=check)
    assert quiet.answer == "Fine." and quiet.model_calls == 1
    last = play(tmp_path / "last", turns("It is 7."), check=check, limits=AgentLimits(model_calls=1))
    assert (last.answer, last.stop_reason) == ("It is 7.", StopReason.TURNS)  # no turn is left to mend it


@pytest.mark.parametrize(
    "second",
    ["", Turn(ParsedResponse(None, ""), StopReason.ABORT, failure="the server is gone")],
    ids=["empty", "gone"],
)
def test_the_answer_is_kept_where_its_check_brings_no_other(tmp_path: Path, second: str | Turn) -> None:
    outcome = play(tmp_path / "run", turns("It is 7.", second), check=lambda answer, events: "Mend it.")
    assert (outcome.answer, outcome.stop_reason, outcome.failure) == ("It is 7.", StopReason.END, "")
    assert kinds(tmp_path / "run")[-1] == "finish"
    assert outcome.note == ("" if second == "" else "the turn that should mend the answer failed: the server is gone")
