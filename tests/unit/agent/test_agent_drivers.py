"""The agent on the engine is the RL driver's loop: the same streams of tokens give the same tokens,
masks, results and events.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from agent_tools import OutsideTools
from scripted import PLAIN, Script, opened
from scripted import chat_format as scripted_format
from scripted_policy import ScriptedPolicy
from tiny import random_model

from qwq.agent.approvals import approvals_of
from qwq.agent.events import EventLog, read_events
from qwq.agent.folder import AgentFolder
from qwq.agent.recorded import RecordedTools
from qwq.agent.replay_model import replay_model
from qwq.agent.run import SYSTEM, AgentLimits, AgentSettings, run_agent
from qwq.agent.tape import Tape
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.envs import ENVIRONMENTS
from qwq.envs.base import Environment, in_background
from qwq.envs.toolbox import Toolbox
from qwq.model.layouts import Packed
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.collect import collect
from qwq.rollout.episode import EpisodeJob, play
from qwq.rollout.policies.local import EnginePolicy
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.rollout.policy import TurnRequest
from qwq.text.response import parse
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Problem, Turn, tool_schemas

ALLOW = approvals_of({"rule": [{"tool": "*", "then": "allow"}]}, "here")
BUDGET = AgentLimits(model_calls=6, tool_calls=9, parallel=3)
PARAMS = SamplingParams(max_new_tokens=3000)
TASK = "Look and send."


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    template = default_template()
    texts = [template.render([Message("user", TASK), Message("assistant", call("look", text="a b c"))])] * 3
    return ChatFormat(train_bpe(texts, 320), template)


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def stream(rng: random.Random) -> list[str]:
    """What a model says, turn by turn."""
    pieces = [
        call("look", text="a"), call("look", text=str(rng.random())), call("send", text="x"), call("lok", text="a"),
        call("look", txt="a"), call("fail"), call("look", text="b").replace("}}", "}"), "<tool_call>[1]</tool_call>",
        "so\n", "<think>\nhm\n</think>\n", "\\boxed{4}",
    ]  # fmt: skip
    return ["".join(rng.choices(pieces, k=rng.randrange(1, 5))) for _ in range(rng.randrange(1, 8))]


def script(chat: ChatFormat, texts: list[str]) -> Any:
    def say(request: TurnRequest) -> list[int]:
        text = texts[min(len(request.key.episode.turns), len(texts) - 1)]
        return [*chat.own_ids(text), chat.eos_ids[0]][: request.params.max_new_tokens]

    return say


def bare(event: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k not in ("t", "s", "prev", "seconds", "logprobs")}


def test_thirty_streams_in_rl_and_on_the_engine(chat: ChatFormat, tmp_path: Path) -> None:
    rng = random.Random(11)
    stops, lengths = set(), []
    for number in range(30):
        texts = stream(rng)
        engine, rl = tmp_path / f"engine-{number}", tmp_path / f"rl-{number}"
        box = Toolbox([OutsideTools(tmp_path / f"e{number}.txt")])
        policy = ScriptedPolicy(script(chat, texts), chat)
        run_agent(policy, TASK, toolbox=box, out=engine, limits=BUDGET, approvals=ALLOW)

        # RL: exact tokens, log-probabilities; its environment is recorded.
        box = Toolbox([OutsideTools(tmp_path / f"r{number}.txt")])
        in_background(box.reset(Problem("p", "tools", (), {}, "c"))).result()
        log = EventLog(rl)
        tools = RecordedTools(box, Tape(log), AgentFolder(rl), ALLOW, max_turns=BUDGET.model_calls)
        messages = (Message("system", SYSTEM), Message("user", TASK))
        problem = Problem("p", "tools", messages, {}, "c", box.schemas())
        (episode,) = play(
            ScriptedPolicy(script(chat, texts), chat), iter([EpisodeJob(problem, environment=tools)]), PARAMS,
            limits=BUDGET.episode(), logprobs=True, exact=True, hooks=tools.hooks(),
        )  # fmt: skip
        log.close()
        in_background(box.close()).result()

        _, *events = read_events(engine)
        *events, finish = events
        assert [bare(e) | {"n": e["n"] + 1} for e in read_events(rl)] == [bare(e) for e in events]
        turns = [e for e in events if e["event"] == "model_turn"]
        assert [i for e in turns for i in e["ids"]] == [
            i for i, m in zip(episode.ids, episode.sampled_mask, strict=True) if m
        ]
        assert finish["stop_reason"] == (episode.forced or episode.stop_reason).value
        stops.add(finish["stop_reason"])
        lengths.append(len(turns))
    assert stops >= {"end", "turns", "loop"} and max(lengths) == 6


def test_rl_collects_the_same_tokens_from_a_plain_environment(chat: ChatFormat, tmp_path: Path) -> None:
    """`collect`, RL's own entry, on the toolbox without a recorder: the same ids and masks."""
    rng = random.Random(12)

    class Outside(Toolbox):
        def __init__(self) -> None:
            super().__init__([OutsideTools(tmp_path / "sent.txt")])

    ENVIRONMENTS["test-outside"] = Outside
    limits = EpisodeLimits(max_calls=9, max_parallel=3, max_turns=6)
    for number in range(30):
        texts = stream(rng)
        messages = (Message("user", TASK),)
        problem = Problem(f"p{number}", "tools", messages, {}, "c", Outside().schemas(), environment="test-outside")
        (rollout,), (response,) = collect(ScriptedPolicy(script(chat, texts), chat), [problem], PARAMS, limits=limits)
        (episode,) = play(
            ScriptedPolicy(script(chat, texts), chat), iter([EpisodeJob(problem)]), PARAMS, limits=limits, concurrency=1
        )
        assert (episode.ids, episode.sampled_mask) == (rollout.completion_ids, rollout.sampled_mask)
        assert (episode.response(), episode.stop_reason) == (response, rollout.stop_reason)


class TenResults(Environment):
    """Ten results of a tool, whatever the model writes: one that has learnt nothing never calls."""

    instant = True

    async def reset(self, problem: Problem) -> None:
        self.left = 10

    async def next_messages(self, turn: Any) -> list[Message]:
        self.left -= 1
        return [Message("tool", f"place a holds {self.left * 7} things")] if self.left >= 0 else []


@pytest.mark.parametrize("which", ["trainer", "engine"])
def test_sampler_and_trainer_agree_over_ten_results(chat: ChatFormat, which: str) -> None:
    """Design promise 1: mean difference at most 1e-5 nats a token, none above 1e-4 if tiny."""
    restless = ChatFormat(chat.tokenizer, chat.template)
    restless.eos_ids = (*chat.eos_ids, *range(3, chat.tokenizer.vocab_size, 9))  # turns end by themselves
    model = random_model(chat.tokenizer.vocab_size, max_positions=1024).eval()
    if which == "trainer":
        policy: Any = TrainerPolicy(model, restless, max_rows=6)
    else:
        engine = Engine(TorchBackend(model, kv_tokens=1 << 14), chat.tokenizer, max_running=6)
        policy = EnginePolicy(SimpleNamespace(engine=engine, chat=restless, name="m"))  # type: ignore[arg-type]
    ENVIRONMENTS["test-ten-results"] = TenResults
    messages = (Message("user", TASK),)
    jobs = [
        EpisodeJob(Problem(f"p{n}", "tools", messages, {}, "c", environment="test-ten-results"), seed=n)
        for n in range(6)
    ]
    differences = []
    limits = EpisodeLimits(max_tokens=900)
    for episode in play(
        policy, iter(jobs), SamplingParams(max_new_tokens=900), limits=limits, logprobs=True, exact=True
    ):
        assert len(episode.turns) == 11
        ids = torch.tensor([*episode.prompt_ids, *episode.ids])
        with torch.no_grad():
            logits = model.logits(model(ids[:-1], Packed([len(ids) - 1]))).log_softmax(-1)
        each = logits[torch.arange(len(ids) - 1), ids[1:]][len(episode.prompt_ids) - 1 :]
        mask = torch.tensor(episode.sampled_mask).bool()
        differences.append((each - torch.tensor(episode.logprobs))[mask].abs())
    every = torch.cat(differences)
    assert every.mean() <= 1e-5 and every.max() <= 1e-4 and len(every) > 300


class CountingScript(Script):
    """Counts the tokens that it computes at a time, where they are more than the one just drawn."""

    max_positions = 8000

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.prefilled: list[int] = []

    def forward(self, chunks: Any) -> torch.Tensor:
        self.prefilled += [len(chunk.ids) for chunk in chunks if len(chunk.ids) > 1]
        return super().forward(chunks)


def test_a_later_turn_computes_its_new_tokens_alone(tmp_path: Path) -> None:
    """What the engine computes before the first token of a late turn is what it computes before
    that of the second: the new result, not the conversation.
    """
    served = scripted_format(PLAIN)

    def reply(prompt: str) -> str:
        number = prompt.count("<tool_response>")
        return call("look", text=f"{number:02}") if number < 24 else "Done."

    backend = CountingScript(served, reply)
    policy = EnginePolicy(opened(served, backend, max_len=8000))
    box = Toolbox([OutsideTools(tmp_path / "sent.txt")])
    limits = AgentLimits(model_calls=40, tool_calls=40)
    settings = AgentSettings(SamplingParams(temperature=0, max_new_tokens=200))
    outcome = run_agent(policy, TASK, toolbox=box, out=tmp_path / "run", limits=limits, settings=settings)
    turns = [e for e in read_events(tmp_path / "run") if e["event"] == "model_turn"]
    assert outcome.answer == "Done." and len(turns) == 25
    prompt, later = backend.prefilled[:-24], backend.prefilled[-24:]
    assert sum(prompt) > 1000 and len(set(later)) == 1 and later[0] < 50


def test_replay_of_a_model_that_draws_at_random(chat: ChatFormat, tmp_path: Path) -> None:
    """The engine gives the tokens of the log again, turn by turn and behind a compaction; with
    other weights the first token that differs is named.
    """
    restless = ChatFormat(chat.tokenizer, chat.template)
    restless.eos_ids = (*chat.eos_ids, *range(3, chat.tokenizer.vocab_size, 9))

    class Caller(EnginePolicy):
        """Ends each turn with a call, of which the engine knows nothing."""

        def _turn(self, running: Any) -> Turn:
            turn = super()._turn(running)
            if not running.request.tools:
                return turn
            text = turn.text + call("look", text=str(len(turn.ids)) * 90)
            said = parse(text, thinking_open=False, tools=tool_schemas(running.request.tools))
            return replace(turn, parts=said, text=turn.text)

    def policy(seed: int) -> EnginePolicy:
        model = random_model(chat.tokenizer.vocab_size, max_positions=2000, seed=seed).eval()
        engine = Engine(TorchBackend(model, kv_tokens=1 << 14), chat.tokenizer, max_running=1)
        return Caller(SimpleNamespace(engine=engine, chat=restless, name="m"))  # type: ignore[arg-type]

    out = tmp_path / "run"
    box = Toolbox([OutsideTools(tmp_path / "sent.txt")])
    limits = AgentLimits(model_calls=12, tool_calls=40)
    about = {"endpoint": None, "source": "m", "engine": {}}
    settings = AgentSettings(SamplingParams(max_new_tokens=60), seed=3, about=about)
    run_agent(policy(0), TASK, toolbox=box, out=out, limits=limits, approvals=ALLOW, settings=settings)
    kinds = [e["event"] for e in read_events(out)]
    assert kinds.count("model_turn") == 12 and "compaction" in kinds
    assert replay_model(out, policy=policy(0)).to_dict() == {"equal": list(range(1, 13)), "differs": {}}
    other = replay_model(out, policy=policy(1))
    assert not other.agrees and other.differs[1].token is not None
