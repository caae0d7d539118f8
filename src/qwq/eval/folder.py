"""A folder of results: what was sampled with which settings, every sample, and the figures.

    settings.json          by benchmark, what may not change between two starts; another value is refused
    samples/BENCH.jsonl    one line a sample: prompt, output, verdict, timing, tokens, seed
    samples/BENCH.pending  replies that are not graded yet; gone when the benchmark is done
    results.json           {BENCH: {"score", "ci95", "n", "mean_tokens", "mean_thinking_tokens", ...}}
    report.html            one page

A line that holds a server's failure (`infra_error`) never counts: it says what happened, and its
sample is asked for again. How the samples survive a kill: `rollout.store`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwq.common.files import locked as locked_folder
from qwq.common.files import write_atomic
from qwq.errors import DataError
from qwq.rollout.store import SampleStore, check_settings
from qwq.rollout.store import read_samples as read_store
from qwq.types import Outcome

Key = tuple[str, int, int | None]


def key_of(record: Mapping[str, Any]) -> Key:
    """(problem, number of the sample, thinking budget)."""
    return record["problem_id"], record["sample"], record["thinking_budget"]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a results folder; ConfigError if another evaluation does."""
    with locked_folder(out, f"another evaluation is writing to {out}: wait for it, or give another --out"):
        yield


def agree(out: Path, bench: str, settings: Mapping[str, Any]) -> None:
    """Write down a benchmark's settings, or compare them with those that its samples were made
    with.
    """
    path = out / "settings.json"
    known = read_object(path)
    if known.get(bench) is None:
        write_atomic(path, json.dumps(known | {bench: settings}, indent=1))
    else:
        check_settings(f"{bench} in {out}", known[bench], settings)


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


def samples_path(out: Path, bench: str) -> Path:
    """Where a benchmark's samples are."""
    return out / "samples" / (re.sub(r"[^\w.-]", "-", bench) + ".jsonl")


def open_samples(out: Path, bench: str) -> SampleStore[Key]:
    """A benchmark's samples, to be added to."""
    path = samples_path(out, bench)
    return SampleStore(path, key_of, counts=_counts(out, bench), pending=path.with_suffix(".pending"))


def read_samples(out: Path, bench: str) -> dict[Key, dict[str, Any]]:
    """The samples of a benchmark that count, by key. DataError for a damaged line."""
    return read_store(samples_path(out, bench), key_of, _counts(out, bench))


def latest(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of some records, those that count: the last of each sample, without a server's failures."""
    return list({key_of(r): r for r in records if is_sample(r, served=False)}.values())


def _counts(out: Path, bench: str) -> Any:
    served = "served" in (read_object(out / "settings.json").get(bench) or {}).get("model", {})
    return functools.partial(is_sample, served=served)


def is_sample(record: Mapping[str, Any], *, served: bool) -> bool:
    """Whether a record, graded or not, holds what the model did. `served`: it came from a server.

    Records of a server that say nothing and not how the answer ended are of a version that took the
    server's failures for empty answers.
    """
    if record.get("verdict", {}).get("outcome") == Outcome.INFRA_ERROR:
        return False
    return bool(record["output"] or record.get("turns") or record.get("finish")) or not served
