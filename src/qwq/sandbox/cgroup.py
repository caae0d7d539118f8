"""A memory and pids group per slot, where this machine lets us write them (cgroup v1, as root).

rlimits bound one process; only a group bounds a tree of them. Version 2 needs a delegated subtree, which is not
looked for yet: `available` says so in words.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

CONTROLLERS = ("memory", "pids")
_NAME = re.compile(r"qwq-(\d+)-")


def _folders() -> tuple[list[Path], str]:
    """The folders to make groups in, one a controller, and why there are none."""
    folders = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        return [], f"/proc/self/cgroup: {error.strerror}"
    paths = {name: path for line in lines for name in line.split(":")[1].split(",") for path in [line.split(":", 2)[2]]}
    for controller in CONTROLLERS:
        if controller not in paths:
            return [], f"no cgroup v1 {controller} controller"
        folder = Path("/sys/fs/cgroup") / controller / paths[controller].lstrip("/")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return [], f"{folder} is not writable by this user"
        folders.append(folder)
    return folders, ""


def available() -> tuple[bool, str]:
    """Whether slots get a group of their own, and the reason in words."""
    folders, why = _folders()
    return (True, "cgroup v1 memory and pids group per slot") if folders else (False, why)


class Group:
    """The group of one slot."""

    def __init__(self, folders: list[Path]):
        self._folders = folders
        self._limits: tuple[int, int] | None = None

    def set_limits(self, memory_bytes: int, processes: int) -> None:
        if self._limits == (memory_bytes, processes):
            return
        (self._folders[0] / "memory.limit_in_bytes").write_text(str(memory_bytes))
        (self._folders[1] / "pids.max").write_text(str(processes))
        self._limits = (memory_bytes, processes)

    def remove(self) -> None:
        """Remove the emptied folders; the kernel may need a moment after the last process has ended."""
        for folder in self._folders:
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def _remove_stale(folder: Path) -> None:
    """Groups left behind by a parent that was killed."""
    for entry in folder.iterdir():
        match = _NAME.match(entry.name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            with contextlib.suppress(OSError):
                entry.rmdir()


def create(name: str, pid: int) -> Group | None:
    """Move `pid` into a group of its own; None where that is not possible."""
    folders, _ = _folders()
    made: list[Path] = []
    for folder in folders:
        _remove_stale(folder)
        own = folder / name
        try:
            own.mkdir(exist_ok=True)
            (own / "cgroup.procs").write_text(str(pid))
        except OSError:
            Group(made).remove()
            return None
        made.append(own)
    return Group(made) if made else None
