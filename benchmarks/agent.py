"""What a step of the agent costs beside smolagents, Qwen-Agent and ipykernel, without a model:
overhead a step, its growth over 200 steps, a cell, the start of a session; and with the engine, the
time to the first token of a late turn.

    python benchmarks/agent.py                          # ours alone, about half a minute
    python benchmarks/agent.py --model FOLDER           # first tokens of a real model
    python benchmarks/agent.py --peers ENV/bin/python   # ENV has smolagents, qwen-agent, ipykernel

All run in one call on one machine, ours and theirs in turn, ROUNDS times, with a model that gives
the calls that a script tells it, and a tool that returns a few words. Steps are CPU milliseconds of
the process, so load beside it matters little. A step is the mean of a run, and of five runs the
median. Ours writes and hashes every event to disk; the others keep their steps in memory. A cell
and a session's start are wall time. For first tokens the engine draws one token of each turn
(prefix cache on), and the turn is then a scripted call of the same length each time, so that every
turn brings the same number of new tokens. The ratio of their multiplications is printed, too: new
tokens attend to all before them, which costs a small model most. Figures are medians of the
rounds with the lowest and the highest. The last lines are JSON: name, ours, theirs, ratio (ours /
theirs) and its range.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from arguments import at_least
from scripted_policy import ScriptedPolicy
from tiny import random_model

from qwq.agent.run import SYSTEM, AgentLimits, AgentSettings, run_agent
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.load import LoadedModel, load_engine
from qwq.engine.options import EngineOptions
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.envs.toolbox import Effect, Toolbox, ToolResult, Toolset, ToolSpec, make_toolsets, tool_schema, workspace_for
from qwq.model.config import ModelConfig
from qwq.rollout.policies.local import EnginePolicy
from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.text.response import parse
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import ParsedResponse, StopReason, ToolCall, Turn

PEERS = Path(__file__).with_name("agent_peers.py")
RESULT = "value "
RUNS = 5  # of which a step's figure is the median, as in agent_peers.py


class Look(Toolset):
    """`look(key)` gives `size` characters at once."""

    name = "look"

    def __init__(self, size: int) -> None:
        self.text = (RESULT * (size // len(RESULT) + 1))[:size]
        schema = tool_schema("look", "Looks up.", {"key": {"type": "string"}}, ["key"])
        self.tools = (ToolSpec(schema, Effect.NONE, 5.0),)

    async def open(self, desk: Any) -> None: ...

    def specs(self) -> Sequence[ToolSpec]:
        return self.tools

    async def run(self, call: ToolCall) -> ToolResult:
        return ToolResult(call.arguments["key"] + self.text)


def call(name: str, **arguments: Any) -> Turn:
    """A turn with one call, as a server gives it."""
    made = (ToolCall(name, arguments),)
    return Turn(ParsedResponse(None, "", made, attempts=made), StopReason.END, num_tokens=20)


def steps_ms(toolsets: list[Toolset], turn: Callable[[int], Turn], num_steps: int) -> list[float]:
    """CPU milliseconds between one model call and the next, for each step of a run."""
    marks: list[float] = []

    def script(request: TurnRequest) -> str | Turn:
        marks.append(time.process_time())
        return turn(len(marks)) if len(marks) <= num_steps else "Done."

    limits = AgentLimits(model_calls=num_steps + 10, tool_calls=num_steps + 10)
    with tempfile.TemporaryDirectory() as top, workspace_for(toolsets) as desk:
        outcome = run_agent(
            ScriptedPolicy(script), "x", toolbox=Toolbox(toolsets, desk), out=Path(top) / "run", limits=limits
        )
    if outcome.answer != "Done." or outcome.tool_calls != num_steps:
        sys.exit(f"error: the run ended by {outcome.stop_reason.value} after {outcome.tool_calls} calls")
    return [1e3 * (b - a) for a, b in itertools.pairwise(marks)]


def session_start_ms() -> float:
    """From nothing to the first cell's result, the slot of an earlier session being there."""
    times = []
    for _ in range(6):
        with workspace_for(make_toolsets(["python"])) as desk:
            started = time.perf_counter()
            desk.run_cell("1")
            times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def cell_ms() -> float:
    with workspace_for(make_toolsets(["python"])) as desk:
        desk.run_cell("x = 1")
        times = []
        for _ in range(200):
            started = time.perf_counter()
            desk.run_cell("x = 41")
            times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


class FirstTokens:
    """`engine`'s turns cut to their first token, whose seconds are noted in `seconds`; the turn
    that follows is a scripted call, the last one an answer.
    """

    token_exact = native_tools = True
    version = 0

    def __init__(self, engine: EnginePolicy, num_turns: int) -> None:
        self.engine, self.num_turns = engine, num_turns
        self.name, self.identity, self.context, self.chat = "engine", engine.identity, engine.context, engine.chat
        self.seconds: list[float] = []
        self.num_new: list[int] = []
        self._num_known = 0

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        while (request := next_request()) is not None:
            assert request.prompt_ids is not None
            params = replace(request.params, max_new_tokens=1)
            waiting = [replace(request, params=params, on_text=None)]
            started = time.perf_counter()
            for _ in self.engine.generate(lambda asked=waiting: asked.pop() if asked else None):
                self.seconds.append(time.perf_counter() - started)
            self.num_new.append(len(request.prompt_ids) - self._num_known)
            self._num_known = len(request.prompt_ids)
            yield request, self._turn(len(self.seconds))

    def _turn(self, number: int) -> Turn:
        text = f'<tool_call>\n{{"name": "look", "arguments": {{"key": "a{number:02}"}}}}\n</tool_call>'
        text = text if number < self.num_turns else "Done."
        ids = [*self.chat.own_ids(text), self.chat.eos_ids[0]]
        return Turn(
            parse(text), StopReason.END, text, len(ids), ids=ids, sampled_mask=[1] * len(ids),
            logprobs=[0.0] * len(ids), weight_versions=[0] * len(ids),
        )  # fmt: skip

    def pause(self) -> None: ...

    def update_weights(self, version: int) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


def small_engine() -> LoadedModel | SimpleNamespace:
    """A model of random weights with a tokenizer of its own: what the engine does is the same."""
    template = default_template()
    chat = ChatFormat(train_bpe([RESULT * 50, SYSTEM, *(f"a{n:02}" for n in range(90))] * 3, 500), template)
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_layers": 8, "num_heads": 8, "num_kv_heads": 2}
    model = random_model(chat.tokenizer.vocab_size, max_positions=16_384, head_dim=64, scale=0.02, **shape).eval()
    engine = Engine(TorchBackend(model, kv_tokens=1 << 14), chat.tokenizer, max_running=1)
    return SimpleNamespace(engine=engine, chat=chat, name="random weights", config=model.config)


def multiplications(config: ModelConfig, num_new: int, num_all: int) -> float:
    """Of the last `num_new` of `num_all` tokens: weights, then keys and values before each."""
    width, heads = config.hidden_size, config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    weights = 2 * width * heads + 2 * width * kv_heads + 3 * width * config.intermediate_size
    return config.num_layers * num_new * (weights + 2 * heads * (num_all - num_new / 2))


def first_tokens(model: str | None, num_turns: int = 22) -> dict[str, float]:
    """Milliseconds to the first token at turns 2 and 20, medians of three runs, and their ratio."""
    options = EngineOptions(max_model_len=8192, max_num_seqs=1)
    loaded = load_engine(model, options) if model else small_engine()
    policy = EnginePolicy(loaded)
    early, late = [], []
    for _ in range(4):
        timed = FirstTokens(policy, num_turns)
        limits = AgentLimits(model_calls=num_turns + 5, tool_calls=num_turns + 5)
        settings = AgentSettings(SamplingParams(temperature=0, max_new_tokens=100))
        toolsets = [Look(200), *make_toolsets(["python", "files", "sql"])]  # the prompt of a usual run
        with tempfile.TemporaryDirectory() as top, workspace_for(toolsets) as desk:
            out = Path(top) / "run"
            run_agent(timed, "x", toolbox=Toolbox(toolsets, desk), out=out, limits=limits, settings=settings)
        if len(set(timed.num_new[1:-1])) != 1:
            sys.exit(f"error: turns bring {timed.num_new} new tokens, they should bring the same number")
        policy.close()
        early.append(1e3 * statistics.median(timed.seconds[1:4]))
        late.append(1e3 * statistics.median(timed.seconds[18:21]))
    second, twentieth = statistics.median(early[1:]), statistics.median(late[1:])
    work = [multiplications(loaded.config, timed.num_new[n - 1], sum(timed.num_new[:n])) for n in (2, 20)]
    return {
        f"first token, turn 2 of {sum(timed.num_new[:2])} tokens, {timed.num_new[1]} new": second,
        f"first token, turn 20 of {sum(timed.num_new[:20])} tokens": twentieth,
        "first token, turn 20 / turn 2": twentieth / second,
        "multiplications, turn 20 / turn 2": work[1] / work[0],
    }


def ours() -> dict[str, float]:

    def look(number: int) -> Turn:
        return call("look", key=f"a{number}")

    steps_ms([Look(10)], look, 10)  # imports and threads
    figures = {
        f"step, {n} steps": statistics.median(statistics.mean(steps_ms([Look(10)], look, n)) for _ in range(RUNS))
        for n in (10, 18, 40)
    }
    long = steps_ms([Look(5000)], look, 210)
    figures["step 200 / step 10, results of 5 kB"] = statistics.median(long[185:205]) / statistics.median(long[5:15])
    cells = steps_ms(make_toolsets(["python"]), lambda n: call("python", code=f"x = {n}"), 40)
    figures["step with a cell in the jail"] = statistics.median(cells)
    figures["cell, wall"] = cell_ms()
    figures["session start, warm, wall"] = session_start_ms()
    return figures


def ours_of(name: str) -> str:
    """Which of our figures one of another program is put beside."""
    if "start" in name:
        return "session start, warm, wall"
    return "step, 18 steps" if "18" in name else "step, 40 steps" if "40" in name else "cell, wall"


def peers(python: str) -> dict[str, float]:
    done = subprocess.run([python, str(PEERS)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {PEERS.name}: {done.stderr[-800:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):8.3f}  [{min(values):.3f}, {max(values):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python of an environment with smolagents, qwen-agent and ipykernel")
    parser.add_argument("--model", help="model folder for the first tokens (default: random weights)")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    args = parser.parse_args()
    mine: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, value in ours().items():
            mine.setdefault(name, []).append(value)
        for name, value in (peers(args.peers) if args.peers else {}).items():
            theirs.setdefault(name, []).append(value)
    for name, values in {**mine, **theirs}.items():
        print(f"{name:44} {spread(values)}")
    for name, value in first_tokens(args.model).items():
        print(f"{name:44} {value:8.3f}")
    for name, values in theirs.items():
        ratios = [our / their for our, their in zip(mine[ours_of(name)], values, strict=True)]
        row = {"name": name, "ours": statistics.median(mine[ours_of(name)]), "theirs": statistics.median(values)}
        row |= {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        print(json.dumps({key: value if key == "name" else round(value, 3) for key, value in row.items()}))


if __name__ == "__main__":
    main()
