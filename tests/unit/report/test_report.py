"""The report of a run: what a reader relies on, on a run folder made here."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_run import make_run

from qwq.errors import DataError
from qwq.pipeline.run_report import read_run, write_report
from qwq.report import plots
from qwq.report.curves import ALARMS
from qwq.report.palette import contrast, on_dark
from qwq.report.plots import MAX_SPOTS
from qwq.report.run_data import compare, smooth, transcripts
from qwq.train.alarms import LIMITS


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


def test_the_axis_of_one_contract_check_has_whole_steps():
    finding = {"domain": "math", "change": 0.0, "ci95": [-0.01, 0.01]}
    picture = plots.contract([{"step": 1, "findings": [finding]}], 0.03, "math", "#123456")
    labels = re.findall(r">([0-9.\u2212+-]+)</text>", picture)
    assert {"1", "2", "3"} <= set(labels) and not [label for label in labels if label.startswith(("1.", "2."))]


def test_reward_model_contract_and_verdicts_are_told(finished):
    words = squeezed(finished[2].words)
    assert "better answer first in 90.0% [87.0, 92.0] of 500 held-out pairs" in words
    assert "80.0% [70.0, 87.0] of the 100 pairs of equal length" in words
    assert "was broken 1 time; 0 warnings in 2 checks" in words
    assert "breach" in words and "mix now math 0.40" in words and "praise 50%" in words and "repetition" not in words
    assert "step 6: 3.1% of verdicts are timeout" in words  # steps are counted from 1 for readers
    block = words[words.index("Training rollouts") :]
    assert block.startswith("Training rolloutsstagesharescorrectwrongrl17224rl27224")  # 12 steps x 6 and x 2


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
    for panel in drawn_panels(text):
        # The alarm is about verdicts, of which no picture is drawn here: no other picture has its
        # mark.
        assert "c62828" not in panel or "change in points" in panel
    ids = re.findall(r'(?<![\w:-])id="(m[0-9a-f]{6,}|p[0-9a-f]{6,})"', text)
    assert len(ids) == len(set(ids)), "clip paths and markers of different pictures must not share ids"


def drawn_panels(text: str) -> list[str]:
    return re.findall(r'<figure class="panel">.*?</figure>', text, re.DOTALL)


def test_an_alarm_is_marked_in_the_picture_of_its_own_figure(tmp_path):
    for limit in LIMITS:
        alarm = f"{limit.what.format(now=0.5, start=0.1)}: {limit.repair}"
        key = {"mismatch_mean": "mismatch_max", "kl_to_start": "kl"}.get(limit.key, limit.key)
        assert [k for k, words in ALARMS.items() if words in alarm] == [key], alarm
    folder = make_run(tmp_path / "fake", until="rl1", hostile="")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if "alarms" in row:
            row["alarms"] = ["entropy is 0.010 nats a token, 0.800 at first: the policy collapses"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    marked = [panel for panel in drawn_panels(write_report(folder).read_text()) if "c62828" in panel]
    assert len(marked) == 1 and "entropy, nats a token" in marked[0]


def test_the_contents_lead_to_every_section_and_stage(finished):
    _, text, page = finished
    links = re.findall(r'<a href="#(s\d+)">(.*?)</a>', text)
    assert [words for _, words in links][:5] == [
        "Scores by stage", "Reinforcement learning against more SFT", "Reward model", "Stage contract", "Curves",
    ]  # fmt: skip
    assert {"pretrain", "rl1", "rl2", "Verdicts", "Before and after"} <= {words for _, words in links}
    ids = [a["id"] for tag, a in page.tags if tag in ("h2", "h3") and "id" in a]
    assert ids == [target for target, _ in links]


def test_values_are_shown_under_the_pointer_and_a_single_step_is_a_number(tmp_path):
    folder = make_run(tmp_path / "fake", until="rl1", hostile="", steps=1)
    text = write_report(folder).read_text()
    assert "1 step, 1,000 tokens" in text and "1 steps" not in text
    curves = text[text.index(">Curves</h2>") :]
    assert "<svg" not in curves[: curves.index(">Verdicts</h2>")]
    assert re.search(r'loss, nats a token<span class="ends"></span></figcaption><div><span class="big">3.\d', curves)
    many = write_report(make_run(tmp_path / "many", until="rl1", hostile="", steps=100)).read_text()
    spots = re.findall(r'<g class="spot">.*?</g>', many)
    panel = next(p for p in drawn_panels(many) if "mean reward<" in p)
    shown = re.findall(r"<tspan[^>]*>step (\d+)</tspan><tspan[^>]*>math (.*?)</tspan>", panel)
    rows = [json.loads(line) for line in (tmp_path / "many" / "metrics.jsonl").read_text().splitlines()]
    rewards = {row["step"] + 1: row["reward"] for row in rows if row["stage"] == "rl1"}
    assert len(shown) == MAX_SPOTS and shown[0][0] == "1" and shown[-1][0] == "100"
    assert all(float(value) == pytest.approx(rewards[int(step)], abs=5e-3) for step, value in shown)
    assert len(spots) < 1000


def test_every_colour_of_a_picture_has_a_form_for_dark_pages(finished):
    _, text, _ = finished
    used = set(re.findall(r"var\(--p-([0-9a-f]{6}), #", text))
    given = dict(re.findall(r"--p-([0-9a-f]{6}):(#[0-9a-f]{6});", text))
    assert used and used <= given.keys()
    bare = re.findall(r"(?:fill|stroke|--c): ?(#[0-9a-f]{6})", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    assert not bare
    # Contrast by WCAG, by hand: white on black is 21, #767676 on white 4.54.
    assert contrast([255] * 3, [0] * 3) == pytest.approx(21) and contrast([118] * 3, [255] * 3) > 4.5
    assert on_dark("#ffffff") == "#ffffff" and on_dark("#0072b2") != "#0072b2"


def test_answers_of_the_last_step_are_shown_by_task(tmp_path):
    folder = make_run(tmp_path / "fake", until="rl1", hostile="")
    (folder / "rollouts" / "rl1").mkdir(parents=True)
    for step, shift in ((3, 100), (11, 0)):
        rows = [
            rollout("own", 7 + shift, 0, "5 <b>", 0.0, "wrong"), rollout("own", 7 + shift, 0, "7", 1.0, "correct"),
            rollout("own", 8 + shift, 1, "9", 1.0, "correct"), rollout("other", 1, 2, "1", 0.0, "wrong"),
            rollout("other", 1, 2, "2", 0.0, "wrong"),
        ]  # fmt: skip
        path = folder / "rollouts" / "rl1" / f"step-{step:05d}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(folder).read_text()
    shown = squeezed(Page(text[text.index(">Rollouts</h2>") :]).words)
    assert "rl1 step 12" in shown and "own/7problem 7" in shown and "own/8" not in shown and "own/107" not in shown
    assert "expected: 7" in shown and "answer 5 <b>" in shown and "<|im_end|>" not in shown
    assert shown.index("answer 7") < shown.index("answer 5")
    assert "other/1: all 2 answers earned the same" in shown and shown.count("reward 0 (verdict 0)") == 2


def rollout(task: str, problem: int, group: int, answer: str, reward: float, outcome: str) -> dict:
    return {
        "problem_id": f"{task}/{problem}", "domain": task, "group": group, "prompt": f"problem {problem}",
        "expected": problem,
        "text": f"hm</think>answer {answer}<|im_end|>", "rewards": {"verdict": reward}, "reward": reward,
        "verdicts": [{"outcome": outcome, "reason": "compared", "verifier": "math", "seconds": 0.0}],
        "stop_reason": "end", "completion_ids": [1, 2, 3],
    }  # fmt: skip


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
