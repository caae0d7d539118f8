"""`qwq look`: the index against the records, filters by hand, hostile text, damaged and growing
files.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qwq.cli import main
from qwq.errors import ConfigError, DataError
from qwq.look import index as look_index
from qwq.look import terminal
from qwq.look.index import open_index
from qwq.look.query import Query, select
from qwq.look.shown_answers import entry, read_light, read_record, thinking_and_answer
from qwq.look.tokens import Shader
from qwq.rollout.store import RolloutStore


def numbers(index: Any, **query: Any) -> list[int]:
    return (select(index, Query(**query)) + 1).tolist()


def test_all_files_of_a_run_in_the_order_of_its_stages(run: Path) -> None:
    index = open_index(run)
    places = [index.name("place", r) for r in range(len(index))]
    assert places == ["rl2"] * 6 + ["rl1"] * 2 + ["eval rl2"]
    assert index.columns["step"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, -1]
    assert [index.name("task", r) for r in range(len(index))] == ["math"] * 6 + ["code"] * 2 + ["gsm8k"]
    assert index.columns["tokens"].tolist() == [3] * 8 + [12]


def test_advantages_are_rewards_minus_the_mean_of_the_group(run: Path) -> None:
    index = open_index(run)
    assert [index.value("advantage", r) for r in range(9)] == [0.5, -0.5, None, 0.5, 0.0, -0.5, 0.0, 0.0, None]
    assert [index.value("reward", r) for r in range(9)] == [1.0, 0.0, None, 1.0, 0.5, 0.0, 0.0, 0.0, None]
    assert index.group_of(0) == [0, 1] and index.group_of(4) == [3, 4, 5] and index.group_of(2) == [2]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"outcome": "correct"}, [1, 4]),
        ({"outcome": "infra_error"}, [3]),
        ({"place": "rl1"}, [7, 8]),
        ({"place": "rl2", "step": "2"}, [4, 5, 6]),
        ({"step": "2:"}, [4, 5, 6]),
        ({"step": ":1"}, [1, 2, 3, 7, 8]),
        ({"task": "code"}, [7, 8]),
        ({"problem": "p2"}, [4, 5, 6]),
        ({"min_reward": 0.5}, [1, 4, 5]),
        ({"max_reward": 0.5, "place": "rl2"}, [2, 5, 6]),
        ({"min_reward": 0.5, "max_reward": 0.5}, [5]),
        ({"text": "SEVEN"}, [1, 9]),
        ({"text": "\u00e4 STRA"}, [4]),
        ({"text": "what is 2?"}, [4, 5, 6]),  # in the prompt
        ({"text": "reason 1"}, [3]),
        ({"text": "sevenreason"}, []),  # ends in one field, begins in another
        ({"text": "\n7\np0"}, [1, 2, 7]),  # fields of one answer are lines
        ({"text": "nobody wrote this"}, []),
        ({"sort": "reward", "place": "rl2"}, [2, 6, 5, 1, 4, 3]),
        ({"sort": "reward", "reverse": True, "place": "rl2"}, [1, 4, 5, 2, 6, 3]),
        ({"sort": "tokens", "reverse": True, "min_reward": None}, [9, 1, 2, 3, 4, 5, 6, 7, 8]),
        ({"reverse": True, "place": "rl1"}, [8, 7]),
    ],
)
def test_filters_by_hand(run: Path, query: dict[str, Any], rows: list[int]) -> None:
    assert numbers(open_index(run), **query) == rows


def test_a_search_without_the_c_library_finds_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_index(run)
    words = ("seven", "what is", "e", "\n", "half", "nobody wrote this", index.words.decode("utf-8", "replace")[-5:])
    fast = [numbers(index, text=text) for text in words]
    monkeypatch.delattr("ctypes.CDLL")
    assert [numbers(index, text=text) for text in words] == fast


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"outcome": "corect"}, "no answer has the outcome 'corect': did you mean 'correct'?"),
        ({"place": "rl3"}, "no answer has the stage 'rl3': did you mean"),
        ({"step": "a:b"}, "--step a:b: give one step, such as 3, or a range, such as 3:10"),
        ({"sort": "rewards"}, "no order 'rewards': did you mean 'reward'"),
    ],
)
def test_what_no_answer_has_is_said(run: Path, query: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        select(open_index(run), Query(**query))


def test_a_line_without_its_token_columns_is_the_record(run: Path) -> None:
    line = (run / "rollouts" / "rl2" / "step-00000.jsonl").read_bytes().split(b"\n")[0]
    light, tokens = read_light(line, 0, len(line))
    whole = read_record(line)
    assert tokens == 3 and light == {k: v for k, v in whole.items() if k in light} and "sampled_mask" not in light
    # The same words inside another field are text, or an object of their own.
    for expected in ('say , "prompt_ids": [1', {"a": 1, "prompt_ids": [1], "sampled_mask": [1, 1]}):
        odd = json.dumps({"problem_id": "p", "expected": expected, "completion_ids": [1, 2]}).encode()
        record, count = read_light(b"before\n" + odd + b"\nafter", 7, 7 + len(odd))
        assert record["expected"] == expected and count == 2


def test_thinking_is_read_by_the_rule_of_rewards(run: Path) -> None:
    index = open_index(run)
    read = [thinking_and_answer(index.entry(r)) for r in (0, 4, 8)]
    assert read == [("add", "seven"), ("never closed", ""), ("a", "Seven")]


def test_an_index_is_kept_completed_and_made_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_index, "KEPT_FROM_BYTES", 0)
    fresh = open_index(run)
    assert fresh.saving is not None
    fresh.saving.join()
    assert (run / ".look.index").is_file()
    read: list[Path] = []
    read_file = look_index._Builder.read
    monkeypatch.setattr(look_index._Builder, "read", lambda self, s, t: (read.append(s.path), read_file(self, s, t))[1])
    kept = open_index(run)
    assert not read and len(kept) == 9
    for query in ({"text": "seven"}, {"text": "what is 2?"}, {"outcome": "wrong"}, {"min_reward": 0.5}):
        assert numbers(kept, **query) == numbers(fresh, **query)
    assert [kept.public(r) for r in range(9)] == [fresh.public(r) for r in range(9)]
    # A file behind the others is added, one that changed makes the index again.
    samples = run / "samples"
    samples.mkdir()
    row = {
        "problem_id": "s",
        "sample": 3,
        "thinking_budget": 64,
        "output": "Later",
        "score": 1.0,
        "tokens": 5,
        "verdict": {"outcome": "correct"},
    }
    (samples / "aime24.jsonl").write_text(json.dumps(row) + "\n")
    more = open_index(run)
    assert more.saving is not None
    more.saving.join()
    assert read == [samples / "aime24.jsonl"] and numbers(more, text="later") == [10] == numbers(more, place="aime24")
    assert numbers(more, text="what is 2?") == [4, 5, 6]
    assert (more.entry(9).budget, more.entry(9).sample, more.name("task", 9)) == (64, 3, "aime24")
    RolloutStore(run / "rollouts" / "rl2").write(1, [])
    assert len(open_index(run)) == 7 and len(read) == 6


def test_files_read_by_several_processes_give_the_same_index(run: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom qwq.look import index\n"
        "os.sched_getaffinity = lambda _: range(int(sys.argv[2]))\nindex.DIVIDED_FROM_BYTES = 0\n"
        "read = index._read_into\ndef part(*args):\n    os.write(2, b'part\\n')\n    return read(*args)\n"
        "index._read_into = part\n"
        "made = index.open_index(Path(sys.argv[1]))\n"
        "print([made.public(r) for r in range(len(made))], made.words, made.names)\n"
        "starts, ends = [0, *made.prompt_ends], made.prompt_ends\n"
        "print([made.prompts[starts[n] : ends[n]] for n in made.columns['prompt']])\n"
        "print({n: c.tolist() for n, c in made.columns.items() if n not in ('advantage', 'reward', 'prompt')})\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script, run, n], capture_output=True, text=True, check=True)
        for n in ("1", "3")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert [len(r.stderr.splitlines()) for r in runs] == [1, 3]


def odd_lines() -> list[str]:
    """Lines of rollouts with what changes bytes: letters whose lower case is longer or depends on
    its place, half characters, masks of tools, a line longer than what is read at once, figures
    that fit nowhere.
    """
    columns = {"prompt_ids": [1], "completion_ids": [2, 3, 4], "sampled_mask": [1, 0, 1], "sampler_logprobs": [0, 0, 0]}
    texts = [
        "Plain",
        "\u0130\u023a \u039f\u03a3",
        "\u03a3",
        "half \ud83d",
        'say , "prompt_ids": [1',
        "x[" * 200_000,
        "",
    ]
    lines = []
    for number, text in enumerate(texts):
        row = {"problem_id": f"P{number % 2}", "domain": "math", "group": number % 3, "prompt": f"\u0130 {number % 2}"}
        row |= {"expected": {"a": [1, "B"]} if number == 2 else "Seven", "text": text, "reward": number / 3}
        row |= {"verdicts": [{"outcome": "wrong", "reason": None if number % 2 else "Why"}]}
        lines.append(json.dumps(row | columns, ensure_ascii=number % 2 == 0 or number == 3))
    whole = {"problem_id": "W", "completion_ids": [1, 2], "reward": 10**400, "prompt": 7, "verdict": "none", "score": 1}
    lines += [json.dumps(whole), json.dumps({"problem_id": "V", "tokens": 10**12, "score": 0.25, "output": ["A"]})]
    nan = '{"problem_id": "N", "reward": NaN, "text": "A"}'
    empty = '{"problem_id": "E", "prompt_ids": [], "completion_ids": [], "sampled_mask": []}'
    other = '{"problem_id": "O", "prompt_ids": [1], "sampled_mask": [1, 1], "completion_ids": [7]}'
    return [*lines, nan, empty, other, "", "no JSON", '{"problem_id": "cut", "prompt_ids": [1, 2]}', '{"settings": {}}']


def test_an_index_is_byte_for_byte_what_its_records_say(run: Path) -> None:
    """Each line is read here on its own, whole; columns and text are made up from its entry."""
    for step in (2, 3):
        path = run / "rollouts" / "rl1" / f"step-0000{step}.jsonl"
        path.write_bytes(("\n".join(odd_lines()) + '\n{"problem_id": "no end"').encode())
    index = open_index(run)
    columns: dict[str, list[Any]] = {name: [] for name in index.columns}
    names: dict[str, dict[str, int]] = {name: {} for name in index.names}
    text, prompts, damaged = bytearray(), {}, 0
    for number, source in enumerate(index.files):
        offset, rows = 0, []
        for line in source.path.read_bytes().split(b"\n")[:-1]:
            try:
                shown = entry(read_record(line), source.place)
                cut = b'"prompt_ids": [' in line and not shown.completion_ids and b'"E"' not in line
                if cut:
                    raise ValueError
            except ValueError:
                damaged += bool(line) and not line.startswith(b'{"settings":')
            else:
                words = "\n".join((shown.output, shown.reason, shown.expected, shown.problem_id))
                text += words.lower().encode("utf-8", "replace")
                prompt = prompts.setdefault(shown.prompt, len(prompts))
                tokens = shown.tokens if b'"O"' not in line else 2  # with a mask, it counts
                figures = (number, offset, len(line), -1 if source.step is None else source.step, tokens, prompt)
                rows.append((shown.group, np.float32(np.nan if shown.reward is None else shown.reward)))
                for name, value in zip(columns, figures, strict=False):
                    columns[name].append(value)
                columns["text_end"].append(len(text))
                said = (source.place, shown.task, shown.outcome, shown.problem_id, shown.group)
                for (name, known), word in zip(names.items(), said, strict=True):
                    columns[name].append(known.setdefault(word, len(known)))
            offset += len(line) + 1
        for group, reward in rows:
            others = [float(r) for g, r in rows if g == group and not np.isnan(r)]
            known = source.step is not None and not np.isnan(reward)
            columns["advantage"].append(float(reward) - sum(others) / len(others) if known else np.nan)
            columns["reward"].append(reward)
    assert {n: list(w) for n, w in names.items()} == index.names and damaged == index.damaged == 4
    assert index.words == text
    lowered = [p.lower().encode("utf-8", "replace") for p in prompts]
    assert index.prompts == b"".join(lowered) and index.prompt_ends.tolist() == np.cumsum([*map(len, lowered)]).tolist()
    for name, kind in look_index.COLUMNS.items():
        assert index.columns[name].tobytes() == np.array(columns[name], kind).tobytes(), name


def test_damaged_half_and_foreign_lines_are_counted(run: Path) -> None:
    path = run / "rollouts" / "rl1" / "step-00000.jsonl"
    lines = path.read_bytes()
    path.write_bytes(b"\x00\xff\n[1]\n" + b'{"problem_id": 4}\n' + lines + b'{"problem_id": "half')
    index = open_index(run)
    assert len(index) == 9 and index.damaged == 3
    assert index.entry(6).output == "one"


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_file_that_changes_meanwhile_is_said(run: Path, change: Any) -> None:
    index = open_index(run)
    change(run / "rollouts" / "rl1" / "step-00000.jsonl")
    with pytest.raises(DataError, match=r"step-00000.jsonl changed while it was looked at: run the same command again"):
        printed(terminal.listing(index, range(9)))


def test_a_distillation_s_store_and_one_file(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl.samples.jsonl"
    row = {
        "problem_id": "p",
        "number": 2,
        "text": "<think>x</think>4",
        "finish": "stop",
        "verdict": {"outcome": "correct", "verifier": "math"},
    }
    path.write_text('{"settings": {"teacher": "t"}}\n' + json.dumps(row) + "\n")
    for target in (path, tmp_path):
        index = open_index(target)
        assert len(index) == 1 and index.damaged == 0
        shown = index.entry(0)
        assert (shown.sample, shown.task, shown.outcome, shown.stop_reason) == (2, "math", "correct", "stop")


def test_records_of_odd_types_are_shown() -> None:
    odd = {
        "problem_id": "p",
        "text": {"a": 1},
        "expected": [1],
        "reward": "x",
        "rewards": 3,
        "verdicts": "no",
        "tokens": "many",
        "turns": [1],
    }
    shown = entry(odd, "here")
    assert (shown.output, shown.expected, shown.reward, shown.tokens, shown.task) == (
        '{\n "a": 1\n}',
        "[\n 1\n]",
        None,
        0,
        "here",
    )


@pytest.mark.parametrize(
    ("expected", "shown"),
    [
        ("40", "40"),
        (
            {"tests": {"kind": "asserts", "setup": "import re", "asserts": ["assert f(1) == 2"]}},
            "import re\nassert f(1) == 2",
        ),
        (
            {
                "tests": {
                    "kind": "call",
                    "entry_point": "g",
                    "cases": [{"args": [2, "a"], "kwargs": {"n": 3}, "expected": 5}],
                }
            },
            "g(2, 'a', n=3) == 5",
        ),
        ({"tests": {"kind": "stdio", "cases": [{"input": "2 3", "output": "5"}]}}, "input '2 3' gives '5'"),
        (
            {"tests": {"kind": "stdio", "cases": [{"input": "2", "any_of": ["1"]}]}},
            '{\n "input": "2",\n "any_of": [\n  "1"\n ]\n}',
        ),
        ({"tests": {"kind": "check"}}, '{\n "tests": {\n  "kind": "check"\n }\n}'),
        (
            {"rules": [{"id": "no_commas"}, {"id": "num_sentences", "n": 2}], "thing": "water"},
            "no_commas\nnum_sentences: n 2",
        ),
        ({"rules": [3]}, '{\n "rules": [\n  3\n ]\n}'),
    ],
)
def test_what_was_expected_is_readable(expected: Any, shown: str) -> None:
    assert entry({"problem_id": "p", "expected": expected}, "here").expected == shown


def test_the_turns_of_an_agent_s_sample_are_shown_with_their_results() -> None:
    call = {"name": "python", "arguments": {"code": "1 / 0"}}
    turns = [
        {"answer": "I try.", "calls": [call], "results": ["Traceback\nZeroDivisionError"], "malformed": 1},
        {"answer": "No.", "calls": [], "malformed": 0},
    ]
    shown = entry({"problem_id": "p", "output": "No.", "turns": turns, "wall_seconds": 1.5}, "here")
    assert shown.calls == (
        "turn 1: I try.\n" + json.dumps(call) + "\n    Traceback\n    ZeroDivisionError\n(1 calls that cannot be read)"
    )
    assert shown.facts["seconds with tools"] == "1.5"
    assert entry({"problem_id": "p", "turns": [{"calls": 3, "results": "x"}]}, "here").calls == ""


@pytest.mark.parametrize("name", ["nothing", "run/recipe.toml/x", "empty"])
def test_what_holds_no_answers(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"recipe.toml holds no answers \(5 lines are none\): give a run's folder"):
        open_index(run / "recipe.toml")
    with pytest.raises(DataError, match=r"give a run's folder .*a results folder of `qwq eval`, or a file of samples"):
        open_index(tmp_path / name)


# -- the terminal and the command ------------------------------------------------------------------


def printed(thing: Any, *, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(thing, soft_wrap=True)
    return out.getvalue()


def test_hostile_text_steers_no_terminal(run: Path) -> None:
    index = open_index(run)
    for thing in (terminal.listing(index, range(9)), *(terminal.one(index, r) for r in range(9))):
        shown = printed(thing)
        assert "\x1b" not in shown and "\u202e" not in shown
    assert "<script>alert(1)</script>\\x1b[31m\\x202eabc" in printed(terminal.one(index, 1))


def test_one_answer_says_all(run: Path) -> None:
    shown = printed(terminal.one(open_index(run), 0))
    for words in ("#1  rl2, step 1  math  p0", "What is 0?<think>", "Expected", "add", "seven", "correct: reason 0",
    "reward 1 = accuracy 1",
                  "read out 7", "ended by end", "weight version 2", "Group: 2 answers", "-0.5"):  # fmt: skip
        assert words in shown


class Tokens:
    """Stands for a run's tokenizer: three tokens."""

    token_bytes = [b"", b"", b"", b"ad", b"d\xc3", b"\xa4"]


def test_tokens_by_probability(run: Path) -> None:
    index = open_index(run)
    shader = Shader(run)
    assert shader.pieces(index.entry(0)) == []  # no tokenizer in this folder
    shader._tokenizer = Tokens()  # type: ignore[assignment]
    pieces = shader.pieces(index.entry(0))
    assert [text for text, _ in pieces] == ["ad", "d", "\u00e4"]
    assert [p for _, p in pieces] == [pytest.approx(0.904837, abs=1e-6), pytest.approx(0.135335, abs=1e-6), None]
    assert "add[0.14]\u00e4" in printed(terminal.one(index, 0, shader, colour=False))


def test_browsing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "PAGE", 4)
    index, out = open_index(run), io.StringIO()
    words = iter(["", "", "", "b", "b", "t", "2", "t", "/seven", "99", "q"])
    console = Console(file=out, width=200, color_system=None, highlight=False)
    terminal.browse(index, Query(), console, Shader(run), lambda _: next(words))
    shown = out.getvalue()
    assert (
        "#2  rl2, step 1" in shown and "2 of 9 answers: 1 correct, 1 no_answer" in shown and "no answer '99'" in shown
    )
    pages = [
        block.split("#  stage")[1].split("number:")[0] for block in shown.split(" answers")[1:] if "#  stage" in block
    ]
    assert ["eval rl2" in p for p in pages[:6]] == [False, False, True, False, False, False]


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(run), "--stage", "rl2", "--sort", "reward", "--reverse", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 of 9 answers: 3 wrong, 2 correct, 1 infra_error" and [
        line.split()[0] for line in lines[2:]
    ] == ["1", "4"]
    assert main(["look", str(run), "--text", "seven", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["number"] for r in rows] == [1, 9] and rows[0]["final"] == "seven" and rows[0]["advantage"] == 0.5
    assert (rows[0]["stage"], rows[0]["step"], rows[1]["step"], rows[0]["expected"]) == ("rl2", 1, None, "7")
    assert main(["look", str(run), "--show", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["thinking"] == "half \ud83d"
    assert main(["look", str(run), "--show", "6", "--outcome", "correct"]) == 2
    assert "--show 6: that answer does not fit the filters beside it: leave them out" in capsys.readouterr().err
    assert main(["look", str(run), "--show", "10"]) == 2
    assert "holds answers 1 to 9" in capsys.readouterr().err


def test_a_list_that_is_cut_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "PAGE", 8)
    assert main(["look", str(run)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 + 8 and err == "1 more: --limit 9 lists all, a filter fewer\n"
    assert main(["look", str(run), "--stage", "rl2"]) == 0
    assert capsys.readouterr().err == ""
