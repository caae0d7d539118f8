"""`qwq agent` as a person runs it: against a scripted server, with Python in the jail, killed and
resumed, replayed, traced, applied.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint
from little import make_model

from qwq.agent.events import EventLog, read_events
from qwq.agent.report.write import NO_ANSWER
from qwq.agent.run import run_agent
from qwq.cli import main, run
from qwq.endpoint.openai_client import EndpointClient
from qwq.envs import workspace
from qwq.envs.toolbox import Toolbox
from qwq.errors import InfraError, UsageError
from qwq.rollout.policies.endpoint import EndpointPolicy

SALES = b"month,sum\n1,20\n2,35\n3,5\n"


def calls(*made: tuple[str, dict[str, Any]], thought: str = "") -> dict[str, Any]:
    return {
        "role": "assistant", "content": "", **({"reasoning_content": thought} if thought else {}),
        "tool_calls": [
            {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for n, (name, arguments) in enumerate(made)
        ],
    }  # fmt: skip


def python(code: str, thought: str = "") -> dict[str, Any]:
    return calls(("python", {"code": code}), thought=thought)


def script(*answers: Any) -> Any:
    """Answer n to the n-th turn, by the number of assistant messages asked with."""
    return lambda body: answers[min(sum(m["role"] == "assistant" for m in body["messages"]), len(answers) - 1)]


STORY = (
    python("import csv\nrows = list(csv.DictReader(open('sales.csv')))\nlen(rows)", thought="I look at the file."),
    python("total = sum(int(r['sum']) for r in rows)\nopen('total.txt', 'w').write(str(total))\ntotal"),
    "The sum is 60.",
)


def broken_after(turns: int) -> Any:
    """`EndpointClient._post` of a server that is gone after so many answers."""
    left, post = [turns], EndpointClient._post

    def broken(self: EndpointClient, *given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            self.base, self.patience = "http://127.0.0.1:9/v1", ()
        return post(self, *given)

    return broken


def agent(server: FakeEndpoint, tmp_path: Path, *more: str) -> int:
    data = tmp_path / "sales.csv"
    data.write_bytes(SALES)
    words = ["agent", "run", "--endpoint", server.url, "What is the sum?", "--data", str(data), "--tools", "python"]
    return run([*words, "--out", str(tmp_path / "run"), *more])


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    with FakeEndpoint(script(*STORY), models=[{"id": "m", "max_model_len": 8192}]) as server:
        assert agent(server, tmp_path, "--budget", "model_calls=8") == 0
        asked = server.asked
    assert capsys.readouterr().out == "The sum is 60.\n"
    assert asked[0]["model"] == "m" and asked[0]["tools"][0]["function"]["name"] == "python"
    assert "top_k" not in asked[0]  # strict servers refuse what they do not know
    assert "sales.csv (24 bytes)" in asked[0]["messages"][-1]["content"]
    assert [m["role"] for m in asked[2]["messages"]] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    # Thoughts that the server gave apart go back to it in the same field, within the task.
    assert (asked[2]["messages"][2]["reasoning_content"], asked[2]["messages"][2]["content"]) == (
        "I look at the file.", ""
    )  # fmt: skip
    assert asked[2]["messages"][3]["content"] == "3" and asked[2]["messages"][5]["content"] == "60"
    return tmp_path / "run"


def test_a_run_from_a_file_to_an_answer(told: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    answer = json.loads((told / "answer.json").read_text(encoding="utf-8"))
    assert (answer["answer"], answer["stop_reason"], answer["model_calls"]) == ("The sum is 60.", "end", 3)
    finish = read_events(told)[-1]
    assert list(finish["files"]["added"]) == ["total.txt"] and not finish["files"]["changed"]
    assert (told / "workspace" / "total.txt").read_text(encoding="utf-8") == "60"
    assert run(["agent", "resume", str(told)]) == 0 and capsys.readouterr().out == "The sum is 60.\n"
    assert run(["agent", "show", str(told)]) == 0
    shown = capsys.readouterr().out
    assert "call-1 python" in shown and "I look at the file." in shown and "The sum is 60." in shown
    assert run(["agent", "replay", str(told)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "agrees": True, "equal": ["call-1", "call-2"], "varies": [], "differs": {}, "skipped": [],
    }  # fmt: skip
    target = tmp_path / "target"
    target.mkdir()
    assert run(["agent", "apply", str(told), str(target)]) == 1 and not list(target.iterdir())
    assert "+60" in capsys.readouterr().out
    assert run(["agent", "apply", str(told), str(target), "--yes"]) == 0
    assert (target / "total.txt").read_text(encoding="utf-8") == "60"


def test_spans_of_a_run(told: Path, tmp_path: Path) -> None:
    assert run(["agent", "trace", str(told), "--otel", str(tmp_path / "spans.json")]) == 0
    text = (tmp_path / "spans.json").read_text(encoding="utf-8")
    spans = json.loads(text)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [s["name"] for s in spans] == [
        "invoke_agent qwq", "chat m", "execute_tool python", "chat m", "execute_tool python", "chat m",
    ]  # fmt: skip
    assert all(s["parentSpanId"] == spans[0]["spanId"] for s in spans[1:]) and "parentSpanId" not in spans[0]
    tool = {a["key"]: a["value"] for a in spans[2]["attributes"]}
    assert tool["gen_ai.tool.call.id"] == {"stringValue": "call-1"}
    assert "total.txt" not in text  # content is off
    run(["agent", "trace", str(told), "--otel", str(tmp_path / "spans.json"), "--content"])
    assert "total.txt" in (tmp_path / "spans.json").read_text(encoding="utf-8")


def test_replay_tells_clocks_from_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = (python("import time\ntime.time_ns()"), python("6 * 7"), "Done.")
    with FakeEndpoint(script(*story)) as server:
        assert agent(server, tmp_path) == 0
    out = tmp_path / "run"
    capsys.readouterr()
    assert run(["agent", "replay", str(out)]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["varies"], outcome["equal"]) == (["call-1"], ["call-2"])


def test_replay_asks_the_model_too(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same server gives the same turns. One that says something else at the second turn is told
    apart there, and the third is asked for behind what the log holds.
    """
    log = (told / "events.jsonl").read_bytes()
    with FakeEndpoint(script(*STORY)) as server:
        assert run(["agent", "replay", str(told), "--model", "--endpoint", server.url]) == 0
        assert [len(body["messages"]) for body in server.asked] == [2, 4, 6]
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["agrees"] and outcome["model"] == {"equal": [1, 2, 3], "differs": {}}
    other = (STORY[0], python("6 * 10"), STORY[2])
    with FakeEndpoint(script(*other)) as server:
        assert run(["agent", "replay", str(told), "--model", "--endpoint", server.url]) == 1
        assert server.asked[2]["messages"][5]["content"] == "60"
        assert "total.txt" in server.asked[2]["messages"][4]["tool_calls"][0]["function"]["arguments"]
    outcome = json.loads(capsys.readouterr().out)
    assert not outcome["agrees"] and outcome["model"]["equal"] == [1, 3] and list(outcome["model"]["differs"]) == ["2"]
    differs = outcome["model"]["differs"]["2"]
    assert "total.txt" in differs["recorded"] and "6 * 10" in differs["now"] and differs["token"] is None
    assert (told / "events.jsonl").read_bytes() == log
    with pytest.raises(UsageError, match="give --model too"):
        run(["agent", "replay", str(told), "--endpoint", "http://127.0.0.1:9"])


def test_a_run_from_a_server_that_never_stops_calling(tmp_path: Path) -> None:
    with FakeEndpoint(lambda body: python(f"{len(body['messages'])} + 1")) as server:
        assert agent(server, tmp_path, "--budget", "model_calls=4") == 1
        assert len(server.asked) == 4 and "tools" not in server.asked[-1]
    answer = json.loads((tmp_path / "run" / "answer.json").read_text(encoding="utf-8"))
    assert (answer["answer"], answer["stop_reason"], answer["budget"]) == ("", "turns", "model_calls")


def test_what_cannot_be_run_is_said_in_one_line(told: Path, tmp_path: Path) -> None:
    with FakeEndpoint(script("Done.")) as server:
        with pytest.raises(UsageError, match="holds a run: `qwq agent resume"):
            agent(server, tmp_path)
        for words, problem in {
            ("--tools", "pyton"): "no tools 'pyton': did you mean 'python'",
            ("--budget", "calls=3"): "no budget and no tool 'calls'",
            ("--policy", str(tmp_path / "none.toml")): "cannot be read",
            ("more",): r"3 arguments|2 arguments|several files are",
        }.items():
            with pytest.raises(UsageError, match=problem):
                run(["agent", "run", "--endpoint", server.url, "a", *(["b"] if words == ("more",) else []), *words,
                     "--out", str(tmp_path / "new")])  # fmt: skip
        assert not (tmp_path / "new").exists() and server.asked == []


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        (["model_calls=nan"], "model_calls=nan: give a whole number above 0"),
        (["tokens=inf"], "tokens=inf: give a whole number above 0"),
        (["seconds=nan"], "seconds=nan: give a number above 0"),
        (["seconds=1e999"], "seconds=1e999: give a number above 0"),
        (["python=inf"], "python=inf: give a whole number above 0"),
        (["model_calls=3", "model_calls=4"], "model_calls has a budget already"),
        (["python=3,python=3"], "python has a budget already"),
    ],
)
def test_a_budget_that_is_no_number_of_things(pairs: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        run(["agent", "run", "--endpoint", "http://127.0.0.1:9", "a", "--out", str(tmp_path / "run"),
             "--budget", *pairs])  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_an_endpoint_that_is_empty_is_named() -> None:
    """As an unset variable of the shell leaves it."""
    for words in (["What?"], ["m", "What?"]):
        with pytest.raises(UsageError, match="--endpoint : give a URL"):
            run(["agent", "run", "--endpoint", "", *words])


def test_half_a_surrogate_pair_in_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may write half of a pair, which UTF-8 has no bytes for."""
    with FakeEndpoint(script(python("'\ud800'"), "It is half: \ud83d.")) as server:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", out)
        words = ["agent", "run", "--endpoint", server.url, "What?", "--out", str(tmp_path / "run")]
        monkeypatch.setattr(sys, "argv", ["qwq", *words])
        assert main() == 0
        out.flush()
    assert out.buffer.getvalue() == b"It is half: \\ud83d.\n"  # type: ignore[attr-defined]
    answer = json.loads((tmp_path / "run" / "answer.json").read_text(encoding="utf-8"))
    assert answer["answer"] == "It is half: \ud83d." == read_events(tmp_path / "run")[-1]["answer"]
    assert "It is half: ?." in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert main(["agent", "trace", str(tmp_path / "run"), "--otel", str(tmp_path / "spans.json"), "--content"]) == 0
    assert "It is half: \\ud83d." in (tmp_path / "spans.json").read_text(encoding="utf-8")


def test_a_server_that_goes_away_in_the_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's folder says so, and the line names the command that continues it."""
    with FakeEndpoint(script(STORY[0])) as server:
        monkeypatch.setattr(EndpointClient, "_post", broken_after(1))
        assert agent(server, tmp_path) == 70
    out = tmp_path / "run"
    answer = json.loads((out / "answer.json").read_text(encoding="utf-8"))
    assert (answer["stop_reason"], answer["model_calls"], answer["tool_calls"]) == ("abort", 1, 1)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("stopped: ") and said.endswith(f"`qwq agent resume {out}` continues it")
    assert "same command" not in said and "same command" not in answer["failure"]
    monkeypatch.undo()
    with FakeEndpoint(script(*STORY)) as server:
        assert run(["agent", "resume", str(out), "--endpoint", server.url]) == 0
    assert json.loads((out / "answer.json").read_text(encoding="utf-8"))["failure"] == ""


def test_a_key_that_ends_in_the_middle_breaks_the_run_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was never right is wrong usage; a run that had begun says how it continues."""
    with FakeEndpoint(lambda body: (401, "no key")) as server, pytest.raises(UsageError, match="wants a key"):
        agent(server, tmp_path)
    with FakeEndpoint(script(STORY[0], (401, "the key has ended"))) as server:
        assert run(["agent", "resume", str(tmp_path / "run"), "--endpoint", server.url]) == 70
    answer = json.loads((tmp_path / "run" / "answer.json").read_text(encoding="utf-8"))
    assert (answer["stop_reason"], answer["tool_calls"]) == ("abort", 1) and "wants a key: set" in answer["failure"]
    assert capsys.readouterr().err.splitlines()[-1].endswith("continues it")
    with FakeEndpoint(script(*STORY)) as server:
        assert run(["agent", "resume", str(tmp_path / "run"), "--endpoint", server.url]) == 0


def test_a_replay_whose_server_goes_away(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a replay is stored, so no command resumes it."""
    log = (told / "events.jsonl").read_bytes()
    with FakeEndpoint(script(*STORY)) as server:
        monkeypatch.setattr(EndpointClient, "_post", broken_after(1))
        with pytest.raises(
            InfraError, match=r"gave no answer .*; a replay keeps nothing and the run is as it"
        ) as error:
            run(["agent", "replay", str(told), "--model", "--endpoint", server.url])
    assert "same command" not in str(error.value) and (told / "events.jsonl").read_bytes() == log


def test_hints_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths with blanks stay one word, and no hint names an option that its command lacks."""
    place = tmp_path / "my runs"
    place.mkdir()
    with FakeEndpoint(script(STORY[0])) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(EndpointClient, "_post", broken_after(1))
        assert agent(server, place) == 70
    out, (*_, last) = place / "run", capsys.readouterr().err.splitlines()
    command = shlex.join(["qwq", "agent", "resume", str(out)])
    assert command == f"qwq agent resume '{out}'" and last.endswith(f"`{command}` continues it")
    for words in (["agent", "report", str(out)], ["agent", "apply", str(out), str(tmp_path)]):
        with pytest.raises(UsageError, match="has not ended") as error:
            run(words)
        assert f"`{command}`" in str(error.value)
    with pytest.raises(UsageError, match="holds a run") as error:
        run(["agent", "run", "--endpoint", server.url, "What?", "--out", str(out)])
    assert f"`{command}`" in str(error.value)
    log = EventLog(out)
    with pytest.raises(UsageError, match="another process runs the agent in") as error:
        run(["agent", "resume", str(out)])
    log.close()
    assert "--out" not in str(error.value)


def test_a_file_whose_name_begins_with_a_hyphen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.csv").write_bytes(SALES)
    Path("b.csv").write_bytes(SALES)
    code = "import os\nsorted(os.listdir())"
    for words in (["--data", "-x.csv", "b.csv", "What?"], ["What?", "--data", "b.csv", "-x.csv"]):
        with FakeEndpoint(script(python(code), "Two files.")) as server:
            assert run(["agent", "run", *words, "--endpoint", server.url, "--out", f"run-{words[0]}"]) == 0
        assert read_events(Path(f"run-{words[0]}"))[0]["files"] == {"-x.csv": 24, "b.csv": 24}
        assert server.asked[1]["messages"][-1]["content"] == "['-x.csv', 'b.csv']"


def test_a_folder_whose_name_begins_with_a_hyphen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-my files").mkdir()
    Path("-my files/a.txt").write_text("1")
    with FakeEndpoint(script("One file.")) as server:
        assert run(["agent", "run", "What?", "--workspace", "-my files", "--endpoint", server.url, "--out", "run"]) == 0
    first = read_events(Path("run"))[0]
    assert first["task"] == "What?\n\nFiles in the workspace:\n- a.txt (1 bytes)"


@pytest.mark.parametrize("words", [["-5 + 3?", "--tools", "sql"], ["--tools", "sql", "--", "-5 + 3?"]])
def test_a_task_that_begins_with_a_hyphen(tmp_path: Path, words: list[str]) -> None:
    with FakeEndpoint(script("-2")) as server:
        assert run(["agent", "run", "--endpoint", server.url, "--out", str(tmp_path / "run"), *words]) in (0, 1)
    assert read_events(tmp_path / "run")[0]["task"] == "-5 + 3?"


def test_a_table_in_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("pandas")
    parquet.write_table(pyarrow.table({"sum": [20, 35, 5], "who": ["a", "b", "c"]}), tmp_path / "sales.parquet")
    code = (
        "import pandas as pd\nsales = pd.read_parquet('sales.parquet')\nsales.to_feather('s')\nint(sales['sum'].sum())"
    )
    with FakeEndpoint(script(python(code), "The sum is 60.")) as server:
        words = ["What is the sum?", "--data", str(tmp_path / "sales.parquet"), "--out", str(tmp_path / "run")]
        assert run(["agent", "run", "--endpoint", server.url, *words]) == 0
    assert server.asked[1]["messages"][-1]["content"] == "60"
    assert "pyarrow" in server.asked[0]["tools"][0]["function"]["description"]
    assert run(["agent", "replay", str(tmp_path / "run")]) == 0


def test_a_reader_that_is_not_installed_is_said_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "READERS", {"no-such-reader": (".zzz",)})
    (tmp_path / "a.zzz").write_bytes(b"1")
    line = "note: a.zzz: pandas reads it with no-such-reader, which is not installed here: `pip install no-such-reader`"
    for tools, lines in (("python", [line]), ("files", [])):
        with FakeEndpoint(script("Done.")) as server:
            words = ["--data", str(tmp_path / "a.zzz"), "--tools", tools, "--out", str(tmp_path / tools)]
            assert run(["agent", "run", "--endpoint", server.url, "What?", *words]) == 0
        assert [text for text in capsys.readouterr().err.splitlines() if "zzz" in text and "note" in text] == lines


def test_inputs_are_those_that_the_run_was_given(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another file below inputs/ changes nothing; one that is gone, cut or changed is named."""
    path = told / "inputs" / "sales.csv"
    (told / "inputs" / "stray.csv").write_bytes(b"a\n1\n")
    assert run(["agent", "replay", str(told)]) == 0
    path.write_bytes(SALES.swapcase())
    with pytest.raises(UsageError, match=r"sales.csv is not the file that the run was given: put it back"):
        run(["agent", "replay", str(told)])
    path.write_bytes(SALES[:-1])
    with pytest.raises(UsageError, match=r"sales.csv is of 23 bytes, the run was given 24 bytes: put it back"):
        run(["agent", "replay", str(told)])
    path.unlink()
    with pytest.raises(UsageError, match=r"sales.csv is absent, the run was given 24 bytes"):
        run(["agent", "replay", str(told)])


def test_a_run_that_was_begun_from_python_is_continued_there(tmp_path: Path) -> None:
    """Its log names neither toolsets nor model."""
    with FakeEndpoint(script("Done.")) as server:
        policy = EndpointPolicy(server.url, "m")
        run_agent(policy, "What?", toolbox=Toolbox([]), out=tmp_path / "run")
        policy.close()
    lines = (tmp_path / "run" / "events.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run" / "events.jsonl").write_bytes(b"".join(lines[:-1]))  # killed before its end
    for words in (["resume"], ["replay"], ["replay", "--model"]):
        with pytest.raises(UsageError, match="continue a run of `run_agent` where it was started"):
            run(["agent", words[0], str(tmp_path / "run"), *words[1:]])


def test_a_file_in_a_folders_place_stops_apply_before_it_begins(tmp_path: Path) -> None:
    story = (
        python("import os\nos.makedirs('d/e')\nn = open('a.txt', 'w').write('1') + open('d/e/f', 'w').write('2')"),
    )
    with FakeEndpoint(script(*story, "Done.")) as server:
        assert agent(server, tmp_path) == 0
    out, target = str(tmp_path / "run"), tmp_path / "target"
    target.mkdir()
    (target / "d").write_bytes(b"in the way")
    with pytest.raises(UsageError, match=r"target/d is no folder: remove it"):
        run(["agent", "apply", out, str(target), "--yes"])
    with pytest.raises(UsageError, match=r"target/d is no folder"):
        run(["agent", "apply", out, str(target / "d"), "--yes"])
    assert [p.name for p in target.iterdir()] == ["d"]  # nothing was copied
    (target / "d").unlink()
    assert run(["agent", "apply", out, str(target), "--yes"]) == 0 and (target / "d" / "e" / "f").read_bytes() == b"2"


def test_a_trace_that_cannot_be_written(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, words in {
        str(tmp_path): f"error: {tmp_path}: Is a directory",
        "/proc/none/x.json": "error: /proc/none/x.json cannot be written: /proc/none takes no new files",
        str(told / "answer.json" / "x.json"): f"error: {told / 'answer.json'}",
    }.items():
        assert main(["agent", "trace", str(told), "--otel", place]) == 2
        assert capsys.readouterr().err.startswith(words)


def test_data_that_cannot_go_in(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "a.csv", tmp_path / "sub" / "a.csv", tmp_path / "two\nlines.csv", tmp_path / "c\\d.csv"):
        path.write_bytes(SALES)
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(1 << 40)  # more than there is memory: its size is looked at before it is read
    out = tmp_path / "run"
    with FakeEndpoint(script("Done.")) as server:
        words = ["agent", "run", "--endpoint", server.url, "What?", "--out", str(out)]
        for names, problem in {
            ("sub",): "sub is a folder: give its files, or --workspace",
            ("a.csv", "sub/a.csv"): "two files named a.csv",
            ("two\nlines.csv",): "signs that can be printed",
            ("c\\d.csv",): "without .. and backslashes",
            ("large.csv",): r"take 1048576.0 MB, the workspace holds 64 MB: .*--box-mb",
        }.items():
            with pytest.raises(UsageError, match=problem):
                run([*words, "--data", *(str(tmp_path / name) for name in names)])
        with pytest.raises(UsageError, match="--thinking-budget is -1: give 0 or more"):
            run([*words, "--thinking-budget", "-1"])
        assert not out.exists() and not server.asked
        assert run([*words, "--data", str(tmp_path / "a.csv"), str(tmp_path / "a.csv")]) == 0  # one file, named twice
    assert read_events(out)[0]["files"] == {"a.csv": len(SALES)}


def test_what_a_terminal_would_obey_is_a_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = (calls(("py\n\x1b[2Jthon", {})), "Done.")
    with FakeEndpoint(script(*story)) as server:
        assert agent(server, tmp_path) == 0
    said = capsys.readouterr().err
    assert "call-1: py \ufffd[2Jthon()" in said and "\x1b" not in said
    assert run(["agent", "show", str(tmp_path / "run")]) == 0 and "\x1b" not in capsys.readouterr().out


def test_an_answer_is_what_it_is_but_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "A title\x1b]0;owned\x07\u202e."
    with FakeEndpoint(script(python("open('sales.csv', 'a').write('\x1b[2K4,1')"), answer)) as server:
        assert agent(server, tmp_path) == 0
        assert capsys.readouterr().out == f"{answer}\n"
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert run(["agent", "resume", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == "A title\\x1b]0;owned\\x07\\x202e.\n"
    # What could hide a change from the person who is to copy it out is always shown.
    assert run(["agent", "apply", str(tmp_path / "run"), str(tmp_path), "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "+\\x1b[2K4,1" in shown and "\x1b" not in shown


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"content": None}, "note: the last turn of the model has no text"),
        ({"content": "", "finish_reason": "content_filter"}, "note: the server ended the last turn itself"),
    ],
)
def test_why_there_is_no_answer(
    last: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeEndpoint(script(python("1"), last)) as server:
        assert agent(server, tmp_path) == 1
    assert words in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "answer.json").read_text(encoding="utf-8"))["note"]


def test_a_turn_without_text_is_asked_once_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeEndpoint(script(*STORY[:2], {"content": None, "reasoning_content": "60."}, STORY[2])) as server:
        assert agent(server, tmp_path) == 0
        assert server.asked[3]["messages"][-1]["content"] == NO_ANSWER
    assert capsys.readouterr().out == "The sum is 60.\n"


def test_the_longest_name_that_a_file_can_have(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 125 + ".csv")  # 254 bytes
    path.write_bytes(SALES)
    words = ["What is the sum?", "--data", str(path), "--out", str(tmp_path / "run")]
    with FakeEndpoint(script(python("import os\nos.listdir()"), "Done.")) as server:
        assert run(["agent", "run", "--endpoint", server.url, *words]) == 0
    assert run(["agent", "replay", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "inputs" / path.name).read_bytes() == SALES


def test_a_model_in_this_process(tmp_path: Path) -> None:
    """A model that has learnt nothing: its run is token-exact, ends, and its log is whole."""
    make_model(tmp_path / "model")
    words = ["agent", "run", str(tmp_path / "model"), "What is 1 and 2?", "--out", str(tmp_path / "run")]
    status = run([*words, "--max-new-tokens", "8", "--threads", "1", "--tools", "python"])
    events = read_events(tmp_path / "run")
    assert status == 1 and events[-1]["stop_reason"] in ("length", "context") and events[0]["exact"]
    if events[-1]["stop_reason"] == "length":
        assert len(events[1]["ids"]) == 8 == len(events[1]["mask"])


def test_files_and_budgets_in_any_order(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(SALES)
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    lines = [
        ["Sum?", "--data", *files, "--budget", "model_calls=3", "seconds=60"],
        ["Sum?", "--data", files[0], "--data", files[1], "--budget", "model_calls=3,seconds=60"],
        ["--budget", "model_calls=3", "seconds=60", "--data", *files, "Sum?"],
    ]
    with FakeEndpoint(script("Done.")) as server:
        for number, words in enumerate(lines):
            out = tmp_path / f"run-{number}"
            assert run(["agent", "run", "--endpoint", server.url, "--out", str(out), *words]) == 0
            first = read_events(out)[0]
            assert first["task"].startswith("Sum?") and list(first["files"]) == ["a.csv", "b.csv"]
            assert (first["limits"]["model_calls"], first["limits"]["seconds"]) == (3, 60.0)
        with pytest.raises(UsageError, match="none.csv cannot be read"):
            run(["agent", "run", "--endpoint", server.url, "Sum?", "--data", "none.csv"])


def test_the_tools_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "tools", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    facts = {row["name"]: (row["toolset"], row["effect"]) for row in rows}
    assert facts["python"] == ("python", "workspace") and facts["shell"] == ("shell", "workspace")
