"""The report of a run: what a reader relies on, on a run folder made here."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qwq.common.stats import paired_difference, wilson
from qwq.errors import DataError
from qwq.pipeline.run_report import read_run, write_report
from qwq.report.run_data import compare, smooth, transcripts

HOSTILE = '</pre><script>alert("x")</script><img src=http://example.invalid/x onerror=y>\x1b[31m\u202eabc'
SHARES = {  # of problems solved by stage
    "pretrain": {"math": 0.05, "code": 0.12, "preference": 0.1},
    "sft": {"math": 0.3, "code": 0.4, "preference": 0.2},
    "rl1": {"math": 0.6, "code": 0.7, "preference": 0.2},
    "control": {"math": 0.32, "code": 0.4, "preference": 0.2},
    "rl2": {"math": 0.58, "code": 0.7, "preference": 0.6},
}
STAGES = {
    "pretrain": "pretrain",
    "sft": "sft",
    "rl1": "rl1",
    "control": "control",
    "reward_model": "reward_model",
    "rl2": "rl2",
}
STARTS = {"sft": "pretrain", "rl1": "sft", "control": "sft", "rl2": "rl1"}
NUM = 60


def make_run(folder: Path, *, until: str = "rl2", steps: int = 12, hostile: str = HOSTILE) -> Path:
    """A run folder as the runner writes it, with figures drawn by a fixed generator."""
    folder.mkdir(parents=True)
    lines = ['name = "fake"', "seed = 3", "[model]", 'preset = "tiny"', "[compute]", 'device = "cpu"']
    for name, kind in STAGES.items():
        lines += [f"[stages.{name}]", f'kind = "{kind}"']
    lines += ["[stages.rl2.contract]", "max_drop = 0.03"]
    (folder / "recipe.toml").write_text("\n".join(lines) + "\n")
    (folder / "stages").mkdir()
    done = list(STAGES)[: list(STAGES).index(until) + 1]
    with (folder / "metrics.jsonl").open("w") as f:
        for name in done:
            for step in range(steps):
                f.write(json.dumps(metric_row(name, step, steps, hostile)) + "\n")
    for name in done:
        record = {
            "name": name,
            "kind": STAGES[name],
            "train_s": 40.0,
            "wall_s": 50.0,
            "steps": steps,
            "evals": {},
            "evals_greedy": {},
        }
        if name == "reward_model":
            record["evals"] = {
                "pair_accuracy": {
                    "score": 0.9,
                    "ci95": [0.87, 0.92],
                    "n": 500,
                    "mean_tokens": 20.0,
                    "mean_thinking_tokens": 0.0,
                    "matched_length": {"score": 0.8, "ci95": [0.7, 0.87], "n": 100},
                }
            }
        else:
            record |= evaluations(folder, name, hostile)
        if name == "rl2":
            record["contract"] = [contract_entry(4, 0.01, "ok"), contract_entry(9, -0.06, "breach")]
        (folder / "stages" / f"{name}.json").write_text(json.dumps(record))
    return folder


def metric_row(name: str, step: int, steps: int, hostile: str) -> dict:
    rng, t = random.Random(f"{name}{step}"), step / steps
    row = {"stage": name, "step": step, "seconds": 1.25, "tokens": 1000, "grad_norm": 1.0}
    if not name.startswith("rl"):
        row["loss"] = 3.0 * math.exp(-4 * t) + 0.4 + rng.gauss(0, 0.05)
        return row | ({"pair_accuracy": 0.5 + 0.4 * t} if name == "reward_model" else {})
    reward = min(0.95, 0.3 + 0.5 * t + rng.gauss(0, 0.04))
    row |= {
        "reward": reward,
        "reward_by_domain": {"math": reward, "code": min(1.0, reward + 0.1)},
        "pass_rate": reward,
        "length": 30 + 8 * t,
    }
    row |= {
        "entropy": 0.8 - 0.4 * t,
        "zero_signal": 0.3,
        "kl": 1e-3 * t,
        "mismatch_max": 3e-6,
        "outcomes": {"correct": 6, "wrong": 2},
    }
    if step == 5:
        row["alarms"] = [f"3.1% of verdicts are timeout {hostile}"]
    return row


def contract_entry(step: int, change: float, state: str) -> dict:
    finding = {"domain": "math", "change": change, "ci95": [change - 0.02, change + 0.02], "state": state}
    entry = {"step": step, "validation": {"math": 0.6, "preference": 0.4}, "findings": [finding], "reward_model": 0.7}
    entry["canaries"] = {"praise": 0.5, "repetition": 0.0}
    return entry | ({"action": "mix now math 0.40"} if state == "breach" else {})


def evaluations(folder: Path, name: str, hostile: str) -> dict:
    out: dict = {"evals": {}, "evals_greedy": {}}
    path = folder / "evals" / name
    path.mkdir(parents=True)
    passed = {b: [float(i < round(share * NUM)) for i in range(NUM)] for b, share in SHARES[name].items()}
    if name == "rl2":
        passed["math"][0] = 0.0  # solved by every stage before
    with (path / "sampled.jsonl").open("w") as f:
        for b, values in passed.items():
            for i, value in enumerate(values):
                verdict = {
                    "outcome": "correct" if value else "wrong",
                    "reason": f"numbers {i} {hostile}",
                    "verifier": b,
                    "seconds": 0.0,
                }
                row = {
                    "benchmark": b,
                    "problem_id": f"{b}/{i}",
                    "canonical": f"{b}/{i}",
                    "level": 1,
                    "prompt": f"{b} problem {i} {hostile}",
                }
                row |= {
                    "text": f"{name} thinks {hostile}\n</think>\n\\boxed{{{i}}}",
                    "verdict": verdict,
                    "stop_reason": "end",
                    "tokens": 20 + i,
                }
                f.write(json.dumps(row) + "\n")
    (path / "sampled.passed.json").write_text(json.dumps(passed))
    for b, values in passed.items():
        n = int(sum(values))
        e = {"score": n / NUM, "ci95": wilson(n, NUM), "n": NUM, "mean_tokens": 30.0, "mean_thinking_tokens": 10.0}
        e["outcomes"] = {"correct": n, "wrong": NUM - n}
        if name in STARTS:
            before = json.loads((folder / "evals" / STARTS[name] / "sampled.passed.json").read_text())[b]
            mean, low, high = paired_difference(before, values)
            e |= {"change": mean, "change_ci95": [low, high], "against": STARTS[name]}
        out["evals"][b] = e
        out["evals_greedy"][b] = dict(e)
    return out


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of <style>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words, self.open = "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "style":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if not self.open:
            self.words += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str, Page]:
    folder = make_run(tmp_path_factory.mktemp("runs") / "fake")
    path = write_report(folder)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return folder, text, Page(text)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_the_page_is_self_contained_and_hostile_text_stays_text(finished):
    _, text, page = finished
    assert not [t for t, _ in page.tags if t in ("script", "img", "iframe", "object", "link", "form", "base")]
    for tag, attributes in page.tags:
        assert not [a for a in attributes if a.startswith("on")], (tag, attributes)
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#"), (tag, attributes)
    assert "<script" not in text and "onerror=y&gt;" in text  # there, but as words
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m\\x202eabc" in text
    assert "@import" not in text and "url(http" not in text


def test_the_table_has_scores_intervals_greedy_and_paired_changes(finished):
    _, text, page = finished
    words = squeezed(page.words)
    # rl1 math: 36 of 60, Wilson interval; 18 problems turned from wrong to right: mean 0.3, sd
    # 0.4621, half 1.96*0.4621/sqrt(60) = 0.1169
    assert "60.0[47.4, 71.4]greedy 60.0+30.0 [+18.3, +41.7]" in words
    assert re.search(r'<div class="good">\+30\.0', text)
    # rl2 math: problem 0 lost and one of the others (34 instead of 36, and 0): 2 of 60 lost, the
    # interval reaches zero or not as computed
    change = compare(read_run(finished[0]), "rl1", "rl2")[0]
    assert change.benchmark == "math" and change.mean == pytest.approx(-2 / 60)
    assert "seed 3" in words and "finished" in words


def test_the_control_is_compared_problem_by_problem(finished):
    words = squeezed(finished[2].words)
    # math: 36 against 19 of 60, code: 42 against 24, preference equal
    assert (
        "is ahead of SFT continued on its own demonstrations (control) on math by +28.3" in words
        and "code by +30.0" in words
    )
    assert "cannot be told from it on preference by +0.0" in words


def test_reward_model_contract_and_verdicts_are_told(finished):
    words = squeezed(finished[2].words)
    assert "better answer first in 90.0% [87.0, 92.0] of 500 held-out pairs" in words
    assert "80.0% [70.0, 87.0] of the 100 pairs of equal length" in words
    assert "was broken 1 time; 0 warnings in 2 checks" in words
    assert "breach" in words and "mix now math 0.40" in words and "praise 50%" in words and "repetition" not in words
    assert "step 6: 3.1% of verdicts are timeout" in words  # steps are counted from 1 for readers
    block = words[words.index("Training rollouts") :]
    assert block.startswith("Training rolloutscorrectwrongrl17224rl27224")  # 12 steps x 6 and x 2


def test_transcripts_are_the_first_that_turned_and_tell_what_was_lost(finished):
    folder, text, _ = finished
    pairs = transcripts(read_run(folder), "sft", "rl2")
    # sft solves math 0..17; rl2 solves 1..34
    assert [(p.kind, p.after["problem_id"]) for p in pairs["math"]] == [
        ("fixed", "math/18"),
        ("fixed", "math/19"),
        ("broken", "math/0"),
    ]
    assert [p.kind for p in pairs["code"]] == ["fixed", "fixed"]
    assert len(re.findall(r'<div class="side( right)?">', text)) == 2 * (3 + 2 + 2)
    assert "<span class='thinking'>sft thinks" in text and "\\boxed{18}" in text


def test_curves_are_there_for_every_stage_and_alarms_are_marked(finished):
    _, text, page = finished
    pictures = [a.get("aria-label") for t, a in page.tags if t == "svg"]
    assert pictures.count("loss, nats a token") == 3  # pretrain, sft, control
    assert pictures.count("mean reward by domain") == pictures.count("KL to the reference model") == 2
    assert text.count("#c62828") >= 2 * 7  # a triangle in each picture of rl1 and rl2
    ids = re.findall(r'(?<![\w:-])id="(m[0-9a-f]{6,}|p[0-9a-f]{6,})"', text)
    assert len(ids) == len(set(ids)), "clip paths and markers of different pictures must not share ids"


@pytest.mark.parametrize("until", ["pretrain", "rl1"])
def test_an_unfinished_run_has_a_report(tmp_path, until):
    folder = make_run(tmp_path / "fake", until=until, hostile="")
    page = Page(write_report(folder).read_text())
    assert "not finished" in page.words and "Reward model" not in page.words
    assert ("Before and after" in page.words) == (until == "rl1")


def test_a_run_that_was_killed_in_its_first_stage_has_a_report(tmp_path):
    folder = make_run(tmp_path / "fake", until="pretrain", hostile="")
    (folder / "stages" / "pretrain.json").unlink()
    with (folder / "metrics.jsonl").open("a") as f:
        f.write('{"stage": "pretr')  # cut off by the kill
    words = squeezed(Page(write_report(folder).read_text()).words)
    assert (
        "under way" in words and "12 steps, 12,000 tokens at 800 a second" in words and "Scores by stage" not in words
    )


def test_a_broken_metrics_line_and_a_folder_that_is_no_run_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no run at .*recipe\.toml"):
        write_report(tmp_path)
    folder = make_run(tmp_path / "fake", until="pretrain", hostile="")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], "{bad", *lines[1:]]) + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2: not JSON"):
        write_report(folder)


def test_a_running_mean_starts_at_the_first_value():
    assert smooth([2.0, 2.0, 2.0], 0.9) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([0.0, 1.0], 0.5) == pytest.approx([0.0, 0.5 / 0.75])
