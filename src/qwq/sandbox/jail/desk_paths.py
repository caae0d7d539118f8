"""Paths of a session's workspace, as its tools take them: below it, and of regular files.

The checks keep a model from losing its way; the jail is what holds it in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

MAX_FILE = 20 << 20
here = "/box"  # the workspace; set by the loop of the session


class ToolFault(Exception):
    """The call was wrong; the message is for the model."""


def inside(path: str) -> str:
    """The place of a workspace path, links followed. ToolFault for one that leads out."""
    if "\0" in path or not path:
        raise ToolFault(f"{path!r} is no path: give one relative to the workspace")
    whole = os.path.realpath(os.path.join(here, path))
    if whole != here and not whole.startswith(here + "/"):
        raise ToolFault(f"{path} leads out of the workspace: give a path below it")
    return whole


def shown(path: str) -> str:
    """A workspace path as one line."""
    name = os.path.relpath(path, here)
    return name if name.isprintable() else ascii(name)


def regular(path: str) -> str:
    """The place of a regular file; ToolFault for anything else: a pipe would hold the call up."""
    whole = inside(path)
    try:
        mode = os.lstat(whole).st_mode
    except OSError:
        raise ToolFault(f"no file {path}: the workspace has {some_names()}") from None
    if stat.S_ISDIR(mode):
        raise ToolFault(f"{shown(whole)} is a folder: list it")
    if not stat.S_ISREG(mode):
        raise ToolFault(f"{shown(whole)} is {kind(mode)}, not a file")
    return whole


def read_bytes(path: str) -> bytes:
    """A regular file of up to MAX_FILE bytes; ToolFault for anything else."""
    whole = regular(path)
    try:
        with open(whole, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE:
                raise ToolFault(f"{shown(whole)} has {size:,} bytes: read parts of it with python")
            return file.read()
    except OSError as error:
        raise ToolFault(f"{path} cannot be read: {error.strerror}") from None


def read_text(path: str) -> str:
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1") if b"\0" not in data else ""
        if not text:
            raise ToolFault(f"{path} is not text: {len(data):,} bytes") from None
    return text


def kind(mode: int) -> str:
    """What a file is, in words."""
    for test, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISREG, "a file"),
    ):
        if test(mode):
            return name
    return "a device"


def some_names() -> str:
    """The first files of the workspace, for an error's text."""
    names = [shown(path) for path, _ in entries(here)][:20]
    return ", ".join(names) or "no files"


def entries(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """What lies below a folder but other folders, in order of names; links are not followed."""
    for folder, folders, names in os.walk(top):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*names, *links]):
            path = os.path.join(folder, name)
            try:
                yield path, os.lstat(path)
            except OSError:
                continue
