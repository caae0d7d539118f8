"""metrics.jsonl and the records hold no NaN and no infinity: strict parsers (JavaScript, jq) refuse
the whole file.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from qwq.common.jsonl import without_nonfinite
from qwq.common.run_folder import RunFolder
from qwq.config import Optim
from qwq.report.wording import figures
from qwq.train.alarms import Watch
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def strict(text: str) -> dict:
    return json.loads(text, parse_constant=refuse)


def test_a_skipped_gradient_is_null_in_metrics_and_named_in_an_alarm(tmp_path: Path):
    model = torch.nn.Linear(1, 1)
    run = StageRun(tmp_path, "sft", "sft")
    bad = {"loss": 0.5, "grad_norm": math.nan, "reward_by_domain": {"math": math.inf, "code": 1.0}, "alarms": ["one"]}
    good = {"loss": 0.25, "grad_norm": 1.0}
    run.run(2, model, Optimizer(model, Optim(), 2), lambda step: good if step else bad)
    first, second = map(strict, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["loss"], first["grad_norm"]) == (0.5, None)
    assert first["reward_by_domain"] == {"math": None, "code": 1.0}
    assert first["alarms"] == ["one", "not finite, written as null: grad_norm, reward_by_domain.math"]
    assert second["grad_norm"] == 1.0 and "alarms" not in second


def test_records_and_results_are_strict_json(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.keep_record("dpo", {"name": "dpo", "pairs": {"margin": math.inf, "ci95": [0.1, math.nan]}})
    record = strict(folder.record_file("dpo").read_text())
    assert record["pairs"] == {"margin": None, "ci95": [0.1, None]}
    assert record["alarms"] == ["not finite, written as null: pairs.margin, pairs.ci95[1]"]
    folder.keep_results({"stages": [{"x": -math.inf}]})
    assert strict(folder.results_file.read_text()) == {"stages": [{"x": None}]}


def test_finite_values_stay_as_they_are():
    value = {"a": 1.5, "b": [1, True, "NaN", None]}
    assert without_nonfinite(value) == (value, [])


def test_progress_says_what_is_not_finite():
    assert figures({"loss": None, "tokens": 100, "seconds": 0.1}, 0.1) == "loss not finite 1,000 tokens/s"
    assert figures({"reward": None, "pass_rate": 0.5, "length": 3.0}, 0.1) == "reward not finite pass 0.50 len 3"


def test_one_nan_does_not_silence_an_alarm():
    watch = Watch({})
    watch.alarms({"kl": math.nan})
    texts = [watch.alarms({"kl": 0.5}) for _ in range(5)][-1]
    assert any("0.500 nats" in text for text in texts)
