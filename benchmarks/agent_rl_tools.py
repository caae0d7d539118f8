"""What slow tools cost RL: rollouts a minute with tools of 50 ms, beside as many tokens without
tools.

    python benchmarks/agent_rl_tools.py                            # four minutes on two idle cores
    python benchmarks/agent_rl_tools.py --groups 2 --rounds 1      # a quick look

A model of about a million parameters learns one dialogue by heart: think, call, read, twice more,
answer. Then the trainer's own sampling path (`rollout.collect` on `TrainerPolicy`) plays it, groups
x samples episodes at a time, in turn, each round:

- no tools: the same prompt and about as many tokens in one turn, without a call; the rate is
  brought to the dialogue's number of sampled tokens.
- 0 ms: the dialogue with a tool that answers at once.
- 50 ms: the same tool sleeps for 50 ms (--delay-ms) before each answer.
- python: the same call goes to the jailed Python of the agent, a session an episode.

Time is this process's processor time and the time that sampling waited for tools with nothing else
to do: on an idle machine that is the time that passes, and a busy one changes little of it. An
episode that went another way than the dialogue stops the benchmark. Figures are medians over the
rounds; the last lines are JSON {"name", "ours", "theirs", "ratio"}. Status 1 below 70%.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from arguments import at_least

from qwq.engine.sampler import SamplingParams
from qwq.envs.base import Environment, environment, environment_class
from qwq.model.config import ModelConfig
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.rollout.answers import Errands
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.collect import collect
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Problem, StopReason, ToolCall

QUESTION = "How many are there?"
CODES = ("6 * 7", "6 * 7 + 1", "(6 * 7 + 1) * 2")
RESULTS = ("42", "43", "86")
THOUGHTS = (
    "There is a tool that computes, so the number need not be guessed. First the product of six and seven is needed.",
    "The product is known. One more is to be added, and the tool does that as well, so the next call follows from it.",
    "What is left is to double the sum. The last call gives the number that was asked for, and then comes the answer.",
    "All three results are known, and the last of them is the answer.",
)
BAR = 0.70
MAX_LOSS = 0.1  # of the worst token, in nats
SHARPER = 8.0  # logits are multiplied by this once the dialogue is known: no sample leaves it


@environment("benchmark-waits")
class Waiting(Environment):
    """Answers by heart, after `delay_s`."""

    delay_s = 0.0

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return environment_class("python")().schemas()

    async def call(self, call: ToolCall) -> str:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return RESULTS[CODES.index(call.arguments["code"])]


def dialogue() -> list[Message]:
    turns: list[Message] = [Message("user", QUESTION)]
    for thought, code, result in zip(THOUGHTS, CODES, RESULTS, strict=False):
        turns += [Message("assistant", f"<think>\n{thought}\n</think>\n\n", (ToolCall("python", {"code": code}),))]
        turns += [Message("tool", result)]
    return [*turns, Message("assistant", f"<think>\n{THOUGHTS[-1]}\n</think>\n\nThere are 86.")]


def learnt(chat: ChatFormat, texts: list[tuple[list[int], list[int]]], vocab_size: int) -> Transformer:
    """A small model that gives each text's own part by heart."""
    torch.manual_seed(0)
    config = ModelConfig(
        family="qwen2", vocab_size=vocab_size, hidden_size=128, intermediate_size=384, num_layers=4, num_heads=4,
        num_kv_heads=2, head_dim=32, rope_theta=1e4,
    )  # fmt: skip
    model = Transformer(config)
    for p in model.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, 0, 0.05)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(2000):
        losses, worst = [], 0.0
        for ids, mask in texts:
            tokens, weights = torch.tensor(ids), torch.tensor(mask[1:], dtype=torch.float32)
            logits = model.logits(model(tokens[:-1], Packed([len(ids) - 1])))
            each = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            losses.append((each * weights).sum() / weights.sum())
            worst = max(worst, (each * weights).max().item())
        loss = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if worst < MAX_LOSS:
            print(f"the dialogue is known by heart after {step + 1} steps")
            with torch.no_grad():
                model.norm.weight *= SHARPER
            return model
    sys.exit(f"error: the model has not learnt the dialogue, loss of the worst token {worst:.3f}")


class Waits:
    """Seconds that sampling has waited for tools, with nothing else to do."""

    def __init__(self) -> None:
        self.seconds = 0.0
        take = Errands.take

        def timed(errands: Errands[Any], *, wait: bool = False) -> None:
            started = time.perf_counter()
            take(errands, wait=wait)
            self.seconds += time.perf_counter() - started if wait else 0.0

        Errands.take = timed  # type: ignore[method-assign]


def rate(policy: TrainerPolicy, problem: Problem, options: argparse.Namespace, waits: Waits) -> tuple[float, int]:
    """Rollouts a minute, and sampled tokens of one."""
    problems = [problem] * options.groups
    started, waited = time.process_time(), waits.seconds
    params = SamplingParams(max_new_tokens=3000, temperature=1.0)
    rollouts, _ = collect(policy, problems, params, samples=options.samples, limits=EpisodeLimits(max_calls=10))
    seconds = time.process_time() - started + waits.seconds - waited
    counts = {rollout.num_sampled for rollout in rollouts}
    wrong = [r for r in rollouts if r.stop_reason is not StopReason.END or "There are 86." not in r.text]
    if wrong or len(counts) != 1:
        sys.exit(f"error: {len(wrong)} episodes went another way: {(wrong or rollouts)[0].text!r}")
    return len(rollouts) / seconds * 60, counts.pop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=at_least(1), default=16)
    parser.add_argument("--samples", type=at_least(1), default=8)
    parser.add_argument("--delay-ms", type=at_least(0.0), default=50.0)
    parser.add_argument("--rounds", type=at_least(1), default=2)
    options = parser.parse_args()
    tokenizer = train_bpe([*THOUGHTS, QUESTION], 320)
    chat = ChatFormat(tokenizer, default_template())
    tools = environment_class("python")().schemas()
    messages = dialogue()
    one_turn = [Message("user", "All at once."), Message("assistant", one_text())]
    texts = [chat.training_example(messages, tools), chat.training_example(one_turn, tools)]
    model = learnt(chat, texts, tokenizer.vocab_size)
    policy = TrainerPolicy(model, chat)
    plain = Problem("plain", "tools", tuple(one_turn[:1]), {}, "plain", tools=tools, environment="none")
    waits = Problem("waits", "tools", tuple(messages[:1]), {}, "waits", tools=tools, environment="benchmark-waits")
    python = Problem("python", "tools", tuple(messages[:1]), {}, "python", tools=tools, environment="python")
    cases: dict[str, tuple[Problem, float]] = {
        "no tools": (plain, 0.0),
        "0 ms": (waits, 0.0),
        f"{options.delay_ms:g} ms": (waits, options.delay_ms / 1000),
        "python": (python, 0.0),
    }
    rates = measured(cases, policy, options)
    report(rates, f"{options.delay_ms:g} ms", options)


def one_text() -> str:
    """The dialogue's own words in one turn."""
    calls = [f'The call is {{"name": "python", "arguments": {{"code": "{code}"}}}}.' for code in CODES]
    words = [part for pair in zip(THOUGHTS, [*calls, ""], strict=True) for part in pair]
    return f"<think>\n{' '.join(words)}\n</think>\n\nThere are 86."


def measured(
    cases: dict[str, tuple[Problem, float]], policy: TrainerPolicy, options: argparse.Namespace
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in cases}
    waits = Waits()
    for number in range(options.rounds + 1):
        made = {}
        for name, (problem, delay_s) in cases.items():
            Waiting.delay_s = delay_s
            made[name] = rate(policy, problem, options, waits)
            per_minute, tokens = made[name]
            print(f"round {number}  {name:>9}: {per_minute:7.0f} rollouts a minute, {tokens} sampled tokens each")
        if number:  # the first round warms up
            for name, (per_minute, tokens) in made.items():
                rates[name].append(per_minute * tokens / made["0 ms"][1])
    return rates


def report(rates: dict[str, list[float]], slow: str, options: argparse.Namespace) -> None:
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n{options.groups} x {options.samples} episodes at a time, {torch.get_num_threads()} threads of torch")
    for ours, theirs in ((slow, "no tools"), (slow, "0 ms"), ("python", "no tools")):
        ratio = median[ours] / median[theirs]
        line = {"name": f"rollouts a minute, {ours} against {theirs}", "ours": round(median[ours], 1)}
        print(json.dumps(line | {"theirs": round(median[theirs], 1), "ratio": round(ratio, 3)}))
    if min(median[slow] / median["no tools"], median[slow] / median["0 ms"]) < BAR:
        sys.exit(f"error: below the bar of {BAR:.0%}")


if __name__ == "__main__":
    main()
