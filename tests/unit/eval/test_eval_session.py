"""`qwq eval` with stored samples against a scripted server: results, going on, settings, failures,
comparison, the page.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import commands
import pytest
from fake_endpoint import FakeEndpoint, question_of

from qwq.cli import main
from qwq.cli import run as cli
from qwq.engine.sampler import SamplingParams
from qwq.errors import ConfigError, DataError, InfraError
from qwq.eval.folder import locked
from qwq.eval.options import EvalOptions, prepare
from qwq.eval.page import announced
from qwq.eval.run import run, sample_seed
from qwq.rollout.policies.endpoint import EndpointPolicy
from qwq.rollout.policy import TurnRequest
from qwq.tasks import get
from qwq.tasks.downloads import Published, download

AIME = [{"prompt": f"What is {i} and {i}?", "answer": 2 * i} for i in range(1, 5)]
GSM = [{"question": f"Tom has {i} pens and gets 1. How many?", "answer": f"sum\n#### {i + 1}"} for i in range(3)]
HUMAN = {
    "task_id": "HumanEval/0", "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "prompt": 'import math\n\n\ndef double(x):\n    """Twice x."""\n', "canonical_solution": "    return 2 * x\n",
}  # fmt: skip
MBPP = {
    "task_id": 12,
    "text": "Write a function to add one.",
    "test_list": ["assert inc(1) == 2"],
    "test_setup_code": "",
}
IFEVAL = [
    {"prompt": "No commas please.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "prompt": "Many words.",
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"relation": "at least", "num_words": 100}],
    },
]
FUNCTION = {
    "name": "geo.area",
    "description": "Area.",
    "parameters": {
        "type": "dict",
        "properties": {"base": {"type": "integer", "description": "b"}, "unit": {"type": "string", "description": "u"}},
        "required": ["base"],
    },
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(folder / "aime24/test.jsonl", AIME)
    write(folder / "gsm8k/test.jsonl", GSM)
    write(folder / "gsm8k/train.jsonl", [{"question": "not asked", "answer": "#### 1"}])
    write(folder / "humaneval/some.jsonl", [HUMAN])
    write(folder / "mbpp/mbpp.jsonl", [MBPP, {**MBPP, "task_id": 700}])
    write(folder / "ifeval/prompts.jsonl", IFEVAL)
    write(folder / "ifeval/graded.jsonl", [{**IFEVAL[0], "response": "x"}])
    calls = [
        {"id": f"{c}_{i}", "question": [[{"role": "user", "content": f"{c} {i}"}]], "function": [FUNCTION]}
        for c in ("simple_python", "irrelevance")
        for i in range(2)
    ]
    for category in ("simple_python", "irrelevance"):
        write(folder / f"bfcl/BFCL_v4_{category}.json", [r for r in calls if r["id"].startswith(category)])
    write(
        folder / "bfcl/possible_answer/BFCL_v4_simple_python.json",
        [
            {"id": f"simple_python_{i}", "ground_truth": [{"geo.area": {"base": [i], "unit": ["", "m"]}}]}
            for i in range(2)
        ],
    )
    return folder


def answer(body: dict[str, Any]) -> dict[str, Any] | str:
    """Right for AIME's 1 and 2, wrong for 3, none for 4."""
    asked = question_of(body)
    if asked.startswith("What is"):
        i = int(asked.split()[2])
        return {
            1: {"content": "\\boxed{2}", "reasoning_content": "one and one"},
            2: "<think>\nhm\n</think>\n\nit is \\boxed{4}",
            3: "\\boxed{7}",
            4: "I have turned it over for a long while and I still cannot tell you.",
        }[i]
    if asked.startswith("Tom"):
        return f"\\boxed{{{int(asked.split()[2]) + 1}}}"
    if "def double" in asked:
        return "```python\ndef double(x):\n    return 2 * x\n```"
    if "add one" in asked:
        return "```python\ndef inc(x): return x + 2\n```"
    if asked.startswith("simple"):
        call = {"name": "geo_area", "arguments": json.dumps({"base": int(asked[-1])})}
        return {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    return "I cannot call anything here"


def evaluate(
    url: str, names: list[str], data: Path, out: Path, opens_thinking: bool | None = None, **options: Any
) -> dict[str, Any]:
    chosen = EvalOptions(**options)
    prepared = prepare(names, data, chosen)
    server = EndpointPolicy(url, "m", concurrency=4, patience=(0.01, 0.01), opens_thinking=opens_thinking).connect()
    with contextlib.closing(server) as backend:
        return run(backend, prepared, chosen, out, model="m")


def test_every_benchmark_end_to_end(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    names = ["aime24", "gsm8k", "mbpp", "ifeval", "bfcl", "humaneval"]
    with FakeEndpoint(answer) as server:
        assert (
            cli(
                [
                    "eval",
                    "m",
                    *names,
                    "--endpoint",
                    server.url,
                    "--data",
                    str(data),
                    "--out",
                    str(out),
                    "--samples",
                    "2",
                ]
            )
            == 0
        )
    results = json.loads((out / "results.json").read_text())
    assert json.loads(capsys.readouterr().out) == results
    assert {n: r["score"] for n, r in results.items()} == pytest.approx(
        {"aime24": 0.5, "gsm8k": 1.0, "mbpp": 0.0, "ifeval": 0.5, "bfcl": 1.0, "humaneval": 1.0}
    )
    assert {n: r["n"] for n, r in results.items()} == {
        "aime24": 4,
        "gsm8k": 3,
        "mbpp": 1,
        "ifeval": 2,
        "bfcl": 4,
        "humaneval": 1,
    }
    for figures in results.values():
        assert figures["ci95"][0] <= figures["score"] <= figures["ci95"][1] and figures["mean_tokens"] == 10
    aime = results["aime24"]
    assert aime["outcomes"] == {"correct": 4, "no_answer": 2, "wrong": 2}
    assert aime["pass_at_k"] == {"1": 0.5, "2": 0.5} and aime["maj_at_2"] == 0.5
    # Counted by the server for the first problem (4 of 10), by characters for the second, none for
    # the others.
    assert 1.0 < aime["mean_thinking_tokens"] < 2.5
    assert aime["closed_thinking"] == 0.5  # four of eight replies think, and answer
    assert results["ifeval"]["prompt_strict"] == 0.5 and "multi_turn_base" in results["bfcl"]["not_run"]
    assert results["bfcl"]["overall_v3"] is None and results["bfcl"]["parts"] == {"non_live": 1.0}
    record = json.loads((out / "samples/aime24.jsonl").read_text().splitlines()[0])
    assert {
        "problem_id",
        "sample",
        "seed",
        "prompt",
        "output",
        "verdict",
        "stop_reason",
        "tokens",
        "thinking_tokens",
        "seconds",
    } <= record.keys()
    assert not list((out / "samples").glob("*.pending"))
    sent = next(b for b in server.asked if b["messages"][0]["content"].startswith("What is 1"))
    assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["max_tokens"]) == (0.6, 0.95, 40, 32768)
    assert sent["messages"][0]["content"].endswith("within \\boxed{}.") and len(sent["messages"]) == 1


def test_nothing_finished_is_asked_again_and_more_can_be_added(data: Path, tmp_path: Path) -> None:
    with FakeEndpoint(answer) as server:
        first = evaluate(server.url, ["aime24"], data, tmp_path / "o", n=2, samples=2)
        assert len(server.asked) == 4
        assert evaluate(server.url, ["aime24"], data, tmp_path / "o", n=2, samples=2) == first
        assert len(server.asked) == 4
        assert evaluate(server.url, ["aime24"], data, tmp_path / "o", samples=3)["aime24"]["n"] == 4
        assert len(server.asked) == 12
        seeds = [json.loads(line)["seed"] for line in (tmp_path / "o/samples/aime24.jsonl").read_text().splitlines()]
        assert len(set(seeds)) == 12 and sample_seed(1, "b", "p", 0) != sample_seed(2, "b", "p", 0)
        with pytest.raises(
            ConfigError, match=r"temperature was 0.6, is now 0.9\): give the same options, or another --out"
        ):
            evaluate(server.url, ["aime24"], data, tmp_path / "o", temperature=0.9)
        write(data / "aime24/test.jsonl", AIME[:3])
        with pytest.raises(ConfigError, match="data was"):
            evaluate(server.url, ["aime24"], data, tmp_path / "o")
        assert len(server.asked) == 12


def test_a_half_last_line_and_an_ungraded_reply(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    with FakeEndpoint(answer) as server:
        whole = evaluate(server.url, ["aime24"], data, out, samples=1)
        path = out / "samples/aime24.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:2]) + lines[2][: len(lines[2]) // 2])
        # The fourth problem's reply had come, its verdict had not.
        last = json.loads(lines[3])
        turn = {
            "thinking": "",
            "answer": last["output"],
            "stop": "end",
            "tokens": 10,
            "thinking_tokens": 0,
            "calls": [],
            "malformed": 0,
            "seconds": 0.1,
            "estimated": False,
        }
        pending = {k: v for k, v in last.items() if k not in ("verdict", "score", "detail")} | {"turns": [turn]}
        path.with_suffix(".pending").write_text(json.dumps(pending) + "\n")
        asked = len(server.asked)
        again = evaluate(server.url, ["aime24"], data, out, samples=1)
        assert len(server.asked) == asked + 1  # only what was torn
        assert (
            again["aime24"]["score"] == whole["aime24"]["score"]
            and again["aime24"]["outcomes"] == whole["aime24"]["outcomes"]
        )
    assert len(path.read_text().splitlines()) == 4


def test_killed_at_any_moment_it_asks_for_no_finished_sample_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"

    def slow(body: dict[str, Any]) -> dict[str, Any] | str:
        time.sleep(0.05)
        return answer(body)

    with FakeEndpoint(slow) as server:
        command = ["eval", "m", "aime24", "--endpoint", server.url]
        command += ["--data", str(data), "--out", str(out), "--samples", "8", "--concurrency", "2"]
        path = out / "samples/aime24.jsonl"
        for wanted in (5, 15):
            process = commands.Command(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not path.is_file() or path.read_bytes().count(b"\n") < wanted:
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.2)  # requests that were under way come to their end
            stored = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            kept, seen = {(r["problem_id"], r["sample"]) for r in stored}, len(server.asked)
        commands.run(*command).check_returncode()
        final = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(final) == 32 == len({(r["problem_id"], r["sample"]) for r in final})
    by_seed = {r["seed"]: (r["problem_id"], r["sample"]) for r in final}
    assert not kept & {by_seed[b["seed"]] for b in server.asked[seen:]}


def test_a_failing_server_is_asked_again_and_then_given_up(data: Path, tmp_path: Path) -> None:
    calls = {"n": 0}

    def flaky(body: dict[str, Any]) -> Any:
        calls["n"] += 1
        return (503, "busy") if calls["n"] % 2 else answer(body)

    with FakeEndpoint(flaky) as server:
        assert evaluate(server.url, ["gsm8k"], data, tmp_path / "a")["gsm8k"]["score"] == 1.0
    with (
        FakeEndpoint(lambda body: (500, "broken")) as server,
        pytest.raises(InfraError, match=r"status 500.*the same command resumes"),
    ):
        evaluate(server.url, ["gsm8k"], data, tmp_path / "b")
    with (
        FakeEndpoint(lambda body: (400, "Unrecognized request argument: top_k")) as server,
        pytest.raises(ConfigError, match="--top-k 0 leaves top_k out"),
    ):
        evaluate(server.url, ["gsm8k"], data, tmp_path / "c")
    with pytest.raises(InfraError, match="no answer from http://127.0.0.1:9/v1"):
        EndpointPolicy("http://127.0.0.1:9", "m", concurrency=1).connect()
    with pytest.raises(ConfigError, match="give a URL"):
        EndpointPolicy("127.0.0.1:8000", "m", concurrency=1)


def test_a_context_that_is_too_small_is_asked_for_what_is_left(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return 400, "maximum context length is 512 tokens"
        return (
            (400, "maximum context length is 512 tokens")
            if "3 pens" in question_of(body) or "2 pens" in question_of(body)
            else answer(body)
        )

    with FakeEndpoint(small) as server:
        figures = evaluate(server.url, ["gsm8k"], data, tmp_path / "a")["gsm8k"]
    assert figures["outcomes"] == {"correct": 2, "unfinished": 1}
    assert "32,768 new tokens do not fit" in capsys.readouterr().err
    with FakeEndpoint(answer, models=[{"id": "other"}, {"id": "m", "max_model_len": 512}]) as server:
        evaluate(server.url, ["gsm8k"], data, tmp_path / "b")
    assert "max_tokens" not in server.asked[0]


def test_the_key_comes_from_the_environment_and_the_name_from_the_server(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k1")
    with FakeEndpoint(answer, models=[{"id": "little"}]) as server:
        ask = TurnRequest(
            0, SamplingParams(0.6, 40, 0.95, max_new_tokens=9), [{"role": "user", "content": "Tom has 1 pens"}]
        )
        with contextlib.closing(EndpointPolicy(server.url + "/v1/", "runs/little", concurrency=1).connect()) as policy:
            assert policy.name == "little"
            asks = iter([ask])
            ((_, reply),) = policy.generate(lambda: next(asks, None))
        assert reply.answer == "\\boxed{2}"
    assert server.headers == ["Bearer k1"]


def test_an_answer_that_was_cut_is_unfinished(data: Path, tmp_path: Path) -> None:
    with FakeEndpoint(answer, finish="length") as server:
        results = evaluate(server.url, ["gsm8k", "ifeval"], data, tmp_path / "a", opens_thinking=False)
        unknown = evaluate(server.url, ["gsm8k", "ifeval"], data, tmp_path / "b")
    assert results["gsm8k"]["score"] == 0.0 and results["gsm8k"]["outcomes"] == {"unfinished": 3}
    # IFEval's authors check whatever text there is; where it may be a thought, there is no answer
    # to check.
    assert results["ifeval"]["score"] == 0.5 and results["ifeval"]["outcomes"] == {"correct": 1, "unfinished": 1}
    assert unknown["gsm8k"]["outcomes"] == {"unfinished": 3}
    assert unknown["ifeval"]["score"] == 0.0 and unknown["ifeval"]["outcomes"] == {"unfinished": 2}


def test_budgets_are_swept_and_drawn(data: Path, tmp_path: Path) -> None:
    def budgeted(body: dict[str, Any]) -> dict[str, Any]:
        return {
            "content": "\\boxed{2}" if body["thinking_token_budget"] > 100 else "\\boxed{9}",
            "reasoning_content": "so",
        }

    with FakeEndpoint(budgeted) as server:
        figures = evaluate(server.url, ["aime24"], data, tmp_path / "o", samples=1, budgets=(64, 256))["aime24"]
    assert [(b["thinking_budget"], b["score"]) for b in figures["by_budget"]] == [(64, 0.0), (256, 0.25)]
    assert (figures["score"], figures["thinking_budget"]) == (0.25, 256)
    assert "Accuracy against thinking" in (tmp_path / "o/report.html").read_text()


def test_no_budget_is_one_of_the_budgets(data: Path, tmp_path: Path) -> None:
    def budgeted(body: dict[str, Any]) -> dict[str, Any]:
        return {"content": "\\boxed{9}" if "thinking_token_budget" in body else "\\boxed{2}", "reasoning_content": "so"}

    with FakeEndpoint(budgeted) as server:
        figures = evaluate(server.url, ["aime24"], data, tmp_path / "o", samples=1, budgets=(-1, 64))["aime24"]
    assert [(b["thinking_budget"], b["score"]) for b in figures["by_budget"]] == [(64, 0.0), (None, 0.25)]
    assert (figures["score"], figures["thinking_budget"]) == (0.25, None)


def test_comparison_is_paired(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeEndpoint(answer) as a, FakeEndpoint(lambda body: "\\boxed{8}") as b:
        evaluate(a.url, ["aime24", "gsm8k"], data, tmp_path / "a", samples=1)
        evaluate(b.url, ["aime24"], data, tmp_path / "b", samples=1)
    capsys.readouterr()
    assert cli(["eval", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = capsys.readouterr()
    (row,) = [json.loads(line) for line in printed.out.splitlines()]
    # a is right on problems 1 and 2, b on problem 4.
    assert (row["benchmark"], row["n"], row["score_a"], row["score_b"], row["better"], row["worse"], row["p"]) == (
        "aime24",
        4,
        0.5,
        0.25,
        1,
        2,
        1.0,
    )
    assert row["difference"] == -0.25 and row["ci95"][0] < -0.25 < row["ci95"][1]
    assert "sign test p" in printed.err
    with pytest.raises(DataError, match="no results.json in"):
        cli(["eval", "compare", str(tmp_path / "a"), str(tmp_path)])
    assert main(["eval", "compare", str(tmp_path / "a")]) == 2
    assert "--b requires an argument" in capsys.readouterr().err


def test_the_announcement_is_shown_where_one_of_its_benchmarks_was_run() -> None:
    assert announced({"gsm8k": {}}, ["m"]) == ""
    row = {"ci95": [0.1, 0.3], "score": 0.2, "n": 10, "samples": 1}
    shown = announced({"gsm8k": row, "aime24": row}, ["m"])
    assert "<b>20.0</b><div>[10.0, 30.0] of 10 x 1" in shown and shown.count("not run") == 4
    assert shown.count('data-label="AIME24"') == 6  # a phone names each figure


def test_the_page_escapes_what_others_wrote(data: Path, tmp_path: Path) -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202e"
    with FakeEndpoint(lambda body: {"content": evil, "reasoning_content": evil}) as server:
        evaluate(server.url, ["aime24", "bfcl"], data, tmp_path / "o", samples=1)
    page = (tmp_path / "o/report.html").read_text()
    assert "<script" not in page and "<img" not in page and "\u202e" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "").replace(
        "http://www.w3.org", ""
    )
    for figure in ("79.5", "63.4", "73.1", "83.9", "66.4", "72.6", "70.0", "58.3"):
        assert figure in page
    assert "bfcl is run in part; not run: multiple, parallel" in page


@pytest.mark.parametrize(
    ("bench", "file", "row", "message"),
    [
        (
            "gsm8k",
            "test.jsonl",
            {"question": "q"},
            r"line 1: field 'answer' must be text, found 'None' \(the row has question\)",
        ),
        ("gsm8k", "test.jsonl", {"question": "q", "answer": "7"}, "line 1: the answer has no '#### RESULT'"),
        ("aime24", "test.jsonl", {"prompt": "q", "answer": True}, "line 1: field 'answer' must be text or a number"),
        ("humaneval", "h.jsonl", {**HUMAN, "test": "x = 1"}, "line 1: field 'test': the test defines no check"),
        ("mbpp", "mbpp.jsonl", {**MBPP, "test_list": []}, "line 1: field 'test_list'"),
        (
            "ifeval",
            "p.jsonl",
            {"prompt": "q", "instruction_id_list": ["no:such"], "kwargs": [{}]},
            "line 1: unknown instruction 'no:such'",
        ),
        (
            "bfcl",
            "BFCL_v4_irrelevance.json",
            {"id": "x", "question": [[]], "function": [{"name": "f"}]},
            "line 1: field 'function'",
        ),
        (
            "bfcl",
            "BFCL_v4_simple_python.json",
            {"id": "x", "question": [[{"role": "user", "content": "q"}]], "function": [FUNCTION]},
            "no .*possible_answer",
        ),
        (
            "livecodebench",
            "p.jsonl",
            {"prompt": "q", "question_id": "1", "tests": {"fname": "1.json", "md5": "0"}},
            "1 problems and none with tests",
        ),
    ],
)
def test_bad_rows_name_row_and_field(tmp_path: Path, bench: str, file: str, row: dict[str, Any], message: str) -> None:
    write(tmp_path / bench / file, [row])
    with pytest.raises(DataError, match=message):
        prepare([bench], tmp_path, EvalOptions())


def test_wrong_requests(data: Path, tmp_path: Path) -> None:
    for names, options, message in [
        ([], {}, "name at least one task"), (["aimee24"], {}, "no task 'aimee24': did you mean 'aime24'"),
        (["aime24", "aime24"], {}, "named twice"),
        (["bfcl:simpel_python"], {}, "no part 'simpel_python': did you mean 'simple_python'"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            prepare(names, data, EvalOptions(**options))
    for options, message in [
        ({"n": 0}, "--n is 0"),
        ({"budgets": (5, 5)}, "--thinking-budget"),
        ({"budgets": (64, -2)}, "or -1 for none"),
        ({"tool_format": "x"}, "--tool-format x"),
        ({"top_p": 0.0}, "top-p is above 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            EvalOptions(**options)
    with pytest.raises(
        DataError,
        match=r"no folder .*math500: get test.jsonl from https://huggingface.co/datasets/HuggingFaceH4/MATH-500",
    ):
        prepare(["math500"], data, EvalOptions())
    with pytest.raises(ConfigError, match="contradict each other"):
        cli(["eval", "m", "aime24", "--greedy", "--temperature", "1", "--out", str(tmp_path / "x")])


def test_a_file_that_is_not_the_published_one_is_said_and_used(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(["gsm8k"], data, EvalOptions())
    assert "test.jsonl is not the published file" in capsys.readouterr().err


def test_a_download_of_another_version_is_refused(tmp_path: Path) -> None:
    published = Published("f.jsonl", "http://127.0.0.1:9/f.jsonl", "0" * 64)
    with pytest.raises(
        DataError, match=f"cannot be fetched.*get f.jsonl from http://127.0.0.1:9/f.jsonl .sha256 {'0' * 64}"
    ):
        download("gsm8k", published, tmp_path / "none.jsonl")
    (tmp_path / "f.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=rf"has sha256 \w+, {'0' * 64} is expected: it is damaged or another version"):
        download("gsm8k", published, tmp_path / "f.jsonl")


def test_a_record_with_half_a_surrogate_is_stored_and_read(data: Path, tmp_path: Path) -> None:
    with FakeEndpoint(lambda body: {"content": "\ud83d \u4f60 \\boxed{2}"}) as server:
        first = evaluate(server.url, ["aime24"], data, tmp_path / "o", n=2, samples=1)
        assert evaluate(server.url, ["aime24"], data, tmp_path / "o", n=2, samples=1) == first
        assert len(server.asked) == 2
    assert (tmp_path / "o/samples/aime24.jsonl").read_text(encoding="utf-8")


def test_two_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match="another evaluation is writing"),
        locked(tmp_path),
    ):
        pass


def test_n_is_taken_from_the_categories_in_turn(data: Path) -> None:
    (item,) = prepare(["bfcl"], data, EvalOptions())
    assert [p.source for p in item.task.first(item.problems, 2)] == ["simple_python", "irrelevance"]
    assert [p.id for p in item.task.first(item.problems, 3)] == ["simple_python_0", "simple_python_1", "irrelevance_0"]
    (part,) = prepare(["bfcl:irrelevance"], data, EvalOptions())
    assert {p.source for p in part.problems} == {"irrelevance"}


def test_a_family_with_tools_goes_on_after_a_call(tmp_path: Path) -> None:
    problems = {p.messages[-1].content: p for p in get("tools").fixed("test", 3)}

    def calculating(body: dict[str, Any]) -> Any:
        problem = problems[next(m["content"] for m in body["messages"] if m["role"] == "user")]
        if body["messages"][-1]["role"] != "tool":
            wanted = (problem.truth.get("calls") or [{"name": "calculator", "arguments": {"expression": "1+1"}}])[0]
            function = {"name": wanted["name"], "arguments": json.dumps(wanted["arguments"])}
            return {
                "content": "",
                "reasoning_content": "I compute",
                "tool_calls": [{"id": "x", "type": "function", "function": function}],
            }
        call, result = body["messages"][-2], body["messages"][-1]
        assert call["tool_calls"][0]["id"] == result["tool_call_id"] and "error" not in result["content"]
        assert isinstance(call["tool_calls"][0]["function"]["arguments"], str)
        return f"\\boxed{{{problem.truth['gold']}}}"

    with FakeEndpoint(calculating) as server:
        figures = evaluate(server.url, ["tools"], tmp_path, tmp_path / "o", n=3)["tools"]
    assert (figures["score"], figures["mean_tokens"], len(server.asked)) == (1.0, 20, 6)
    record = json.loads((tmp_path / "o/samples/tools.jsonl").read_text().splitlines()[0])
    assert len(record["turns"]) == 2 and server.asked[0]["temperature"] == 1.0


def test_data_folder_takes_the_test_split(data: Path) -> None:
    assert [p.name for p in get("gsm8k").data(data).files()] == ["test.jsonl"]
