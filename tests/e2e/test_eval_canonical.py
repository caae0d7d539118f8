"""HumanEval's and MBPP's own solutions, and BFCL's own answers, through the benchmarks as `qwq
eval` runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_policy import ScriptedPolicy

from qwq.engine.sampler import SamplingParams
from qwq.envs.base import Environment, answer_calls, environment_for, in_background
from qwq.rollout.episode import EpisodeJob, play
from qwq.tasks.bfcl.calls import NotCalls, read_calls
from qwq.tasks.bfcl.task import Bfcl, language_of
from qwq.tasks.humaneval import HumanEval, whole_program
from qwq.tasks.mbpp import MBPP_IDS, Mbpp
from qwq.types import Message, Outcome, ParsedResponse, Problem, Response, ToolCall
from qwq.verify.tools.bfcl_multi_turn import read_call as read_true_call

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
needs_data = pytest.mark.skipif(not (DATA / "bfcl").is_dir(), reason="shared/data is not beside the project")


def said(answer: str, calls: tuple[ToolCall, ...] = ()) -> ParsedResponse:
    return ParsedResponse(None, answer, calls)


def response(turns: list[ParsedResponse]) -> Response:
    return Response(turns[-1].answer, parts=turns[-1], turns=tuple(turns[:-1]))


def fenced(code: str) -> Response:
    return Response(f"Here it is.\n\n```python\n{code}\n```\n")


@needs_data
def test_humaneval_164_of_164() -> None:
    bench = HumanEval()
    data = bench.data(DATA)
    problems = bench.problems("test", data=data)
    rows = {row.fields["task_id"]: row.fields for _, row in data.rows()}
    with ThreadPoolExecutor(2) as pool:
        whole = pool.map(
            lambda p: bench.mark(p, fenced(rows[p.id]["prompt"] + rows[p.id]["canonical_solution"])), problems
        )
        assert sum(m.score for m in whole) == 164
        # A model may give the function's body alone, without a fence.
        bodies = pool.map(
            lambda p: bench.mark(p, Response(rows[p.id]["canonical_solution"].strip("\n"))), problems[:10]
        )
        assert sum(m.score for m in bodies) == 10


@needs_data
def test_mbpp_at_least_972_of_974() -> None:
    bench = Mbpp()
    data = bench.data(DATA)
    rows = [row for _, row in data.rows()]
    with ThreadPoolExecutor(2) as pool:
        marks = pool.map(
            lambda r: bench.mark(bench.read(r.fields, r.where, ""), fenced(r.fields["code"].replace("\r\n", "\n"))),
            rows,
        )
        assert sum(m.score for m in marks) >= 972
    assert len(rows) == 974 and len(bench.problems("test", data=data)) == len(MBPP_IDS["test"]) == 500


def text_of(call: dict[str, Any]) -> str:
    ((name, arguments),) = call.items()
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"


def first_answers(truth: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls with the first possible value of each parameter; what may only be left out is left
    out.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):  # the values of a dict are lists of possible ones
            given = {
                k: next((x for x in v if x != ""), "") if isinstance(v, list) else v
                for k, v in value.items()
                if v != [""]
            }
            return {k: plain(v) for k, v in given.items()}
        return [plain(v) for v in value] if isinstance(value, list) else value

    out = []
    for expected in truth:
        ((name, answers),) = expected.items()
        out.append(
            {
                name: {
                    k: plain(next((v for v in possible if v != ""), ""))
                    for k, possible in answers.items()
                    if possible != [""]
                }
            }
        )
    return out


@needs_data
@pytest.mark.parametrize("native", [True, False])
def test_bfcl_own_answers_are_right(native: bool) -> None:
    bench = Bfcl(native_tools=native)
    problems = bench.problems("test", data=bench.data(DATA))
    wrong = []
    for p in problems:
        if p.source.startswith("multi_turn"):
            continue
        language = language_of(p.source)
        calls = (
            first_answers(p.truth["ground_truth"])
            if p.truth["ground_truth"]
            else [{p.truth["functions"][0]["name"]: {}}]
            if "irrel" not in p.source
            else []
        )
        if native:
            reply = said("", tuple(ToolCall(n.replace(".", "_"), a) for c in calls for n, a in c.items()))
        elif language == "python":
            reply = said("[" + ", ".join(map(text_of, calls)) + "]" if calls else "No function fits.")
        else:
            continue  # Java and JavaScript spell values in their own ways: by hand below
        if not bench.mark(p, response([reply])).score:
            wrong.append(p.id)
    # The rest: answers that need other than the first value, or a blank for a required parameter.
    assert len(wrong) <= 12, wrong


def named(call: str, functions: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A true call with its positional arguments by name."""
    name, positional, keywords = read_true_call(call)
    (function,) = [f for f in functions if f["name"] == name]
    return {name: dict(zip(function["parameters"]["properties"], positional, strict=False)) | keywords}


@needs_data
@pytest.mark.parametrize("native", [True, False])
def test_bfcl_true_conversations_are_right(native: bool) -> None:
    """The true calls of each turn, then a sentence; the functions that come late are on offer when
    they are needed.
    """
    bench = Bfcl("multi_turn", native_tools=native)
    problems = bench.problems("test", data=bench.data(DATA))
    assert len(problems) == 800
    for p in problems[::4]:
        user = conversation(p)
        turns: list[ParsedResponse] = []
        for number, turn in enumerate(p.truth["ground_truth"]):
            if native:
                offered = {t["function"]["name"] for t in user.schemas()}
                assert {read_true_call(c)[0] for c in turn} <= offered, (p.id, number)
            if turn:
                calls = [named(c, p.truth["functions"]) for c in turn]
                turns.append(
                    said("", tuple(ToolCall(n, a) for c in calls for n, a in c.items()))
                    if native
                    else said("[" + ", ".join(map(text_of, calls)) + "]")
                )
                assert [m.role for m in follow(user, turns[-1])] == ["tool"] * len(turn)
            turns.append(said("That is done."))
            following = follow(user, turns[-1])
            assert (not following) == (number == len(p.truth["ground_truth"]) - 1)
            assert not following or following[-1].role == "user"
        mark = bench.mark(p, response(turns))
        assert mark.score == 1.0, (p.id, mark.verdict.reason)
        assert bench.mark(p, response(turns[-1:])).score == 0.0


def conversation(problem: Problem) -> Environment:
    user = environment_for(problem)
    assert user is not None
    return user


def follow(user: Environment, turn: ParsedResponse) -> Sequence[Message]:
    """What the environment says after a turn, as `rollout.play` asks it."""
    if turn.tool_calls:
        return answer_calls(user, turn.tool_calls)
    return in_background(user.next_messages(turn)).result()


@needs_data
def test_bfcl_a_conversation_without_an_end_is_ended() -> None:
    bench = Bfcl("multi_turn_base")
    p = bench.problems("test", data=bench.data(DATA))[0]
    user, turns = conversation(p), []
    while not user.over:
        turns.append(said("", (ToolCall("pwd", {}),)))
        follow(user, turns[-1])
        assert len(turns) <= 21
    assert len(turns) == 21 and bench.mark(p, replace(response(turns), finished=False)).score == 0.0


@needs_data
def test_bfcl_functions_that_come_late() -> None:
    for native in (True, False):
        bench = Bfcl("multi_turn_miss_func", native_tools=native)
        p = bench.problems("test", data=bench.data(DATA))[0]  # `sort` comes with the fourth turn
        user = conversation(p)
        for text in ("a", "b"):
            follow(user, said(text))
        assert "sort" not in {t["function"]["name"] for t in user.schemas()}
        (message,) = follow(user, said("c"))
        assert message.role == "user" and message.content.endswith("What about now?")
        if native:
            assert "sort" in {t["function"]["name"] for t in user.schemas()}
        else:
            assert '"sort"' in message.content and '"sort"' not in p.messages[0].content


@needs_data
def test_bfcl_conversations_are_played() -> None:
    """The one loop plays them: calls answered, the user's next turn, functions that come late."""
    bench = Bfcl("multi_turn_miss_func")
    p = bench.problems("test", data=bench.data(DATA))[0]
    script = iter(["a", "b", "c", '<tool_call>{"name": "pwd", "arguments": {}}</tool_call>', "d", "e"])
    policy = ScriptedPolicy(lambda request: next(script))
    (episode,) = play(policy, iter([EpisodeJob(p)]), SamplingParams())
    assert [m.role for m in episode.messages] == [
        "assistant", "user", "assistant", "user", "assistant", "user", "assistant", "tool", "assistant", "user",
        "assistant",
    ][: len(episode.messages)]  # fmt: skip
    assert [c.name for c in episode.calls] == ["pwd"] and "current_working_directory" in episode.results[0]
    assert "sort" not in str(policy.asked[2].tools) and "sort" in str(policy.asked[3].tools)
    verdict = bench.mark(p, episode.response()).verdict
    assert verdict.outcome is Outcome.WRONG


@needs_data
def test_bfcl_silence_is_right_only_where_nothing_fits() -> None:
    bench = Bfcl(native_tools=False)
    for p in bench.first(
        [p for p in bench.problems("test", data=bench.data(DATA)) if "multi_turn" not in p.source], 40
    ):
        mark = bench.mark(p, Response("I can not help with that."))
        assert mark.verdict.outcome is (Outcome.CORRECT if "irrelevance" in p.source else Outcome.WRONG)


@pytest.mark.parametrize(
    ("text", "language", "calls"),
    [
        (
            "[f(a=1, b='x'), g.h(c=[1, -2.5], d={'k': True})]",
            "python",
            [{"f": {"a": 1, "b": "x"}}, {"g.h": {"c": [1, -2.5], "d": {"k": True}}}],
        ),
        ("f(a=name, b=2*3, c=(1, 2))", "python", [{"f": {"a": "name", "b": 6, "c": (1, 2)}}]),
        ("`[f(a=os.system('x'))]`", "python", [{"f": {"a": "os.system('x')"}}]),  # text, and never run
        ("[f(a=9**9**9)]", "python", [{"f": {"a": "9 ** 9 ** 9"}}]),
        (
            '[A.b(x=new int[]{1, 2}, y="s, t", z=3L)]',
            "java",
            [{"A.b": {"x": "new int[]{1, 2}", "y": "s, t", "z": "3L"}}],
        ),
        ("[f(o={a: [1, 2]}, g=(x) => x + 1)]", "javascript", [{"f": {"o": "{a: [1, 2]}", "g": "(x) => x + 1"}}]),
    ],
)
def test_calls_are_read_from_text(text: str, language: str, calls: Any) -> None:
    assert read_calls(text, language) == calls


@pytest.mark.parametrize(
    "text", ["I would call f", "[1, 2]", "[f(a=1]", "[f(a={[1]: 2})]", "[f(a={**b})]", "[" * 3000, "[f(1)(2)]"]
)
def test_what_is_no_call_is_refused(text: str) -> None:
    with pytest.raises(NotCalls):
        read_calls(text)


def test_humaneval_programs() -> None:
    prompt = "import math\n\n\ndef helper(x):\n    return x\n\n\ndef f(x):\n    '''Doc.'''\n"
    assert "import math" in (whole_program("```python\ndef f(x):\n    return helper(x)\n```", prompt, "f") or "")
    assert (whole_program("    return 1\n", prompt, "f") or "").endswith("    return 1\n")
    assert (whole_program("```python\nreturn 1\n```", prompt, "f") or "").endswith("    return 1\n")
    assert whole_program("I do not know.", prompt, "f") is None
