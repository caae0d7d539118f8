"""`qwq mcp`: this machine's tools for other agents."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def mcp(
    *,
    tools: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    timeout_s: float = 30.0,
    memory_mb: int = 1024,
    max_sessions: int = 16,
    unsafe: bool = False,
) -> int:
    """Offer python, run_code, verify_math and verify_code to other agents: an MCP server on
    standard input and output.

    Code runs in the jail (docs/sandbox.md). The protocol has no state: `python` names a session,
    which later calls give as an argument. `qwq serve --mcp` offers the same over HTTP.

    Parameters
    ----------
    tools
        Only these of the four.
    timeout_s
        Seconds of one Python cell.
    memory_mb
        Memory of a Python session.
    max_sessions
        Python sessions that are kept; the one that was not used for the longest time makes room.
    unsafe
        Run also where the jail cannot protect this machine.
    """
    from qwq.sandbox import Sandbox, SessionLimits
    from qwq.serve.mcp.offered import NAMES, OfferedTools
    from qwq.serve.mcp.provider import run_stdio

    limits = SessionLimits(timeout_s=timeout_s, memory_mb=memory_mb)
    with Sandbox(unsafe=unsafe, max_sessions=max_sessions) as sandbox:
        run_stdio(OfferedTools(tools or NAMES, sandbox=sandbox, limits=limits, max_sessions=max_sessions))
    return 0
