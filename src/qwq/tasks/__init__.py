"""Tasks: a set of problems with its verifier, environment and protocol, one object for RL,
evaluation and distillation.
"""

from qwq.tasks.base import Mark, Protocol, Task
from qwq.tasks.registry import TASKS, get, task

__all__ = ["TASKS", "Mark", "Protocol", "Task", "get", "task"]
