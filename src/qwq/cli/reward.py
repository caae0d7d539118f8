"""`qwq reward`: what a reward model says of answers."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from qwq.common.run_folder import RunFolder
from qwq.errors import ModelError

reward_app = App(name="reward", help="Score answers with a reward model.")


@reward_app.command
def score(file: Path, *, model: str, device: str = "cpu") -> int:
    """Score answers: JSON lines in, one JSON line out for each, in order.

    Lines hold `prompt` with `response`, `prompt` with `chosen` and `rejected`, or `messages` that
    end with the answer, in any shape of docs/data.md. Scores are calibrated (mean 0, deviation 1,
    length bias taken out) where the model brings its calibration.

    Parameters
    ----------
    file
        JSON lines.
    model
        Reward model: a folder with a scalar head, a hub name, or a run's folder (its last
        reward-model stage).
    device
        torch device.
    """
    from qwq.reward.score import print_scores

    print_scores(reward_folder(model), file, device)
    return 0


def reward_folder(model: str) -> str:
    """`model` itself, or, where it is a run's folder, the final checkpoint of its last finished
    reward-model stage.
    """
    run = RunFolder(Path(model).expanduser())
    if not run.holds_a_run:
        return model
    if name := run.last_finished(lambda kind: kind == "reward_model"):
        return str(run.final(name))
    raise ModelError(f"{run} has no finished reward-model stage: run `qwq train` on its recipe until it ends")
