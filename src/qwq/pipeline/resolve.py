"""Which model a command means: a model folder, a hub name, a GGUF file of a hub, or a run's folder
and so its last policy.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from qwq.common.hub_files import gguf_file, parse_hub_name
from qwq.common.run_folder import RunFolder
from qwq.config import keeps_sequence
from qwq.errors import ModelError


def model_folder(model: str) -> str:
    """`model` itself, or, where it is a run's folder, the final checkpoint of its last finished
    policy stage, or the local file of a GGUF file on a hub.

    ModelError where the run has not finished one yet.
    """
    if (on_hub := parse_hub_name(model)) and on_hub.names_file:
        return str(gguf_file(on_hub))
    run = RunFolder(Path(model).expanduser())
    if (run.path / "config.json").is_file() or not run.holds_a_run:
        return model
    if name := run.last_finished(keeps_sequence):
        if run.final(name).is_dir():
            return str(run.final(name))
        adapter = shlex.quote(str(run.adapter(name)))
        raise ModelError(
            f"{run} kept only the adapter of stage {name}: `qwq export BASE DIR --adapter {adapter}` writes the whole "
            "model"
        )
    raise ModelError(f"{run} has no finished stage yet: run `qwq train` on its recipe until the first one ends")
