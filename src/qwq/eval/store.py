"""A folder of results: what was sampled with which settings, and every sample as soon as it is made.

    settings.json          by benchmark, what may not change between two starts; another value is refused
    samples/BENCH.jsonl    one line a sample: prompt, output, verdict, timing, tokens, seed
    samples/BENCH.pending  replies that are not graded yet; gone when the benchmark is done
    results.json           {BENCH: {"score", "ci95", "n", "mean_tokens", "mean_thinking_tokens", ...}}
    report.html            one page

Lines are appended and flushed one by one, so a kill loses at most the line under way, which is cut off at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from qwq.errors import ConfigError, DataError
from qwq.model.folder import write_atomic

Key = tuple[str, int, int | None]


def key_of(record: Mapping[str, Any]) -> Key:
    """(problem, number of the sample, thinking budget)."""
    return record["problem_id"], record["sample"], record["thinking_budget"]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a results folder; ConfigError where another evaluation does."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another evaluation is writing to {out}: wait for it, or give another --out") from None
        yield


def agree(out: Path, bench: str, settings: Mapping[str, Any]) -> None:
    """Write down a benchmark's settings, or hold them against those that its samples were made with."""
    path = out / "settings.json"
    known = read_object(path)
    stored, now = known.get(bench), json.loads(json.dumps(settings))
    if stored is None:
        write_atomic(path, json.dumps(known | {bench: now}, indent=1).encode())
        return
    changed = [
        f"{k} was {stored.get(k)!r}, is now {now.get(k)!r}"
        for k in sorted(stored.keys() | now.keys())
        if stored.get(k) != now.get(k)
    ]
    if changed:
        shown = "; ".join(c if len(c) < 240 else c[:240] + " ..." for c in changed)
        raise ConfigError(
            f"{out} holds samples of {bench} made with other settings ({shown}): give another --out, or the same options"
        )


def read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): delete it, or give another --out") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} holds no object: delete it, or give another --out")
    return data


def file_name(bench: str) -> str:
    return re.sub(r"[^\w.-]", "-", bench)


class SampleStore:
    """One benchmark's samples on disk."""

    def __init__(self, out: Path, bench: str) -> None:
        folder = out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{file_name(bench)}.jsonl"
        self.pending_path = folder / f"{file_name(bench)}.pending"
        self.records: dict[Key, dict[str, Any]] = {key_of(r): r for r in whole_lines(self.path)}
        self.ungraded = {key_of(r): r for r in whole_lines(self.pending_path) if key_of(r) not in self.records}
        self._lock = threading.Lock()
        for path in (self.path, self.pending_path):
            _mend(path)
        self._file: IO[bytes] = self.path.open("ab")
        self._pending: IO[bytes] = self.pending_path.open("ab")

    def reply(self, record: Mapping[str, Any]) -> None:
        """Keep a reply until its verdict is there."""
        self._append(self._pending, record)

    def add(self, record: dict[str, Any]) -> None:
        self._append(self._file, record)
        with self._lock:
            self.records[key_of(record)] = record

    def _append(self, file: IO[bytes], record: Mapping[str, Any]) -> None:
        try:
            line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, which some server sent: escaped, so that any reader takes it
            line = json.dumps(record).encode() + b"\n"
        with self._lock:
            file.write(line)
            file.flush()

    def close(self, *, done: bool) -> None:
        self._file.close()
        self._pending.close()
        if done:
            self.pending_path.unlink(missing_ok=True)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without a half last line. DataError for any other line that is no record."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    records = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            key_of(record)
        except (ValueError, KeyError, TypeError):
            # A disk that filled up leaves a half line, too; only the last one can be under way.
            raise DataError(f"{path}, line {number}: no sample: remove the line, it will be made again") from None
        records.append(record)
    return records


def _mend(path: Path) -> None:
    """Cut off a half last line, so that the next one begins anew."""
    if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
