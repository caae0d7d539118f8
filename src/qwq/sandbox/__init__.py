"""Run untrusted Python programs fast and without harm. `Sandbox` is the entrance; docs/sandbox.md the threat model."""

from qwq.sandbox.policy import Level, Limits, RunStatus
from qwq.sandbox.pool import Sandbox, default_sandbox
from qwq.sandbox.runner import CallResult, CaseResult, Item, Runner, RunResult
from qwq.sandbox.slot import Cancel, Cancelled

__all__ = [
    "CallResult",
    "Cancel",
    "Cancelled",
    "CaseResult",
    "Item",
    "Level",
    "Limits",
    "RunResult",
    "RunStatus",
    "Runner",
    "Sandbox",
    "default_sandbox",
]
