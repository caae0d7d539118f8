"""`report_to`: what trackers are sent, and that none of them can stop a run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwq.common.run_folder import RunFolder
from qwq.config import dump_recipe, load_recipe
from qwq.errors import ConfigError
from qwq.pipeline import trackers
from qwq.pipeline.same_recipe import check_same_recipe
from qwq.pipeline.trackers import TrackedProgress
from qwq.rollout.store import RolloutStore
from qwq.train.checkpoint import Progress
from qwq.types import Outcome, Rollout, StopReason, Verdict

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "a|b<script>`\n\x1b[31m"


def recipe(*names: str) -> Any:
    return load_recipe(ROOT / "tests" / "e2e" / "mini.toml", {"report_to": list(names)})


class Heard(Progress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, int]] = []
        self.ended = 0

    def update(self, stage: str, step: int, metrics: Any) -> None:
        self.steps.append((stage, step))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end(self) -> None:
        self.ended += 1


class Fake:
    """A tracker that keeps what it gets, or fails at `fails`."""

    fails = ""

    def __init__(self, recipe: Any, folder: Path) -> None:
        if self.fails == "init":
            raise ImportError("no such package")
        self.rows: list[tuple[Any, ...]] = []
        self.closed = False

    def log(self, *row: Any) -> None:
        if self.fails == "log":
            raise ConnectionError("the server\nis away")
        self.rows.append(row)

    def close(self) -> None:
        self.closed = True
        if self.fails == "close":
            raise RuntimeError("cannot finish")


def tracked(monkeypatch: pytest.MonkeyPatch, folder: Path, **fakes: type[Fake]) -> tuple[TrackedProgress, Heard]:
    monkeypatch.setattr(trackers, "TRACKERS", fakes)
    monkeypatch.setattr(recipe_ := recipe(), "report_to", list(fakes))
    inner = Heard()
    return TrackedProgress(recipe_, folder, inner), inner


def write_rollouts(folder: Path, step: int) -> None:
    rollout = Rollout(
        "p", "math", 0, [1], [2], [1], [-0.1], [0], StopReason.END, text=HOSTILE, prompt="What?", expected="7",
        reward=0.5, verdicts=[Verdict(Outcome.WRONG, "", "math")],
    )  # fmt: skip
    RolloutStore(folder / "rollouts" / "rl1").write(step, [rollout] * 10)


def test_every_number_is_sent_and_answers_at_every_tenth_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    progress, inner = tracked(monkeypatch, tmp_path, one=Fake)
    write_rollouts(tmp_path, 10)
    row = {
        "stage": "rl1", "step": 9, "reward": 0.5, "loss": float("nan"), "seconds": 2, "alarms": ["x"],
        "outcomes": {"wrong": 3}, "contract": {"step": 9},
    }  # fmt: skip
    progress.update("rl1", 10, row)
    progress.update("rl1", 11, row | {"step": 10})
    (first, second) = progress._trackers["one"].rows
    assert first == ("rl1", 10, {"reward": 0.5, "seconds": 2.0, "outcomes/wrong": 3.0}, [])
    assert second[1] == 11 and len(second[3]) == trackers.ANSWERS
    assert second[3][0] == ["rl1 11", "math", "What?", "a|b<script>`\n\\x1b[31m", "7", "wrong", "0.5"]
    assert inner.steps == [("rl1", 10), ("rl1", 11)]
    one = progress._trackers["one"]
    progress.end()
    assert one.closed and inner.ended == 1 and inner.notes == []


@pytest.mark.parametrize(
    ("fails", "note"),
    [
        ("init", "report_to two: not installed (`pip install two`); the run continues without it"),
        ("log", "report_to two failed (ConnectionError: the server is away); the run continues without it"),
        ("close", "report_to two failed (RuntimeError: cannot finish); the run continues without it"),
    ],
)
def test_a_tracker_that_fails_is_one_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str, note: str
) -> None:
    broken = type("Broken", (Fake,), {"fails": fails})
    progress, inner = tracked(monkeypatch, tmp_path, one=Fake, two=broken)
    for step in range(1, 4):
        progress.update("sft", step, {"loss": 0.5})
    one = progress._trackers["one"]
    progress.end()
    assert [r[1] for r in one.rows] == [1, 2, 3] and len(inner.steps) == 3 and inner.notes == [note]


def test_the_real_ones_are_left_out_where_they_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("wandb", "trackio", "mlflow", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    inner = Heard()
    progress = TrackedProgress(recipe("tensorboard", "wandb", "trackio", "mlflow"), tmp_path, inner)
    progress.update("sft", 1, {"loss": 0.5})
    progress.update("sft", 2, {"loss": 0.4})
    assert len(inner.notes) == 4 and "report_to wandb: not installed (`pip install wandb`)" in inner.notes[1]


def test_wandb_is_offline_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: dict[str, Any] = {}
    run = SimpleNamespace(log=lambda row: sent.update(row), finish=lambda: sent.update(finished=True))

    def init(**options: Any) -> Any:
        sent.update(options)
        return run

    wandb = SimpleNamespace(init=init, Settings=lambda **o: o, Table=lambda columns, data: (columns, data))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = trackers.WeightsAndBiases(recipe("wandb"), tmp_path)
    assert (sent["mode"], sent["project"], sent["name"]) == ("offline", "qwq", "mini")
    tracker.log("rl1", 3, {"reward": 0.5}, [["x"] * len(trackers.COLUMNS)])
    tracker.close()
    assert (sent["rl1/reward"], sent["rl1/step"], sent["finished"]) == (0.5, 3, True)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    trackers.WeightsAndBiases(recipe("wandb"), tmp_path)
    assert sent["mode"] == "online"


def test_what_a_model_wrote_is_no_markup() -> None:
    table = trackers._markdown([["rl1 1", "math", HOSTILE, "x", "7", "wrong", "0"]])
    assert "<script" not in table and "`" not in table and table.count("\n") == 2
    assert "a&#124;b&lt;script&gt;&#96;<br>" in table


def test_a_run_may_be_continued_with_other_trackers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.recipe_file.write_text(dump_recipe(recipe("wandb")))
    check_same_recipe(folder, recipe("mlflow"))
    check_same_recipe(folder, recipe())
    with pytest.raises(ConfigError, match="seed was 0, now 3"):
        check_same_recipe(folder, recipe("mlflow").model_copy(update={"seed": 3}))


def test_the_key_of_the_recipe() -> None:
    assert recipe("tensorboard", "mlflow").report_to == ["tensorboard", "mlflow"]
    with pytest.raises(ConfigError, match=r"report_to.*'tensorboard', 'wandb', 'trackio' or 'mlflow'"):
        recipe("tensorbord")
