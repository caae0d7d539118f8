"""Files that are whole or absent, locks between processes, and files that only grow.

A file is written beside its place, flushed to the disk and renamed, so a reader or a power cut sees
the old one or the new one, never half. A file that grows line by line may end in a torn line after
a kill: `whole_lines` drops it, `GrowingFile` removes it before it appends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from qwq.errors import CapacityError, ConfigError, DataError

LONGEST_BEGINNING = 220  # bytes of a name that an addition may follow


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes its place at `path` if the block succeeds, and leaves nothing behind
    otherwise.

    The folder is made where absent. A link stays, and its target is written; a device or pipe
    (/dev/null, /dev/stdout) cannot be renamed over and is written straight.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            yield file
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f".{_beginning(path.name)}.{os.getpid()}.partial")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = partial.open("wb")
        except FileNotFoundError as error:  # /proc has folders, and no place for files in them
            raise ConfigError(
                f"{path} cannot be written: {path.parent} takes no new files, name another place"
            ) from error
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(NotADirectoryError):  # where its folder is a file
            partial.unlink(missing_ok=True)
        raise


def _beginning(name: str) -> str:
    """A name, cut where a file system would take no more behind it (255 bytes)."""
    return os.fsdecode(os.fsencode(name)[:LONGEST_BEGINNING])


def move_aside(path: Path) -> Path:
    """Rename a file or folder to PATH.1, or the next number that is free; returns where it is
    now.
    """
    number = next(n for n in itertools.count(1) if not os.path.lexists(f"{path}.{n}"))
    return path.rename(f"{path}.{number}")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all, also after a power cut. Text is written in UTF-8."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` if the block succeeds, and vanishes otherwise; an
    existing target is replaced.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # half a model would only take the room that is missing
        raise
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old)
    else:
        partial.rename(target)


def hold(path: Path, busy: str, *, mode: int = 0o666) -> int:
    """Take the lock file `path` for this process; returns its descriptor: closing it lets go, as
    does its end.

    ConfigError with the text `busy` where another process holds it. OSError where the file cannot
    be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(busy) from None
    return descriptor


@contextlib.contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold `folder` (made where absent) during the block; ConfigError(`busy`) where another process
    does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = hold(folder / ".lock", busy)
    try:
        yield
    finally:
        os.close(descriptor)


class GrowingFile:
    """A file that one process appends whole lines to; made where absent, with its folder.

    What a kill left of a last line is cut off when the file is opened, and what a full disk took of
    a line when the append fails, so a reader never sees half a line between two others. `durable`
    flushes each line to the disk before `append` returns (a power cut takes nothing); without it
    the system does so in its own time (a kill takes nothing). ConfigError with the text `busy`
    where another process has the file open; `at` is the option that names the place. Not for two
    threads at once.
    """

    def __init__(self, path: Path, busy: str, *, durable: bool = False, at: str = "--out") -> None:
        self.path, self._durable, self._at = path, durable, at
        with writing_to(path.parent, at=at):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = hold(path, busy)
        self._size = _whole_size(self._descriptor)
        os.truncate(self._descriptor, self._size)

    def append(self, line: bytes, *, durable: bool = False) -> None:
        """Add `line`, which ends in a line feed; `durable` for this line alone.

        CapacityError where the disk is full; the file is as before then.
        """
        try:
            done = os.pwrite(self._descriptor, line, self._size)
            while done < len(line):
                done += os.pwrite(self._descriptor, memoryview(line)[done:], self._size + done)
            if self._durable or durable:
                os.fsync(self._descriptor)
        except OSError as error:
            with writing_to(self.path.parent, at=self._at):
                os.truncate(self._descriptor, self._size)
                error.filename = error.filename or str(self.path)
                raise
        self._size += len(line)

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def whole_lines(path: Path) -> list[bytes]:
    """The complete lines of a growing file, without their line feeds; none where there is no
    file.
    """
    if not path.is_file():
        return []
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]


def _whole_size(descriptor: int) -> int:
    """The size of an open file up to its last line feed."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        place = os.pread(descriptor, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


# What a disk or its owner refuses, as against a fault of ours.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_NOT_OURS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST}


@contextlib.contextmanager
def writing_to(folder: Path, *, at: str = "--runs") -> Iterator[None]:
    """One line for what the disk refuses: CapacityError where it is full, ConfigError where nothing
    may be written at `folder`.
    """
    try:
        yield
    except SafetensorError as error:  # safetensors wraps what the system says into its own text
        raise CapacityError(
            f"{folder} cannot be written ({error}): free some space and run the same command again; what is "
            "finished stays"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _REFUSALS:
            named = error.filename or folder
            raise CapacityError(
                f"{named} cannot be written ({reason}): free some space and run the same command again; what is "
                "finished stays"
            ) from error
        if error.errno in _NOT_OURS and _is_below(error.filename, folder):
            raise ConfigError(
                f"{folder} cannot be written ({reason}: {error.filename}): give another folder with {at}"
            ) from error
        raise


def need_room(path: Path, num_bytes: int) -> None:
    """CapacityError unless `num_bytes` more fit on the disk of `path`, whose folder is there."""
    free = shutil.disk_usage(path.parent).free
    if num_bytes > free:
        unit, name = (2**30, "GiB") if num_bytes >= 2**30 else (2**20, "MiB")
        raise CapacityError(
            f"{path} needs {num_bytes / unit:.2f} {name}, {free / unit:.2f} {name} are free there: free some space, "
            "or name another place"
        )


def _is_below(path: str | None, folder: Path) -> bool:
    """Whether `path` is in `folder`, beside it (as its forerunner is), or one of the folders it
    stands in.
    """
    return path is not None and (
        Path(path).is_relative_to(folder) or folder.is_relative_to(path) or Path(path).parent == folder.parent
    )


# -- what a run has written ------------------------------------------------------------------------


def read_record(path: Path) -> Any:
    """A small JSON file that a run has written, or its recipe.toml as plain tables.

    DataError where it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is damaged ({reason}): put it back from a copy, or start over with --fresh, which keeps the "
            "old run beside the new one"
        ) from None
