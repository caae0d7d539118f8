"""BFCL: calls against possible answers, twelve ways of being wrong, and the leaderboard's overall
column.
"""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import pytest

from qwq.cli import main
from qwq.errors import DataError
from qwq.tasks.bfcl.aggregate import LIVE, aggregate
from qwq.tasks.bfcl.task import json_rows
from qwq.types import Outcome
from qwq.verify.tools.bfcl import verify

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "bfcl"


def function(name: str, required: list[str], **properties) -> dict:
    shaped = {k: v if isinstance(v, dict) else {"type": v} for k, v in properties.items()}
    return {"name": name, "parameters": {"type": "dict", "properties": shaped, "required": required}}


AREA = function(
    "geometry.area",
    ["base", "height"],
    base="integer",
    height="float",
    unit="string",
    tags={"type": "array", "items": {"type": "string"}},
)
TRUTH = [
    {
        "geometry.area": {
            "base": [10],
            "height": [5.0, 5],
            "unit": ["square cm", "cm2", ""],
            "tags": [["big", "red"], ""],
        }
    }
]


def outcome(calls, category="simple_python", functions=(AREA,), truth=TRUTH) -> tuple[bool, str]:
    verdict = verify(category, list(functions), truth, calls)
    assert verdict.outcome in (Outcome.CORRECT, Outcome.WRONG)
    return verdict.correct, verdict.reason.partition(":")[0]


GOOD = {"base": 10, "height": 5, "unit": "Square-CM", "tags": ["Big", "RED"]}


@pytest.mark.parametrize(
    "arguments",
    [GOOD, {"base": 10, "height": 5.0}, GOOD | {"unit": "cm2"}, {k: v for k, v in GOOD.items() if k != "tags"}],
)
@pytest.mark.parametrize("name", ["geometry.area", "geometry_area"])
def test_right_calls(name, arguments) -> None:
    assert outcome([{name: arguments}]) == (True, "the calls are among the possible answers")


@pytest.mark.parametrize(
    ("calls", "fault"),
    [
        ([{"geometry.volume": GOOD}], "name"),
        ([{"geometry.area": {"base": 10}}], "missing"),
        ([{"geometry.area": GOOD | {"colour": "red"}}], "unexpected"),
        ([{"geometry.area": GOOD | {"base": "10"}}], "type"),
        ([{"geometry.area": GOOD | {"base": 10.0}}], "type"),
        ([{"geometry.area": GOOD | {"base": True}}], "type"),
        ([{"geometry.area": GOOD | {"base": 11}}], "value"),
        ([{"geometry.area": GOOD | {"unit": "m2"}}], "value"),
        ([{"geometry.area": GOOD | {"tags": ["red", "big"]}}], "value"),
        ([{"geometry.area": GOOD | {"tags": [1, 2]}}], "type"),
        ([], "count"),
        ([{"geometry.area": GOOD}, {"geometry.area": GOOD}], "count"),
        ("geometry.area(10, 5)", "format"),
        ([{"geometry.area": [10, 5]}], "format"),
    ],
)
def test_wrong_calls_and_why(calls, fault) -> None:
    assert outcome(calls) == (False, fault)


def test_an_optional_parameter_without_a_blank_answer_is_asked_for() -> None:
    truth = [{"geometry.area": {"base": [10], "height": [5.0], "unit": ["cm2"]}}]
    assert outcome([{"geometry.area": {"base": 10, "height": 5.0}}], truth=truth) == (False, "missing")


TIME = function("time", ["zone"], zone="string")


def test_parallel_calls_in_any_order_and_multiple_functions() -> None:
    truth = [*TRUTH, {"time": {"zone": ["UTC"]}}, {"time": {"zone": ["CET"]}}]
    calls = [{"time": {"zone": "cet"}}, {"geometry.area": GOOD}, {"time": {"zone": "utc"}}]
    for order in (calls, calls[::-1]):
        assert outcome(order, "parallel_multiple", (AREA, TIME), truth)[0]
    assert outcome([calls[0], calls[1], calls[0]], "parallel_multiple", (AREA, TIME), truth) == (False, "match")
    assert outcome(calls[:2], "parallel", (AREA, TIME), truth) == (False, "count")
    assert outcome([{"time": {"zone": "UTC"}}], "multiple", (AREA, TIME), truth[1:2])[0]
    assert outcome([{"geometry.area": GOOD}], "live_multiple", (AREA, TIME), truth[1:2]) == (False, "name")


def test_relevance() -> None:
    assert outcome([], "irrelevance")[0] and not outcome([{"time": {"zone": "UTC"}}], "live_irrelevance")[0]
    assert outcome([{"time": {"zone": "UTC"}}], "live_relevance")[0] and not outcome([], "live_relevance")[0]


def test_dicts_and_lists_of_dicts() -> None:
    order = function("order", ["item"], item="dict", lines={"type": "array", "items": {"type": "dict"}})
    truth = [{"order": {"item": [{"name": ["tea"], "count": [2, ""]}], "lines": [[{"n": [1]}, {"n": [2, 3]}], ""]}}]
    for arguments, right in (
        ({"item": {"name": "Tea", "count": 2}}, True), ({"item": {"name": "tea"}}, True),
        ({"item": {"count": 2}}, False), ({"item": {"name": "tea", "size": 1}}, False),
        ({"item": {"name": "tea"}, "lines": [{"n": 1}, {"n": 3}]}, True),
        ({"item": {"name": "tea"}, "lines": [{"n": 3}, {"n": 1}]}, False),
        ({"item": {"name": "tea"}, "lines": [{"n": 1}]}, False),
    ):  # fmt: skip
        assert outcome([{"order": arguments}], functions=(order,), truth=truth)[0] is right, arguments


def test_java_and_javascript_literals() -> None:
    java = function(
        "Copy.run", ["force"], force="boolean", size="long", names={"type": "Array", "items": {"type": "String"}},
        options="HashMap",
    )  # fmt: skip
    truth = [{"Copy.run": {"force": [True], "size": [5, ""], "names": [["a", "b"], ""], "options": [{"k": ["v"]}, ""]}}]
    right = [
        {"force": "true"}, {"force": "true", "size": "5L"}, {"force": "true", "names": 'new String[]{"a", "b"}'},
        {"force": True}, {"force": "true", "options": 'new HashMap<String, String>() {{ put("k", "v"); }}'},
    ]  # fmt: skip
    wrong = [
        {"force": "True"},
        {"force": "true", "size": "5"},
        {"force": "true", "names": 'new String[]{"b", "a"}'},
        {"force": 1},
    ]
    for cases, expected in ((right, True), (wrong, False)):
        for arguments in cases:
            assert outcome([{"Copy.run": arguments}], "simple_java", (java,), truth)[0] is expected, arguments
    script = function("send", ["at"], at={"type": "array", "items": {"type": "float"}}, big="Bigint", conf="dict")
    truth = [{"send": {"at": [[60, 30.5]], "big": [7, ""], "conf": [{"a": [1]}, ""]}}]
    for arguments, expected in (
        ({"at": "[60, 30.5]"}, True), ({"at": "[60, 30.5]", "big": "7n"}, True),
        ({"at": "[60, 30.5]", "big": "7"}, False), ({"at": "[60, 30.5]", "conf": "{a: 1}"}, True),
        ({"at": "[30.5, 60]"}, False),
    ):  # fmt: skip
        assert outcome([{"send": arguments}], "simple_javascript", (script,), truth)[0] is expected, arguments


def test_unusable_truth_is_one_line() -> None:
    with pytest.raises(DataError, match="ground_truth calls nothing, which is not among the functions: time"):
        verify("multiple", [TIME], [{"nothing": {}}], [{"time": {"zone": "UTC"}}])


# -- the published sets ----------------------------------------------------------------------------

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/bfcl")
UNANSWERABLE = {  # the set's own answers name parameters that their functions do not have, or leave out a required one
    "live_multiple_862-181-3", "live_multiple_964-207-0", "parallel_multiple_12", "parallel_multiple_26",
}  # fmt: skip


def first(options):
    if not isinstance(options, list):
        return options
    return next((o for o in options if o != ""), "" if options else [])


def answer(options):
    value = first(options)
    if isinstance(value, dict):
        return {k: first(v) for k, v in value.items() if first(v) != ""}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [{k: first(v) for k, v in d.items() if first(v) != ""} for d in value]
    return value


@needs_shared
def test_the_sets_own_answers_pass_and_changed_ones_do_not() -> None:
    total = wrong = 0
    for path in sorted((SHARED / "possible_answer").glob("*.json")):
        name = path.name.removeprefix("BFCL_v4_").removesuffix(".json")
        if name.startswith(("multi_turn", "memory", "web_search")):
            continue
        questions = {q["id"]: q for q in map(json.loads, (SHARED / path.name).read_text(encoding="utf-8").splitlines())}
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            functions, truth = questions[row["id"]]["function"], row["ground_truth"]
            required = {f["name"]: f["parameters"].get("required", []) for f in functions}
            calls = [
                {
                    n: {k: answer(v) for k, v in p.items() if answer(v) != "" or k in required.get(n, ())}
                    for n, p in c.items()
                }
                for c in truth
            ]
            verdict = verify(name, functions, truth, calls)
            assert verdict.correct is (row["id"] not in UNANSWERABLE), (row["id"], verdict.reason)
            total += 1
            for changed in mutants(calls):
                wrong += 1
                assert not verify(name, functions, truth, changed).correct, (row["id"], changed)
    assert total > 2400 and wrong > 10_000


def mutants(calls):
    yield []
    yield [*calls, calls[0]]
    (name, arguments), *_ = calls[0].items()
    yield [{name + "_x": arguments}, *calls[1:]]
    yield [{name: {**arguments, "not_a_parameter": 1}}, *calls[1:]]
    yield [{name: list(arguments.values())}, *calls[1:]]
    for key in arguments:
        changed = copy.deepcopy(arguments)
        changed[key] = {"no": ["such", "value"]}
        yield [{name: changed}, *calls[1:]]


@needs_shared
def test_the_leaderboards_overall_column_is_reproduced() -> None:
    rows = list(aggregate(SHARED / "leaderboard"))
    assert len(rows) > 100 and max(abs(r["published"] - r["ours"]) for r in rows) <= 0.03


def test_version_4_by_hand(tmp_path) -> None:
    columns = {
        "Model": "m", "Overall Acc": "48.9%", "Non-Live Simple AST": "80%", "Non-Live Multiple AST": "90%",
        "Non-Live Parallel AST": "70%", "Non-Live Parallel Multiple AST": "60%", "Live Simple AST": "80%",
        "Live Multiple AST": "80%", "Live Parallel AST": "80%", "Live Parallel Multiple AST": "80%",
        "Multi Turn Base": "40%", "Multi Turn Miss Func": "30%", "Multi Turn Miss Param": "20%",
        "Multi Turn Long Context": "10%", "Web Search Acc": "50%", "Memory Acc": "40%", "Irrelevance Detection": "85%",
    }  # fmt: skip
    with (tmp_path / "data_overall.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerow(columns)
    # 0.1 * 75 + 0.1 * 80 + 0.1 * 85 + 0.3 * 25 + 0.4 * 45
    assert list(aggregate(tmp_path)) == [{"model": "m", "published": 48.9, "ours": 49.5}]
    with pytest.raises(DataError, match="no \\*overall.csv in"):
        list(aggregate(tmp_path / "none"))


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_model_that_lacks_a_figure_says_which_and_the_others_are_computed(tmp_path, capsys) -> None:
    non_live = {
        "Model": "m", "Python Simple AST": "90%", "Java Simple AST": "60%", "JavaScript Simple AST": "60%",
        "Multiple AST": "80%", "Parallel AST": "70%", "Parallel Multiple AST": "60%", "Irrelevance Detection": "70%",
    }  # fmt: skip
    live = dict.fromkeys(LIVE, "60%") | {"Model": "m"}
    turns = {"Model": "m", "Base": "40%", "Miss Func": "30%", "Miss Param": "20%", "Long Context": "10%"}
    models = [{"Model": m, "Overall Acc": acc} for m, acc in (("a", "51.7%"), ("b", "50%"), ("c", "N/A"), ("d", "1%"))]
    write_csv(tmp_path / "x_overall.csv", models)
    changed = {"b": {"Java Simple AST": "N/A"}, "c": {"Java Simple AST": "N/A", "Multiple AST": ""}}
    write_csv(tmp_path / "x_non_live.csv", [non_live | {"Model": m} | changed.get(m, {}) for m in "abc"])
    write_csv(tmp_path / "x_live.csv", [live | {"Model": m} for m in "abcd"])
    write_csv(tmp_path / "x_multi_turn.csv", [turns | {"Model": m} for m in "abcd"])
    a, b, c, d = aggregate(tmp_path)
    # Simple (90 + 60 + 60) / 3 = 70; non-live (70 + 80 + 70 + 60 + 70) / 5 = 70; live 60;
    # multi-turn 25.
    assert a == {"model": "a", "published": 51.7, "ours": 51.6667}
    assert b == {"model": "b", "published": 50.0, "ours": None, "missing": ["x_non_live.csv: Java Simple AST is 'N/A'"]}
    assert (
        c["published"] is None and len(c["missing"]) == 3 and c["missing"][0] == "x_overall.csv: Overall Acc is 'N/A'"
    )
    assert d == {"model": "d", "published": 1.0, "ours": None, "missing": ["x_non_live.csv has no row"]}
    assert main(["eval", "aggregate", str(tmp_path)]) == 0
    assert "note: b: x_non_live.csv: Java Simple AST is 'N/A'" in capsys.readouterr().err


def test_rows_are_cut_at_line_feeds_alone(tmp_path) -> None:
    row = {"id": "simple_python_0", "question": [[{"role": "user", "content": "a\u2028b"}]]}
    (tmp_path / "f.json").write_text("\ufeff" + json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert json_rows(tmp_path / "f.json") == [(f"{tmp_path / 'f.json'}, line 1", row)]
