"""`qwq eval --endpoint` beside servers that fail: a failure is stored as one, never scores, and is
asked again.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, question_of

from qwq.cli import main
from qwq.errors import InfraError
from qwq.eval.compare import compare
from qwq.eval.options import EvalOptions, prepare
from qwq.eval.run import run
from qwq.rollout.policies.endpoint import EndpointPolicy

PENS = [{"question": f"Tom has {i} pens and gets 1. How many?", "answer": f"sum\n#### {i + 1}"} for i in range(3)]
NO_COMMA = {"prompt": "No commas please.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(folder / "gsm8k/test.jsonl", PENS)
    write(folder / "aime24/test.jsonl", [{"prompt": "What is 1 and 1?", "answer": 2}])
    write(folder / "ifeval/prompts.jsonl", [NO_COMMA])
    return folder


def right(body: dict[str, Any]) -> str:
    asked = question_of(body).split()
    return f"\\boxed{{{int(asked[2]) + 1}}}" if asked[0] == "Tom" else "\\boxed{2}"


def evaluate(url: str, names: list[str], data: Path, out: Path) -> dict[str, Any]:
    options = EvalOptions(samples=1, concurrency=2)
    with contextlib.closing(EndpointPolicy(url, "m", concurrency=2, patience=(0.01, 0.01, 0.01)).connect()) as backend:
        return run(backend, prepare(names, data, options), options, out, model="m")


def stored(out: Path, name: str = "gsm8k") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"samples/{name}.jsonl").read_text().splitlines()]


FAILURES = [
    (400, "Jinja error in chat template: context variable 'tools' is undefined"),
    (400, "this model is too long retired, use another"),
    (200, {"error": {"message": "rate limited", "code": 429}}),
    (500, "CUDA error"),
    {"content": "", "finish_reason": "error"},
    {"content": "\\boxed{3}", "finish_reason": "error"},
    {"content": "<think>half", "finish_reason": None},
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: str(f)[:30])
def test_a_failure_is_no_sample_holds_nothing_up_and_is_asked_again(failure: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    with FakeEndpoint(lambda body: failure if "2 pens" in question_of(body) else right(body)) as server:
        with pytest.raises(
            InfraError, match=r"gsm8k: 1 of 3 samples have no answer of the model .*same command resumes"
        ):
            evaluate(server.url, ["gsm8k", "aime24"], data, out)
    outcomes = sorted(r["verdict"]["outcome"] for r in stored(out))
    assert outcomes == ["correct", "correct", "infra_error"]
    assert [r["score"] for r in stored(out) if r["verdict"]["outcome"] == "infra_error"] == [None]
    # The benchmark that lacks a sample has no score, the other has.
    assert {n: r["score"] for n, r in json.loads((out / "results.json").read_text()).items()} == {"aime24": 1.0}
    with FakeEndpoint(right) as server:
        results = evaluate(server.url, ["gsm8k", "aime24"], data, out)
        assert ["2 pens" in question_of(b) for b in server.asked] == [True]
    assert results["gsm8k"]["score"] == 1.0 and results["gsm8k"]["outcomes"] == {"correct": 3}
    assert "infra_error" not in (out / "report.html").read_text()
    assert {row["benchmark"]: (row["n"], row["score_a"]) for row in compare(out, out)}["gsm8k"] == (3, 1.0)


def test_a_server_that_answers_nothing_is_given_up_early(data: Path, tmp_path: Path) -> None:
    write(data / "gsm8k/test.jsonl", [{**PENS[0], "question": f"Tom has {i} pens"} for i in range(50)])
    with FakeEndpoint(lambda body: (400, "no such template")) as server:
        with pytest.raises(InfraError, match="5 requests in a row have no answer"):
            evaluate(server.url, ["gsm8k"], data, tmp_path / "o")
        assert len(server.asked) < 10


def test_records_of_failures_that_an_earlier_version_took_for_answers_are_made_again(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    with FakeEndpoint(right) as server:
        evaluate(server.url, ["gsm8k"], data, out)
    old = [{k: v for k, v in r.items() if k != "finish"} for r in stored(out)]
    empty = {
        "output": "",
        "score": 0.0,
        "tokens": 0,
        "verdict": {"outcome": "no_answer", "reason": "", "verifier": "gsm8k", "seconds": 0},
    }
    # As it was written of a finish_reason "error", of a refusal that named a context, and of an
    # answer.
    write(out / "samples/gsm8k.jsonl", [old[0] | empty, old[1] | empty | {"stop_reason": "context"}, old[2]])
    assert compare(out, out)[0]["n"] == 1
    with FakeEndpoint(right) as server:
        assert evaluate(server.url, ["gsm8k"], data, out)["gsm8k"]["score"] == 1.0
        assert len(server.asked) == 2
        evaluate(server.url, ["gsm8k"], data, out)
        assert len(server.asked) == 2


def test_an_empty_answer_and_a_full_context_are_the_models_and_stay(data: Path, tmp_path: Path) -> None:
    def said(body: dict[str, Any]) -> Any:
        if "1 pens" in question_of(body):
            return 400, "the prompt has 600 tokens, the model's context is 512"
        return {"content": None} if "2 pens" in question_of(body) else right(body)

    with FakeEndpoint(said) as server:
        first = evaluate(server.url, ["gsm8k"], data, tmp_path / "o")["gsm8k"]
        asked = len(server.asked)
        assert evaluate(server.url, ["gsm8k"], data, tmp_path / "o")["gsm8k"] == first
        assert len(server.asked) == asked
    assert first["outcomes"] == {"correct": 1, "no_answer": 1, "unfinished": 1}


@pytest.mark.parametrize(("options", "score"), [([], 0.0), (["--no-opens-thinking"], 1.0)])
def test_a_cut_thought_follows_no_instruction(options: list[str], score: float, data: Path, tmp_path: Path) -> None:
    thought = {"content": "Let me think. The user wants no commas so I", "finish_reason": "length"}
    with FakeEndpoint(lambda body: thought) as server:
        arguments = ["eval", "m", "ifeval", "--endpoint", server.url, "--data", str(data), "--out", str(tmp_path / "o")]
        assert main([*arguments, *options]) == 0
    assert json.loads((tmp_path / "o/results.json").read_text())["ifeval"]["score"] == score


def test_a_model_that_opens_its_thinking_and_never_closes_it_has_no_answer(data: Path, tmp_path: Path) -> None:
    with FakeEndpoint(lambda body: "Let me think. The user wants no commas so I") as server:
        arguments = ["eval", "m", "ifeval", "--endpoint", server.url, "--data", str(data), "--out", str(tmp_path / "o")]
        assert main([*arguments, "--opens-thinking"]) == 0
        assert main(arguments) == 2  # another reading is another setting
    assert json.loads((tmp_path / "o/results.json").read_text())["ifeval"]["outcomes"] == {"no_answer": 1}
    assert main(["eval", "m", "ifeval", "--opens-thinking", "--data", str(data), "--out", str(tmp_path / "p")]) == 2


def test_calls_in_the_text_beside_thinking_apart_are_calls(tmp_path: Path) -> None:
    function = {
        "name": "area",
        "description": "Area.",
        "parameters": {"type": "dict", "properties": {"base": {"type": "integer"}}, "required": ["base"]},
    }
    folder = tmp_path / "data/bfcl"
    write(
        folder / "BFCL_v4_simple_python.json",
        [{"id": "simple_python_0", "question": [[{"role": "user", "content": "q"}]], "function": [function]}],
    )
    write(
        folder / "possible_answer/BFCL_v4_simple_python.json",
        [{"id": "simple_python_0", "ground_truth": [{"area": {"base": [5]}}]}],
    )
    call = '<tool_call>\n{"name": "area", "arguments": {"base": 5}}\n</tool_call>'
    with FakeEndpoint(lambda body: {"content": call, "reasoning_content": "I call it."}) as server:
        assert (
            evaluate(server.url, ["bfcl:simple_python"], tmp_path / "data", tmp_path / "o")["bfcl:simple_python"][
                "score"
            ]
            == 1.0
        )


def test_the_command_ends_with_the_status_of_a_failure(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeEndpoint(lambda body: (400, "Jinja error: context variable 'tools' is undefined")) as server:
        arguments = [
            "eval",
            "m",
            "aime24",
            "--endpoint",
            server.url,
            "--data",
            str(data),
            "--out",
            str(tmp_path / "o"),
            "--samples",
            "1",
        ]
        assert main(arguments) == 70
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert "aime24: 1 of 1 samples have no answer of the model" in line and "status 400: Jinja error" in line
