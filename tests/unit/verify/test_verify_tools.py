"""Tool use: the answer and the calls behind it; and grading by domain."""

import pytest

from qwq.errors import DataError
from qwq.types import Message, Outcome, Problem, Response, ToolCall
from qwq.verify import grade as grade_module
from qwq.verify import tools
from qwq.verify.grade import grade, grade_many

CALL = ToolCall("calculator", {"expression": "12 * 7"})
TRUTH = {"gold": "84", "tool": "calculator"}


def _verify(truth: dict, calls: tuple = (CALL,), text: str = "It is \\boxed{84}.", **fields: object):
    return tools.verify(Response(text=text, calls=calls, **fields), truth)


def test_right_answer_with_its_call() -> None:
    assert _verify(TRUTH).outcome is Outcome.CORRECT


def test_right_answer_without_the_call_is_wrong_and_says_so() -> None:
    verdict = _verify(TRUTH, calls=())
    assert verdict.outcome is Outcome.WRONG and "answer is right" in verdict.reason and "at least 1" in verdict.reason


def test_wrong_answer_with_the_call() -> None:
    assert _verify(TRUTH, text="\\boxed{85}").outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("truth", "calls", "fields", "reason"),
    [
        (TRUTH | {"max_calls": 1}, (CALL, CALL), {}, "allowed 1"),
        (TRUTH, (ToolCall("search", {}),), {}, "'search'"),
        (TRUTH, (CALL,), {"malformed_calls": 1}, "could not be read"),
        (TRUTH | {"calls": [{"name": "calculator", "arguments": {"expression": "12*8"}}]}, (CALL,), {}, "not made"),
    ],
)
def test_calls_that_are_not_as_asked(truth: dict, calls: tuple, fields: dict, reason: str) -> None:
    verdict = _verify(truth, calls, **fields)
    assert verdict.outcome is Outcome.WRONG and reason in verdict.reason


def test_expected_calls_are_matched_in_any_order_and_spacing() -> None:
    truth = TRUTH | {
        "calls": [
            {"name": "calculator", "arguments": {"expression": "1+1"}},
            {"name": "calculator", "arguments": {"expression": "12*7"}},
        ]
    }
    assert _verify(truth, (CALL, ToolCall("calculator", {"expression": "1 + 1"}))).correct
    assert not _verify(truth, (CALL, CALL)).correct  # one call meets one expectation only


def test_json_values() -> None:
    assert tools.same_json({"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]})
    assert not tools.same_json({"a": 1}, {"a": True})
    assert not tools.same_json({"a": 1}, {"a": 1, "b": 2})
    assert not tools.same_json({"city": "New York"}, {"city": "NewYork"})


def test_unfinished_and_unanswered() -> None:
    assert _verify(TRUTH, finished=False).outcome is Outcome.UNFINISHED
    assert _verify(TRUTH, text="").outcome is Outcome.NO_ANSWER
    last_is_call = '84 <tool_call>{"name": "calculator", "arguments": {"expression": "1"}}</tool_call>'
    assert "never answered" in _verify(TRUTH, text=last_is_call).reason


@pytest.mark.parametrize(
    "truth", [{"gold": ""}, {}, {"gold": "1", "min_call": 2}, {"gold": "1", "calls": [{"name": "f"}]}]
)
def test_unusable_truth(truth: dict) -> None:
    with pytest.raises(DataError):
        _verify(truth)


def _problem(domain: str, truth: dict, name: str = "p") -> Problem:
    return Problem(name, domain, (Message("user", "?"),), truth, canonical=name)


def test_grade_dispatches_by_domain() -> None:
    rules = {"rules": [{"id": "lower_case"}]}
    assert grade(_problem("math", {"gold": "2"}), Response("\\boxed{2}")).verifier == "math"
    assert grade(_problem("instructions", rules), Response("low")).correct
    assert not grade(_problem("preference", rules), Response("HIGH")).correct
    assert grade(_problem("tools", TRUTH), Response("84", calls=(CALL,))).verifier == "tools"
    assert grade(_problem("math", {"gold": "2"}), Response("\\boxed{2}", finished=False)).outcome is Outcome.UNFINISHED


def test_grade_names_what_is_missing() -> None:
    with pytest.raises(DataError, match="needs truth\\['gold'\\]"):
        grade(_problem("math", {"answer": "2"}), Response("2"))
    with pytest.raises(DataError, match="did you mean 'math'"):
        grade(_problem("maths", {"gold": "2"}), Response("2"))


def test_grade_many_keeps_order_and_grades_equal_items_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graded = []
    real = grade_module.grade

    def counting(problem: Problem, response: Response, **options: object):
        graded.append(response.text)
        return real(problem, response, **options)

    monkeypatch.setattr(grade_module, "grade", counting)
    problem = _problem("math", {"gold": "2"})
    texts = ["2", "3", "2", "nothing said here at all, not a thing"]
    verdicts = grade_many([(problem, Response(t)) for t in texts])
    assert [v.outcome for v in verdicts] == [Outcome.CORRECT, Outcome.WRONG, Outcome.CORRECT, Outcome.NO_ANSWER]
    assert sorted(graded) == sorted(set(texts))


def test_grade_many_tries_an_infra_error_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwq.errors import InfraError

    failures = iter([True, False])
    real = grade_module.grade

    def flaky(problem: Problem, response: Response, **options: object):
        if next(failures):
            raise InfraError("the jail would not start")
        return real(problem, response, **options)

    monkeypatch.setattr(grade_module, "grade", flaky)
    assert grade_many([(_problem("math", {"gold": "2"}), Response("2"))])[0].correct
    monkeypatch.setattr(grade_module, "grade", lambda *a, **k: (_ for _ in ()).throw(InfraError("gone")))
    verdict = grade_many([(_problem("math", {"gold": "2"}), Response("2"))], retries=2)[0]
    assert verdict.outcome is Outcome.INFRA_ERROR and verdict.reason == "gone"
