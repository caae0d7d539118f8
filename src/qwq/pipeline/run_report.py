"""`report.html` of a run: its folder read, each stage shown as its kind states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from qwq.common.files import write_atomic
from qwq.common.run_folder import RunFolder
from qwq.config import own_kinds, stage_class
from qwq.errors import ConfigError
from qwq.pipeline.stage import Stage
from qwq.report.html import page
from qwq.report.run_data import RunData
from qwq.report.run_data import read_run as read_run_with
from qwq.report.view import StageView


def read_run(folder: Path) -> RunData:
    """A run's folder as the report tells it. DataError where it is none."""
    return read_run_with(RunFolder(folder), _view)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, finished or not; returns its path.

    DataError where it is no run.
    """
    run = read_run(folder)
    write_atomic(run.folder.report, page(run).encode(errors="replace"))
    return run.folder.report


def _view(kind: str, config: Mapping[str, Any], record: dict[str, Any] | None) -> StageView:
    """What is shown of a stage.

    A kind whose file is not here any more is shown as any stage that trains a policy.
    """
    try:
        cls = cast(type[Stage], stage_class(kind))
    except ConfigError:
        return StageView()
    shown = cls.view(config, record)
    own = kind not in own_kinds() and cls.panels is Stage.panels  # the user's, and it states no curves
    return replace(shown, panels=None) if own else shown
