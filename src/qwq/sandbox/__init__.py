"""Run untrusted Python programs fast and without harm. `Sandbox` is the entrance; docs/sandbox.md the threat model."""

from qwq.sandbox.policy import Level, Limits, RunStatus
from qwq.sandbox.pool import CallResult, CaseResult, Item, RunResult, Sandbox, default_sandbox

__all__ = [
    "CallResult",
    "CaseResult",
    "Item",
    "Level",
    "Limits",
    "RunResult",
    "RunStatus",
    "Sandbox",
    "default_sandbox",
]
