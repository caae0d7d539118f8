"""The same sample has the same answer and the same calls for rewards, evaluation, distillation,
chat, rollouts and server.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_policy import ScriptedPolicy

from qwq.chat.conversation import Conversation
from qwq.distill.filters import Answer, parts_of
from qwq.endpoint.reply import read_completion
from qwq.engine.sampler import SamplingParams
from qwq.engine.thinking import ThinkingState
from qwq.eval.records import record_of, response_of
from qwq.reward.mixing import gate_verdict
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.episode import Episode, EpisodeJob, play
from qwq.rollout.policies.local import EnginePolicy, _Running
from qwq.rollout.policy import TurnRequest
from qwq.tasks.base import Mark, Task, marked
from qwq.text.response import THINK_CLOSE, parse, reopens_thinking
from qwq.types import Message, Outcome, ParsedResponse, Problem, Response, StopReason, Verdict
from qwq.verify import code, instructions, math
from qwq.verify.code.grade import Judged
from qwq.verify.grade import VERIFIERS, grade

NUM_TEXTS = 10_000
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "f", "arguments": {"s": "</tool_call> </think>"}}\n</tool_call>'
PIECES = (
    "<think>", "<think>\n", "</think>", "</think>\n\n", "\n</think>\n", "`<think>`", '"</think>"', "<tool_call>",
    "</tool_call>", CALL, '<tool_call>{"name": "f"}</tool_call>', '<tool_call>{"name": "g", "arguments": {}}',
    '<tool_call>{"name": "f", "arguments": {"a": ', "\\boxed{5}", "\\boxed{6}", "The answer is 5.",
    "\n```python\nprint(5)\n```\n", "\n```python\nprint(6)\n```", "wait, ", "\n", " ", "é", "<", "</thi",
)  # fmt: skip


def samples(num: int, seed: int) -> Iterator[tuple[str, bool, tuple[Any, ...]]]:
    """(text, whether the template had opened the thinking, the tools on offer)."""
    rng = random.Random(seed)
    for _ in range(num):
        text = "".join(rng.choices(PIECES, k=rng.randrange(9)))
        yield (
            ("<think>" if rng.random() < 0.3 else "") + text,
            rng.random() < 0.5,
            (TOOL,) if rng.random() < 0.5 else (),
        )


def problem(domain: str, truth: dict[str, Any], tools: tuple[Any, ...] = (), task: str = "") -> Problem:
    return Problem("p", domain, (Message("user", "?"),), truth, "p", tools, task=task)


def test_verifiers_evaluation_and_distillation_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ParsedResponse] = []
    monkeypatch.setitem(VERIFIERS, "spy", lambda p, r: (seen.append(r.parts), Verdict(Outcome.CORRECT, "", "spy"))[1])
    policy = object.__new__(EnginePolicy)
    policy.count_thinking = False
    for text, opened, tools in samples(NUM_TEXTS, 1):
        expected = parse(text, thinking_open=opened, tools=frozenset({"f"}) if tools else ())
        grade(problem("math", {}, tools, "spy"), Response(text, thinking_open=opened))
        assert seen.pop() == expected
        policy.chat = SimpleNamespace(thinking_open=opened)
        sample = SimpleNamespace(
            text=text, stop_reason=StopReason.END, ids=[], num_thinking=0, forced=[], drawn_logprobs=[]
        )
        reply = policy._turn(_Running(TurnRequest("k", SamplingParams(), (), tools), sample, [(0, 0)]))
        assert reply.parts == expected
        asked = problem("math", {}, tools)
        episode = Episode(EpisodeJob(asked), turns=[reply], stop_reason=StopReason.END)
        response = response_of(json.loads(json.dumps(record_of(episode))))  # as a stored reply is marked
        assert (response.parts.final, response.parts.tool_calls) == (expected.final, expected.tool_calls)
        assert response.parts.open == expected.open
        assert response.parts.calls_in_order == episode.response().parts.calls_in_order or expected.malformed_calls
        mark = _Judged().mark(asked, response)
        nothing = not (expected.tool_calls or expected.malformed_calls) and not expected.final
        assert (mark.verdict.outcome is Outcome.NO_ANSWER) == (nothing or (expected.open and not expected.tool_calls))
        thinking, final = parts_of(problem("math", {}, tools), Answer(text, True, opened))
        assert (thinking, final) == (("unclosed", "") if expected.open else (expected.thinking or None, expected.final))


class _Judged(Task):
    name = "judged"

    def mark(self, problem: Problem, response: Response) -> Mark:
        return marked(self.unanswered(response) or Verdict(Outcome.CORRECT, "", self.name))


def test_each_verifier_reads_the_final_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = Judged(Verdict(Outcome.CORRECT, "", "code"))
    monkeypatch.setitem(code.verify_response.__globals__, "judge", lambda program, tests, **_: correct)
    rules, tests = (
        [{"id": "num_words", "relation": "at_most", "n": 1000}],
        {"kind": "stdio", "cases": [{"input": "", "output": "5\n"}]},
    )
    for text, opened, tools in samples(NUM_TEXTS // 5, 2):
        expected = parse(text, thinking_open=opened, tools=frozenset({"f"}) if tools else ())
        response = Response(text, thinking_open=opened)
        verdict = grade(problem("instructions", {"rules": rules}, tools), response)
        assert (verdict.answer or "") == expected.final
        assert (verdict.outcome is Outcome.NO_ANSWER) == (not expected.final)
        verdict = grade(problem("math", {"gold": "5"}, tools), response)
        assert verdict.answer in (None, "", math.extract(expected, "response"))
        assert verdict.outcome is Outcome.NO_ANSWER or expected.final
        program = code.extract_code(expected.final)
        verdict = grade(problem("code", {"tests": tests}, tools), response)
        assert (verdict.answer, verdict.outcome) == (program, Outcome.CORRECT if program else Outcome.NO_ANSWER)
        # Without tools, asked directly
        direct = parse(text, thinking_open=opened)
        assert (instructions.verify(text, rules, thinking_open=opened).answer or "") == direct.final
        assert math.extract(text, "response", thinking_open=opened) == math.extract(direct, "response")
        if gate_verdict(response).outcome is Outcome.CORRECT:
            assert direct.final and not direct.tool_calls and not direct.malformed_calls


def test_the_server_says_what_rewards_see() -> None:
    pytest.importorskip("llguidance")
    from qwq.serve.prompt import Prompt
    from qwq.serve.turn import OutgoingMessage, PreparedChat

    rng = random.Random(3)
    for text, opened, tools in samples(NUM_TEXTS, 4):
        names = frozenset({"f"}) if tools else frozenset[str]()
        expected = parse(text, thinking_open=opened, tools=names)
        turn = OutgoingMessage(PreparedChat(None, Prompt([], opened), names, True, True))  # type: ignore[arg-type]
        cuts = sorted(rng.sample(range(len(text) + 1), min(4, len(text) + 1)))
        for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True):
            turn.push(SimpleNamespace(text=text[a:b], done=False))  # type: ignore[arg-type]
        turn.push(SimpleNamespace(text="", done=True, sample=SimpleNamespace(stop_reason=StopReason.END)))  # type: ignore[arg-type]
        message = turn.message()
        assert (message["content"] or "") == expected.answer and (message["reasoning_content"] or "") == (
            expected.thinking or ""
        )
        calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", ())]
        assert calls == [(c.name, c.arguments) for c in expected.tool_calls]
        if expected.thinking:  # a client of the server, such as an evaluation over the wire
            got = read_completion({"choices": [{"message": message, "finish_reason": "stop"}]}, tools=names)
            assert (got.answer, got.calls) == (expected.answer, expected.tool_calls)


def test_chat_and_rollouts_agree() -> None:
    for text, opened, tools in samples(NUM_TEXTS // 5, 5):
        names = frozenset({"f"}) if tools else ()
        tokenizer = SimpleNamespace(decode=lambda ids, text=text: text)
        chat: Any = SimpleNamespace(
            thinking_open=opened,
            tokenizer=tokenizer,
            eos_ids=(0,),
            prompt_ids=lambda *_: [1],
            tool_result_ids=lambda _: [2],
            next_turn_ids=lambda _: [2],
        )
        said = Conversation(ScriptedPolicy(lambda _: [1, 0], chat), SamplingParams()).ask("?", 0, lambda *_: None)
        assert said.answer == parse(text, thinking_open=opened, tools=()).answer
        expected = parse(text, thinking_open=opened, tools=names)
        policy = ScriptedPolicy(lambda _: [1, 0], chat)
        asked = iter([EpisodeJob(problem("tools", {}, tools))])
        (episode,) = play(policy, asked, SamplingParams(), limits=EpisodeLimits(max_turns=2))
        assert (tuple(episode.calls), episode.num_malformed) == (expected.tool_calls, len(expected.malformed_calls))
        assert episode.turns[0].parts == expected


def test_the_engine_follows_the_same_thinking() -> None:
    """Bytes as tokens: inside or not, closed or not, and how many of them were thought."""
    tokenizer: Any = SimpleNamespace(token_bytes=[bytes([i]) for i in range(256)])
    for text, opened, _ in samples(NUM_TEXTS // 5, 6):
        expected = parse(text, thinking_open=opened, tools=())
        control = ThinkingState(tokenizer, opened=opened, budget=None, max_new_tokens=10_000)
        for byte in text.encode():
            control.push(byte)
        assert control.inside == (not expected.thinking_closed)
        assert control.closed == (expected.thinking is not None and expected.thinking_closed)
        start = (
            0 if opened else len(text.encode()) if expected.thinking is None else text.encode().index(b"<think>") + 7
        )
        thought, closed, _ = text.encode()[start:].partition(THINK_CLOSE.encode())
        assert control.num_thinking == len(thought)
        assert bool(closed) == control.closed or expected.thinking is None


def test_a_hedge_is_paid_nowhere() -> None:
    """A right answer with another thought opened behind it: the same verdict in every domain."""
    text = "<think>a</think>\n{}\n<think>wait, let me check again"
    tests = {"kind": "stdio", "cases": [{"input": "", "output": "1\n"}]}
    for domain, answer, truth in [
        ("math", "\\boxed{1}", {"gold": "1"}),
        ("instructions", "hello", {"rules": [{"id": "contains", "text": "hello"}]}),
        ("code", "```python\nprint(1)\n```", {"tests": tests}), ("tools", "\\boxed{1}", {"gold": "1", "min_calls": 0}),
    ]:  # fmt: skip
        verdict = grade(problem(domain, truth), Response(text.format(answer)))
        assert (verdict.outcome, bool(verdict.answer)) == (Outcome.NO_ANSWER, False), domain
    assert gate_verdict(Response(text.format("hello"))).outcome is Outcome.NO_ANSWER
    assert reopens_thinking(parse(text.format("x")).answer)
