"""The log of rollouts: one file a step, one line a rollout, complete or absent."""

from __future__ import annotations

import json
from pathlib import Path

import orjson

from qwq.types import Rollout


class RolloutLog:
    """Writes a step's rollouts before they are trained on, and gives them back to a run that goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:05d}.jsonl"

    def write(self, step: int, rollouts: list[Rollout]) -> None:
        partial = self.path(step).with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as f:
            for rollout in rollouts:
                # json, not orjson: a completion may decode to lone surrogates, and floats must read back exactly.
                f.write(json.dumps(rollout.to_dict()) + "\n")
        partial.replace(self.path(step))

    def read(self, step: int) -> list[Rollout] | None:
        """A step's rollouts, or None where they were never completely written."""
        if not self.path(step).exists():
            return None
        with self.path(step).open("rb") as f:
            return [Rollout.from_dict(orjson.loads(line)) for line in f]
