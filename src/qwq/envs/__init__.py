"""Environments: what a model works with between its turns. `base.py` has the protocol, the registry
and the runner.
"""

from qwq.envs import fetch, file_tools, mcp, python, shell, sql
from qwq.envs.base import ENVIRONMENTS, Environment, answer_calls, environment, environment_for, tool
from qwq.envs.calculator import CalculatorEnvironment
from qwq.envs.toolbox import (
    Artefact,
    Effect,
    ResultKind,
    Toolbox,
    ToolResult,
    Toolset,
    ToolSpec,
    make_toolsets,
    toolset,
)
from qwq.envs.workspace import Workspace

__all__ = [
    "ENVIRONMENTS",
    "Artefact",
    "CalculatorEnvironment",
    "Effect",
    "Environment",
    "ResultKind",
    "ToolResult",
    "ToolSpec",
    "Toolbox",
    "Toolset",
    "Workspace",
    "answer_calls",
    "environment",
    "environment_for",
    "fetch",
    "file_tools",
    "make_toolsets",
    "mcp",
    "python",
    "shell",
    "sql",
    "tool",
    "toolset",
]
