"""Whether a model acts on what its tools answer: the same weights in the worlds as they are, and
with answers that are not its own.

    qwq train recipes/agent.toml
    python benchmarks/agent_worlds.py runs/agent/checkpoints/balance/final  # 500 problems, T = 1
    python benchmarks/agent_worlds.py DIR --tasks chain table --num 100

Feedback: `own`, the world's; `shuffled`, what another episode was told at the same call; `flipped`
(seek), the first higher or lower turned round; `coin` (seek), higher and lower drawn by chance. A
verdict is always made in the true world by replaying the calls, so the feedback alone differs. A
player who does not look at the feedback gets the share under `blind`. The last lines are JSON
`{"name", "ours", "theirs", "ratio"}`: ours with its own feedback, theirs with the other's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence

import torch
from arguments import at_least, model_folder

from qwq.common.stats import wilson
from qwq.engine.sampler import SamplingParams
from qwq.envs.worlds import WorldEnvironment
from qwq.errors import QwqError
from qwq.model.weights import load_model
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.collect import group_seed
from qwq.rollout.episode import Episode, EpisodeJob, play
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.rollout.policy import Policy
from qwq.tasks import get
from qwq.text.template import ChatFormat
from qwq.types import Problem, ToolCall
from qwq.verify.grade import grade

TASKS = ("seek", "seek:21", "chain", "chain:4", "chain:5", "table", "table:new")
KNOWN = ("seek:known", "chain:known", "table:known")
# Shares of players who do not look at the feedback, worked out in tests/unit/verify/test_worlds.py.
BLIND = {"seek": 4 / 15, "seek:21": 5 / 21, "chain": 1 / 90, "chain:4": 1 / 90, "chain:5": 1 / 90, "table": 3 / 16,
         "table:new": 3 / 16}  # fmt: skip
TURNED = {"higher": "lower", "lower": "higher"}
MAX_NEW_TOKENS = 512


class OtherFeedback(WorldEnvironment):
    """Answers what `change` makes of the number of the call and the world's own answer."""

    def __init__(self, change: Callable[[int, str], str]) -> None:
        self.change, self.num_answered = change, 0

    async def call(self, call: ToolCall) -> str:
        text = await super().call(call)
        self.num_answered += 1
        return self.change(self.num_answered - 1, text)


def told(texts: Sequence[str]) -> Callable[[int, str], str]:
    """Another episode's results, the last one again and again once they are used up."""
    return lambda number, own: texts[min(number, len(texts) - 1)] if texts else own


def episodes(policy: Policy, problems: Sequence[Problem], made: Callable[[int], WorldEnvironment], seed: int
             ) -> list[Episode]:  # fmt: skip
    """One episode of each problem, in order. `made(i)` is the environment of the i-th."""

    def jobs() -> Iterator[EpisodeJob]:
        for number, problem in enumerate(problems):
            yield EpisodeJob(problem, seed=group_seed(seed, number), environment=made(number), key=number)

    params = SamplingParams(temperature=1.0, max_new_tokens=MAX_NEW_TOKENS)
    limits = EpisodeLimits(max_tokens=MAX_NEW_TOKENS)
    done = list(play(policy, jobs(), params, limits=limits, logprobs=True))
    return sorted(done, key=lambda e: e.job.key)


def right(episode: Episode) -> bool:
    return grade(episode.problem, episode.response()).correct


def share(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)}, {sum(hits) / max(1, len(hits)):.1%} [{low:.1%}, {high:.1%}]"


def follows_first(episodes: Sequence[Episode]) -> list[bool]:
    """Whether the second look goes where the first answer, as it was told, sends it."""
    hits = []
    for e in episodes:
        places = [c.arguments.get("place") for c in e.calls[:2]]
        if len(places) == 2 and all(isinstance(p, str) and len(p) == 1 for p in places) and e.results[0] in TURNED:
            hits.append((places[1] > places[0]) == (e.results[0] == "higher"))
    return hits


def about(name: str, own: Sequence[Episode]) -> Iterator[str]:
    """What a world's episodes show beside their outcome."""
    if name.startswith("seek"):
        looks = [len(e.calls) for e in own if right(e)]
        yield f"looks where found: {sum(looks) / max(1, len(looks)):.2f}"
        yield f"second look goes where the first answer sends it: {share(follows_first(own))}"
        middle = [e.calls[0].arguments.get("place") for e in own if e.calls]
        yield "first looks: " + ", ".join(
            f"{p} {middle.count(p)}" for p in sorted(set(map(str, middle)), key=lambda p: -middle.count(p))[:5]
        )
    elif name.startswith("chain"):
        again = [
            e.calls[i + 1].arguments == e.calls[i].arguments if i + 1 < len(e.calls) else False
            for e in own
            for i, result in enumerate(e.results)
            if result == "busy, again"
        ]
        yield f"read again after busy: {share(again)}"
    elif name.startswith("table"):
        erred = [e for e in own if e.results and e.results[0].startswith("error")]
        yield f"right after an error in the first call: {share([right(e) for e in erred])}"


def feedbacks(name: str, own: Sequence[Episode], seed: int) -> dict[str, Callable[[int], WorldEnvironment]]:
    """Environments with other feedback, by the name of the feedback."""
    rng = random.Random(seed)
    turn = 1 + rng.randrange(len(own) - 1)
    others = [own[(i + turn) % len(own)].results for i in range(len(own))]
    made: dict[str, Callable[[int], WorldEnvironment]] = {"shuffled": lambda i: OtherFeedback(told(others[i]))}
    if name.startswith("seek"):
        made["flipped"] = lambda i: OtherFeedback(lambda n, own: TURNED.get(own, own) if n == 0 else own)
        made["coin"] = lambda i: OtherFeedback(lambda n, own: rng.choice(list(TURNED)) if own in TURNED else own)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=model_folder)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--num", type=at_least(1), default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    options = parser.parse_args()
    for name in options.tasks:
        try:
            get(name)
        except QwqError as error:
            parser.error(str(error))
    torch.set_num_threads(options.threads)
    chat = ChatFormat.from_folder(options.model)
    policy = TrainerPolicy(load_model(options.model).eval(), chat)
    lines = []
    for name in options.tasks:
        problems = get(name).fixed("test", options.num)
        own = episodes(policy, problems, lambda i: WorldEnvironment(), options.seed)
        score = sum(map(right, own)) / len(own)
        print(f"{name}: own feedback {share([right(e) for e in own])}; blind {BLIND.get(name, 0):.1%}")
        for line in about(name, own):
            print(f"  {line}")
        tokens = sum(e.num_tokens for e in own) / len(own)
        print(f"  malformed calls {sum(e.num_malformed for e in own)}, tokens {tokens:.0f}")
        for kind, made in feedbacks(name, own, options.seed).items():
            other = episodes(policy, problems, made, options.seed)
            print(f"  {kind} feedback {share([right(e) for e in other])}")
            if name.startswith("seek"):
                print(f"    second look goes where the answer, as told, sends it: {share(follows_first(other))}")
            theirs = sum(map(right, other)) / len(other)
            lines.append({"name": f"{name}, own against {kind} feedback", "ours": score, "theirs": theirs,
                          "ratio": score / theirs if theirs else None})  # fmt: skip
    called, answered = [], []
    for name in KNOWN:
        done = episodes(
            policy, get(name).fixed("test", max(1, options.num // 3)), lambda i: WorldEnvironment(), options.seed
        )
        called += [bool(e.calls or e.num_malformed) for e in done]
        answered += [right(e) for e in done]
    print(f"questions that tell the answer: called {share(called)}; right {share(answered)}")
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
