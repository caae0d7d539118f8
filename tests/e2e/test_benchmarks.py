"""The benchmarks fit the code that they measure: each can be imported and says its usage, and our
side of `rl_step.py` takes a step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from little import make_model
from scripts import load_script

from qwq.config import load_recipe, parse_value

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_a_benchmark_can_be_imported(name: str) -> None:
    load_script(f"benchmarks/{name}.py")


@pytest.mark.parametrize(
    "line, words",
    [
        ("long_groups --samples 1", "--samples: 1: give at least 2"),
        ("long_groups --lengths", "expected at least one argument"),
        ("long_groups --lengths 0", "--lengths: 0: give at least 1"),
        ("rl_step --model nothing", "no model at nothing"),
        ("dtypes --shape 4x8", "'4x8': write 3 whole numbers as 4x8x16"),
        ("rl_step --shape 4x1x8", "give at least 1x2x1"),
        ("exports nothing", "no model at nothing"),
        ("exports --quants F16,Q9 m", "no 'Q9': choose from F32"),
        ("checkpoints --steps 1", "--steps: 1: give at least 2"),
        ("checkpoints --preset 1m", "invalid choice: '1m'"),
        ("plan_memory --shapes no-such", "--shapes no-such: it is in none of"),
        ("plan_minutes nothing", "no run at nothing"),
        ("step_simulator nothing", "no run at nothing"),
        ("sandbox --rounds none", "'none' is no whole number"),
        ("agent_rl_tools --delay-ms -1", "-1: give at least 0"),
        ("serve_load --model nothing", "no model at nothing"),
        ("announcement --max-minutes 0", "0: give a number above 0"),
        ("announcement --stages.rl7.steps=3", "no recipe here has this stage"),
        ("announcement --stages.rl1.steps", "--stages.rl1.steps has no value"),
        ("shorter_thinking --stages.sft.steps", "--stages.sft.steps has no value"),
        ("shorter_thinking --seeds -1", "-1: give at least 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    line: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`long_groups.py --samples 1` ended in a traceback of a process of its own."""
    monkeypatch.chdir(tmp_path)
    name, *options = line.split()
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    with pytest.raises(SystemExit) as ended:
        load_script(f"benchmarks/{name}.py").main()
    assert ended.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind, trained", [("forced", 16), ("half", 8)])
def test_our_side_of_the_rl_benchmark_takes_a_step(kind: str, trained: int, tmp_path: Path) -> None:
    bench = load_script("benchmarks/rl_step.py")
    step = bench.ours(bench.Case("2x2x4", kind), str(make_model(tmp_path / "model")), str(tmp_path / "run"))()
    # 2 prompts x 2 samples x 4 tokens; every other group of `half` has equal rewards: no signal.
    assert 0 < step.tokens <= 16 and 0 < step.trained <= trained
    if kind == "forced":
        assert (step.tokens, step.trained) == (16, trained)


def finished_run(folder: Path, stages: dict[str, tuple[float, int]]) -> None:
    """What `benchmarks/announcement.py` reads of a run: score and tokens by stage."""
    records, lines = [], []
    for name, (score, tokens) in stages.items():
        entries = {"math": {"score": score, "n": 100}, "code": {"score": score / 2, "n": 100}}
        records.append({"name": name, "train_s": 10.0, "evals": entries, "evals_greedy": entries})
        lines.append(json.dumps({"stage": name, "tokens": tokens, "fed_tokens": 2 * tokens}))
        (folder / "checkpoints" / name / "final").mkdir(parents=True)
        (folder / "checkpoints" / name / "final" / "model.safetensors").write_bytes(b"x" * 50)
    (folder / "results.json").write_text(json.dumps({"stages": records}))
    (folder / "metrics.jsonl").write_text("\n".join(lines))


def test_the_announcements_table_counts_scores_and_costs(tmp_path: Path) -> None:
    bench = load_script("benchmarks/announcement.py")
    for at, size in enumerate(bench.SIZES):
        rl = {"rl1": (0.6, 10), "rl2": (0.7 + at / 10, 10)} if size in bench.WITH_RL else {}
        finished_run(tmp_path / f"announcement-{size}", {"pretrain": (0.1, 1000), "sft": (0.4, 100), **rl})
    finished_run(tmp_path / "distilled-3m", {"sft": (0.5, 7)})
    rows = {(r.size, r.how): r for r in bench.rows(tmp_path)}
    assert len(rows) == 7 and rows["3m", "with RL"].sampled == pytest.approx(0.6)
    flops = bench.preset("3m").flops_per_token()
    plain, taught = rows["3m", "without RL"], rows["3m", "with RL"]
    assert plain.flops == 3 * 1100 * flops and taught.flops == plain.flops + 2 * (10 + 3 * 20) * flops
    student = rows["3m", "distilled from 3m with RL"]
    assert student.flops == 3 * 7 * flops + plain.flops + taught.flops and student.seconds == 10 + 20 + 40
    assert [bench.preset(shape).num_parameters // 10**5 for shape, _ in bench.SIZES.values()] == [8, 29, 93, 179]
    assert "| 3m | 2,9" in bench.table(list(rows.values())) and bench.plot(list(rows.values())).startswith("<svg")


def test_shorter_thinking_is_compared_with_the_control_problem_by_problem(tmp_path: Path) -> None:
    bench = load_script("benchmarks/shorter_thinking.py")
    stages = {  # right, thinking tokens; by hand: means 30, 25 and 15
        "sft": ([1, 1, 0, 1], [20, 20, 40, 40]), "control": ([1, 1, 1, 0], [20, 20, 20, 40]),
        "weighted": ([1, 1, 1, 0], [10, 10, 10, 30]),
    }  # fmt: skip
    for name, (right, thinking) in stages.items():
        rows = [{"score": float(r), "thinking_tokens": t} for r, t in zip(right, thinking, strict=True)]
        (tmp_path / "evals" / name).mkdir(parents=True)
        (tmp_path / "evals" / name / "sampled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {name: bench.answers(bench.RunFolder(tmp_path), name) for name in bench.STAGES}
    found = bench.compared(made["control"], made["weighted"])
    # Ten tokens fewer on each problem, of 25: -40%, without spread; nothing lost.
    assert found["thinking"] == pytest.approx(-0.4) and found["thinking_ci95"] == pytest.approx([-0.4, -0.4])
    assert found["accuracy"] == 0 and found["met"]
    lines = bench.report(made)
    assert [line.split()[-4:] for line in lines[2:4]] == [
        ["25.0", "20", "40", "-16.7%"],
        ["15.0", "10", "30", "-50.0%"],
    ]
    assert "thinking -40.0% [-40.0, -40.0], accuracy +0.0 points" in lines[4] and lines[5].endswith(": met")
    longer = bench.Answers(made["weighted"].right, [21.0, 21.0, 21.0, 21.0])
    assert not bench.compared(made["control"], longer)["met"]  # -16%
    worse = bench.Answers([1.0, 1.0, 0.0, 0.0], made["weighted"].thinking)
    assert not bench.compared(made["control"], worse)["met"]  # 25 points lost


def test_the_gpu_proof_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    proof = load_script("tools/gpu_proof.py")
    count = tmp_path / "count"
    code = f"open({str(count)!r}, 'a').write('x'); print('{{\"tokens_per_s\": 5}}'); import sys; sys.exit(0)"
    good = proof.Step("good", (sys.executable, "-c", code))
    bad = proof.Step("bad", (sys.executable, "-c", "import sys; sys.exit(3)"))
    piece = proof.Step("piece", (sys.executable, "-c", "import sys; sys.exit(130)"))
    absent = proof.Step("absent", (), "nothing here")
    assert proof.prove([good, piece, absent], tmp_path / "out", "card", None) == 130
    assert proof.prove([good, bad, piece, absent], tmp_path / "out", "card", None) == 1
    text = (tmp_path / "out" / "report.md").read_text()
    assert count.read_text() == "x" and "| bad | failed, 3 |" in text and "| absent | not run: nothing here |" in text
    assert "| piece | unfinished, the same command continues |" in text and '{"tokens_per_s": 5}' in text
    assert proof.prove([good], tmp_path / "late", "card", 0.0) == 130 and count.read_text() == "x"
    names = [s.name for s in proof.steps("DIR", tmp_path, {"VLLM_PYTHON": "/v/python"})]
    assert names[0] == "gpu tests" and names[-1] == "recipe" and not proof.steps("DIR", tmp_path, {})[0].missing


def test_a_piece_of_the_gpu_proof_gives_training_the_minutes_that_are_left(tmp_path: Path) -> None:
    """A step before it may have used them: training began with all of them once more."""
    proof = load_script("tools/gpu_proof.py")
    seen = tmp_path / "seen"
    code = f"import sys; open({str(seen)!r}, 'w').write(' '.join(sys.argv[1:]))"
    slow = proof.Step("slow", (sys.executable, "-c", "import time; time.sleep(1.3)"))
    train = proof.Step("train", (sys.executable, "-c", code), pieces=True)
    assert proof.prove([slow, train], tmp_path / "out", "card", time.monotonic() + 60) == 0
    option, minutes = seen.read_text().split()
    assert option == "--max-minutes" and 0.5 < float(minutes) < 0.99  # 1.3 of 60 s are gone
    assert proof.prove([train], tmp_path / "whole", "card", None) == 0 and seen.read_text() == ""


def test_a_rehearsal_of_the_gpu_proof_needs_no_gpu_and_says_which_data_are_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = load_script("tools/gpu_proof.py")
    monkeypatch.chdir(tmp_path)
    planned = {s.name: s for s in proof.steps("DIR", tmp_path, {"VLLM_PYTHON": "/v"}, rehearse=True)}
    assert "cuda" not in planned["engine bfloat16"].command and not planned["engine bfloat16"].missing
    assert {s.missing for n, s in planned.items() if n in ("gpu tests", "engine int8", "vllm")} == {
        "a rehearsal has no GPU"
    }
    assert "gsm8k/train.jsonl" in planned["recipe"].missing and "qwq explain" in planned["recipe"].missing
    keys = {key: parse_value(str(value)) for key, value in proof.REHEARSAL.items()}
    recipe = load_recipe(proof.RECIPE, keys)  # each key is one of the recipe's
    assert recipe.compute.device == "cpu" and {recipe.stages[n].steps for n in ("rl1", "rl2")} == {1}
