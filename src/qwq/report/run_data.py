"""What a run's folder holds, read for the report.

Any part may be missing: a run may be unfinished. No torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwq.common.run_folder import RunFolder
from qwq.common.stats import paired_difference
from qwq.config import START
from qwq.errors import DataError
from qwq.report.view import StageView

Row = dict[str, Any]
SAMPLED = "sampled"  # the reading whose answers are compared and shown


@dataclass(slots=True)
class StageData:
    """One stage: its record where it is finished, its metrics as far as they go."""

    name: str
    kind: str
    config: Mapping[str, Any]
    record: Row | None = None
    metrics: list[Row] = field(default_factory=list)
    view: StageView = field(default_factory=StageView)

    @property
    def state(self) -> str:
        return "finished" if self.record else "under way" if self.metrics else "not started"

    @property
    def evals(self) -> dict[str, Row]:
        return self.record.get("evals", {}) if self.record else {}

    @property
    def evals_greedy(self) -> dict[str, Row]:
        return self.record.get("evals_greedy", {}) if self.record else {}

    @property
    def changes_policy(self) -> bool:
        return self.view.in_sequence

    @property
    def contract(self) -> list[Row]:
        """Entries of the contract's checks, from the record or, while the stage runs, from its
        metrics.
        """
        if self.record and "contract" in self.record:
            return list(self.record["contract"])
        return [row["contract"] for row in self.metrics if "contract" in row]

    @property
    def outcomes(self) -> Counter[str]:
        """Verdicts of all training rollouts."""
        total: Counter[str] = Counter()
        for row in self.metrics:
            total.update(row.get("outcomes", {}))
        return total

    @property
    def alarms(self) -> list[tuple[int, str]]:
        """(step from 1, text), as the stage raised them."""
        return [(row["step"] + 1, str(alarm)) for row in self.metrics for alarm in row.get("alarms", [])]


@dataclass(slots=True)
class RunData:
    """A run as the report tells it."""

    folder: RunFolder
    recipe: Mapping[str, Any]
    stages: list[StageData]

    @property
    def finished(self) -> bool:
        return all(stage.record for stage in self.stages)

    @property
    def wall_s(self) -> float:
        """Seconds of the finished stages, and of the steps of one that is under way."""
        done = sum(s.record["wall_s"] for s in self.stages if s.record)
        return done + sum(row.get("seconds", 0.0) for s in self.stages if not s.record for row in s.metrics)

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks on policies, in the order of the first table row that has
        them.
        """
        names = [b for s in self.stages if s.view.trains_policy for b in s.evals]
        return list(dict.fromkeys(names))

    @property
    def names(self) -> list[str]:
        """Everything that is scored: benchmarks, and the domains of rewards and of the contract."""
        rewarded = [d for s in self.stages for row in s.metrics for d in row.get("reward_by_domain", {})]
        held = [f["domain"] for s in self.stages for entry in s.contract for f in entry["findings"]]
        return list(dict.fromkeys([*self.benchmarks, *rewarded, *held]))

    def stage(self, name: str) -> StageData | None:
        return next((s for s in self.stages if s.name == name), None)

    def evaluated_policies(self) -> list[StageData]:
        return [s for s in self.stages if s.changes_policy and s.evals]


def read_run(folder: RunFolder, view: Callable[[str, Mapping[str, Any], Row | None], StageView]) -> RunData:
    """Read a run's folder; `view(kind, config, record)` says what is shown of a stage.

    DataError where it is no run.
    """
    if not folder.holds_a_run:
        raise DataError(
            f"no run at {folder}: it has no recipe.toml; give a folder that `qwq train` wrote, such as runs/tiny"
        )
    recipe = folder.recipe()
    metrics = _metrics(folder.metrics)
    stages = []
    read_first = {START: {"kind": START}} if recipe.get("eval", {}).get("start") else {}
    for name, config in (read_first | recipe["stages"]).items():
        kind, record = config["kind"], folder.record(name)
        shown = StageView() if kind == START else view(kind, config, record)
        stages.append(StageData(name, kind, config, record, metrics.get(name, []), shown))
    return RunData(folder, recipe, stages)


def _metrics(path: Path) -> dict[str, list[Row]]:
    """Rows by stage. The last line may be cut off where the run was killed while it wrote it."""
    out: dict[str, list[Row]] = {}
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    lines = lines[:-1] if lines and not lines[-1] else lines
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}: not JSON ({error}): delete the line") from None
        out.setdefault(row["stage"], []).append(row)
    return out


# -- comparisons -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """A difference of two scores on the same problems, as fractions, with its 95% interval."""

    benchmark: str
    mean: float
    low: float
    high: float


def compare(run: RunData, before: str, after: str) -> list[ScoreChange]:
    """Paired differences of two stages' sampled answers on the benchmarks that both have."""
    b, a = (run.folder.outcomes(name, SAMPLED) or {} for name in (before, after))
    return [ScoreChange(k, *paired_difference(b[k], a[k])) for k in a if k in b and len(a[k]) == len(b[k])]


@dataclass(frozen=True, slots=True)
class ScorePair:
    """The answers of two stages to one problem.

    `kind` is fixed (failed, then passed) or broken (the reverse).
    """

    kind: str
    before: Row
    after: Row


def transcripts(
    run: RunData, before: str, after: str, *, fixed: int = 2, broken: int = 1
) -> dict[str, list[ScorePair]]:
    """For each benchmark the first problems in file order whose verdict turned.

    Nothing is picked by its looks.
    """
    earlier = {(r["benchmark"], r["problem_id"]): r for r in _rows(run.folder.answers(before, SAMPLED))}
    out: dict[str, list[ScorePair]] = {}
    for row in _rows(run.folder.answers(after, SAMPLED)):
        other = earlier.get((row["benchmark"], row["problem_id"]))
        if other is None:
            continue
        was, now = _correct(other), _correct(row)
        if was == now:
            continue
        kind, limit = ("fixed", fixed) if now else ("broken", broken)
        pairs = out.setdefault(row["benchmark"], [])
        if sum(p.kind == kind for p in pairs) < limit:
            pairs.append(ScorePair(kind, other, row))
    return {b: sorted(pairs, key=lambda p: p.kind != "fixed") for b, pairs in out.items() if pairs}


def _correct(row: Row) -> bool:
    return row["verdict"]["outcome"] == "correct"


def _rows(path: Path) -> list[Row]:
    # Split at line feeds alone: a model's text may hold other characters that count as line ends.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.is_file() else []


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential running mean, started at the mean of nothing (each value is corrected for the
    short past).
    """
    out, mean, norm = [], 0.0, 0.0
    for value in values:
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(mean / norm)
    return out
