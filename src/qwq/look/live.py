"""A running recipe as its files tell it: stages, the last step, curves, alarms, speed, time left.

It reads recipe.toml, metrics.jsonl, stages/ and fleet/, and holds no lock, so it costs the run
nothing. A run that resumes writes metrics.jsonl again without the steps behind its checkpoint; that
is noticed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwq.common.fleet_log import last_engines, last_events
from qwq.common.run_folder import RunFolder
from qwq.errors import DataError
from qwq.report.wording import figures, visible

RECENT = 20  # steps whose mean speed tells the time left
CURVE_POINTS = 400
ALARMS = 8
POLL_S = 1.0
LEASES_S = 10.0  # how often open leases are looked at where no file changes: they expire, and trainers are killed

Row = dict[str, Any]


class RunWatch:
    """Follows one run's folder. `state` reads what is new; DataError if the folder is no run."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.files = RunFolder(folder)
        if not self.files.holds_a_run:
            raise DataError(
                f"no run at {folder}: it has no recipe.toml; give a folder that `qwq train` writes, such as runs/tiny"
            )
        self.folder, self.clock = folder, clock
        self.recipe = self.files.recipe()
        self._rows: dict[str, list[Row]] = {}
        self._last_stage = ""
        self._read_to, self._inode = 0, -1
        self._again = math.inf  # when to look although no file has changed

    def state(self) -> dict[str, Any]:
        """What there is to show, as JSON."""
        self._read()
        stages = [self._stage(name, config) for name, config in self.recipe["stages"].items()]
        current = next((s for s in stages if s["name"] == self._last_stage), None)
        rows = self._rows.get(self._last_stage, [])
        is_finished = all(s["state"] == "finished" for s in stages)
        engines = last_engines(self.files, self.clock())[1]
        leased = any(engine["open"] for engine in engines.values())
        self._again = self.clock() + LEASES_S if leased else math.inf
        return {
            "run": visible(self.recipe.get("name", self.folder.name)),
            "folder": visible(self.folder),
            "finished": is_finished,
            "stages": stages,
            "stage": current,
            "last": _shown(rows[-1]) if rows else None,
            "words": figures(rows[-1], float(rows[-1].get("seconds", 0.0))) if rows else "",
            "tokens_per_s": _speed(rows),
            "left_s": None if is_finished or current is None else _left(current, rows),
            "age_s": self._age(),
            "curves": _curves(rows),
            "alarms": self._alarms(),
            "engines": [{"url": visible(url)} | engine for url, engine in engines.items()],
        }

    def changes(self, poll_s: float = POLL_S) -> Iterator[dict[str, Any] | None]:
        """The state, and again when its files changed; None after a look that found nothing new."""
        seen: Any = None
        while True:
            marks = self._marks()
            if marks != seen or self.clock() >= self._again:
                seen = marks
                yield self.state()
            else:
                yield None
            time.sleep(poll_s)

    def _marks(self) -> Any:
        paths = [self.files.metrics, *(self.files.record_file(name) for name in self.recipe["stages"])]
        events = last_events(self.files)
        return [_stamp(p) for p in ([*paths, events] if events else paths)]

    def _read(self) -> None:
        """Take in the lines that came since the last call; all if the file was written again."""
        path = self.files.metrics
        if not path.is_file():
            return
        with path.open("rb") as file:
            size, inode, _ = _stamp(path)
            if inode != self._inode or size < self._read_to:
                self._rows, self._read_to, self._inode = {}, 0, inode
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                row["step"] = int(row["step"])
                self._rows.setdefault(row["stage"], []).append(row)
                self._last_stage = row["stage"]
            except (ValueError, TypeError, KeyError):
                continue  # half a line of a kill; the run drops it, too

    def _stage(self, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        rows = self._rows.get(name, [])
        record = _record(self.files.record_file(name))
        state = "finished" if record else "running" if rows else "to come"
        scores = {visible(b): e.get("score") for b, e in (record or {}).get("evals", {}).items()}
        return {
            "name": visible(name),
            "kind": visible(config.get("kind", "")),
            "state": state,
            "step": len(rows) or (record or {}).get("steps", 0),
            "steps": len(rows) if record else config.get("steps"),
            "seconds": round(sum(row.get("seconds", 0.0) for row in rows), 1),
            "scores": scores,
        }

    def _age(self) -> float | None:
        """Seconds since the last step; None before the first."""
        path = self.files.metrics
        return max(0.0, round(self.clock() - path.stat().st_mtime, 1)) if path.is_file() else None

    def _alarms(self) -> list[dict[str, Any]]:
        """The last alarms, newest first."""
        out = [
            {"stage": visible(name), "step": row["step"] + 1, "text": visible(alarm)}
            for name, rows in self._rows.items()
            for row in rows
            for alarm in row.get("alarms", [])
        ]
        return out[::-1][:ALARMS]


def _record(path: Path) -> Row | None:
    """A finished stage's record; None while it is absent or being written."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _stamp(path: Path) -> tuple[int, int, int]:
    """(size, inode, time of change); zeros for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_size, status.st_ino, status.st_mtime_ns


def _shown(row: Row) -> Row:
    """A row's figures, and its words with their hidden characters made visible."""
    return {visible(k): _value(v) for k, v in row.items() if k not in ("contract", "alarms")}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return {visible(k): _value(v) for k, v in value.items()}
    return value if is_finite(value) else visible(value)


def _speed(rows: list[Row]) -> float | None:
    """Tokens a second over the recent steps: sampled ones in RL, trained ones elsewhere."""
    recent = [r for r in rows[-RECENT:] if r.get("tokens") and r.get("seconds")]
    seconds = sum(r["seconds"] for r in recent)
    return round(sum(r["tokens"] for r in recent) / seconds, 1) if seconds else None


def _left(stage: Mapping[str, Any], rows: list[Row]) -> float | None:
    """Seconds until the stage's last step; None if the recipe does not fix its steps."""
    recent = rows[-RECENT:]
    if not recent or not isinstance(stage["steps"], int):
        return None
    mean = sum(r.get("seconds", 0.0) for r in recent) / len(recent)
    return round(mean * max(0, stage["steps"] - stage["step"]), 1)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a browser reads."""
    return isinstance(value, int | float) and math.isfinite(value)


def _curves(rows: list[Row]) -> dict[str, list[list[float]]]:
    """[step from 1, value] of what the stage is judged by, thinned to `CURVE_POINTS`."""
    every = max(1, -(-len(rows) // CURVE_POINTS))
    kept = [row for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]
    curves = {
        key: [[row["step"] + 1, row[key]] for row in kept if is_finite(row.get(key))]
        for key in ("reward", "loss", "length", "entropy")
    }
    return {key: points for key, points in curves.items() if points}
