"""Progress of a task on standard error: samples, right ones, tokens a second, time left.

A line now and then; on a terminal one that changes.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from qwq.report.wording import duration

LINE_EVERY_S, TERMINAL_EVERY_S = 10.0, 0.5


class Meter:
    def __init__(self, name: str, total: int, done: int, *, out: TextIO | None = None) -> None:
        self.name, self.total, self.done, self.before = name, total, done, done
        self.out = out or sys.stderr
        self.live = self.out.isatty()
        self.started = self.said = time.monotonic()
        self.tokens = 0
        stored = f", {done:,} of them are stored" if done else ""
        print(f"{name}: {total:,} samples{stored}", file=self.out, flush=True)

    def saw(self, num_tokens: int, num_correct: int) -> None:
        self.done += 1
        self.tokens += num_tokens
        now = time.monotonic()
        if self.done < self.total and now - self.said < (TERMINAL_EVERY_S if self.live else LINE_EVERY_S):
            return
        self.said = now
        took = max(now - self.started, 1e-9)
        left = (self.total - self.done) * took / (self.done - self.before)
        text = (
            f"{self.name} {self.done:,}/{self.total:,}, {num_correct:,} right so far, {self.tokens / took:.1f} tokens/s"
        )
        text += f", {duration(left)} left" if self.done < self.total else f", {duration(took)}"
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=self.out, flush=True)

    def end(self) -> None:
        if self.live and self.done > self.before:
            print(file=self.out, flush=True)
