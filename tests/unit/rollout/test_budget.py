"""Budgets of an episode, what the model is told of them, the last turn without tools, and loops."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from scripted_policy import ScriptedPolicy

from qwq.engine.sampler import SamplingParams
from qwq.envs import ENVIRONMENTS, Environment, tool
from qwq.rollout.budget import EpisodeLimits, Note, loop_length
from qwq.rollout.episode import Episode, EpisodeJob, Hooks, play
from qwq.types import Message, Problem, StopReason

DONE = "\\boxed{42}"


class Shelf(Environment):
    """Reads that give what a test says."""

    max_calls = 50
    answers: Sequence[str] = ()

    async def reset(self, problem: Problem) -> None:
        self.count = 0

    @tool
    async def read(self, key: str) -> str:
        """Read."""
        self.count += 1
        return self.answers[min(self.count, len(self.answers)) - 1] if self.answers else f"{key} {self.count}"

    @tool
    async def take(self, n: int) -> str:
        """Take."""
        return f"took {n}"


ENVIRONMENTS["test-shelf"] = Shelf


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def one(script: Any, limits: EpisodeLimits, answers: Sequence[str] = (), **kw: Any) -> tuple[Episode, list[Any]]:
    Shelf.answers = answers
    policy = ScriptedPolicy(script)
    problem = Problem("p", "tools", (Message("user", "?"),), {}, "c", Shelf().schemas(), environment="test-shelf")
    (episode,) = play(policy, iter([EpisodeJob(problem)]), SamplingParams(max_new_tokens=500), limits=limits, **kw)
    return episode, policy.asked


def turns(*texts: str) -> Any:
    """Turn n says the n-th text; the last one for ever while there are tools, then DONE."""
    return lambda r: texts[min(len(r.key.episode.turns), len(texts) - 1)] if r.tools else DONE


# -- budgets ---------------------------------------------------------------------------------------


def test_the_last_model_call_has_no_tools_and_the_model_knows() -> None:
    """Of 8 model calls 80% are 6.4: the note comes with the 7th, which makes the 8th the last."""
    limits = EpisodeLimits(max_turns=8, last_turn=True, tell_at=0.8)
    episode, asked = one(turns(call("read", key="a")), limits)
    assert [bool(r.tools) for r in asked] == [True] * 7 + [False]
    notes = [m.content.partition("\n[")[2] for m in episode.messages if m.role == "tool"]
    assert notes[:6] == [""] * 6
    assert notes[6] == "7 of 8 model calls used: the next turn is the last, without tools. Answer with what you have.]"
    assert (episode.stop_reason, episode.forced) == (StopReason.END, StopReason.TURNS)
    assert episode.results[6] == "a 7"  # a verifier reads the result without the note


def test_a_model_that_still_calls_in_its_last_turn_is_stopped_for_that_reason() -> None:
    limits = EpisodeLimits(max_turns=3, last_turn=True)
    episode, asked = one(lambda r: call("read", key="a"), limits)
    assert len(asked) == 3 and episode.stop_reason is StopReason.TURNS and len(episode.results) == 2


def test_one_model_call_has_no_tools_at_all() -> None:
    episode, asked = one(turns(call("read", key="a")), EpisodeLimits(max_turns=1, last_turn=True))
    assert len(asked) == 1 and not asked[0].tools and episode.stop_reason is StopReason.END


def test_a_budget_is_told_once() -> None:
    """Ten calls of 12 are 83%: told behind the tenth, and only there."""
    limits = EpisodeLimits(max_calls=12, last_turn=True, tell_at=0.8)
    told: list[Note] = []
    script = lambda r: call("read", key=str(len(r.key.episode.turns))) if len(r.key.episode.turns) < 11 else DONE
    episode, _ = one(script, limits, hooks=Hooks(note=lambda e, note: told.append(note)))
    assert [(n.about, n.text, n.used, n.limit) for n in told] == [
        ("tool_calls", "10 of 12 tool calls used. Come to an end.", 10, 12)
    ]
    assert episode.forced is None and episode.stop_reason is StopReason.END


def test_calls_of_one_tool() -> None:
    limits = EpisodeLimits(per_tool={"take": 2}, last_turn=True)
    episode, _ = one(turns(call("take", n=1) * 3 + call("read", key="b"), DONE), limits)
    assert episode.results == ["took 1", "took 1", "error: no call of take is left of 2: go on without it", "b 1"]


def test_sampled_tokens_leave_room_for_the_last_turn() -> None:
    """Each turn counts 30 tokens here: 4 turns are 120, beyond 90% of 130, so the fifth is the
    last and may have the 10 that are left.
    """
    from qwq.text.response import parse
    from qwq.types import Turn

    def script(request: Any) -> Turn:
        text = call("read", key="a") if request.tools else DONE
        return Turn(parse(text, tools={"read": None}), StopReason.END, text, 30 if request.tools else 9)

    episode, asked = one(script, EpisodeLimits(max_sampled=130, last_turn=True))
    assert [r.params.max_new_tokens for r in asked] == [130, 100, 70, 40, 10]
    assert (episode.stop_reason, episode.forced) == (StopReason.END, StopReason.LENGTH)


def test_seconds_by_a_clock_of_the_callers() -> None:
    """The clock jumps past the limit while the second turn is made: its calls do not run, and one
    turn without tools follows.
    """
    now = [0.0]

    def script(request: Any) -> str:
        now[0] += 40
        return call("read", key="a") if request.tools else DONE

    episode, asked = one(script, EpisodeLimits(max_seconds=60, last_turn=True), hooks=Hooks(clock=lambda: now[0]))
    assert episode.results == ["a 1", "error: no time is left of 60 s: answer with what you have"]
    assert len(asked) == 3 and not asked[2].tools
    assert (episode.stop_reason, episode.forced) == (StopReason.END, StopReason.TIME) and episode.seconds == 120


# -- loops -----------------------------------------------------------------------------------------

SHORT = '<tool_call>\n{"name": "read", "arguments": {"key": "x"}\n</tool_call>'  # one brace short
LOOPS = {
    "identical": ([call("read", key="a")], ["same"]),
    "alternating": ([call("read", key="a"), call("take", n=1)] * 20, ["same"]),
    "unknown": ([call(f"find{n}", key="a") for n in range(40)], []),
    "malformed": ([SHORT.replace("x", str(n)) for n in range(40)], []),
    "empty": ([call("read", key=str(n)) for n in range(40)], ["[]"]),
    "blank": ([call("read", key=str(n)) for n in range(40)], [""]),
}


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("lead", [0, 3])
def test_loops_are_told_and_stopped_by_the_fifth_call(kind: str, lead: int) -> None:
    texts, answers = LOOPS[kind]
    before = [call("take", n=100 + n) for n in range(lead)]
    told: list[Note] = []
    limits = EpisodeLimits(max_loop=5, last_turn=True)
    episode, asked = one(turns(*before, *texts), limits, answers, hooks=Hooks(note=lambda e, n: told.append(n)))
    assert len(asked) == lead + 6 and not asked[-1].tools  # five turns of calls, then the last
    assert episode.forced is StopReason.LOOP and episode.turns[-1].text == DONE
    assert [n.about for n in told] == ["loop"] * len(told) and told[-1].last and not told[0].last
    without, asked = one(turns(*before, *texts), EpisodeLimits(max_loop=5), answers)
    assert without.stop_reason is StopReason.LOOP and len(asked) == lead + 5


def polling(rng: random.Random) -> tuple[list[str], list[str]]:
    """A run that polls a job until it is done, does something else, and polls another."""
    texts: list[str] = []
    answers: list[str] = []
    for job in range(rng.randrange(1, 4)):
        share = 0
        while share < 100:
            same = rng.randrange(1, 4)  # the same answer up to three times in a row
            texts += [call("read", key=f"job-{job}")] * same
            answers += [f"{share}% done"] * same
            share += rng.randrange(5, 40)
        texts.append(call("read", key=f"result-{job}"))
        answers.append(f"result of {job}")
    return texts, answers


def test_polling_is_no_loop() -> None:
    rng = random.Random(3)
    for _ in range(100):
        texts, answers = polling(rng)
        limits = EpisodeLimits(max_loop=5, last_turn=True, max_calls=200)
        script = lambda r, texts=texts: texts[n] if (n := len(r.key.episode.turns)) < len(texts) else DONE
        episode, _ = one(script, limits, answers)
        assert (episode.stop_reason, episode.forced) == (StopReason.END, None), (texts, answers)


def test_the_length_of_a_loop_by_hand() -> None:
    no = [False] * 9
    assert loop_length(list("abccc"), no[:5]) == 3
    assert loop_length(list("xabab"), no[:5]) == 4  # two in turn count from the fourth
    assert loop_length(list("xaba"), no[:4]) == 1
    assert loop_length(list("abcdef"), [False, False, True, True, True, True]) == 4
    assert loop_length([], []) == 0
