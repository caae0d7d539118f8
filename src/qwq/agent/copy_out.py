"""What a run changed in its workspace, shown and copied out to a folder by a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.agent.events import EventKind, read_run, sha256
from qwq.agent.folder import AgentFolder, resume_command
from qwq.common.files import write_atomic
from qwq.envs.workspace import is_safe
from qwq.errors import DataError, UsageError
from qwq.report.wording import visible


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file: its bytes before the run and after it, None where it was not there."""

    name: str
    before: bytes | None
    after: bytes | None


def changes_of(out: Path) -> list[FileChange]:
    """What the run in `out` did to its files, by name. UsageError for a run that has not ended,
    DataError where a file is not what the log says.
    """
    events, folder = read_run(out), AgentFolder(out)
    if not events:
        raise UsageError(f"{out}: the run was stopped before its first event: there is nothing to copy")
    if events[-1]["event"] != EventKind.FINISH:
        raise UsageError(f"{out}: the run has not ended: `{resume_command(out)}` continues it")
    files: dict[str, Any] = events[-1]["files"] or {"added": {}, "changed": {}, "removed": {}}
    changes = [FileChange(n, None, _kept(folder.workspace, n, state)) for n, state in files["added"].items()]
    changes += [
        FileChange(n, _kept(folder.inputs, n, was), _kept(folder.workspace, n, now))
        for n, (was, now) in files["changed"].items()
    ]
    changes += [FileChange(n, _kept(folder.inputs, n, state), None) for n, state in files["removed"].items()]
    return sorted(changes, key=lambda change: change.name)


def _kept(top: Path, name: str, state: dict[str, Any]) -> bytes:
    path = top / name
    data = path.read_bytes() if is_safe(name) and path.is_file() and not path.is_symlink() else None
    if data is None or sha256(data) != state["sha256"]:
        raise DataError(f"{path} is not the file of the run: put it back from a copy")
    return data


def diff_lines(changes: list[FileChange]) -> Iterator[str]:
    """The changes as a person reads them: what would steer a terminal, and could hide a change
    there, is shown.
    """
    yield from map(visible, _diff_lines(changes))


def _diff_lines(changes: list[FileChange]) -> Iterator[str]:
    for change in changes:
        before, after = _lines(change.before), _lines(change.after)
        if before is None or after is None:
            sizes = [0 if data is None else len(data) for data in (change.before, change.after)]
            yield f"binary {change.name}: {sizes[0]:,} -> {sizes[1]:,} bytes"
            continue
        old, new = ("/dev/null" if data is None else change.name for data in (change.before, change.after))
        yield from difflib.unified_diff(before, after, old, new, lineterm="")


def _lines(data: bytes | None) -> list[str] | None:
    try:
        return [] if data is None else data.decode().splitlines()
    except UnicodeDecodeError:
        return None


def copy_out(changes: list[FileChange], target: Path) -> None:
    """Carry the changes out below `target`. UsageError, and nothing written, where a file there is
    not what the run began with, or lies behind a link.
    """
    for change in changes:
        path = target / change.name
        _check_inside(path, target)
        now = path.read_bytes() if path.is_file() else None
        if now not in (change.before, change.after):
            raise UsageError(
                f"{path} is not what the run began with: bring the two together by hand, or apply to another folder"
            )
    for change in changes:
        path = target / change.name
        if change.after is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, change.after)


def _check_inside(path: Path, target: Path) -> None:
    # A file where a folder has to be would end the copying in the middle.
    between = [folder for folder in path.parents if folder == target or folder.is_relative_to(target)]
    for folder in between:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is no folder: remove it, or apply to another folder")
    inside = path.parent.resolve().is_relative_to(target.resolve())
    if not inside or path.is_symlink() or path.is_dir():
        raise UsageError(f"{path} is a link or a folder: remove it, or apply to another folder")
