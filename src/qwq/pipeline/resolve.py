"""Which model a command means: a model folder, a hub name, or a run's folder and so its last policy."""

from __future__ import annotations

from pathlib import Path

from qwq.common.files import read_record
from qwq.config import known_kinds, stage_class
from qwq.errors import ModelError


def model_folder(model: str) -> str:
    """`model` itself, or, where it is a run's folder, the final checkpoint of its last finished policy stage.

    ModelError where the run has not finished one yet.
    """
    run = Path(model).expanduser()
    if (run / "config.json").is_file() or not (run / "recipe.toml").is_file():
        return model
    stages = read_record(run / "recipe.toml").get("stages", {})
    for name in reversed([n for n, stage in stages.items() if _in_sequence(stage.get("kind", ""))]):
        # The stage's record is written last, so it says that the checkpoint is the finished one.
        record = run / "stages" / f"{name}.json"
        final = run / "checkpoints" / name / "final"
        if record.is_file() and read_record(record)["name"] == name:
            if final.is_dir():
                return str(final)
            raise ModelError(
                f"{run}: stage {name} kept its adapter alone: `qwq export BASE DIR --adapter {final.parent / 'adapter'}` writes the whole model"
            )
    raise ModelError(f"{run} has no finished stage yet: run `qwq train` on its recipe until the first one ends")


def _in_sequence(kind: str) -> bool:
    """Whether stages of this kind leave the policy that the next one starts from. A kind of the user's own whose file is not here is taken to."""
    return stage_class(kind).in_sequence if kind in known_kinds() else ":" in kind
