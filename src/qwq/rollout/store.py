"""Samples on disk: what a model answered survives a kill at any moment, and no finished sample is
made twice.

There are two forms, both JSON lines:

- `SampleStore`: one file that grows, for evaluation (`samples/BENCH.jsonl`) and distillation
  (`OUT.samples.jsonl`). A line is written as soon as its sample is there, so a kill loses at most
  the line under way. Of several lines of one sample the last counts, and a line that says why there
  is no sample never counts. One process writes at a time.
- `RolloutStore`: one file for each step of an RL stage (`rollouts/STAGE/step-00000.jsonl`),
  complete or absent, since a step trains on all of its rollouts or samples them again.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from qwq.common.files import GrowingFile, atomic_file, whole_lines
from qwq.common.jsonl import to_line
from qwq.errors import ConfigError, DataError
from qwq.types import Rollout

Record = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
SETTINGS = "settings"  # the key of a first line that holds what all samples of a file were made with
_SAMPLED_AGAIN = "delete the file, and the same command samples this step again"


class SampleStore(Generic[Key]):
    """Samples in one growing file. `records` holds those that count, by key.

    `key` gives a record's key (KeyError for what is no sample); `counts` says whether a record is a
    sample of the model and no failure. `settings` go into the first line of each file, and a file
    with other settings is refused. With `pending`, replies wait in a second file for their verdict
    (`ungraded`); `close` removes the file if none waits. Methods may be called from several
    threads. Errors: ConfigError (other settings, another process), DataError (a damaged line),
    CapacityError (disk full).
    """

    def __init__(
        self,
        path: Path,
        key: Callable[[Mapping[str, Any]], Key],
        *,
        counts: Callable[[Mapping[str, Any]], bool] = bool,
        settings: Mapping[str, Any] | None = None,
        pending: Path | None = None,
        durable: bool = False,
    ) -> None:
        busy = f"another process is writing to {path}: wait for it, or give another --out"
        self.path, self._key, self._lock = path, key, threading.Lock()
        self._file = GrowingFile(path, busy, durable=durable)
        self._pending = None if pending is None else GrowingFile(pending, busy)
        try:
            for file in (self._file, self._pending):
                if settings is not None and file is not None:
                    _agree(file, settings)
            self.records = read_samples(path, key, counts)
            waiting = {} if pending is None else read_samples(pending, key, counts)
        except BaseException:
            self._file.close()
            if self._pending is not None:
                self._pending.close()
            raise
        self.ungraded = {k: r for k, r in waiting.items() if k not in self.records}

    def reply(self, record: Record) -> None:
        """Keep a reply until its verdict is there."""
        assert self._pending is not None
        self._append(self._pending, record)
        with self._lock:
            self.ungraded[self._key(record)] = record

    def add(self, record: Record) -> None:
        """Keep a sample; it replaces an earlier one of its key."""
        self._append(self._file, record)
        with self._lock:
            self.records[self._key(record)] = record
            self.ungraded.pop(self._key(record), None)

    def add_failure(self, record: Mapping[str, Any]) -> None:
        """Keep a record of why there is no sample."""
        self._append(self._file, record)

    def _append(self, file: GrowingFile, record: Mapping[str, Any]) -> None:
        line = to_line(record)
        with self._lock:
            file.append(line)

    def close(self) -> None:
        """Let go of the files."""
        self._file.close()
        if self._pending is not None:
            self._pending.close()
            if not self.ungraded:
                self._pending.path.unlink(missing_ok=True)


def _agree(file: GrowingFile, settings: Mapping[str, Any]) -> None:
    """Write the settings into the first line, or compare them with those that are there."""
    first = next((record for _, record in _records(file.path)), None)
    if first is None:
        file.append(to_line({SETTINGS: settings}))
    elif not isinstance(first.get(SETTINGS), dict):
        raise DataError(f"{file.path}, line 1: no settings: give another --out, or remove the file")
    else:
        check_settings(str(file.path), first[SETTINGS], settings)


def read_samples(
    path: Path, key: Callable[[Mapping[str, Any]], Key], counts: Callable[[Mapping[str, Any]], bool] = bool
) -> dict[Key, Record]:
    """The samples of a growing file that count, by key, without a torn last line.

    DataError for any other damaged line.
    """
    out = {}
    for number, record in _records(path):
        if number == 1 and SETTINGS in record:
            continue
        try:
            name, good = key(record), counts(record)
        except (KeyError, TypeError):
            raise _no_sample(path, number) from None
        if good:
            out[name] = record
    return out


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(whole_lines(path), 1):
        try:
            record = json.loads(line)
        except ValueError:
            raise _no_sample(path, number) from None
        if not isinstance(record, dict):
            raise _no_sample(path, number)
        yield number, record


def _no_sample(path: Path, number: int) -> DataError:
    return DataError(f"{path}, line {number}: no sample: remove the line, and the sample is made again")


def check_settings(where: str, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ConfigError with both values of every setting that differs from what the samples at `where`
    were made with.
    """
    now = json.loads(json.dumps(now))
    changed = [
        f"{k} was {stored.get(k)!r}, is now {now.get(k)!r}"
        for k in sorted(stored.keys() | now.keys())
        if stored.get(k) != now.get(k)
    ]
    if changed:
        shown = "; ".join(c if len(c) < 240 else c[:240] + " ..." for c in changed)
        raise ConfigError(
            f"{where} holds samples made with other settings ({shown}): give the same options, or another --out"
        )


class RolloutStore:
    """A stage's rollouts, one file a step.

    They are written before they are trained on, and read by a run that resumes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:05d}.jsonl"

    def write(self, step: int, rollouts: Iterable[Rollout]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path(step)) as file:
            for rollout in rollouts:
                # json, not orjson, here and in `read`: a completion may decode to lone surrogates,
                # and floats must read back exactly.
                file.write(json.dumps(rollout.to_dict()).encode() + b"\n")

    def read(self, step: int, samples: int = 1) -> list[Rollout] | None:
        """A step's rollouts, or None if they were never completely written.

        DataError if a line is damaged or a group short of `samples`.
        """
        path = self.path(step)
        if not path.exists():
            return None
        rollouts: list[Rollout] = []
        with path.open("rb") as file:
            for line in file:
                try:
                    rollouts.append(Rollout.from_dict(json.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise DataError(f"{path}, line {len(rollouts) + 1}: damaged ({error}): {_SAMPLED_AGAIN}") from None
        sizes = Counter(r.group for r in rollouts)
        if not sizes or min(sizes.values()) < samples:
            held = f"a group of {min(sizes.values())} rollouts, {samples} were sampled" if sizes else "no rollout"
            raise DataError(f"{path}: damaged (it holds {held}): {_SAMPLED_AGAIN}")
        return rollouts
