"""`qwq train --processes N`: the same command in several processes, here or on Ray's hosts.
No torch.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from qwq.cluster.launch import Member, launch, on_this_machine
from qwq.cluster.ray_launch import on_ray
from qwq.common.memory import on_cuda
from qwq.config import Recipe
from qwq.errors import ConfigError


def on_processes(loaded: Recipe, launcher: str) -> bool:
    """Whether a launcher starts the run's processes. ConfigError where Ray is to, and none are
    asked for.
    """
    if loaded.cluster is None and launcher == "ray":
        raise ConfigError("--launcher ray places the processes of [cluster], and there are none: give --processes N")
    return loaded.cluster is not None and (loaded.cluster.processes > 1 or launcher == "ray")


def train_on_processes(loaded: Recipe, launcher: str, command: str, *, fresh: bool, max_minutes: float | None) -> int:
    """`command`, which resumes the run, in the processes of the recipe's [cluster]; returns the
    exit status of the first. `fresh` is of the first start alone, `max_minutes` of all together.
    """
    assert loaded.cluster is not None
    started_s, argv = time.monotonic(), shlex.split(command)[1:]

    def started(num_processes: int, words: Sequence[str]) -> AbstractContextManager[list[Member]]:
        if max_minutes is not None:
            left = max_minutes - (time.monotonic() - started_s) / 60
            words = [*words, "--max-minutes", str(max(left, 0.01) if max_minutes > 0 else max_minutes)]
        if launcher == "ray":
            return on_ray(num_processes, words, gpus=on_cuda(loaded.compute.device))
        return on_this_machine(num_processes, words)

    command += " --launcher ray" if launcher == "ray" else ""
    first, restarts = ["--fresh"] if fresh else [], loaded.cluster.restarts
    return launch(loaded.cluster.processes, argv, command, first=first, restarts=restarts, starter=started)
