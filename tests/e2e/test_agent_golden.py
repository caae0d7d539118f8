"""Forty scripted runs whose events are known, 21 that recover, and replays of fifty of them.

`python tests/e2e/test_agent_golden.py` writes the events again: look at the difference before it is
committed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_scripts import RECOVERIES, RUNS, AgentScript
from agent_tools import OutsideTools
from scripted_policy import ScriptedPolicy

from qwq.agent.approvals import Approvals, approvals_of
from qwq.agent.events import read_events
from qwq.agent.replay import replay
from qwq.agent.replay_model import replay_model
from qwq.agent.run import AgentLimits, AgentSettings, run_agent
from qwq.envs.toolbox import Toolbox, Toolset, make_toolsets, workspace_for
from qwq.sandbox import Level
from qwq.types import ToolCall

pytest.importorskip("pandas", reason="cells of these runs use it")
GOLDEN = Path(__file__).parents[1] / "golden" / "agent_runs.json"
SUPPORT = Path(__file__).parents[1] / "support"
DENY_PUT = {"rule": [{"tool": "put", "then": "deny"}]}
# Times, what differs from machine to machine, and what the workspace's own tests hold.
LEFT_OUT = ("t", "s", "prev", "seconds", "versions", "tools", "detail", "sha256", "answer_sha256", "bytes", "data")


async def yes(ident: str, call: ToolCall, ruling: Any) -> tuple[bool, str]:
    return True, ""


def mcp_tools(folder: Path) -> Toolset:
    """The tools of a server that can be made to end."""
    pytest.importorskip("mcp", reason="the extra agent is not installed")
    from qwq.envs.mcp import McpToolset
    from qwq.envs.mcp_servers import McpServer

    command = (sys.executable, str(SUPPORT / "mcp_old_server.py"), str(folder / "notes.txt"))
    return McpToolset([McpServer("old", command, start_timeout_s=60.0)])


def policy_of(script: AgentScript) -> ScriptedPolicy:
    turns = list(script.turns)
    return ScriptedPolicy(lambda r: turns[min(len(r.key.episode.turns), len(turns) - 1)] if r.tools else "Done.")


def play(script: AgentScript, out: Path) -> list[dict[str, Any]]:
    limits = {"model_calls": 12, **script.limits}
    timeout = {"timeout_s": limits.pop("timeout_s")} if "timeout_s" in limits else {}
    names = [name for name in script.tools.split(",") if name not in ("outside", "mcp")]
    outside: list[Toolset] = [OutsideTools(out.parent / "sent.txt")] if "outside" in script.tools else []
    if "mcp" in script.tools:
        outside.append(mcp_tools(out.parent))
    toolsets = [*make_toolsets(names, **timeout), *outside]
    rules = approvals_of(DENY_PUT, "here")
    about = {"toolsets": names, "mcp": None, "allow_hosts": [], "box_mb": 64}
    with workspace_for(toolsets, files=script.files) as desk:
        if desk.programs and desk.level is not Level.NAMESPACES:
            pytest.skip("the shell needs the level namespaces")
        run_agent(
            policy_of(script), script.name, toolbox=Toolbox(toolsets, desk), out=out, limits=AgentLimits(**limits),
            approvals=Approvals(rules.rules, ask=yes), settings=AgentSettings(about=about, files=script.files),
        )  # fmt: skip
    return read_events(out)


def bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: bare(v) for k, v in value.items() if k not in LEFT_OUT}
    return [bare(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    yield {}


@pytest.mark.parametrize("script", RUNS, ids=lambda s: s.name)
def test_a_scripted_run(script: AgentScript, golden: dict[str, Any], folders: dict[str, Path], tmp_path: Path) -> None:
    events = play(script, tmp_path / "run")
    folders[script.name] = tmp_path / "run"
    assert events[-1]["answer"] == "Done." and events[-1]["stop_reason"] == "end"
    assert bare(events[1:]) == golden[script.name]


@pytest.mark.parametrize("script", RECOVERIES, ids=lambda s: s.name)
def test_a_run_that_recovers(script: AgentScript, folders: dict[str, Path], tmp_path: Path) -> None:
    events = play(script, tmp_path / "run")
    folders[script.name] = tmp_path / "run"
    texts = {e["id"]: e["text"] for e in events if e["event"] == "result"}
    placed = [texts[f"call-{n}"] for n in range(1, len(texts) + 1)]
    assert len(placed) == len(script.words)
    assert all(word in text for word, text in zip(script.words, placed, strict=True)), placed
    assert (events[-1]["answer"], events[-1]["stop_reason"]) == (script.answer, script.stop)


def test_fifty_runs_replay_to_the_same_bytes(folders: dict[str, Path]) -> None:
    """All that ran before in this file; without the runs of trouble in the machine itself."""
    if len(folders) < len(RUNS) + len(RECOVERIES):
        pytest.skip("needs the runs of the whole file")
    left_out = ("timeout", "memory", "killed session", "a process that exits", "dead MCP server")
    names = [name for name in folders if name not in left_out][:50]
    outcomes = {name: replay(folders[name]) for name in names}
    assert len(outcomes) == 50
    assert {name: o.to_dict() for name, o in outcomes.items() if not o.agrees or o.varies} == {}
    assert sum(len(o.equal) for o in outcomes.values()) > 50


def test_the_models_of_all_runs_say_the_same_again(folders: dict[str, Path]) -> None:
    if len(folders) < len(RUNS) + len(RECOVERIES):
        pytest.skip("needs the runs of the whole file")
    outcomes = {s.name: replay_model(folders[s.name], policy=policy_of(s)) for s in (*RUNS, *RECOVERIES)}
    assert {name: o.to_dict() for name, o in outcomes.items() if not o.agrees} == {}
    assert sum(len(o.equal) for o in outcomes.values()) == sum(
        e["event"] == "model_turn" for folder in folders.values() for e in read_events(folder)
    )


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as top:
        made = {s.name: bare(play(s, Path(top) / str(n) / "run")[1:]) for n, s in enumerate(RUNS)}
    GOLDEN.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
