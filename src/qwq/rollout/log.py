"""The log of rollouts: one file a step, one line a rollout, complete or absent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from qwq.common.files import atomic_file
from qwq.errors import DataError
from qwq.types import Rollout

_REPAIR = "delete the file, and the same command samples this step anew"


class RolloutLog:
    """Writes a step's rollouts before they are trained on, and gives them back to a run that goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:05d}.jsonl"

    def write(self, step: int, rollouts: list[Rollout]) -> None:
        with atomic_file(self.path(step)) as file:
            for rollout in rollouts:
                # json, not orjson, here and in `read`: a completion may decode to lone surrogates, and floats must read back
                # exactly. Escaped, as the other logs of a run.
                file.write(json.dumps(rollout.to_dict()).encode() + b"\n")

    def read(self, step: int, samples: int = 1) -> list[Rollout] | None:
        """A step's rollouts, or None where they were never completely written. DataError where a line is damaged or a group short of `samples`."""
        path = self.path(step)
        if not path.exists():
            return None
        rollouts: list[Rollout] = []
        with path.open("rb") as f:
            for line in f:
                try:
                    rollouts.append(Rollout.from_dict(json.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise DataError(f"{path}, line {len(rollouts) + 1}: damaged ({error}): {_REPAIR}") from None
        sizes = Counter(r.group for r in rollouts)
        if not sizes or min(sizes.values()) < samples:
            found = f"a group of {min(sizes.values())} rollouts, {samples} were sampled" if sizes else "no rollout"
            raise DataError(f"{path}: damaged (it holds {found}): {_REPAIR}")
        return rollouts
