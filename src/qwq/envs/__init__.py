"""Environments: what a model works with between its turns. `base.py` has the protocol, the registry
and the runner.
"""

from qwq.envs.base import ENVIRONMENTS, Environment, answer_calls, environment, environment_for, tool
from qwq.envs.calculator import CalculatorEnvironment

__all__ = [
    "ENVIRONMENTS",
    "CalculatorEnvironment",
    "Environment",
    "answer_calls",
    "environment",
    "environment_for",
    "tool",
]
