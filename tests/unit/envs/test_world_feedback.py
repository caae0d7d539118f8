"""The ablation of benchmarks/agent_worlds.py: a player who lives by the feedback falls to the blind
share with other feedback, one who ignores it does not.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from scripted_policy import ScriptedPolicy
from scripts import load_script

from qwq.envs.worlds import WorldEnvironment
from qwq.rollout.policy import TurnRequest
from qwq.tasks import get
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("benchmarks/agent_worlds.py")


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    problem = get("seek").problem(0, "train", 0)
    turns = get("seek").demonstrate(problem, random.Random(0))
    return ChatFormat(
        train_bpe([default_template().render([*problem.messages, *turns], tools=problem.tools)] * 20, 400),
        default_template(),
    )


def exchanges(request: TurnRequest) -> Iterator[tuple[dict[str, Any], str]]:
    """Arguments and result of each call so far."""
    messages = list(request.messages)
    for before, after in itertools.pairwise(messages):
        if before.tool_calls:
            yield dict(before.tool_calls[0].arguments), after.content


def call(name: str, **arguments: str) -> str:
    return f"so\n</think>\n<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def bisects(request: TurnRequest) -> str:
    low, high = "a", "q"
    for arguments, result in exchanges(request):
        place = arguments["place"]
        if result == "found":
            return f"so\n</think>\n\\boxed{{{place}}}"
        low, high = (place, high) if result == "higher" else (low, place)
    inside = [chr(c) for c in range(ord(low) + 1, ord(high))]
    return call("look", place=inside[len(inside) // 2] if inside else low)


def ignores(request: TurnRequest) -> str:
    """Looks at four places, the same ones whatever it is told; it only knows found when it sees
    it.
    """
    done = list(exchanges(request))
    if done and done[-1][1] == "found":
        return f"so\n</think>\n\\boxed{{{done[-1][0]['place']}}}"
    return call("look", place="cgkn"[len(done)]) if len(done) < 4 else "so\n</think>\nnone"


def follows(request: TurnRequest) -> str:
    key = request.messages[0].content.split(" from ")[1].split(".")[0]
    for _, result in exchanges(request):
        if result.isdigit():
            return f"so\n</think>\n\\boxed{{{result}}}"
        key = key if result.startswith("busy") else result.split()[-1]
    return call("read", key=key)


def shares(bench: ModuleType, chat: ChatFormat, name: str, script: Any) -> dict[str, float]:
    policy, problems = ScriptedPolicy(script, chat), get(name).fixed("test", 300)
    own = bench.episodes(policy, problems, lambda i: WorldEnvironment(), 0)
    out = {"own": sum(map(bench.right, own)) / 300, "follows": bench.follows_first(own)}
    for kind, made in bench.feedbacks(name, own, 0).items():
        other = bench.episodes(policy, problems, made, 0)
        out[kind] = sum(map(bench.right, other)) / 300
        out[f"{kind} follows"] = bench.follows_first(other)
    assert all("looks" in line or "look" in line or "again" in line for line in bench.about(name, own))
    return out


def test_who_lives_by_the_feedback_falls_to_the_blind_share(bench: ModuleType, chat: ChatFormat) -> None:
    seek = shares(bench, chat, "seek", bisects)
    assert seek["own"] == 1 and seek["shuffled"] <= 4 / 15 + 0.05 and seek["coin"] <= 4 / 15 + 0.05
    # After a false first answer the secret is on the other side.
    assert seek["flipped"] <= 1 / 15 + 0.05
    assert all(seek["follows"]) and all(seek["flipped follows"]) and len(seek["flipped follows"]) > 250
    chain = shares(bench, chat, "chain", follows)
    assert chain["own"] == 1 and chain["shuffled"] <= 1 / 90 + 0.05


def test_who_ignores_it_is_as_good_with_any_directions(bench: ModuleType, chat: ChatFormat) -> None:
    seek = shares(bench, chat, "seek", ignores)
    assert seek["own"] == seek["coin"] == seek["flipped"] == pytest.approx(4 / 15, abs=0.08)
