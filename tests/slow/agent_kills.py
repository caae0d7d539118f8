"""kill -9 at random moments of an agent's run with a jail, a workspace and a counter outside, then
`resume`, until it ends. `make test-agent-kills`.

    python tests/slow/agent_kills.py                     # 200 kills
    python tests/slow/agent_kills.py --kills 10          # as `make test` does

Every run must end with the undisturbed run's answer and files, and no external effect may happen
twice; the model must know of one that did not happen. This process imports everything once and
forks a child for each start. Ends with one JSON line; status 1 where anything is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from agent_tools import OutsideTools
from scripted_policy import ScriptedPolicy

from qwq.agent.approvals import Approvals, Ruling
from qwq.agent.events import read_events
from qwq.agent.run import AgentOutcome, AgentSettings, finished, run_agent
from qwq.envs.toolbox import Toolbox, make_toolsets
from qwq.envs.workspace import Workspace
from qwq.rollout.policy import TurnRequest
from qwq.sandbox import Session
from qwq.types import ToolCall

FILES = {"start.txt": b"7"}
CELLS = (
    "import time\nx = int(open('start.txt').read())\ntime.sleep(0.03)\nx",
    "x = x * 11\nopen('kept.txt', 'a').write(f'{x}\\n')\ntime.sleep(0.02)\nx",
    "x = x + 5\nprint('long ' * 2000)\nopen('kept.txt', 'a').write(f'{x}\\n')\nx",
    "sum(int(line) for line in open('kept.txt'))",
)


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def script(request: TurnRequest) -> str:
    """Cells with a send between them; the answer is what the last cell gave: 77 + 82 = 159."""
    n = len(request.key.episode.turns)
    if n < 2 * len(CELLS):
        cell = call("python", code=CELLS[n // 2])
        return cell if n % 2 == 0 else call("send", text=f"message {n}") + call("look", text=str(n))
    results = [m.content for m in request.messages if m.role == "tool"]
    return f"The sum is {results[-3]}."


async def yes(ident: str, call: ToolCall, ruling: Ruling) -> tuple[bool, str]:
    """A person at the screen: the run has read files, so every send asks."""
    return True, ""


class BareWorkspace(Workspace):
    """Without packages that are imported beforehand: a process starts in 50 ms."""

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = self.sandbox.session(self.limits, packages=())
        return self._session


def play(folder: Path) -> AgentOutcome:
    # A pause on each side of the line, so that kills meet it.
    tools = OutsideTools(folder / "sent.txt", before_send=lambda: time.sleep(0.03))
    out = folder / "run"
    events = read_events(out) if (out / "events.jsonl").is_file() else []
    ended = finished(events)
    if ended is not None:
        return ended
    desk = BareWorkspace(files=FILES)
    try:
        box = Toolbox([*make_toolsets(["python"]), tools], desk)
        return run_agent(
            ScriptedPolicy(script),
            "Add.",
            toolbox=box,
            out=out,
            approvals=Approvals(ask=yes),
            settings=AgentSettings(files=FILES),
        )
    finally:
        desk.close()


def start(folder: Path) -> int:
    """A child that plays the run, in a process group of its own."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        status = play(folder).exit_status
    finally:
        sys.stdout.flush()
        os._exit(status)


def one_run(folder: Path, rng: random.Random, most_kills: int, seconds: float) -> int:
    """Play a run to its end with up to `most_kills` kills; how many there were."""
    kills = 0
    while True:
        child = start(folder)
        if kills < most_kills:
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        elif os.waitstatus_to_exitcode(status) == 0:
            return kills
        else:
            raise SystemExit(f"the run in {folder} failed with status {status}")


def faults_of(folder: Path, whole: Path) -> list[str]:
    """What is wrong with a run that has ended, beside the undisturbed one."""
    faults = []
    end, undisturbed = (read_events(f / "run")[-1] for f in (folder, whole))
    for key in ("answer", "stop_reason", "files"):
        if end[key] != undisturbed[key]:
            faults.append(f"{key}: {end[key]!r}, undisturbed {undisturbed[key]!r}")
    sent = (folder / "sent.txt").read_text(encoding="utf-8").splitlines() if (folder / "sent.txt").exists() else []
    faults += [f"{text} {sent.count(text)} times" for text in set(sent) if sent.count(text) > 1]
    events = read_events(folder / "run")
    texts = {e["id"]: e["arguments"]["text"] for e in events if e["event"] == "call" and e["tool"] == "send"}
    for result in (e for e in events if e["event"] == "result" and e["tool"] == "send"):
        if texts[result["id"]] not in sent and result["kind"] != "unknown_outcome":
            faults.append(f"{texts[result['id']]} is {result['kind']}, and did not happen")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, started = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as top:
        whole = Path(top) / "whole"
        whole.mkdir()
        one_run(whole, rng, 0, 0)
        before = time.monotonic()
        second = Path(top) / "second"
        second.mkdir()
        one_run(second, rng, 0, 0)
        seconds = time.monotonic() - before
        kills = runs = unknown = 0
        faults: list[str] = faults_of(second, whole)
        while kills < args.kills:
            folder = Path(top) / f"run-{runs}"
            folder.mkdir()
            kills += one_run(folder, rng, min(rng.randrange(1, 4), args.kills - kills), seconds)
            faults += [f"run {runs}: {fault}" for fault in faults_of(folder, whole)]
            events = read_events(folder / "run")
            unknown += sum(e["event"] == "result" and e["kind"] == "unknown_outcome" for e in events)
            runs += 1
            print(f"{kills} kills, {runs} runs, {unknown} unknown outcomes, {len(faults)} faults", flush=True)
    for fault in faults:
        print(fault)
    figures = {"kills": kills, "runs": runs, "unknown": unknown, "faults": len(faults), "seed": args.seed}
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started, 1), "run_s": round(seconds, 2)}))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
