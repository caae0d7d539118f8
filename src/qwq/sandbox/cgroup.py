"""A memory and pids group per slot, where this machine lets us write them.

rlimits bound one process; only a group bounds a tree of them. Version 1 needs root. Version 2 needs
a subtree in which memory and pids are handed down: the root group, a parent that already hands them
down, or a group of our own that was delegated to us (`systemd-run --user --scope -p Delegate=yes
qwq sandbox serve`). A version 2 group that hands controllers down may hold no process itself (the
kernel's cgroup-v2.rst, "no internal process constraint"), so in a delegated group our own process
moves into a leaf first.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

CONTROLLERS = ("memory", "pids")
LEAF = "qwq-main"
ROOT = Path("/sys/fs/cgroup")
SELF = Path("/proc/self/cgroup")
_NAME = re.compile(r"qwq-(\d+)-")


def _folders() -> tuple[list[Path], str]:
    """The folders to make groups in (version 1: one a controller; version 2: one), and why there
    are none.
    """
    try:
        lines = SELF.read_text().splitlines()
    except OSError as error:
        return [], f"{SELF}: {error.strerror}"
    paths = {name: path for line in lines for _, names, path in [line.split(":", 2)] for name in names.split(",")}
    if not any(controller in paths for controller in CONTROLLERS):
        return _version2(paths.get(""))
    folders = []
    for controller in CONTROLLERS:
        if controller not in paths:
            return [], f"no cgroup v1 {controller} controller"
        folder = ROOT / controller / paths[controller].lstrip("/")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            return [], f"{folder} is not writable by this user"
        folders.append(folder)
    return folders, ""


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _version2(path: str | None) -> tuple[list[Path], str]:
    if path is None or not (ROOT / "cgroup.controllers").is_file():
        return [], "no cgroup memory controller, version 1 or 2"
    own = ROOT / path.lstrip("/")
    if own.name == LEAF:  # where an earlier call has put us
        own = own.parent
    for folder in (own, own.parent):
        handed_down = folder != ROOT.parent and set(CONTROLLERS) <= set(_words(folder / "cgroup.subtree_control"))
        if handed_down and os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
            return [folder], ""
    missing = [c for c in CONTROLLERS if c not in _words(own / "cgroup.controllers")]
    if missing:
        return [], f"cgroup v2: {own} is not given the {' and '.join(missing)} controller"
    if not os.access(own, os.W_OK):
        return (
            [],
            f"cgroup v2: {own} is not writable by this user: start with `systemd-run --user --scope -p Delegate=yes`",
        )
    others = [pid for pid in _words(own / "cgroup.procs") if pid != str(os.getpid())]
    if others and own != ROOT:
        return [], f"cgroup v2: {own} holds {len(others)} other processes, so it cannot hand controllers down"
    try:
        if own != ROOT:
            (own / LEAF).mkdir(exist_ok=True)
            (own / LEAF / "cgroup.procs").write_text(str(os.getpid()))
        (own / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in CONTROLLERS))
    except OSError as error:
        return [], f"cgroup v2: {own} does not hand controllers down ({error.strerror})"
    return [own], ""


def available() -> tuple[bool, str]:
    """Whether slots get a group of their own, and the reason in words."""
    folders, why = _folders()
    version = 1 if len(folders) == len(CONTROLLERS) else 2
    return (True, f"cgroup v{version} memory and pids group per slot") if folders else (False, why)


class SlotCgroup:
    """The group of one slot."""

    def __init__(self, folders: list[Path]):
        self._folders = folders
        self._limits: tuple[int, int] | None = None
        self._events = -1
        if folders:
            name = "memory.oom_control" if len(folders) == len(CONTROLLERS) else "memory.events"
            with contextlib.suppress(OSError):
                self._events = os.open(folders[0] / name, os.O_RDONLY | os.O_CLOEXEC)
        self._killed = self._oom_kills()

    def _oom_kills(self) -> int:
        """How many processes of the group the kernel has killed for memory; 0 where it does not
        tell.
        """
        try:
            words = os.pread(self._events, 4096, 0).split()
        except OSError:
            return 0
        return int(words[words.index(b"oom_kill") + 1]) if b"oom_kill" in words else 0

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of the group for memory since the last call."""
        before, self._killed = self._killed, self._oom_kills()
        return self._killed > before

    def set_limits(self, memory_bytes: int, processes: int) -> None:
        if self._limits == (memory_bytes, processes):
            return
        if len(self._folders) == len(CONTROLLERS):
            (self._folders[0] / "memory.limit_in_bytes").write_text(str(memory_bytes))
        else:
            (self._folders[0] / "memory.max").write_text(str(memory_bytes))
            with contextlib.suppress(OSError):  # absent where the kernel does not account for swap
                (self._folders[0] / "memory.swap.max").write_text("0")
        (self._folders[-1] / "pids.max").write_text(str(processes))
        self._limits = (memory_bytes, processes)

    def remove(self) -> None:
        """Remove the emptied folders; the kernel may need a moment after the last process has
        ended.
        """
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
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


def create(name: str, pid: int) -> SlotCgroup | None:
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
            SlotCgroup(made).remove()
            return None
        made.append(own)
    return SlotCgroup(made) if made else None
