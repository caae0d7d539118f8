"""A folder of results: what was sampled with which settings, and every sample as soon as it is made.

    settings.json          by benchmark, what may not change between two starts; another value is refused
    samples/BENCH.jsonl    one line a sample: prompt, output, verdict, timing, tokens, seed
    samples/BENCH.pending  replies that are not graded yet; gone when the benchmark is done
    results.json           {BENCH: {"score", "ci95", "n", "mean_tokens", "mean_thinking_tokens", ...}}
    report.html            one page

Lines are appended and flushed one by one, so a kill loses at most the line under way, which is cut off at the next start.
Of several lines of one sample the last counts. A line that holds a server's failure (`infra_error`) never counts: it says what happened,
and its sample is asked for again.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from qwq.common.files import cut_torn_line, whole_lines, write_atomic
from qwq.common.files import locked as locked_folder
from qwq.common.jsonl import to_line
from qwq.errors import ConfigError, DataError
from qwq.types import Outcome

Key = tuple[str, int, int | None]


def key_of(record: Mapping[str, Any]) -> Key:
    """(problem, number of the sample, thinking budget)."""
    return record["problem_id"], record["sample"], record["thinking_budget"]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a results folder; ConfigError where another evaluation does."""
    with locked_folder(out, f"another evaluation is writing to {out}: wait for it, or give another --out"):
        yield


def agree(out: Path, bench: str, settings: Mapping[str, Any]) -> None:
    """Write down a benchmark's settings, or hold them against those that its samples were made with."""
    path = out / "settings.json"
    known = read_object(path)
    stored, now = known.get(bench), json.loads(json.dumps(settings))
    if stored is None:
        write_atomic(path, json.dumps(known | {bench: now}, indent=1))
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


def is_sample(record: Mapping[str, Any], *, served: bool) -> bool:
    """Whether a record, graded or not, holds what the model did. `served`: it came from a server.

    Records of a server that say nothing and not how the answer ended are of a version that took the server's failures for empty answers.
    """
    if record.get("verdict", {}).get("outcome") == Outcome.INFRA_ERROR:
        return False
    return bool(record["output"] or record.get("turns") or record.get("finish")) or not served


class SampleStore:
    """One benchmark's samples on disk. `records` holds those that count, by key."""

    def __init__(self, out: Path, bench: str) -> None:
        folder = out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{file_name(bench)}.jsonl"
        self.pending_path = folder / f"{file_name(bench)}.pending"
        served = _is_served(out, bench)
        self.records = latest(_records(self.path), served=served)
        waiting = latest(_records(self.pending_path), served=served)
        self.ungraded = {k: r for k, r in waiting.items() if k not in self.records}
        self._lock = threading.Lock()
        for path in (self.path, self.pending_path):
            cut_torn_line(path)
        self._file: IO[bytes] = self.path.open("ab")
        self._pending: IO[bytes] = self.pending_path.open("ab")

    def reply(self, record: Mapping[str, Any]) -> None:
        """Keep a reply until its verdict is there."""
        self._append(self._pending, record)

    def add(self, record: dict[str, Any]) -> None:
        self._append(self._file, record)
        with self._lock:
            self.records[key_of(record)] = record

    def add_failure(self, record: dict[str, Any]) -> None:
        """Keep a record of why there is no sample."""
        self._append(self._file, record)

    def _append(self, file: IO[bytes], record: Mapping[str, Any]) -> None:
        line = to_line(record)
        with self._lock:
            file.write(line)
            file.flush()

    def close(self, *, done: bool) -> None:
        self._file.close()
        self._pending.close()
        if done:
            self.pending_path.unlink(missing_ok=True)


def read_samples(out: Path, bench: str) -> dict[Key, dict[str, Any]]:
    """The samples of a benchmark that count, by key, without a half last line. DataError for any other line that is no record."""
    return latest(_records(out / "samples" / f"{file_name(bench)}.jsonl"), served=_is_served(out, bench))


def _is_served(out: Path, bench: str) -> bool:
    return "served" in (read_object(out / "settings.json").get(bench) or {}).get("model", {})


def latest(records: Iterable[dict[str, Any]], *, served: bool) -> dict[Key, dict[str, Any]]:
    return {key_of(r): r for r in records if is_sample(r, served=served)}


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(whole_lines(path), 1):
        try:
            record = json.loads(line)
            key_of(record)
        except (ValueError, KeyError, TypeError):
            # A disk that filled up leaves a half line, too; only the last one can be under way.
            raise DataError(f"{path}, line {number}: no sample: remove the line, it will be made again") from None
        yield record
