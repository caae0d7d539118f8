"""qwq: the open, complete stack behind a QwQ-style reasoning model.

    import qwq

    llm = qwq.load("runs/tiny")
    print(llm.chat("What is 2 plus 3?").text)

Names below are imported when they are first used (PEP 562), so that `import qwq` takes milliseconds
and does without torch. docs/api.md shows each of them.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Between two small parallel regions torch's OpenMP threads spin while they wait. Beside any other
# busy process the spinning takes the core that the awaited thread needs, and a small model trains
# an order of magnitude slower (benchmarks/busy_neighbour.py). A short spin costs nothing on a quiet
# machine. Read by libgomp when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from qwq import tasks as tasks
    from qwq.api import evaluate as evaluate
    from qwq.api import load as load
    from qwq.api import train as train
    from qwq.api.llm import LLM as LLM
    from qwq.api.outputs import ChatAnswer as ChatAnswer
    from qwq.api.outputs import ChatPiece as ChatPiece
    from qwq.api.outputs import PieceKind as PieceKind
    from qwq.api.outputs import TextCompletion as TextCompletion
    from qwq.api.stream import ChatStream as ChatStream
    from qwq.config import Recipe as Recipe
    from qwq.config import register_stage as stage
    from qwq.engine.sampler import SamplingParams as SamplingParams
    from qwq.envs import Environment as Environment
    from qwq.envs import environment as environment
    from qwq.envs import tool as tool
    from qwq.errors import QwqError as QwqError
    from qwq.pipeline.plan.counts import StagePlan as StagePlan
    from qwq.pipeline.stage import Stage as Stage
    from qwq.reward.functions import register_reward as reward
    from qwq.sandbox import Sandbox as Sandbox
    from qwq.tasks import Protocol as Protocol
    from qwq.tasks import Task as Task
    from qwq.tasks import task as task
    from qwq.train.losses import register_loss as loss
    from qwq.types import Message as Message
    from qwq.types import Outcome as Outcome
    from qwq.types import Problem as Problem
    from qwq.types import Response as Response
    from qwq.types import StopReason as StopReason
    from qwq.types import ToolCall as ToolCall
    from qwq.types import Verdict as Verdict
    from qwq.verify.type_view import verify as verify

    __version__: str

# Where each name is: (module, attribute), "" for the module itself. `train`, `reward` and the
# verifiers are modules that can be called.
_PLACES = {
    **{name: ("qwq.api.outputs", name) for name in ("ChatAnswer", "ChatPiece", "PieceKind", "TextCompletion")},
    **{name: ("qwq.api", name) for name in ("evaluate", "load")},
    "LLM": ("qwq.api.llm", "LLM"),
    "ChatStream": ("qwq.api.stream", "ChatStream"),
    **{
        name: ("qwq.types", name)
        for name in ("Message", "Outcome", "Problem", "Response", "StopReason", "ToolCall", "Verdict")
    },
    **{name: ("qwq.tasks", name) for name in ("Protocol", "Task", "task")},
    **{name: ("qwq.envs", name) for name in ("Environment", "environment", "tool")},
    **{name: (f"qwq.{name}", "") for name in ("reward", "tasks", "train", "verify")},
    "QwqError": ("qwq.errors", "QwqError"),
    "Recipe": ("qwq.config", "Recipe"),
    "SamplingParams": ("qwq.engine.sampler", "SamplingParams"),
    "Sandbox": ("qwq.sandbox", "Sandbox"),
    "Stage": ("qwq.pipeline.stage", "Stage"),
    "StagePlan": ("qwq.pipeline.plan.counts", "StagePlan"),
    "stage": ("qwq.config", "register_stage"),
    "loss": ("qwq.train.losses", "register_loss"),
}

__all__ = [
    "LLM", "ChatAnswer", "ChatPiece", "ChatStream", "Environment", "Message", "Outcome", "PieceKind", "Problem",
    "Protocol", "QwqError", "Recipe", "Response", "SamplingParams", "Sandbox", "Stage", "StagePlan", "StopReason",
    "Task", "TextCompletion", "ToolCall", "Verdict", "__version__", "environment", "evaluate", "load", "loss", "reward",
    "stage", "task", "tasks", "tool", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _PLACES:
        module, attribute = _PLACES[name]
        value = import_module(module)
        value = getattr(value, attribute) if attribute else value
    else:
        raise AttributeError(f"module 'qwq' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed package's version; in a source tree that is not installed, the one that
    pyproject.toml states.
    """
    from importlib import metadata

    try:
        return metadata.version("qwq")
    except metadata.PackageNotFoundError:
        pass
    import tomllib
    from pathlib import Path

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return (
        str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
        if project.is_file()
        else "0+unknown"
    )
