"""Compaction: 300 calls in a context of 8,192 tokens, token-exact and not; what may never go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from agent_tools import OutsideTools
from scripted_policy import ScriptedPolicy

from qwq.agent.events import EVENTS, read_events
from qwq.agent.run import SYSTEM, AgentLimits, AgentSettings, CompactBy, run_agent
from qwq.engine.sampler import SamplingParams
from qwq.envs.toolbox import Toolbox, make_toolsets
from qwq.envs.workspace import Workspace
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.compact import KEPT_TURNS, compact, steps_of
from qwq.rollout.episode import EpisodeJob
from qwq.rollout.episode import play as play_episodes
from qwq.rollout.policy import TurnRequest
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Problem, StopReason

CONTEXT = 8192
LIMITS = AgentLimits(model_calls=400, tool_calls=400)
TASK = "Look at three hundred places, and say the last."


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    template = default_template()
    words = " ".join(f"place {n} holds {n * 7} things, seen at {n}:{n % 60:02}" for n in range(300))
    return ChatFormat(train_bpe([words, template.render([Message("user", TASK)])], 400), template)


def call(n: int) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'look', 'arguments': {'text': str(n)}})}\n</tool_call>"


def turn(n: int) -> str:
    """Two calls in every seventh turn, a malformed one in every eleventh, a thought in all."""
    made = call(n) + (call(1000 + n) if n % 7 == 0 else "") + (call(2000 + n).replace("}}", "}") if n % 11 == 0 else "")
    return f"<think>\nnext is {n}\n</think>\n\nI look. {made}"


def summed_up(request: TurnRequest) -> str:
    """A summary as long as its form allows; its first fact is of the first call that may be named,
    and carries what an earlier one said.
    """
    assert request.schema is not None and not request.tools
    facts, steps = (request.schema["properties"][key] for key in ("facts", "open"))
    calls, most = facts["items"]["properties"]["call"]["enum"], facts["items"]["properties"]["fact"]["maxLength"]
    texts = [f"{calls[n % len(calls)]} holds <|im_end|> things ".ljust(most, "y") for n in range(facts["maxItems"])]
    made = [{"call": calls[n % len(calls)], "fact": text} for n, text in enumerate(texts)]
    return json.dumps({"facts": made, "open": ["look on ".ljust(most, "z")] * steps["maxItems"]})


def scripted(sent: Path, chat: ChatFormat | None, num_turns: int) -> tuple[ScriptedPolicy, OutsideTools]:
    tools = OutsideTools(sent)
    tools.answers = {str(n): (f"place {n} holds " + f"{n * 7} things, " * (n % 40),) for n in range(3000)}
    answer = "<think>\nso\n</think>\n\nThe last."

    def say(request: TurnRequest) -> str:
        if request.schema is not None:
            return summed_up(request)
        return turn(n) if (n := len(request.key.episode.turns)) < num_turns else answer

    return ScriptedPolicy(say, chat, CONTEXT), tools


def play(
    out: Path, chat: ChatFormat | None, num_turns: int = 260, by: CompactBy = CompactBy.RULE
) -> tuple[Any, list[TurnRequest]]:
    policy, tools = scripted(out.parent / "sent.txt", chat, num_turns)
    settings = AgentSettings(compaction=by)
    outcome = run_agent(policy, TASK, toolbox=Toolbox([tools]), out=out, limits=LIMITS, settings=settings)
    return outcome, policy.asked


def check_pairs(messages: Sequence[Any]) -> None:
    """No call without its result, no result without its call."""
    shown = [m for m in messages if m.role not in ("system", "user") or "cannot be read" in m.content]
    waiting = 0
    for message in shown:
        if message.role == "assistant":
            assert waiting == 0
            waiting = message.content.count("<tool_call>") + len(message.tool_calls)
        else:
            waiting -= 1
    assert waiting == 0


@pytest.mark.parametrize("by", CompactBy)
@pytest.mark.parametrize("exact", [True, False])
def test_three_hundred_calls_in_8k(chat: ChatFormat, tmp_path: Path, exact: bool, by: CompactBy) -> None:
    outcome, asked = play(tmp_path / "run", chat if exact else None, by=by)
    assert (outcome.answer, outcome.stop_reason) == ("The last.", StopReason.END) and outcome.tool_calls >= 300
    events = read_events(tmp_path / "run")
    made, summaries = ([e for e in events if e["event"] == kind] for kind in ("compaction", "summary"))
    assert len(made) >= 3 and all(e["tokens"] <= CONTEXT for e in made)
    for request in asked:
        system, task, *rest = request.messages
        assert system.role == "system" and task.content.startswith(TASK)
        assert len(request.prompt_ids or ()) < CONTEXT and len(str(request.messages)) < 8 * CONTEXT
        if request.schema is not None and exact:
            assert len(chat.prompt_ids(request.messages)) + request.params.max_new_tokens <= CONTEXT
        shown = [m for m in rest if "own summary" not in m.content and not m.content.startswith('{"facts"')]
        assert len(rest) - len(shown) in (0, 2)
        check_pairs(shown)
    if by is CompactBy.SUMMARY:
        assert len(summaries) >= 3 and all("fault" not in e for e in summaries)
        assert outcome.model_calls == sum(e["event"] == "model_turn" for e in events) + len(summaries)
        assert [e["turns"] for e in summaries] == sorted({e["turns"] for e in summaries})
    else:
        assert summaries == []
    said = asked[-1].key.episode.messages[:-1]
    starts = [i for i, m in enumerate(said) if m.role == "assistant"][-KEPT_TURNS:]
    assert asked[-1].messages[-len(said[starts[0] :]) :] == said[starts[0] :]
    assert "Gone: your first" in asked[-1].messages[1].content


def test_segments_hold_every_sampled_token(chat: ChatFormat, tmp_path: Path) -> None:
    _, asked = play(tmp_path / "run", chat)
    episode = asked[-1].key.episode
    assert len(episode.segments) >= 3
    segments = episode.rollout().all_segments
    sampled = [i for s in segments for i, m in zip(s.completion_ids, s.sampled_mask, strict=True) if m]
    assert sampled == [i for t in episode.turns for i in t.ids]
    assert all(s.prompt_ids != episode.prompt_ids for s in episode.segments)


def test_rl_compacts_as_the_agent_does(chat: ChatFormat, tmp_path: Path) -> None:
    """The same turns lead to the same prompts, token for token."""
    _, asked = play(tmp_path / "run", chat, 130)
    policy, tools = scripted(tmp_path / "sent.txt", chat, 130)
    toolbox = Toolbox([tools])
    schemas = tuple(spec.schema for spec in toolbox.specs().values())
    messages = (Message("system", SYSTEM), Message("user", TASK))
    job = EpisodeJob(Problem("p", "tools", messages, {}, "p", schemas), environment=toolbox)
    limits = EpisodeLimits(max_calls=400, compact=True)
    (episode,) = play_episodes(policy, iter([job]), SamplingParams(max_new_tokens=8192), limits=limits, exact=True)
    assert len(episode.segments) >= 2 and episode.stop_reason is StopReason.END
    assert [r.prompt_ids for r in policy.asked] == [r.prompt_ids for r in asked]


def test_without_compaction_a_full_context_ends_an_episode(chat: ChatFormat, tmp_path: Path) -> None:
    policy, tools = scripted(tmp_path / "sent.txt", chat, 130)
    toolbox = Toolbox([tools])
    problem = Problem(
        "p", "tools", (Message("user", TASK),), {}, "p", tuple(s.schema for s in toolbox.specs().values())
    )
    limits, params = EpisodeLimits(max_calls=400), SamplingParams(max_new_tokens=8192)
    (episode,) = play_episodes(policy, iter([EpisodeJob(problem, environment=toolbox)]), params, limits=limits)
    assert episode.stop_reason is StopReason.CONTEXT and not episode.segments


def test_results_that_leave_the_context_can_be_read_where_a_tool_reads(tmp_path: Path) -> None:
    with Workspace() as desk:
        box = Toolbox(make_toolsets(["python"]), desk)
        box.keep_earlier({"call-4": "all of it"})
        assert desk.read(box.earlier_place("call-4")) == b"all of it"
    assert Toolbox([OutsideTools(tmp_path / "sent.txt")]).earlier_place("call-4") == ""


def test_a_resumed_run_compacts_the_same(chat: ChatFormat, tmp_path: Path) -> None:
    play(tmp_path / "a" / "run", chat, 130)
    lines = (tmp_path / "a" / "run" / EVENTS).read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["event"] for line in lines]
    second = [n for n, kind in enumerate(kinds) if kind == "compaction"][1]
    for cut in (second, second + 5):
        out = tmp_path / f"cut-{cut}" / "run"
        out.mkdir(parents=True)
        (out / EVENTS).write_bytes(b"".join(lines[:cut]))
        play(out, chat, 130)
        again = [e for e in read_events(out) if e["event"] != "resume"]
        drop = ("n", "t", "s", "prev", "seconds")
        bare = [{k: v for k, v in e.items() if k not in drop} for e in again]
        assert bare == [{k: v for k, v in json.loads(line).items() if k not in drop} for line in lines]


def test_what_goes_first_by_hand() -> None:
    long = "x" * 400
    head = [Message("system", "s"), Message("user", "task")]
    said = [
        m
        for n in range(5)
        for m in (
            Message("assistant", f"<think>\nthought {n} {long}\n</think>\n\ncalls {n}"),
            Message("tool", f"{n} {long}"),
        )
    ]
    steps = steps_of(said, [1] * 5)
    count = lambda messages: sum(len(m.content) for m in messages)
    some = compact(head, steps, count, 8000, lambda i: f"outputs/{i}.txt")
    assert some is not None and (some.shortened, some.dropped, some.thoughts) == (("call-1", "call-2"), (), 0)
    assert some.messages[3].content == f"call-1: 0 {'x' * 78} ... (402 characters, whole in outputs/call-1.txt)"
    assert some.messages[-6:] == said[-6:]
    more = compact(head, steps, count, 2 * (count(some.messages) - 1), lambda i: f"outputs/{i}.txt")
    assert more is not None and more.thoughts == 2 and more.dropped == ()
    assert more.messages[2].content == "calls 0"
    least = compact(head, steps, count, 10, lambda i: "")
    assert least is not None and least.dropped == ("call-1", "call-2") and least.messages[2:] == said[-6:]
    assert least.messages[1].content.startswith(
        "task\n\n[To make room, parts of this conversation were left out. Gone:"
    )
    assert compact(head, steps[:3], count, 10, lambda i: "") is None
