"""Run untrusted programs fast and without harm.

`Sandbox` is the entrance; docs/sandbox.md the threat model.
"""

from qwq.sandbox.cells import CellResult, CellStatus, Figure, SessionState
from qwq.sandbox.interpreter import SessionLimits
from qwq.sandbox.limits import Level, Limits, RunStatus
from qwq.sandbox.pool import Sandbox, default_sandbox
from qwq.sandbox.runner import CallResult, CaseResult, Item, Runner, RunResult
from qwq.sandbox.session import Session
from qwq.sandbox.slot import Cancel, Cancelled

__all__ = [
    "CallResult",
    "Cancel",
    "Cancelled",
    "CaseResult",
    "CellResult",
    "CellStatus",
    "Figure",
    "Item",
    "Level",
    "Limits",
    "RunResult",
    "RunStatus",
    "Runner",
    "Sandbox",
    "Session",
    "SessionLimits",
    "SessionState",
    "default_sandbox",
]
