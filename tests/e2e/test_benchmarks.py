"""The benchmarks fit the code that they measure: each can be imported and says its usage, and our
side of `rl_step.py` takes a step.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from little import make_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does; dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_a_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    load(name)


@pytest.mark.parametrize("kind, trained", [("forced", 16), ("half", 8)])
def test_our_side_of_the_rl_benchmark_takes_a_step(kind: str, trained: int, tmp_path: Path) -> None:
    bench = load("rl_step")
    step = bench.ours(bench.Case("2x2x4", kind), str(make_model(tmp_path / "model")), str(tmp_path / "run"))()
    # 2 prompts x 2 samples x 4 tokens; every other group of `half` has equal rewards: no signal.
    assert 0 < step.tokens <= 16 and 0 < step.trained <= trained
    if kind == "forced":
        assert (step.tokens, step.trained) == (16, trained)
