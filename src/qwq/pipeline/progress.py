"""Progress of a run: a live display on a terminal, plain lines at a modest rate elsewhere.

Both show the same figures: the step, loss or reward, speed, and the time left for the stage; for
the whole run as well where another seed of the recipe has told how long the stages take.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from qwq.report.wording import counted, duration, figures
from qwq.train.checkpoint import Progress

LINE_EVERY_S = 10.0  # between plain lines, at most
LINE_AT_LEAST_S = 2.0  # also at every tenth of a stage, but not closer than this
ALARM_EVERY_S = 60.0  # the same alarm is not repeated sooner
SMOOTHING = 0.9  # of the seconds of a step


class LiveProgress(Progress):
    """Where `RecipeRun` reports to. Use as a context manager, so that the display is closed when
    the run ends.

    `expected_s` holds seconds of stages as an earlier run took them. `clock` is the monotonic time
    in seconds.
    """

    def __init__(
        self,
        *,
        expected_s: Mapping[str, float] | None = None,
        out: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty() if live is None else live
        self.expected_s, self.clock = dict(expected_s or {}), clock
        self.stage, self.total, self.done = "", 0, 0
        self.step_s: float | None = None
        self.finished: set[str] = set()
        self.last_line, self.last_tenth = clock(), 0
        self.alarms_at: dict[str, float] = {}
        self.noted: set[str] = set()
        self.console = Console(file=self.out, highlight=False, force_terminal=True if self.live else None)
        self.task: TaskID | None = None
        self.display = RichProgress(
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            TextColumn("[cyan]{task.fields[left]}"),
            console=self.console,
            auto_refresh=True,
            refresh_per_second=4,
        )

    def __enter__(self) -> Self:
        if self.live:
            self.display.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.display.stop()

    # -- what the stages call ----------------------------------------------------------------------

    def start(self, stage: str, kind: str, total: int, done: int) -> None:
        if self.stage and self.stage != stage:
            self.finished.add(self.stage)
        self.stage, self.total, self.done, self.step_s = stage, total, done, None
        self.last_line, self.last_tenth = self.clock(), 10 * done // max(1, total)
        if self.live:
            self.task = self.display.add_task(stage, total=total, completed=done, figures=kind, left="")
        else:
            self._print(
                f"{stage}: {'' if kind == stage else kind + ', '}{counted(total, 'step')}"
                + (f", {done:,} of them done" if done else "")
            )

    def update(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        seconds = float(metrics.get("seconds", 0.0))
        # A plain mean of the first steps, then a running one: the first step alone would mislead
        # for long.
        keep = min(SMOOTHING, (step - self.done - 1) / (step - self.done)) if step > self.done else SMOOTHING
        self.step_s = seconds if self.step_s is None else keep * self.step_s + (1 - keep) * seconds
        for alarm in metrics.get("alarms", []):
            self._alarm(stage, step, str(alarm))
        if self.live and self.task is not None:
            self.display.update(self.task, completed=step, figures=figures(metrics, self.step_s), left=self._left(step))
            return
        now, tenth = self.clock(), 10 * step // max(1, self.total)
        waited = now - self.last_line
        if step >= self.total or waited >= LINE_EVERY_S or (tenth > self.last_tenth and waited >= LINE_AT_LEAST_S):
            self.last_line, self.last_tenth = now, tenth
            left = self._left(step)
            self._print(
                f"{stage} {step:,}/{self.total:,} {figures(metrics, self.step_s)}" + (f", {left}" if left else "")
            )

    def note(self, text: str) -> None:
        self.noted.add(text)
        self._print(text)

    # -- showing -----------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        if self.live:
            self.display.console.print(escape(text))
        else:
            print(text, file=self.out, flush=True)

    def _alarm(self, stage: str, step: int, alarm: str) -> None:
        """Show an alarm unless its kind was shown a moment ago; the contract's guard notes its
        own.
        """
        text = f"{stage}, step {step}: {alarm}"
        kind = stage + re.sub(r"[\d.]+", "#", alarm)
        now = self.clock()
        if text in self.noted or now - self.alarms_at.get(kind, -ALARM_EVERY_S) < ALARM_EVERY_S:
            return
        self.alarms_at[kind] = now
        if self.live:
            self.display.console.print(f"[bold red]alarm[/] {escape(text)}")
        else:
            self._print(f"ALARM {text}")

    def _left(self, step: int) -> str:
        if self.step_s is None or step >= self.total:
            return ""
        stage_s = (self.total - step) * self.step_s
        text = f"{duration(stage_s)} left"
        later = [s for name, s in self.expected_s.items() if name not in self.finished and name != self.stage]
        if self.stage in self.expected_s and later:
            text += f" ({duration(stage_s + sum(later))} for the run)"
        return text
