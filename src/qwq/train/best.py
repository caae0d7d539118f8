"""Which weights an RL stage hands on: looks at validation problems, the best weights kept on disk,
an early end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from qwq.common.files import atomic_folder
from qwq.config import Validation
from qwq.model.transformer import Transformer
from qwq.train.checkpoint import StageRun, clone_weights, load_trained, read_tensors

# Per-problem outcomes (1 or 0) of validation problems, by domain.
Outcomes = Mapping[str, list[float]]


@dataclass
class ValidationLog:
    """Looks so far, each with `step`, `score` and the share of each domain; part of the stage's
    state.
    """

    validation: list[dict[str, Any]] = field(default_factory=list)


class BestCheckpoint:
    """Called after every step; looks every `validation.every` steps.

    The score is the mean over the domains' shares correct.
    """

    def __init__(self, config: Validation, model: Transformer, run: StageRun, evaluate: Callable[[], Outcomes]) -> None:
        self.config, self.model, self.run, self.evaluate = config, model, run, evaluate
        self.state = run.state.part(ValidationLog)

    def _folder(self, entry: dict[str, Any]) -> Path:
        """The weights that `entry` was measured on, by its step: after a kill, steps are taken
        again and may come out differently (GPU, other threads).
        """
        return self.run.folder / f"best-{entry['step'] + 1:06d}"

    def begin(self) -> None:
        """Look before the first step, unless a checkpoint has brought the figures along: a stage
        may make nothing better.
        """
        if not self.state.validation:
            self._look(-1)

    def after_step(self, step: int, metrics: dict[str, Any]) -> None:
        if (step + 1) % self.config.every == 0:
            metrics["validation"] = self._look(step)

    def _look(self, step: int) -> dict[str, Any]:
        shares = {d: sum(v) / len(v) for d, v in self.evaluate().items()}
        entry = {"step": step, "score": sum(shares.values()) / len(shares), **shares}
        log = self.state.validation
        log.append(entry)
        best = max(log, key=lambda e: e["score"])  # the earliest of equals
        if best is entry and self.config.keep == "best":
            self.run.world.alone(lambda: self._keep(entry))
        since = len(log) - 1 - log.index(best)
        if self.config.patience and since >= self.config.patience:
            self.run.state.ended = (
                f"{self.run.name} ends after step {step + 1}: no better validation score than {best['score']:.1%} "
                f"(step {best['step'] + 1}) in {since} looks"
            )
        return entry

    def _keep(self, entry: dict[str, Any]) -> None:
        with atomic_folder(self._folder(entry)) as partial:
            save_file(clone_weights(self.model), partial / "weights.safetensors")
        self._prune(entry)

    def _prune(self, best: dict[str, Any]) -> None:
        """Only the best weights of now and of the last checkpoint are needed."""
        saved = [e for e in self.state.validation if e["step"] < self.run.saved_step]
        needed = [self._folder(best)]
        if saved:
            needed.append(self._folder(max(saved, key=lambda e: e["score"])))
        for old in self.run.folder.glob("best-*"):
            if old not in needed:
                shutil.rmtree(old)

    def finish(self) -> bool:
        """Put the best weights back, where the recipe wants them; True if that changed them."""
        log = self.state.validation
        best = max(log, key=lambda e: e["score"])
        if self.config.keep == "best" and best["step"] != self.run.state.step - 1:
            load_trained(self.model, read_tensors(self._folder(best) / "weights.safetensors"))
            self.run.progress.note(
                f"{self.run.name}: the weights after step {best['step'] + 1} are kept ({best['score']:.1%} on "
                "validation problems)"
            )
            return True
        return False
