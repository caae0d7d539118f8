"""Metrics of the sets for agents, from their stored samples: calls, tokens, seconds, recoveries,
stop reasons and pass^k, with 95% intervals over problems.

A call failed where it could not be read, or where its result is an error. A sample recovered where
a right call follows a failed one and the sample is correct: the share is of the samples with a
failed call. pass^k is the chance that k samples of a problem are all right (Yao et al. 2024, arXiv
2406.12045, estimated without replacement).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwq.common import estimates
from qwq.common.stats import wilson

Records = Sequence[Mapping[str, Any]]

_ERROR = re.compile(r"\s*error\b|Traceback \(most recent call last\)", re.IGNORECASE)


def agent_figures(records: Records, tools: str, tries: int) -> dict[str, Any]:
    """Entries of the task's results; `tools` and `tries` are those of its protocol."""
    out: dict[str, Any] = {
        "tools": tools,
        "calls": mean(records, num_calls),
        "failed_calls": mean(records, num_failed),
        "tokens": mean(records, lambda r: r["tokens"]),
        "seconds": mean(records, lambda r: r.get("wall_seconds", r["seconds"])),
        "recoveries": recoveries(records),
        "stop_reasons": shares(Counter(r["stop_reason"] for r in records)),
        "pass_hat_k": pass_hat_k(records),
    }
    if tries > 1:
        on_try = Counter(r["detail"].get("tries", 1) for r in records if r["score"] == 1)
        right = {n: sum(count for at, count in on_try.items() if at <= n) for n in range(1, tries + 1)}
        out["right_within_tries"] = {str(n): share(count, len(records)) for n, count in right.items()}
    return out


def share(count: int, total: int) -> dict[str, Any]:
    """A count as a share with Wilson's interval; null where there is nothing to count."""
    return {"n": count, "share": count / total if total else None, "ci95": wilson(count, total)}


def shares(counts: Counter[str]) -> dict[str, Any]:
    total = sum(counts.values())
    return {name: share(count, total) for name, count in sorted(counts.items())}


def mean(records: Records, value: Callable[[Mapping[str, Any]], float]) -> dict[str, Any]:
    """Mean over problems of a sample's value, with a bootstrap interval."""
    means = _means(records, value)
    return {"mean": sum(means) / len(means), "ci95": estimates.mean_interval(means)}


def rate(records: Records, value: Callable[[Mapping[str, Any]], float]) -> dict[str, Any]:
    """Mean over problems of a sample's share, with the interval of a share."""
    means = _means(records, value)
    return {"n": len(means), "share": sum(means) / len(means), "ci95": estimates.share_interval(means)}


def _means(records: Records, value: Callable[[Mapping[str, Any]], float]) -> list[float]:
    return [sum(map(value, rows)) / len(rows) for rows in _by_problem(records)]


def recoveries(records: Records) -> dict[str, Any]:
    failed = [r for r in records if num_failed(r)]
    recovered = sum(has_recovered(r) for r in failed)
    return {"samples_with_failed_calls": len(failed), **share(recovered, len(failed))}


def pass_hat_k(records: Records) -> dict[str, Any]:
    """pass^k for 1 to the number of samples that every problem has, at most 8."""
    groups = [[r["score"] == 1 for r in rows] for rows in _by_problem(records)]
    most = min(8, *map(len, groups)) if groups else 0
    out = {}
    for k in range(1, most + 1):
        chances = [estimates.pass_hat_k(len(g), sum(g), k) for g in groups]
        out[str(k)] = {"value": sum(chances) / len(chances), "ci95": estimates.share_interval(chances)}
    return out


def _by_problem(records: Records) -> list[list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["problem_id"], []).append(record)
    return list(groups.values())


# -- one sample ------------------------------------------------------------------------------------


def attempts(record: Mapping[str, Any]) -> list[bool]:
    """Each call of a sample in order, True where it went well. Malformed calls of a turn are put
    behind its readable ones; calls that nobody answered are left out.
    """
    out: list[bool] = []
    for turn in record.get("turns") or ():
        results = turn.get("results") or ()
        out += [not is_error(result) for result in results]
        out += [False] * turn["malformed"]
    return out


def is_error(result: str) -> bool:
    """Whether a call's result says that the call failed."""
    return _ERROR.match(result) is not None or "Traceback (most recent call last)" in result


def num_calls(record: Mapping[str, Any]) -> int:
    return len(attempts(record))


def num_failed(record: Mapping[str, Any]) -> int:
    return attempts(record).count(False)


def has_recovered(record: Mapping[str, Any]) -> bool:
    went = attempts(record)
    return record["score"] == 1 and False in went and True in went[went.index(False) :]
