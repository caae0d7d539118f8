"""Local policies on one small model: the trainer's and the engine's make the same episodes, and say
which weights sampled what.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_endpoint import FakeEndpoint
from tiny import random_model

from qwq.engine.backends.torch import TorchBackend
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.envs import ENVIRONMENTS, Environment
from qwq.errors import InfraError, ModelError, UsageError
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.episode import Episode, EpisodeJob, play
from qwq.rollout.policies.endpoint import EndpointPolicy
from qwq.rollout.policies.local import EnginePolicy
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.rollout.policy import TurnRequest
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Problem, StopReason

MAX = 64
GOLDEN = Path(__file__).parents[2] / "golden" / "rollouts.json"
PARAMS = SamplingParams(temperature=1.0, max_new_tokens=MAX)
LIMITS = EpisodeLimits(max_tokens=MAX)
WORDS = ["and then?", "and what of the rest of it?"]


class Instant(Environment):
    """A user with two more things to say."""

    instant = True

    async def reset(self, problem: Problem) -> None:
        self.left = list(WORDS)

    async def next_messages(self, turn: Any) -> list[Message]:
        return [Message("user", self.left.pop(0))] if self.left else []


class Unhurried(Instant):
    instant = False


class Slow(Unhurried):
    async def next_messages(self, turn: Any) -> list[Message]:
        await asyncio.sleep(0.5)
        return await super().next_messages(turn)


ENVIRONMENTS |= {"test-instant": Instant, "test-unhurried": Unhurried, "test-slow": Slow}


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    template = default_template()
    texts = [
        template.render([Message("user", f"What is {n} plus 7?"), Message("assistant", WORDS[n % 2])])
        for n in range(30)
    ]
    made = ChatFormat(train_bpe(texts, 300), template)
    made.eos_ids = (*made.eos_ids, *range(3, 300, 9))  # a model that has learnt nothing ends its turns too
    return made


@pytest.fixture(scope="module")
def model(chat: ChatFormat) -> Transformer:
    return random_model(chat.tokenizer.vocab_size, max_positions=512).eval()


def problem(n: int, environment: str = "test-instant") -> Problem:
    return Problem(
        f"p{n}", "math", (Message("user", f"What is {n} plus {n * 7}?"),), {}, f"c{n}", environment=environment
    )


def jobs(environment: str = "test-instant", **more: Any) -> list[EpisodeJob]:
    return [
        EpisodeJob(problem(n, environment), s, 1000 + n, stream=s, key=(n, s), **more)
        for n in range(4)
        for s in range(3)
    ]


def by_key(
    policy: Any,
    asked: list[EpisodeJob],
    *,
    limits: EpisodeLimits = LIMITS,
    params: SamplingParams = PARAMS,
    **more: Any,
) -> dict[Any, Episode]:
    return {e.job.key: e for e in play(policy, iter(asked), params, limits=limits, logprobs=True, exact=True, **more)}


def engine_policy(model: Transformer, chat: ChatFormat) -> EnginePolicy:
    engine = Engine(TorchBackend(model, kv_tokens=1 << 14), chat.tokenizer, max_running=6)
    return EnginePolicy(SimpleNamespace(engine=engine, chat=chat, name="m"))  # type: ignore[arg-type]


def made(policy: Any, requests: list[TurnRequest]) -> dict[Any, Any]:
    asked = iter(requests)
    return {r.key: t for r, t in policy.generate(lambda: next(asked, None))}


def mute(chat: ChatFormat) -> ChatFormat:
    """Its turns end at their limits alone."""
    silent = ChatFormat(chat.tokenizer, chat.template)
    silent.eos_ids = ()
    return silent


def full_logprobs(model: Transformer, episode: Episode) -> torch.Tensor:
    """Of the sampled tokens, by one forward pass over the whole episode."""
    ids = torch.tensor([*episode.prompt_ids, *episode.ids])
    with torch.no_grad():
        logits = model.logits(model(ids[:-1], Packed([len(ids) - 1]))).log_softmax(-1)
    each = logits[torch.arange(len(ids) - 1), ids[1:]][len(episode.prompt_ids) - 1 :]
    return each[torch.tensor(episode.sampled_mask).bool()]


def sampled(episode: Episode) -> torch.Tensor:
    return torch.tensor([x for x, m in zip(episode.logprobs, episode.sampled_mask, strict=True) if m])


@pytest.mark.parametrize("max_rows", [64, 5])
def test_the_trainers_policy_makes_the_episodes_of_the_generator_before_it(
    model: Transformer, chat: ChatFormat, max_rows: int
) -> None:
    """Golden values of the batched generator that this policy was until it ran through the engine,
    tools' tokens fed in place.
    """
    golden = json.loads(GOLDEN.read_text())["turns"]
    episodes = by_key(TrainerPolicy(model, chat, max_rows=max_rows), jobs())
    assert {e.stop_reason for e in episodes.values()} == {StopReason.END, StopReason.LENGTH}
    for (n, s), episode in episodes.items():
        expected = golden[f"{n} {s}"]
        assert (episode.ids, episode.sampled_mask) == (expected["ids"], expected["mask"])
        assert episode.logprobs == pytest.approx(expected["logprobs"], abs=1e-4)
        assert episode.stop_reason == expected["stop"]
        assert sum(len(t.ids) for t in episode.turns) == sum(expected["mask"])


def test_a_further_turn_continues_in_its_slot(model: Transformer, chat: ChatFormat) -> None:
    """Only its new tokens are computed: the tool's, and the last sampled one."""
    policy = TrainerPolicy(model, chat)
    episodes = by_key(policy, jobs())
    new = sum(len(e.prompt_ids) - 1 for (_, s), e in episodes.items() if s == 0)  # a prompt once for its samples
    new += sum(len(e.ids) for e in episodes.values())
    assert policy.engine.stats.computed_tokens == new
    assert not policy.engine.backend.cache.place_of  # and the memory is given back at the end


@pytest.mark.parametrize("environment", ["test-instant", "test-unhurried"])
def test_the_engine_and_the_trainer_make_the_same_episodes(
    model: Transformer, chat: ChatFormat, environment: str
) -> None:
    ours = by_key(TrainerPolicy(model, chat, max_rows=7), jobs("test-instant"))
    for policy in (engine_policy(model, chat), TrainerPolicy(model, chat, max_rows=7)):
        theirs = by_key(policy, jobs(environment))
        assert theirs.keys() == ours.keys()
        for key, episode in theirs.items():
            assert (episode.ids, episode.sampled_mask) == (ours[key].ids, ours[key].sampled_mask)
            assert episode.stop_reason is ours[key].stop_reason and episode.messages == ours[key].messages
            assert float((sampled(episode) - full_logprobs(model, episode)).abs().max()) < 1e-4  # promise 1


def test_slow_environments_work_while_others_decode(model: Transformer, chat: ChatFormat) -> None:
    """Eight episodes wait three times for half a second: 12 s one after the other."""
    asked = [j for j in jobs("test-slow") if j.stream < 2]
    for policy in (TrainerPolicy(model, chat), engine_policy(model, chat)):
        started = time.monotonic()
        episodes = by_key(policy, asked, limits=EpisodeLimits(max_tokens=400))
        assert len(episodes) == 8 and {len(e.turns) for e in episodes.values()} == {3}
        assert time.monotonic() - started < 6


def test_a_thinking_budget_is_each_turns_own(model: Transformer, chat: ChatFormat) -> None:
    for policy in (TrainerPolicy(model, chat), engine_policy(model, chat)):
        episodes = by_key(
            policy,
            jobs(thinking_budget=4),
            limits=EpisodeLimits(max_tokens=200),
            params=SamplingParams(max_new_tokens=60),
        )
        turns = [t for e in episodes.values() for t in e.turns if t.finished]
        assert len(turns) > 12 and all(t.num_thinking <= 4 for t in turns)
        closed = [t for t in turns if t.parts.thinking_closed]
        assert closed and all(0 in t.sampled_mask for t in closed if t.num_thinking == 4 and len(t.ids) > 12)


def test_turns_have_limits_of_their_own(model: Transformer, chat: ChatFormat) -> None:
    silent = mute(chat)
    for policy in (TrainerPolicy(model, silent), engine_policy(model, silent)):
        turns = made(
            policy, [TurnRequest(n, SamplingParams(max_new_tokens=n), problem(n).messages, seed=n) for n in (3, 40, 9)]
        )
        for n, turn in turns.items():
            assert len(turn.ids) == n if turn.stop_reason is StopReason.LENGTH else len(turn.ids) <= n
        assert any(t.stop_reason is StopReason.LENGTH for t in turns.values())


def test_other_sampling_waits_for_its_turn(model: Transformer, chat: ChatFormat) -> None:
    def alone(t: float) -> list[int]:
        asked = iter([TurnRequest(t, SamplingParams(t, max_new_tokens=20), problem(2).messages, seed=3)])
        return list(next(iter(TrainerPolicy(model, chat).generate(lambda: next(asked, None))))[1].ids)

    asked = iter(
        [TurnRequest(t, SamplingParams(t, max_new_tokens=20), problem(2).messages, seed=3) for t in (1.0, 0.0, 0.7)]
    )
    turns = {r.key: t for r, t in TrainerPolicy(model, chat).generate(lambda: next(asked, None))}
    assert {t: list(turn.ids) for t, turn in turns.items()} == {t: alone(t) for t in (1.0, 0.0, 0.7)}


def test_a_repetition_ends_a_turn_where_it_is_asked_for(model: Transformer, chat: ChatFormat) -> None:
    # Greedy decoding of an untrained model soon repeats itself.
    plain = [TurnRequest(n, SamplingParams(0, max_new_tokens=400), problem(n).messages) for n in range(6)]
    looped = [
        TurnRequest(n, SamplingParams(0, max_new_tokens=400), problem(n).messages, loop_tokens=48) for n in range(6)
    ]
    silent = mute(chat)
    for policy in (TrainerPolicy(model, silent), engine_policy(model, silent)):
        for requests, reason in ((plain, StopReason.LENGTH), (looped, StopReason.LOOP)):
            asked = iter(requests)
            assert reason in {t.stop_reason for _, t in policy.generate(lambda asked=asked: next(asked, None))}


@pytest.mark.parametrize("make", [TrainerPolicy, engine_policy])
def test_every_token_says_which_weights_sampled_it(model: Transformer, chat: ChatFormat, make: Any) -> None:
    policy = make(model, chat)
    policy.update_weights(4)
    asked = iter(
        [TurnRequest(n, SamplingParams(max_new_tokens=n), problem(n).messages, seed=n, version=4) for n in (2, 60)]
    )
    policy.chat = mute(chat)
    turns = policy.generate(lambda: next(asked, None))
    _, short = next(turns)
    policy.pause()
    with pytest.raises(UsageError, match="is paused: call resume"):
        next(policy.generate(lambda: None))
    policy.update_weights(5)
    policy.resume()
    _, long = next(turns)
    assert short.weight_versions == [4, 4]
    assert sorted(set(long.weight_versions)) == [4, 5] and list(long.weight_versions) == sorted(long.weight_versions)
    assert len(long.weight_versions) == len(long.ids) == 60
    with pytest.raises(InfraError, match="version 4 of the weights is to answer, .* holds 5"):
        asked = iter([TurnRequest(0, PARAMS, problem(0).messages, version=4)])
        next(policy.generate(lambda: next(asked, None)))


def test_new_weights_leave_no_old_prefix(model: Transformer, chat: ChatFormat) -> None:
    policy, weight = (
        engine_policy(model, chat),
        model.layers[0].mlp.down.weight if hasattr(model, "layers") else next(model.parameters()),
    )
    request = lambda: iter([TurnRequest(0, SamplingParams(0, max_new_tokens=12), problem(1).messages, logprobs=True)])
    before = weight.detach().clone()
    asked = request()
    ((_, old),) = policy.generate(lambda: next(asked, None))
    try:
        with torch.no_grad():
            weight.mul_(1.5)
        policy.update_weights(1)
        asked = request()
        ((_, new),) = policy.generate(lambda: next(asked, None))
        asked = request()
        ((_, fresh),) = engine_policy(model, chat).generate(lambda: next(asked, None))
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert new.logprobs == fresh.logprobs != old.logprobs


def test_a_policy_of_no_numbers_is_named_with_the_repair(model: Transformer, chat: ChatFormat) -> None:
    """Weights that diverged end sampling in one line; their tokens would be any tokens."""
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.norm.weight[0] = float("nan")
    policy = TrainerPolicy(damaged, chat, name="the policy of stage rl1")
    with pytest.raises(ModelError, match=r"^the policy of stage rl1: its logits are not finite .* learning rate"):
        by_key(policy, jobs())


def test_an_endpoint_takes_no_weights_and_no_tokens() -> None:
    with FakeEndpoint(lambda body: "fine") as server, contextlib.closing(EndpointPolicy(server.url, "m")) as policy:
        with pytest.raises(InfraError, match="takes no weights, so version 3 cannot be served there"):
            policy.update_weights(3)
        asked = iter([TurnRequest(0, PARAMS, prompt_ids=[1, 2])])
        with pytest.raises(UsageError, match="takes messages, not tokens"):
            next(policy.generate(lambda: next(asked, None)))
        (episode,) = play(policy, iter([EpisodeJob(Problem("p", "math", (Message("user", "?"),), {}, "c"))]), PARAMS)
        assert episode.response().text == "fine" and not episode.exact and not episode.ids


def test_an_endpoint_is_asked_for_a_turn_as_soon_as_its_tool_is_done() -> None:
    """One answer takes long, and the other episode's next turn does not wait for it."""
    second = threading.Event()

    def answer(body: dict[str, Any]) -> str:
        if "long" in body["messages"][0]["content"]:
            return "long" if second.wait(timeout=20) else "too late"
        if len(body["messages"]) > 1:
            second.set()
        return "short"

    asked = [
        Problem(n, "math", (Message("user", n),), {}, n, environment=e)
        for n, e in (("long", ""), ("short", "test-unhurried"))
    ]
    with FakeEndpoint(answer) as server, contextlib.closing(EndpointPolicy(server.url, "m", concurrency=4)) as policy:
        episodes = {e.problem.id: e for e in play(policy, map(EpisodeJob, asked), PARAMS)}
    assert episodes["long"].turns[0].text == "long" and len(episodes["short"].turns) == 3
