"""Landlock: which files a process may touch, enforced by the kernel without any namespace (Linux
5.13 and later).

Covers opening, creating and removing files, TCP (ABI 4), signals and abstract unix sockets to the
outside (ABI 6). It does not cover stat, chmod, chown or UDP; the seccomp filter of the fallback
levels refuses what of these it can.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import struct

from . import kernel

MIN_ABI = 4  # below it TCP is not covered
_READ = 0b1101  # execute, read file, read folder
_READ_FOLDER = 0b1000
_WRITE_DEVICE = 0b0110
_ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_FILE_RIGHTS = 0b0111 | 1 << 14 | 1 << 15
_TCP = 0b11
_SCOPES = 0b11
_RULE_PATH_BENEATH = 1


@functools.cache
def abi() -> int:
    """The kernel's Landlock version; raises OSError where there is none."""
    return kernel.syscall("landlock_create_ruleset", ctypes.c_void_p(None), 0, 1)


def _without(folder: str, hidden: list[str]) -> list[tuple[str, int]]:
    """Rules that allow to read all of `folder` but the hidden folders below it, whose names alone
    can be listed.
    """
    below = [path for path in hidden if path.startswith(folder + "/")]
    if folder in hidden:
        return []
    if not below:
        return [(folder, _READ)]
    entries = [entry.path for entry in os.scandir(folder) if not entry.is_symlink()]
    return [(folder, _READ_FOLDER), *(rule for path in entries for rule in _without(path, below))]


def create(read_only: list[str], hidden: list[str], devices: list[str], scratch: str) -> int:
    """A ruleset descriptor: `read_only` may be read but for what is `hidden` below it, `devices`
    also written, below `scratch` everything is allowed.
    """
    version = abi()
    if version < MIN_ABI:
        raise OSError(0, f"Landlock ABI {version} does not cover TCP, needed is {MIN_ABI}")
    every = _ALL_BY_ABI[min(version, 5)]
    attributes = struct.pack("QQQ", every, _TCP, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16
    ruleset = kernel.syscall("landlock_create_ruleset", ctypes.create_string_buffer(attributes), size, 0)
    rules = [rule for path in read_only for rule in _without(path, hidden)]
    rules += [(path, _WRITE_DEVICE) for path in devices] + [(scratch, every)]
    for path, rights in rules:
        _allow(ruleset, path, rights & every)
    return ruleset


def can_hide() -> bool:
    """Whether `AllBut` works here: ABI 1 would forbid renames between folders."""
    try:
        return abi() > 1
    except OSError:
        return False


class AllBut:
    """Rulesets that open nothing below the root but what lies below its `entries`, which are left
    as they are.

    Links of /proc/self/fd still lead to pipes and memory files, which no rule covers. A rule on a
    folder that something is mounted over later says nothing of the mount, so `ruleset` is called
    when all mounts are there, and opens the folders `mounted_later` then; all others are opened
    once, here.
    """

    def __init__(self, entries: list[str], mounted_later: list[str]):
        self._every = _ALL_BY_ABI[min(abi(), 5)]
        self._handled = ctypes.create_string_buffer(struct.pack("Q", self._every))
        self._later = mounted_later
        opened = [_open(f"/{name}") for name in entries if f"/{name}" not in mounted_later]
        self._rules = [_rule(fd, self._every) for fd in opened if fd >= 0]

    def ruleset(self) -> int:
        """The descriptor of a new ruleset."""
        ruleset = kernel.syscall("landlock_create_ruleset", self._handled, 8, 0)
        for rule in self._rules:
            kernel.syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
        for path in self._later:
            _allow(ruleset, path, self._every)
        return ruleset


def _open(path: str) -> int:
    """A descriptor, or -1 where nothing is there, or nothing that we may reach."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return -1


def _rule(fd: int, rights: int) -> ctypes.Array[ctypes.c_char]:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= _FILE_RIGHTS
    return ctypes.create_string_buffer(struct.pack("=Qi", rights, fd))


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = _open(path)
    if fd >= 0:
        kernel.syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, _rule(fd, rights), 0)
        os.close(fd)


def enforce(ruleset: int) -> None:
    """Bind the calling process; no_new_privs must be set."""
    kernel.syscall("landlock_restrict_self", ruleset, 0)
