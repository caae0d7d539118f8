"""`report_to` of a recipe: each step's figures and some answers to tensorboard, wandb, trackio,
mlflow.

A tracker is an extra. Its package is imported when the first step is reported; one that is missing,
or fails at any time, is named in one line and left out, and training continues. Nothing is asked of
the user: wandb without a key writes offline (`wandb sync` sends it later), mlflow and tensorboard
write into the run's folder unless their own environment variables name another place.
"""

from __future__ import annotations

import math
import netrc
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.errors import QwqError
from qwq.report.wording import visible
from qwq.rollout.store import RolloutStore
from qwq.train.checkpoint import Progress

PROJECT = "qwq"
EVERY_STEPS, ANSWERS = 10, 8  # answers are sent at every tenth step, the first ones of it
COLUMNS = ("step", "task", "prompt", "answer", "expected", "outcome", "reward")

Table = list[list[str]]


class Tracker(Protocol):
    """One place that figures are sent to. `step` counts from 1 in its stage."""

    def log(self, stage: str, step: int, figures: Mapping[str, float], answers: Table) -> None: ...

    def close(self) -> None: ...


class TrackedProgress(Progress):
    """Hands everything on to another progress, and each step to the trackers as well."""

    def __init__(self, recipe: Recipe, folder: Path, inner: Progress) -> None:
        self._recipe, self._folder, self._inner = recipe, folder, inner
        self._trackers: dict[str, Tracker | None] = dict.fromkeys(recipe.report_to)

    def start(self, stage: str, kind: str, total: int, done: int) -> None:
        self._inner.start(stage, kind, total, done)

    def note(self, text: str) -> None:
        self._inner.note(text)

    def update(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        self._inner.update(stage, step, metrics)
        figures = dict(_figures(metrics))
        answers = self._answers(stage, step) if (step - 1) % EVERY_STEPS == 0 else []
        for name in list(self._trackers):
            self._send(name, stage, step, figures, answers)

    def end(self) -> None:
        for name, tracker in self._trackers.items():
            try:
                if tracker is not None:
                    tracker.close()
            except Exception as error:  # noqa: BLE001  # whatever a tracker does, the run is done
                self._inner.note(_fault(name, error))
        self._trackers = dict.fromkeys(self._trackers)
        self._inner.end()

    def _send(self, name: str, stage: str, step: int, figures: Mapping[str, float], answers: Table) -> None:
        try:
            tracker = self._trackers[name] or TRACKERS[name](self._recipe, self._folder)
            self._trackers[name] = tracker
            tracker.log(stage, step, figures, answers)
        except Exception as error:  # noqa: BLE001  # whatever a tracker does, training continues
            del self._trackers[name]
            self._inner.note(_fault(name, error))

    def _answers(self, stage: str, step: int) -> Table:
        """Some answers of an RL stage's step; none elsewhere."""
        folder = RunFolder(self._folder).rollouts(stage)
        try:
            rollouts = (RolloutStore(folder).read(step - 1) if folder.is_dir() else None) or []
        except QwqError:
            return []
        return [
            [
                f"{stage} {step}", r.domain, visible(r.prompt), visible(r.text), visible(r.expected or ""),
                r.verdicts[-1].outcome.value, "" if r.reward is None else f"{r.reward:.4g}",
            ]
            for r in rollouts[:ANSWERS]
        ]  # fmt: skip


def _fault(name: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"report_to {name}: not installed (`pip install {name}`); the run continues without it"
    reason = " ".join(str(error).split())[:200]
    return f"report_to {name} failed ({type(error).__name__}: {reason}); the run continues without it"


def _figures(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers of a row by name; those of a table inside it are `table/name`."""
    for name, value in metrics.items():
        if isinstance(value, Mapping) and not prefix and name != "contract":
            yield from _figures(value, f"{name}/")
        elif isinstance(value, int | float) and name != "step" and math.isfinite(value):
            yield prefix + name, float(value)


# -- the four --------------------------------------------------------------------------------------


class TensorBoard:
    """Event files in RUN/trackers/tensorboard."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "trackers" / "tensorboard"))

    def log(self, stage: str, step: int, figures: Mapping[str, float], answers: Table) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)
        if answers:
            self._writer.add_text(f"{stage}/answers", _markdown(answers), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run in the project `qwq`; offline where no key is known, so that nobody is asked for
    one.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        import wandb

        self._wandb = wandb
        place = folder / "trackers"
        place.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_wandb_key() else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=recipe.run_name, dir=str(place), mode=mode,
            config=recipe.model_dump(mode="json"), settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def log(self, stage: str, step: int, figures: Mapping[str, float], answers: Table) -> None:
        row: dict[str, Any] = {f"{stage}/{name}": value for name, value in figures.items()} | {f"{stage}/step": step}
        if answers:
            row[f"{stage}/answers"] = self._wandb.Table(columns=list(COLUMNS), data=answers)
        self._run.log(row)

    def close(self) -> None:
        self._run.finish()


def _has_wandb_key() -> bool:
    try:
        return bool(os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators("api.wandb.ai"))
    except (OSError, netrc.NetrcParseError):
        return False


class Trackio:
    """A run in trackio's own folder on this machine."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(project=PROJECT, name=recipe.run_name, config=recipe.model_dump(mode="json"), embed=False)

    def log(self, stage: str, step: int, figures: Mapping[str, float], answers: Table) -> None:
        row: dict[str, Any] = {f"{stage}/{name}": value for name, value in figures.items()} | {f"{stage}/step": step}
        if answers:
            rows = [dict(zip(COLUMNS, answer, strict=True)) for answer in answers]
            row[f"{stage}/answers"] = self._trackio.Table(data=rows, columns=list(COLUMNS))
        self._trackio.log(row)

    def close(self) -> None:
        self._trackio.finish()


class MlFlow:
    """A run of the experiment `qwq`: in RUN/trackers/mlflow, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        import mlflow

        self._mlflow = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            place = folder / "trackers" / "mlflow"
            place.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(f"sqlite:///{place.absolute() / 'mlflow.db'}")
            if mlflow.get_experiment_by_name(PROJECT) is None:
                mlflow.create_experiment(PROJECT, artifact_location=(place.absolute() / "artifacts").as_uri())
        mlflow.set_experiment(PROJECT)
        self._run = mlflow.start_run(run_name=recipe.run_name)

    def log(self, stage: str, step: int, figures: Mapping[str, float], answers: Table) -> None:
        values = {f"{stage}/{name}".replace(" ", "_"): value for name, value in figures.items()}
        self._mlflow.log_metrics(values, step=step)
        if answers:
            self._mlflow.log_text(_markdown(answers), f"answers/{stage}-{step:05d}.md")

    def close(self) -> None:
        self._mlflow.end_run()


def _markdown(answers: Table) -> str:
    """A table whose cells are code, so that what a model wrote is no markup."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *([_cell(c) for c in answer] for answer in answers)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: str) -> str:
    for character, safe in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("`", "&#96;"),
        ("\n", "<br>"),
    ):
        value = value.replace(character, safe)
    return value


TRACKERS: dict[str, Any] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "mlflow": MlFlow,
}
