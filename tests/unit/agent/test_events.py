"""Events as lines: any text, and what a log gives back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwq.agent.events import EventKind, EventLog, read_events, read_run
from qwq.errors import ConfigError, DataError


def test_any_text_and_any_number(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    values = ["a\nb", "数 😀 \u2028", "\ud83d", 2**70, 1.5, None, {"k": ["\x00"]}]
    for value in values:
        log.append(EventKind.CHECK, text=value)
    log.close()
    assert [e["text"] for e in read_events(tmp_path)] == values
    again = EventLog(tmp_path)
    again.append(EventKind.CHECK, text="last")
    again.close()
    assert len(read_events(tmp_path)) == len(values) + 1


def test_seconds_go_on_from_process_to_process(tmp_path: Path) -> None:
    steady = [100.0]
    first = EventLog(tmp_path, steady=lambda: steady[0], wall=lambda: 5.0)
    steady[0] += 2.5
    assert first.append(EventKind.CHECK, text="")["s"] == 2.5
    first.close()
    steady[0] = 7.0  # another process, another clock
    second = EventLog(tmp_path, steady=lambda: steady[0], wall=lambda: 9.0)
    steady[0] += 1.25
    event = second.append(EventKind.CHECK, text="")
    second.close()
    assert (event["s"], event["t"], event["n"]) == (3.75, 9.0, 1)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    with pytest.raises(ConfigError, match="another process runs the agent in"):
        EventLog(tmp_path)
    log.close()


def test_a_log_of_another_format_is_refused(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(EventKind.RUN, format=99)
    log.close()
    with pytest.raises(DataError, match="line 1: format 99, this qwq reads format 1"):
        read_events(tmp_path)
    with pytest.raises(DataError, match=r"no events.jsonl in"):
        read_events(tmp_path / "none")


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"event": "finish", "stop_reason": "end", "files": {}}, "line 2: the event finish lacks 'answer'"),
        ({"event": "result", "id": "call-1"}, "line 2: the event result lacks 'tool'"),
        ({"event": "model_turn"}, "line 2: the event model_turn lacks 'turn'"),
        ({"event": "check", "text": "", "s": None}, "line 2: the event check lacks 's'"),
        ({"event": "nothing"}, "line 2: no event of an agent's run"),
    ],
)
def test_a_last_line_that_was_changed(tmp_path: Path, last: dict[str, Any], words: str) -> None:
    """No line follows that would hold its hash."""
    log = EventLog(tmp_path)
    log.append(EventKind.RUN, format=1, task="")
    log.append(EventKind.CHECK, text="")
    log.close()
    path = tmp_path / "events.jsonl"
    first, second = path.read_text(encoding="utf-8").splitlines()
    changed = {k: v for k, v in ({**json.loads(second)} | last).items() if k != "text" or last["event"] == "check"}
    changed = {k: v for k, v in changed.items() if v is not None}
    path.write_text(f"{first}\n{json.dumps(changed)}\n", encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_events(tmp_path)
    with pytest.raises(DataError, match=words):
        EventLog(tmp_path)


def test_a_log_begins_with_its_run(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(EventKind.CHECK, text="")
    log.close()
    with pytest.raises(DataError, match="line 1: no run begins so"):
        read_run(tmp_path)
