"""The tools read, write, edit, list and grep, inside a session's jail. Each returns what the model
reads, or raises ToolFault.
"""

from __future__ import annotations

import os
import re
import stat

from . import desk_paths

MAX_MATCHES = 200
MAX_LINE = 500
MAX_ENTRIES = 500


def read(path: str, start: int, lines: int) -> str:
    """Lines `start` to `start + lines - 1` of a text, as they are."""
    text = desk_paths.read_text(path)
    every = text.split("\n")
    if every[-1] == "":
        every.pop()
    if not every:
        return f"[{path} is empty]"
    if start > len(every):
        raise desk_paths.ToolFault(f"{path} has {len(every)} lines, from is {start}")
    chosen = every[start - 1 : start - 1 + lines]
    end = start + len(chosen) - 1
    note = "" if len(chosen) == len(every) else f"\n[lines {start} to {end} of {len(every)}]"
    return "\n".join(chosen) + note


def write(path: str, content: str) -> str:
    """Write a text in the place of what is there; folders are made."""
    whole = desk_paths.inside(path)
    try:
        existed = os.path.lexists(whole)
        if existed and not stat.S_ISREG(os.lstat(whole).st_mode):
            raise desk_paths.ToolFault(f"{path} is {desk_paths.kind(os.lstat(whole).st_mode)}: give the path of a file")
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        _replace(whole, content)
    except OSError as error:
        raise desk_paths.ToolFault(f"{path} cannot be written: {error.strerror}") from None
    verb = "replaced" if existed else "wrote"
    return f"{verb} {desk_paths.shown(whole)}: {content.count(chr(10)) + (content[-1:] not in ('', chr(10)))} lines"


def _replace(whole: str, content: str) -> None:
    """Whole or not at all: a full workspace leaves the old file as it was."""
    mode = stat.S_IMODE(os.stat(whole).st_mode) if os.path.exists(whole) else 0o644
    beside = f"{whole}.being-written"
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(content)
        os.replace(beside, whole)
    except BaseException:
        if os.path.lexists(beside):
            os.unlink(beside)
        raise


def edit(path: str, old: str, new: str) -> str:
    """Replace a text that is in the file exactly once."""
    if not old:
        raise desk_paths.ToolFault("old is empty: give the text to replace, or use write")
    data = desk_paths.read_bytes(path)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise desk_paths.ToolFault(f"{path} is not UTF-8 text: {len(data):,} bytes") from None
    places = [match.start() for match in re.finditer(re.escape(old), text)]
    if not places:
        raise desk_paths.ToolFault(f"old is not in {path}{_near(old, text)}: read it, and give the text exactly")
    numbers = [text.count("\n", 0, place) + 1 for place in places]
    if len(places) > 1:
        where = ", ".join(map(str, numbers[:10]))
        raise desk_paths.ToolFault(
            f"old is in {path} {len(places)} times, at lines {where}: give more of the text around it"
        )
    try:
        _replace(desk_paths.inside(path), text.replace(old, new))
    except OSError as error:
        raise desk_paths.ToolFault(f"{path} cannot be written: {error.strerror}") from None
    return f"changed {path} at line {numbers[0]}"


def _near(old: str, text: str) -> str:
    """Where the first line of `old` is, blanks aside."""
    first = next((line.strip() for line in old.splitlines() if line.strip()), "")
    numbers = [n for n, line in enumerate(text.splitlines(), 1) if first and line.strip() == first]
    return f", though its first line is like line {numbers[0]}" if numbers else ""


def list_folder(path: str) -> str:
    """All files below a folder with their sizes."""
    top = desk_paths.inside(path)
    if not os.path.isdir(top):
        raise desk_paths.ToolFault(f"no folder {path}: the workspace has {desk_paths.some_names()}")
    rows: list[str] = []
    for place, status in desk_paths.entries(top):
        if len(rows) == MAX_ENTRIES:
            rows.append(f"[the first {MAX_ENTRIES} files; there are more: list a folder]")
            break
        size = f"{status.st_size:,} bytes" if stat.S_ISREG(status.st_mode) else desk_paths.kind(status.st_mode)
        rows.append(f"{desk_paths.shown(place)}  {size}")
    return "\n".join(rows) or "[no files]"


def grep(pattern: str, path: str, ignore_case: bool) -> str:
    """Lines that a regular expression matches, in a file or in all texts below a folder."""
    try:
        expression = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise desk_paths.ToolFault(f"{pattern!r} is no regular expression: {error}") from None
    top = desk_paths.inside(path)
    if os.path.isdir(top):
        places = [place for place, status in desk_paths.entries(top) if stat.S_ISREG(status.st_mode)]
    else:
        places = [desk_paths.regular(path)]
    rows: list[str] = []
    for place in places:
        rows += _matches(expression, place, MAX_MATCHES + 1 - len(rows))
        if len(rows) > MAX_MATCHES:
            rows[MAX_MATCHES:] = [f"[the first {MAX_MATCHES} lines; there are more: a narrower pattern or path]"]
            break
    return "\n".join(rows) or f"[no line matches in {len(places)} files]"


def _matches(expression: re.Pattern[str], place: str, most: int) -> list[str]:
    try:
        text = desk_paths.read_text(os.path.relpath(place, desk_paths.here))
    except desk_paths.ToolFault:
        return []
    rows: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if len(rows) < most and expression.search(line):
            rows.append(f"{desk_paths.shown(place)}:{number}: {line[:MAX_LINE]}")
    return rows
