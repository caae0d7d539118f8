"""What a step of the agent costs beside smolagents and Qwen-Agent, without a model: overhead a
step, its growth over 200 steps, a cell, the start of a session.

    python benchmarks/agent.py                            # ours alone, about half a minute
    python benchmarks/agent.py --peers ENV/bin/python     # ENV has smolagents and qwen-agent

All run in one call on one machine, with a model that gives the calls that a script tells it, and a
tool that returns a few words. Steps are CPU milliseconds of the process, so load beside it matters
little. Ours writes and hashes every event to disk; the others keep their steps in memory. The last
lines are JSON: name, ours, theirs, ratio (ours / theirs).
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from scripted_policy import ScriptedPolicy

from qwq.agent.run import AgentLimits, run_agent
from qwq.envs.toolbox import Effect, Toolbox, ToolResult, Toolset, ToolSpec, make_toolsets, tool_schema, workspace_for
from qwq.rollout.policy import TurnRequest
from qwq.types import ParsedResponse, StopReason, ToolCall, Turn

PEERS = Path(__file__).with_name("agent_peers.py")
RESULT = "value "


class Look(Toolset):
    """`look(key)` gives `size` characters at once."""

    name = "look"

    def __init__(self, size: int) -> None:
        self.text = (RESULT * (size // len(RESULT) + 1))[:size]

    async def open(self, desk: Any) -> None: ...

    def specs(self) -> Sequence[ToolSpec]:
        return (ToolSpec(tool_schema("look", "Looks up.", {"key": {"type": "string"}}, ["key"]), Effect.NONE, 5.0),)

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


def ours() -> dict[str, float]:

    def look(number: int) -> Turn:
        return call("look", key=f"a{number}")

    steps_ms([Look(10)], look, 10)  # imports and threads
    figures = {f"step, {n} steps": statistics.mean(steps_ms([Look(10)], look, n)) for n in (10, 18, 40)}
    long = steps_ms([Look(5000)], look, 210)
    figures["step 200 / step 10, results of 5 kB"] = statistics.median(long[185:205]) / statistics.median(long[5:15])
    cells = steps_ms(make_toolsets(["python"]), lambda n: call("python", code=f"x = {n}"), 40)
    figures["step with a cell in the jail"] = statistics.median(cells)
    figures["cell, wall"] = cell_ms()
    figures["session start, warm, wall"] = session_start_ms()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python of an environment with smolagents and qwen-agent")
    args = parser.parse_args()
    figures = ours()
    for name, value in figures.items():
        print(f"{name:44} {value:8.3f}")
    if args.peers is None:
        return
    done = subprocess.run([args.peers, str(PEERS)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {PEERS.name}: {done.stderr[-800:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    for name, value in theirs.items():
        print(f"{name:44} {value:8.3f}")
    for name, value in theirs.items():
        mine = figures["step, 18 steps" if "18" in name else "step, 40 steps" if "40" in name else "cell, wall"]
        row = {"name": name, "ours": round(mine, 3), "theirs": round(value, 3), "ratio": round(mine / value, 2)}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
