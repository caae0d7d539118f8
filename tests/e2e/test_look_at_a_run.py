"""`qwq look` and `qwq watch` on the folder of a real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwq.cli import main
from qwq.look.index import open_index
from qwq.look.tokens import Shader
from qwq.rollout.store import RolloutStore


def test_every_rollout_of_a_run_is_found(undisturbed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder: Path = undisturbed.folder
    assert main(["look", str(folder), "--stage", "rl1", "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    store = RolloutStore(folder / "rollouts" / "rl1")
    rollouts = [r for step in range(6) for r in store.read(step) or []]
    assert len(shown) == len(rollouts) > 0
    for line, rollout in zip(shown, rollouts, strict=True):
        assert (line["prompt"], line["output"], line["reward"]) == (rollout.prompt, rollout.text, rollout.reward)
        assert line["prompt"].endswith("<think>\n") and line["tokens"] == len(rollout.completion_ids)
        assert line["expected"] and line["outcome"] == rollout.verdicts[-1].outcome
    stages = {json.loads(p.read_text())["name"] for p in (folder / "stages").glob("*.json")}
    names = open_index(folder).names["place"]
    assert {"rl1", "rl2", "eval control"} <= set(names) and {n.removeprefix("eval ") for n in names} <= stages


def test_the_tokens_of_a_rollout_are_its_text(undisturbed: Any) -> None:
    index, shader = open_index(undisturbed.folder), Shader(undisturbed.folder)
    for row in range(0, 200, 7):
        shown = index.entry(row)
        pieces = shader.pieces(shown)
        assert "".join(piece for piece, _ in pieces) == shown.output
        assert all(p is None or 0 < p <= 1 for _, p in pieces)


def test_a_page_and_the_state_of_a_finished_run(
    undisturbed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "look.html"
    assert main(["look", str(undisturbed.folder), "--outcome", "wrong", "--html", str(out)]) == 0
    assert out.stat().st_size > 50_000
    capsys.readouterr()
    assert main(["watch", str(undisturbed.folder), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    steps = {s["name"]: s["steps"] for s in undisturbed.results()["stages"]}
    assert state["finished"] and {s["name"]: s["step"] for s in state["stages"]} == steps
    assert main(["watch", str(undisturbed.folder)]) == 0  # ends at once
