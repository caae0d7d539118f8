"""`qwq eval` of the sets for agents against a scripted server: tools, tries, options, the suite,
the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agent_sets as sets
import pytest
from fake_endpoint import FakeEndpoint

from qwq.cli import run as cli
from qwq.errors import ConfigError
from qwq.eval.options import EvalOptions, prepare


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for make in sets.ALL:
        make(tmp_path / "data")
    return tmp_path / "data"


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def evaluate(
    answer: Callable[[dict[str, Any]], Any], out: Path, *args: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with FakeEndpoint(answer) as server:
        assert cli(["eval", "m", *args, "--endpoint", server.url, "--out", str(out)]) == 0
    return json.loads((out / "results.json").read_text()), server.asked


def test_tools_errors_and_recoveries(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def analyst(body: dict[str, Any]) -> Any:
        first = body["messages"][0]["content"]
        results = [m["content"] for m in body["messages"] if m["role"] == "tool"]
        if "largest" in first:
            return "@month[July] @sum[55]"
        if not results:
            return call("python", code="import csv\nrows = list(csv.DictReader(open('sales.csv')))\nrows[0]['price']")
        if len(results) == 1:
            return call("python", code="sum(float(r['sum']) for r in rows) / len(rows)")
        return f"The mean is {results[-1]}.\n@mean[{results[-1].strip()}]"

    results, asked = evaluate(analyst, tmp_path / "o", "dabench", "--data", str(data))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == results
    assert "2 of 4 rows, left out: 1 without a label" in printed.err
    assert "1.0 calls a sample, 1 of 1 with a failed call recovered" in printed.err
    figures = results["dabench"]
    assert (figures["score"], figures["n"], figures["tools"]) == (1.0, 2, "python")
    assert figures["rows"] == {"rows": 4, "used": 2, "left_out": {"without a label": 1, "without their table": 1}}
    assert figures["protocol"]["tools"] == "python" and figures["protocol"]["max_calls"] == 10
    assert figures["calls"]["mean"] == 1.0 and figures["failed_calls"]["mean"] == 0.5
    recovered = figures["recoveries"]
    assert (recovered["samples_with_failed_calls"], recovered["n"], recovered["share"]) == (1, 1, 1.0)
    assert figures["levels"]["easy"]["share"] == 1.0 and figures["stop_reasons"]["end"]["n"] == 2
    assert [t["function"]["name"] for t in asked[0]["tools"]] == ["python"]
    lines = [json.loads(line) for line in (tmp_path / "o/samples/dabench.jsonl").read_text().splitlines()]
    whole = next(r for r in lines if r["problem_id"] == "dabench/1")
    assert "KeyError" in whole["turns"][0]["results"][0] and whole["turns"][1]["results"] == ["35.0"]
    assert whole["expected"] == "@mean[35.0]" and whole["wall_seconds"] >= 0
    page = (tmp_path / "o/report.html").read_text()
    assert "KeyError: &#x27;price&#x27;" in page and "1.0 calls a sample, 0.5 failed" in page
    assert cli(["look", str(tmp_path / "o"), "--show", str(1 + lines.index(whole))]) == 0
    assert "KeyError" in capsys.readouterr().out


def test_a_call_that_is_only_shown_is_explained_once(data: Path, tmp_path: Path) -> None:
    # Line feeds inside a text are no JSON, and a call amid words is none.
    shown = 'I call it.\n```json\n{"name": "python", "arguments": {"code": "x = 35\nx"}}\n```'

    def clumsy(body: dict[str, Any]) -> Any:
        said = [m["content"] for m in body["messages"] if m["role"] == "user"]
        results = [m["content"] for m in body["messages"] if m["role"] == "tool"]
        assert len(said) <= 2 and all("No tool ran." in text for text in said[1:])
        if results:
            return f"@mean[{results[0]}]"
        return call("python", code="35") if len(said) == 2 else shown

    results, _ = evaluate(clumsy, tmp_path / "o", "dabench:easy", "--data", str(data))
    assert results["dabench:easy"]["score"] == 1.0 and results["dabench:easy"]["calls"]["mean"] == 1.0
    results, asked = evaluate(lambda body: shown, tmp_path / "p", "dabench:easy", "--data", str(data))
    assert results["dabench:easy"]["outcomes"] == {"no_answer": 1} and len(asked) == 2
    # Without tools it is an answer like any other.
    _, asked = evaluate(lambda body: shown, tmp_path / "q", "dabench:easy", "--data", str(data), "--tools", "none")
    assert len(asked) == 1


def test_without_tools_and_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    plain = ["dabench", "--data", str(data)]
    results, asked = evaluate(lambda body: "@mean[35]", tmp_path / "o", *plain, "--tools", "none")
    assert results["dabench"]["score"] == 0.5 and results["dabench"]["tools"] == "none" and "tools" not in asked[0]
    with FakeEndpoint(lambda body: "@mean[35]") as server:
        command = ["eval", "m", *plain, "--endpoint", server.url, "--out", str(tmp_path / "o")]
        with pytest.raises(ConfigError, match="tools was 'none', is now 'python'"):
            cli(command)
        assert not server.asked


def test_a_second_try_after_the_tests(data: Path, tmp_path: Path) -> None:
    def programmer(body: dict[str, Any]) -> str:
        asked_again = len(body["messages"]) > 1
        assert not asked_again or "total([1, 2]) gave -3" in body["messages"][-1]["content"]
        return f"```python\n{sets.FIXED if asked_again else sets.BUGGY}```"

    once, _ = evaluate(programmer, tmp_path / "a", "humanevalfix", "--data", str(data), "--tools", "none")
    assert once["humanevalfix"]["score"] == 0.0
    twice, _ = evaluate(
        programmer, tmp_path / "b", "humanevalfix", "--data", str(data), "--tools", "none", "--tries", "2"
    )
    figures = twice["humanevalfix"]
    assert figures["score"] == 1.0 and figures["protocol"]["tries"] == 2
    assert [figures["right_within_tries"][n]["n"] for n in "12"] == [0, 1]


def test_a_table_is_changed_by_calls(data: Path, tmp_path: Path) -> None:
    def administrator(body: dict[str, Any]) -> Any:
        results = [m["content"] for m in body["messages"] if m["role"] == "tool"]
        if "How many" in body["messages"][0]["content"]:
            if not results:
                return call("execute_sql", query='SELECT "Gold (won)" FROM "Medal Tally" WHERE Nation = \'Chile\'')
            return f'Final Answer: ["{results[0].splitlines()[1]}"]'
        if not results:
            return call("execute_sql", query="UPDATE `Medal Tally` SET `Gold (won)`='1' WHERE Nation='Iran'")
        return f"{results[0]}."

    results, _ = evaluate(administrator, tmp_path / "o", "dbbench", "--data", str(data))
    assert results["dbbench"]["score"] == 1.0 and set(results["dbbench"]["kinds"]) == {"UPDATE", "counting"}


def test_a_model_that_calls_for_ever_gets_one_last_turn(data: Path, tmp_path: Path) -> None:
    def curious(body: dict[str, Any]) -> Any:
        results = [m["content"] for m in body["messages"] if m["role"] == "tool"]
        if results and "no call is left" in results[-1]:
            return "[ANSWER][2, 4][/ANSWER]"
        return call("python", code=str(len(results)))

    results, _ = evaluate(curious, tmp_path / "o", "cruxeval", "--data", str(data), "--max-calls", "2", "--n", "1")
    assert results["cruxeval"]["score"] == 1.0 and results["cruxeval"]["failed_calls"]["mean"] == 1.0

    def stubborn(body: dict[str, Any]) -> Any:
        return call("python", code="1")

    results, _ = evaluate(stubborn, tmp_path / "p", "cruxeval", "--data", str(data), "--n", "1")
    assert list(results["cruxeval"]["stop_reasons"]) == ["loop"]


def test_the_suite(data: Path, tmp_path: Path) -> None:
    items = prepare(["agent"], data, EvalOptions())
    assert [item.name for item in items] == [
        "dabench", "spider_sqlite", "wtq", "polyglot", "humanevalfix", "cruxeval", "cruxeval:alone", "dbbench",
    ]  # fmt: skip
    assert {item.protocol.samples for item in items} == {3}
    assert [i.protocol.tools for i in items if i.name.startswith("cruxeval")] == ["python", "none"]
    assert all(not i.problems[0].tools for i in items if i.name in ("cruxeval:alone", "polyglot"))
    assert {item.protocol.samples for item in prepare(["agent"], data, EvalOptions(samples=1, n=1))} == {1}
    with pytest.raises(ConfigError, match="--tools: task gsm8k has no tools to choose"):
        prepare(["gsm8k"], data, EvalOptions(tools="none"))


def test_pass_hat_k_of_several_samples(data: Path, tmp_path: Path) -> None:
    results, _ = evaluate(
        lambda body: "@mean[35]", tmp_path / "o", "dabench", "--data", str(data), "--tools", "none", "--samples", "3"
    )
    assert [results["dabench"]["pass_hat_k"][k]["value"] for k in "123"] == [0.5, 0.5, 0.5]
