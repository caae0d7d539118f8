"""Claims of deeds, placeholders, and the page: what a report says was done, and what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwq.agent.events import Event, EventKind, EventLog
from qwq.agent.report import check_deeds, correction, write_report
from qwq.agent.report.checked import check_text
from qwq.agent.report.steps import read_steps
from qwq.agent.report.write import NO_ANSWER
from qwq.errors import DataError
from qwq.sandbox.jail.notebook import Notebook
from qwq.sandbox.jail.report_values import VALUE

HASH = "ab" * 32


def call(ident: str, tool: str, text: str, kind: str = "ok", **more: Any) -> list[Event]:
    arguments = more.pop("arguments", {})
    return [
        {"event": "call", "id": ident, "tool": tool, "arguments": arguments},
        {"event": "tool_started", "id": ident, "tool": tool, "effect": more.pop("effect", "workspace")},
        {
            "event": "result", "id": ident, "tool": tool, "kind": kind, "text": text, "seconds": 0.1,
            "artefacts": more.pop("artefacts", []), "whole": None, "detail": more,
        },
    ]  # fmt: skip


def shell(ident: str, command: str, text: str, status: int) -> list[Event]:
    kind = "ok" if status == 0 else "error"
    return call(ident, "shell", text, kind, exit_status=status, arguments={"command": command})


def events(*calls: list[Event], answer: str = "", added: dict[str, Any] | None = None) -> list[Event]:
    first: Event = {"event": "run", "format": 1, "task": "Do it.", "files": {"data.csv": 10}, "model": "m"}
    last: Event = {"event": "finish", "answer": answer, "stop_reason": "end", "files": {"added": added or {}}}
    return [first, *(event for made in calls for event in made), last]


PYTEST = shell("call-1", "pytest -q", "2 passed in 0.1s", 0)
FAILED = shell("call-1", "pytest -q", "1 failed, 1 passed in 0.1s", 1)
EDIT = call("call-2", "edit", "edited", arguments={"path": "a.py"})
PLOT = {"plot.png": {"bytes": 1234, "sha256": HASH}}
GONE = events(added=PLOT)
GONE[-1]["files"]["removed"] = {"data.csv": {"bytes": 10, "sha256": HASH}}


@pytest.mark.parametrize(
    ("text", "log", "expected"),
    [
        ("I saved the chart to plot.png.", events(added=PLOT), [True]),
        ("The chart was written to `out/plot.png`.", events(added=PLOT), [True]),
        ("图表已保存到 plot.png。", events(added=PLOT), [True]),
        ("I created report.xlsx.", events(added=PLOT), [False]),
        ("I updated data.csv.", events(), [False]),
        ("All tests pass.", events(PYTEST), [True]),
        ("The test suite passed.", events(FAILED), [False]),
        ("所有测试都通过了。", events(PYTEST), [True]),
        ("All tests pass now.", events(PYTEST, EDIT), [False]),
        ("All tests pass.", events(EDIT), [False]),
        ("I sent the summary by e-mail.", events(), [False]),
        ("I sent it.", events(call("call-1", "mail", "sent", effect="external")), [True]),
        # A file that was read, sales that came back, people who passed a test: no deeds.
        ("I read data.csv and plotted the revenue of data.csv.", events(), []),
        ("The chart was made from data.csv, generated with pandas.", events(), []),
        ("I wrote a summary of data.csv to summary.md.", events(), [False]),
        ("Customers sent back 12.3% of what they bought; the firm posted a loss.", events(), []),
        ("The report was sent to the team.", events(), [False]),
        ("Of the students 42 passed the test.", events(), []),
        ("1 of 2 tests passed.", events(FAILED), [True]),
        ("2 of 2 tests passed.", events(FAILED), [False]),
        # Files that are gone, or have another name.
        ("I deleted data.csv.", events(), [False]),
        ("I deleted the old file `data.csv`.", GONE, [True]),
        ("data.csv was removed.", GONE, [True]),
        ("I removed tmp.csv.", events(), [False]),
        ("I removed tmp.csv.", events(shell("call-1", "rm tmp.csv", "", 0)), [True]),
        ("I renamed data.csv to plot.png.", events(), [False, False]),
        ("I renamed `data.csv` to `plot.png`.", GONE, [True, True]),
        ("I removed 3 rows of data.csv, and moved the mean.", events(), []),
        # What was run.
        ("I ran `pytest -q` first.", events(PYTEST), [True]),
        ("I executed `make build`.", events(PYTEST), [False]),
        ("I ran the script clean.py.", events(shell("call-1", "python3 ./clean.py", "", 0)), [True]),
        ("I ran the script clean.py.", events(), [False]),
        ("我运行了 `make build`。", events(), [False]),
        ("The shop ran 12 offers and executed trades of 3.", events(), []),
        ("I installed pandas.", events(), [False]),
        ("I installed pandas.", events(shell("call-1", "pip install pandas", "", 0)), [True]),
        ("The changes were committed.", events(shell("call-1", "git commit -qm x", "", 1)), [False]),
        # Places outside of the workspace, and addresses.
        ("Output was written to /tmp/out.csv.", events(), [False]),
        ("It was saved to /work/plot.png.", events(added=PLOT), [True]),
        ("It was added at https://example.org/out.csv.", events(), []),
        # Other languages.
        ("Ich habe plot.png gespeichert.", events(added=PLOT), [True]),
        ("Die Tabelle wurde in out.csv gespeichert.", events(), [False]),
        ("out.csv wurde nicht erstellt, out.csv kann erstellt werden.", events(), []),
        ("J'ai enregistré out.csv, créé à partir de data.csv.", events(), [False]),
        ("Le fichier out.csv n'a pas été créé.", events(), []),
        ("He guardado out.csv.", events(), [False]),
        # No claims.
        ("If the tests pass, deploy. Once I have sent it, you know.", events(), []),
        ("You can save it to plot.png.", events(), []),
        ("The tests do not pass yet.", events(), []),
        ("The file data.csv has ten rows.", events(), []),
        ("The next step would be that all tests pass.", events(), []),
        ("```\nwrote plot.png\n```", events(), []),
    ],
)
def test_claims_are_checked_against_events(text: str, log: list[Event], expected: list[bool]) -> None:
    assert [deed.is_proven for deed in check_deeds(text, log)] == expected


def test_a_proof_names_the_file_and_its_hash() -> None:
    (deed,) = check_deeds("I saved plot.png.", events(added=PLOT))
    assert (deed.text, deed.start) == ("plot.png", 8)
    assert deed.reason == f"plot.png, 1,234 bytes, sha256 {HASH[:12]}"


def test_before_the_end_the_listing_of_the_last_call_tells() -> None:
    log = events(call("call-1", "python", "", cell=1, files={"data.csv": 10, "plot.png": 5}))[:-1]
    assert [d.is_proven for d in check_deeds("I saved plot.png and updated data.csv.", log)] == [True, False]


# -- the model's correction ------------------------------------------------------------------------

CELL = call("call-1", "python", "mean    32.20", cell=1, arguments={"code": "df.fare.describe()"})


def test_the_model_is_told_what_is_unsupported_and_nothing_else() -> None:
    assert correction("The mean is 32.2.", events(CELL)) == ""
    assert correction(" \n", events(CELL)) == correction("", []) == NO_ANSWER
    text = correction("The mean is 33.2, in plot.png, which I saved.", events(CELL))
    assert "- 33.2 (in: The mean is 33.2, in plot.png" in text and "no call wrote plot.png" in text
    assert "32.2" not in text.replace("33.2", "")


def test_a_report_that_was_written_as_a_file_is_what_is_checked() -> None:
    written = call("call-2", "write", "ok", arguments={"path": "report.md", "content": "The mean is 99.9."})
    assert "What" not in (text := correction("Done.", events(CELL, written))) and "99.9" in text
    assert "Some of what report.md says" in text


# -- placeholders ----------------------------------------------------------------------------------


def registering(code: str) -> list[dict[str, Any]]:
    notebook = Notebook({}, with_report=True)
    ran = notebook.run(code, 1)
    if ran["error"]:
        raise ValueError(ran["error"][0]["evalue"])
    return [json.loads(d["data"][VALUE]) for d in ran["display"] if VALUE in d["data"]]


def test_a_cell_registers_values_and_tables() -> None:
    code = "report.value('share', 0.3838, '.1%')\nreport.table('t', [{'city': 'Oslo', 'n': 1200, 'mean': 2.5}])"
    assert registering(code) == [
        {"name": "share", "kind": "value", "text": "38.4%"},
        {"name": "t", "kind": "table", "columns": ["city", "n", "mean"], "rows": [["Oslo", "1,200", "2.5"]]},
    ]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("report.value('a b', 1)", "'a b' is no name"),
        ("report.value('a', '')", "0 characters long"),
        ("report.table('t', [1, 2])", "a table is a frame"),
        ("report.figure('f')", "no figure is open for 'f'"),
    ],
)
def test_what_cannot_be_registered_is_an_error_of_the_cell(code: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registering(code)


def strict(text: str) -> tuple[str, list[tuple[str, str | None]]]:
    values = registering("report.value('share', 0.3838, '.1%')\nreport.value('n', 891, ',')")
    log = events(call("call-1", "python", "share = 38.4%\nn = 891", cell=1, values=values))
    checked = check_text(text, log, read_steps(log))
    assert checked.is_strict
    return checked.text, [(c.text, c.source) for c in checked.numbers]


def test_placeholders_are_filled_and_typed_numbers_are_errors() -> None:
    assert strict("Of {{n}} passengers {{ share }} survived in 1912.") == (
        "Of 891 passengers 38.4% survived in 1912.", [("891", "cell 1"), ("38.4%", "cell 1")]
    )  # fmt: skip
    # The right number is an error too when it is typed.
    assert strict("{{share}} of 891, and 7 more")[1] == [("38.4%", "cell 1"), ("891", None), ("7", None)]
    assert strict("{{share}} of {{m}}")[1] == [("38.4%", "cell 1"), ("{{m}}", None)]


# -- the page --------------------------------------------------------------------------------------


def written(tmp_path: Path, answer: str, *calls: list[Event], report: str | None = None) -> tuple[str, str]:
    log = EventLog(tmp_path)
    for event in events(*calls, answer=answer):
        log.append(EventKind(event.pop("event")), **event)
    log.close()
    if report is not None:
        (tmp_path / "workspace").mkdir()
        (tmp_path / "workspace" / "report.md").write_text(report, encoding="utf-8")
    write_report(tmp_path)
    return (tmp_path / "report.md").read_text(encoding="utf-8"), (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_of_a_model_or_a_tool_becomes_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> ![x](javascript:alert(1)) [y](javascript:alert(2)) 32.2"
    cell = call(
        "call-1", "python", "</pre><script>x</script> mean 32.20", cell=1, arguments={"code": "print('</pre>')"}
    )
    _, page = written(tmp_path, evil, cell)
    assert "<script" not in page and 'href="javascript' not in page and 'src="javascript' not in page
    assert "default-src 'none'" in page and '<a class="num" href="#call-1-v1"' in page
    assert '<b class="value" id="call-1-v1">32.20</b>' in page


def test_a_link_leads_to_the_file_whatever_its_name(tmp_path: Path) -> None:
    artefact = {"name": "50% #1?.csv", "bytes": 5, "sha256": HASH, "media_type": "text/csv", "title": ""}
    _, page = written(tmp_path, "Done.", call("call-1", "python", "", cell=1, artefacts=[artefact]))
    assert '<a href="artefacts/50%25%20%231%3F.csv">artefacts/50% #1?.csv</a>' in page


def test_a_run_of_which_nothing_was_written_has_no_report(tmp_path: Path) -> None:
    EventLog(tmp_path).close()
    with pytest.raises(DataError, match="before its first event: there is nothing to report"):
        write_report(tmp_path)


def test_an_answer_without_numbers_stays_as_it_is(tmp_path: Path) -> None:
    assert written(tmp_path, "It is done.")[0] == "It is done.\n"


def test_a_report_of_the_workspace_is_the_report_and_the_answer_is_beside_it(tmp_path: Path) -> None:
    report, page = written(tmp_path, "See the report.", CELL, report="# Fares\n\nThe mean was **32.2**, not 35.1.")
    assert "# Fares" in report and "35.1 **[unsupported]**" in report and "See the report." not in report
    assert "<title>Fares</title>" in page and "See the report." in page
    assert '<strong><a class="num"' in page and '<mark class="num bad" id="n1"' in page


def test_a_run_that_has_not_ended_has_no_report(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(EventKind.RUN, format=1, task="Do it.")
    log.close()
    with pytest.raises(DataError, match="the run has not ended"):
        write_report(tmp_path)
