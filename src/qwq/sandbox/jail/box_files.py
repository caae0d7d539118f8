"""Files of the working folder: put there before a run, read from it afterwards."""

from __future__ import annotations

import base64
import os

MAX_FETCHED = 20 << 20
MAX_LISTED = 4096
MAX_DEPTH = 16


def write_files(files: dict[str, str], here: str) -> None:
    """Put the caller's files (name to base64) below the folder `here`; programs among them can be
    started.
    """
    for name, data in files.items():
        path = os.path.realpath(os.path.join(here, name))
        if not path.startswith(here + "/"):
            raise ValueError(f"a file outside the working folder: {name!r}")
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700)
        with open(fd, "wb") as file:
            file.write(base64.b64decode(data))


def read_files(names: list[str], here: str) -> dict[str, str]:
    """Those of the asked files that are below the folder `here`, as far as the result channel holds
    them.
    """
    found = {}
    left = MAX_FETCHED
    for name in names:
        whole = os.path.join(here, name)
        if "\0" in name or not os.path.realpath(whole).startswith(here + "/"):
            continue
        try:
            with open(whole, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                data = file.read(left + 1) or b""  # None: a pipe without data
        except OSError:
            continue
        left -= len(data)
        if left < 0:
            break
        found[name] = base64.b64encode(data).decode()
    return found


def list_files(here: str) -> dict[str, int]:
    """Sizes of the files below the folder `here`, by name; links are left out, and so is what lies
    deeper than MAX_DEPTH or comes after the first MAX_LISTED.
    """
    sizes: dict[str, int] = {}
    for folder, folders, names in os.walk(here):
        depth = folder.count("/") - here.count("/")
        folders[:] = sorted(folders) if depth < MAX_DEPTH else []
        for name in sorted(names):
            path = os.path.join(folder, name)
            if len(sizes) >= MAX_LISTED:
                return sizes
            if os.path.isfile(path) and not os.path.islink(path):
                sizes[os.path.relpath(path, here)] = os.stat(path).st_size
    return sizes
