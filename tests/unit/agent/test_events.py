"""Events as lines: any text, and what a log gives back."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwq.agent.events import EventKind, EventLog, read_events
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
