"""One loop for every driver: calls answered in place, limits, tools that are slow or broken, and
the tokens that come out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from scripted_policy import ScriptedPolicy

from qwq.engine.sampler import SamplingParams
from qwq.envs import ENVIRONMENTS, Environment, tool
from qwq.errors import ConfigError, InfraError
from qwq.reward.mixing import Rewarder
from qwq.rollout.budget import NO_LIMITS, EpisodeLimits, goes_in_circles
from qwq.rollout.collect import collect
from qwq.rollout.episode import Episode, EpisodeJob, play
from qwq.rollout.policy import TurnRequest
from qwq.tasks.procedural.tool_use import CALCULATOR
from qwq.text.response import parse
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.train.groups import form_groups
from qwq.types import Message, Outcome, Problem, Response, StopReason, ToolCall, Turn
from qwq.verify.grade import grade

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}}\n</tool_call>'
SHORT = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}\n</tool_call>'  # one brace short
DONE = "<think>\nso\n</think>\n\\boxed{42}"
PARAMS = SamplingParams(max_new_tokens=2000)


class Desk(Environment):
    """Counts, waits and breaks. One a sample."""

    made: list[Desk] = []
    max_calls = 6

    async def reset(self, problem: Problem) -> None:
        self.count, self.closed = 0, False
        Desk.made.append(self)

    async def close(self) -> None:
        self.closed = True

    @tool
    async def add(self, n: int) -> str:
        """Add to the count."""
        self.count += n
        return str(self.count)

    @tool
    def wait(self, seconds: float) -> str:
        """Wait on a thread."""
        time.sleep(seconds)
        return "waited"

    @tool
    def broken(self) -> str:
        """Fail."""
        raise KeyError("no till")

    @tool
    def lost(self) -> str:
        """The machinery fails."""
        raise InfraError("the desk's server is gone")


ENVIRONMENTS["test-desk"] = Desk


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    template = default_template()
    texts = [template.render([Message("user", "What is 6 times 7?"), Message("assistant", f"{CALL} {DONE}")])] * 3
    return ChatFormat(train_bpe(texts, 300), template)


def problem(number: int = 0, environment: str = "", tools: Sequence[Any] = (CALCULATOR,)) -> Problem:
    if environment:
        tools = ENVIRONMENTS[environment]().schemas()
    messages = (Message("user", f"What is 6 times {number}?"),)
    return Problem(
        f"p{number}",
        "tools",
        messages,
        {"gold": "42", "min_calls": 0},
        f"c{number}",
        tuple(tools),
        environment=environment,
    )


def call(name: str, **arguments: Any) -> str:
    import json

    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def say(*turns: str) -> Any:
    """A script: turn n of an episode says the n-th text, and the last one for ever."""
    return lambda request: turns[min(len(request.key.episode.turns), len(turns) - 1)]


def one(
    chat: ChatFormat | None, *turns: str, limits: EpisodeLimits = NO_LIMITS, asked: Problem | None = None, **kw: Any
) -> Episode:
    policy = ScriptedPolicy(say(*turns), chat)
    (episode,) = play(policy, iter([EpisodeJob(asked or problem())]), PARAMS, limits=limits, **kw)
    return episode


# -- one episode, by hand --------------------------------------------------------------------------


def test_the_tokens_of_an_episode(chat: ChatFormat) -> None:
    episode = one(chat, CALL, DONE)
    first, last = [*chat.own_ids(CALL), chat.eos_ids[0]], [*chat.own_ids(DONE), chat.eos_ids[0]]
    between = chat.tool_result_ids(["42"])
    assert episode.prompt_ids == chat.prompt_ids(problem().messages, [CALCULATOR])
    assert episode.ids == first + between + last
    assert episode.sampled_mask == [1] * len(first) + [0] * len(between) + [1] * len(last)
    assert episode.logprobs == [-0.5] * len(first) + [0.0] * len(between) + [-0.5] * len(last)
    assert episode.versions == [0] * len(episode.ids)
    assert (episode.calls, episode.results) == ([ToolCall("calculator", {"expression": "6*7"})], ["42"])
    assert episode.stop_reason is StopReason.END and episode.num_tokens == len(episode.ids)
    response = episode.response()
    assert response.text == DONE and response.parts == parse(DONE, tools={"calculator": None}) and response.finished
    assert grade(problem(), response).outcome is Outcome.CORRECT
    rollout = episode.rollout(3, text="x")
    assert (rollout.completion_ids, rollout.group, rollout.stop_reason) == (episode.ids, 3, StopReason.END)


def test_the_next_turn_continues_from_the_tokens(chat: ChatFormat) -> None:
    policy = ScriptedPolicy(say(CALL, DONE), chat)
    (episode,) = play(
        policy, iter([EpisodeJob(problem(), seed=5, stream=2)]), PARAMS, limits=EpisodeLimits(max_tokens=500)
    )
    first, second = policy.asked
    made = len(chat.own_ids(CALL)) + 1 + len(chat.tool_result_ids(["42"]))
    assert (first.offset, first.params.max_new_tokens, first.seed, first.stream) == (0, 500, 5, 2)
    assert (second.offset, second.params.max_new_tokens, second.seed, second.stream) == (made, 500 - made, 5, 2)
    assert second.prompt_ids == episode.prompt_ids + episode.ids[:made]


@pytest.mark.parametrize("exact", [True, False])
def test_malformed_calls_are_answered_in_their_place(chat: ChatFormat, exact: bool) -> None:
    for said in (SHORT, CALL + "\n" + SHORT, SHORT + "\n" + CALL):
        opened = "hm\n</think>\n" if exact else ""  # the template has opened the thinking
        policy = ScriptedPolicy(say(opened + said, DONE), chat if exact else None)
        (episode,) = play(policy, iter([EpisodeJob(problem())]), PARAMS)
        results = [m for m in episode.messages if m.role != "assistant"]
        broken = [m for m in results if m.content != "42"]
        assert len(results) == said.count("<tool_call>") and len(broken) == 1 == episode.num_malformed
        assert (results.index(broken[0]) == 0) == said.startswith(SHORT)
        text = broken[0].content
        assert text.startswith(
            "error: the call cannot be read, its JSON is broken: Expecting ',' delimiter: line 1 column"
        )
        assert "the schema of calculator: " in text and '"required": ["expression"]' in text
        assert episode.results == ["42"] * said.count('6*7"}}')
        if exact:
            whole = chat.tokenizer.decode(episode.ids)
            assert all(m.content in whole for m in results)
        # As a server wants it: each answer is a tool's, and its call is in the message before.
        assert {m.role for m in results} == {"tool"}
        held = [call for m in episode.messages for call in m.tool_calls]
        assert len(held) == len(results) and held[results.index(broken[0])].arguments.keys() == {"unreadable"}
        assert episode.stop_reason is StopReason.END and grade(problem(), episode.response()).outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("[1]", "it is no JSON object; the tools are calculator"),
        ('{"arguments": {}}', "it names no tool under `name`"),
        ('{"name": "calculator", "arguments": 5}', "`arguments` is no JSON object; the schema of calculator"),
        (
            '{"name": "calculator", "arguments": "{\\"a\\": 1"}',
            "`arguments` is no JSON object: its JSON is broken: Expecting ',' delimiter",
        ),
        ('{"name": "calculator", "arguments": {}, "why": 1}', "it has the unknown key 'why'"),
        ("6*7", "its JSON is broken: Extra data"),
        ('{"name": "calc", "arguments": {', "its JSON is broken: Expecting property name"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_malformed_call_is_said(inner: str, words: str) -> None:
    episode = one(None, f"<tool_call>{inner}</tool_call>", DONE)
    said = words.split("; ")
    assert all(s.removesuffix(".") in episode.messages[1].content for s in said), episode.messages[1].content


def test_calls_that_do_not_fit_are_answered_too() -> None:
    said = call("add", n="many") + call("ad", n=1) + call("broken") + call("add", n=2)
    episode = one(None, said, DONE, asked=problem(environment="test-desk"))
    wrong, unknown, raised, right = episode.results
    assert wrong.startswith("error: add: n: Input should be a valid integer") and "the schema of add: " in wrong
    assert unknown == "error: no tool 'ad': did you mean 'add'?"
    assert raised == "error: broken raised KeyError: 'no till'" and right == "2"
    assert Desk.made[-1].closed


# -- limits ----------------------------------------------------------------------------------------


def test_the_limit_of_calls_holds_inside_a_turn_and_between_turns() -> None:
    desk = problem(environment="test-desk")
    twelve = one(None, call("add", n=1) * 12, DONE, asked=desk)
    assert (
        twelve.results
        == ["1", "2", "3", "4", "5", "6"] + ["error: no call is left of 6: answer with what you have"] * 6
    )
    assert Desk.made[-1].count == 6 and twelve.stop_reason is StopReason.END
    again = one(None, call("add", n=1), asked=desk)
    assert len(again.turns) == 7 and len(again.calls) == 6 and again.stop_reason is StopReason.TURNS
    assert not again.response().finished
    fewer = one(None, call("add", n=1), asked=desk, limits=EpisodeLimits(max_calls=2))
    assert len(fewer.turns) == 3 and Desk.made[-1].count == 2
    broken = one(None, SHORT, asked=desk)  # a model that never writes a call that can be read comes to an end
    assert len(broken.turns) == 7 and broken.num_malformed == 6 and broken.stop_reason is StopReason.TURNS
    last = one(None, *[call("add", n=1)] * 3, DONE, asked=desk, limits=EpisodeLimits(max_calls=2, last_turn=True))
    assert last.results[-1].startswith("error: no call is left of 2") and last.stop_reason is StopReason.END


def test_the_last_turn_has_no_tools(chat: ChatFormat) -> None:
    for said, tools in ((None, ()), (chat, (CALCULATOR,))):
        policy = ScriptedPolicy(say(CALL, CALL, DONE), said)
        (episode,) = play(
            policy, iter([EpisodeJob(problem())]), PARAMS, limits=EpisodeLimits(max_calls=1, last_turn=True)
        )
        assert tuple(policy.asked[-1].tools) == tools and len(policy.asked) == 3
        assert episode.stop_reason is StopReason.END and len(episode.results) == 2


def test_calls_beyond_what_runs_at_once_say_so() -> None:
    episode = one(
        None, call("add", n=1) * 3, DONE, asked=problem(environment="test-desk"), limits=EpisodeLimits(max_parallel=2)
    )
    assert episode.results == ["1", "2", "error: at most 2 calls run in one turn: make this one again"]


def test_turns_tokens_and_seconds(chat: ChatFormat) -> None:
    assert one(chat, CALL, limits=EpisodeLimits(max_turns=2)).stop_reason is StopReason.TURNS
    made = len(chat.own_ids(CALL)) + 1
    for room, reason in ((0, StopReason.LENGTH), (1, StopReason.END)):
        # Results and one more token must fit, or the episode ends with its calls answered and their
        # tokens left out.
        more = len(chat.tool_result_ids(["42"]))
        episode = one(chat, CALL, DONE, limits=EpisodeLimits(max_tokens=made + more + room))
        assert episode.stop_reason is reason and episode.results == ["42"]
        assert len(episode.ids) == made if room == 0 else len(episode.ids) > made + more
    context = len(chat.prompt_ids(problem().messages, [CALCULATOR])) + made + more
    policy = ScriptedPolicy(say(CALL, DONE), chat, context=context)
    assert next(play(policy, iter([EpisodeJob(problem())]), PARAMS)).stop_reason is StopReason.CONTEXT
    desk = problem(environment="test-desk")
    slow = one(None, call("wait", seconds=0.06), asked=desk, limits=EpisodeLimits(max_seconds=0.1))
    assert slow.stop_reason is StopReason.TIME and len(slow.results) == 2


def test_one_call_has_its_own_seconds() -> None:
    desk, started = problem(environment="test-desk"), time.monotonic()
    episode = one(None, call("wait", seconds=2), DONE, asked=desk, limits=EpisodeLimits(call_timeout_s=0.05))
    assert episode.results == ["error: wait gave no result within 0.05 s"] and time.monotonic() - started < 1.5


def test_calls_in_circles_end() -> None:
    assert not goes_in_circles(["a", "a", "b", "a", "a"], 3) and goes_in_circles(["b", "a", "a", "a"], 3)
    assert goes_in_circles(["c", "a", "b", "a", "b", "a", "b"], 3) and not goes_in_circles(["a", "b"], 3)
    episode = one(None, CALL, limits=EpisodeLimits(max_repeats=3))
    assert episode.stop_reason is StopReason.LOOP and len(episode.turns) == 3
    desk = problem(environment="test-desk")  # the same call with another result each time is no circle
    assert one(None, call("add", n=1), asked=desk, limits=EpisodeLimits(max_repeats=3)).stop_reason is StopReason.TURNS


# -- environments ----------------------------------------------------------------------------------


def test_a_slow_tool_holds_up_nobody() -> None:
    """Eight episodes whose tool takes half a second: together they take little more than one."""
    jobs = [EpisodeJob(problem(n, "test-desk")) for n in range(8)] + [EpisodeJob(problem(9))]
    policy = ScriptedPolicy(
        lambda r: DONE if r.key.episode.turns or r.key.episode.problem.id == "p9" else call("wait", seconds=0.5)
    )
    started = time.monotonic()
    episodes = list(play(policy, iter(jobs), PARAMS))
    assert time.monotonic() - started < 2.0  # 4 s one after the other
    assert episodes[0].problem.id == "p9"  # the one without a tool does not wait for the tools of the others
    assert all(e.stop_reason is StopReason.END and e.results == ["waited"] for e in episodes[1:])


def test_tools_run_while_others_are_asked_for() -> None:
    """The tool of the first episode ends only once five other turns have been made."""
    order: list[str] = []
    enough = threading.Event()

    class Patient(Environment):
        @tool
        def look(self) -> str:
            """Look."""
            return "seen" if enough.wait(timeout=20) else "nobody came"

    ENVIRONMENTS["test-patient"] = Patient

    def script(request: TurnRequest) -> str:
        episode = request.key.episode
        order.append(episode.problem.id)
        if len(order) == 6:
            enough.set()
        return call("look") if episode.problem.environment and not episode.turns else DONE

    jobs = [EpisodeJob(problem(0, "test-patient")), *(EpisodeJob(problem(n)) for n in range(1, 12))]
    episodes = {e.problem.id: e for e in play(ScriptedPolicy(script), iter(jobs), PARAMS)}
    assert episodes["p0"].results == ["seen"] and order.count("p0") == 2


def test_a_failure_of_the_machinery_is_no_sample_and_no_score(chat: ChatFormat) -> None:
    problems = [problem(0, "test-desk"), problem(1, "test-desk")]
    policy = ScriptedPolicy(lambda r: call("lost") if r.key.episode.problem.id == "p0" else DONE, chat)
    rewarder = Rewarder()
    grader = rewarder.grader()
    rollouts, responses = collect(policy, problems, PARAMS, samples=2, on_response=grader.submit)
    rewarder.finish(grader, rollouts)
    assert [r.failure for r in responses] == ["environment Desk: the desk's server is gone"] * 2 + ["", ""]
    assert [r.verdicts[-1].outcome for r in rollouts] == [Outcome.INFRA_ERROR] * 2 + [Outcome.CORRECT] * 2
    assert [r.reward for r in rollouts] == [None, None, 1.0, 1.0]
    failed = Turn(parse(""), StopReason.ABORT, failure="the server is away")
    (episode,) = play(ScriptedPolicy(lambda r: failed), iter([EpisodeJob(problem())]), PARAMS)
    assert (
        episode.failure == "the server is away" and grade(problem(), episode.response()).outcome is Outcome.INFRA_ERROR
    )


@pytest.mark.parametrize("instant", [True, False])
def test_an_environment_that_cannot_begin(chat: ChatFormat, instant: bool) -> None:
    class Shut(Environment):
        error: Exception = InfraError("no session is free")

        async def reset(self, problem: Problem) -> None:
            raise self.error

    Shut.instant = instant
    ENVIRONMENTS["test-shut"] = Shut
    rewarder = Rewarder()
    grader = rewarder.grader()
    rollouts, responses = collect(
        ScriptedPolicy(say(DONE), chat), [plain("test-shut"), problem(3)], PARAMS, on_response=grader.submit
    )
    rewarder.finish(grader, rollouts)
    assert responses[0].failure == "environment Shut: no session is free" and rollouts[0].completion_ids == []
    assert [r.reward for r in rollouts] == [None, 1.0]
    assert [len(g.rollouts) for g in form_groups(rollouts)] == [1]  # the one without a reward is trained on by nobody
    Shut.error = ValueError("no such desk")
    with pytest.raises(ConfigError, match="environment Shut raised ValueError, at problem p: no such desk"):
        one(chat, DONE, asked=plain("test-shut"))


class Talker(Environment):
    """A user who asks twice more, and then offers another tool."""

    async def reset(self, problem: Problem) -> None:
        self.left = ["and then?", "and last?"]

    async def next_messages(self, turn: Any) -> Sequence[Message]:
        return [Message("user", self.left.pop(0))] if self.left else ()


class Growing(Talker):
    def schemas(self) -> Any:
        return (CALCULATOR,) if len(self.left) < 2 else ()


class Odd(Environment):
    """A `step` of its own."""

    async def step(self, calls: Sequence[ToolCall]) -> list[Message]:
        if calls[0].name == "fail":
            raise ValueError("no such shelf")
        return [Message("tool", "one")]


ENVIRONMENTS |= {"test-talker": Talker, "test-growing": Growing, "test-odd": Odd}


def plain(environment: str, tools: Sequence[Any] = (CALCULATOR,)) -> Problem:
    return Problem("p", "tools", (Message("user", "?"),), {}, "c", tuple(tools), environment=environment)


def test_a_user_may_speak_again(chat: ChatFormat) -> None:
    episode = one(chat, "so\n</think>\nyes", asked=plain("test-talker", ()))
    said = "<think>\nso\n</think>\n\nyes"
    assert [m.content for m in episode.messages] == [said, "and then?", said, "and last?", said]
    own = [*chat.own_ids("so\n</think>\nyes"), chat.eos_ids[0]]
    turns = [chat.next_turn_ids([Message("user", text)]) for text in ("and then?", "and last?")]
    assert episode.ids == own + turns[0] + own + turns[1] + own and episode.exact
    assert (
        one(chat, "yes", asked=plain("test-talker", ()), limits=EpisodeLimits(max_turns=2)).stop_reason
        is StopReason.TURNS
    )


def test_tools_that_change_are_no_tokens_to_train_on(chat: ChatFormat) -> None:
    policy = ScriptedPolicy(say("yes"), chat)
    asked = Problem("p", "tools", (Message("user", "?"),), {}, "c", (), environment="test-growing")
    (episode,) = play(policy, iter([EpisodeJob(asked)]), PARAMS)
    assert not episode.exact and policy.asked[1].prompt_ids is None and policy.asked[1].tools == (CALCULATOR,)
    with pytest.raises(ConfigError, match="the environment's tools change between turns"):
        list(play(policy, iter([EpisodeJob(asked)]), PARAMS, exact=True))


def test_a_step_of_its_own_is_held_to_the_protocol() -> None:
    assert one(None, call("fail"), DONE, asked=plain("test-odd")).results == [
        "error: the tools raised ValueError: no such shelf"
    ]
    with pytest.raises(ConfigError, match="Odd.step answered 1 of 2 calls"):
        one(None, call("a") * 2, asked=plain("test-odd"))


def test_calls_that_nobody_answers_end_the_episode() -> None:
    episode = one(None, CALL, asked=plain("none"))
    assert episode.stop_reason is StopReason.END and not episode.calls and episode.turns[0].calls


def test_live_episodes_are_bounded() -> None:
    most, policy = 0, ScriptedPolicy(lambda r: DONE if r.key.episode.turns else call("wait", seconds=0.01))
    jobs = (EpisodeJob(problem(n, "test-desk")) for n in range(40))
    before = len(Desk.made)
    for _ in play(policy, jobs, PARAMS, concurrency=2):
        most = max(most, sum(not d.closed for d in Desk.made[before:]))
    assert 0 < most <= 9 and len(Desk.made) - before == 40


# -- drivers agree ---------------------------------------------------------------------------------


def stream(rng: random.Random) -> list[str]:
    """What a model says, turn by turn."""
    good = [call("add", n=rng.randrange(9)), CALL, call("ad", n=1), call("broken"), call("add", n="x")]
    pieces = [*good, SHORT, "<tool_call>[1]</tool_call>", "so\n", "<think>\nhm\n</think>\n", "\\boxed{4}"]
    return ["".join(rng.choices(pieces, k=rng.randrange(1, 4))) for _ in range(rng.randrange(1, 6))]


def test_the_same_streams_make_the_same_episodes_in_training_and_in_evaluation(chat: ChatFormat) -> None:
    """RL's driver (`collect`) and evaluation's (`play` with a protocol) over 60 scripted streams of
    tokens.
    """
    rng = random.Random(7)
    streams = {f"p{n}": stream(rng) for n in range(60)}
    problems = [problem(n, "test-desk") for n in range(60)]

    def script(request: TurnRequest) -> list[int]:
        episode = request.key.episode
        texts = streams[episode.problem.id]
        ids = [*chat.own_ids(texts[min(len(episode.turns), len(texts) - 1)]), chat.eos_ids[0]]
        return ids[: request.params.max_new_tokens]

    params = SamplingParams(max_new_tokens=900)
    rollouts, responses = collect(ScriptedPolicy(script, chat), problems, params)
    jobs = iter([EpisodeJob(p) for p in problems])
    limits = EpisodeLimits(max_tokens=900)
    found = {
        e.problem.id: e
        for e in play(ScriptedPolicy(script, chat), jobs, params, limits=limits, concurrency=4, loop_tokens=192)
    }
    assert {r.stop_reason for r in rollouts} >= {StopReason.END, StopReason.TURNS, StopReason.LENGTH}
    for rollout, response in zip(rollouts, responses, strict=True):
        episode = found[rollout.problem_id]
        assert (episode.ids, episode.sampled_mask) == (rollout.completion_ids, rollout.sampled_mask)
        assert episode.response() == response and episode.stop_reason is rollout.stop_reason
        assert rollout.prompt == chat.tokenizer.decode(episode.prompt_ids) and rollout.prompt.endswith("<think>\n")
        assert rollout.expected == episode.problem.expected is not None
        assert grade(episode.problem, episode.response()).outcome is grade(episode.problem, response).outcome


def test_a_response_that_failed_is_not_taken_for_one_that_did_not() -> None:
    good = Response("\\boxed{42}")
    assert grade(problem(tools=()), good).outcome is Outcome.CORRECT
    assert grade(problem(tools=()), Response("\\boxed{42}", failure="gone")).outcome is Outcome.INFRA_ERROR
