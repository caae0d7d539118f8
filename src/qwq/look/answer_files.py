"""Which files hold answers: rollouts of a run, its evaluations, samples of `qwq eval`, of `qwq data
distill`, or one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwq.common.run_folder import RunFolder
from qwq.errors import DataError

_STEP = re.compile(r"step-(\d+)\.jsonl")
NEEDS = (
    "give a run's folder (runs/tiny), a results folder of `qwq eval`, or a file of samples (.jsonl), such as "
    "runs/tiny/rollouts/rl1/step-00000.jsonl"
)


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """One file of answers.

    `place` is where in the run it belongs (a stage's name, `eval sft`); `step` is None outside RL.
    """

    path: Path
    place: str
    step: int | None = None


def sources(target: Path) -> list[AnswerFile]:
    """The files of a folder in the order of stages and steps, or the one file.

    DataError if there is none.
    """
    if target.is_file():
        return [_file(target, target.stem.removesuffix(".samples"))]
    if not target.is_dir():
        raise DataError(f"nothing at {target}: {NEEDS}")
    files = list(_of_folder(target))
    if not files:
        raise DataError(f"no rollouts and no samples in {target}: {NEEDS}")
    return files


def _of_folder(folder: Path) -> Iterator[AnswerFile]:
    run = RunFolder(folder)
    for stage in _stages(run, run.all_rollouts):
        yield from (_file(p, stage) for p in sorted(run.rollouts(stage).glob("step-*.jsonl")))
    for stage in _stages(run, run.evals):
        for path in sorted((run.evals / stage).rglob("*.jsonl")):
            yield _file(path, f"eval {stage}" if path.stem == "sampled" else f"eval {stage} {path.stem}")
    yield from (_file(p, p.stem) for p in sorted((folder / "samples").glob("*.jsonl")))
    yield from (_file(p, folder.name) for p in sorted(folder.glob("step-*.jsonl")))
    yield from (_file(p, p.name.removesuffix(".samples.jsonl")) for p in sorted(folder.glob("*.samples.jsonl")))


def _stages(run: RunFolder, folder: Path) -> list[str]:
    """The folder's sub-folders in the order of the recipe's stages."""
    if not folder.is_dir():
        return []
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    recipe = run.recipe_file
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    # By place in the text: a recipe that is damaged keeps nobody from reading the rollouts.
    return sorted(names, key=lambda name: text.find(f"[stages.{name}]"))


def _file(path: Path, place: str) -> AnswerFile:
    step = _STEP.fullmatch(path.name)
    return AnswerFile(path, place, int(step[1]) if step else None)
