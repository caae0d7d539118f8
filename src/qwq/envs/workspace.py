"""The workspace of an agent's run: one session in the jail, which all jailed tools share.

    desk = Workspace(files={"sales.csv": b"month,sum\\n1,20\\n"})
    desk.run_cell("open('sales.csv').read()").value
    desk.snapshot(), desk.diff()

The files are copies: nothing of the host is mounted, and nothing is written to it. Every jailed
call is a numbered cell of the session, so a process that was killed is rebuilt by running the
earlier cells again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from qwq.errors import UsageError
from qwq.sandbox import CellResult, Level, Sandbox, Session, SessionLimits, SessionState, default_sandbox, packages
from qwq.sandbox.jail.box_files import MAX_DEPTH, MAX_FETCHED
from qwq.sandbox.session_slots import PACKAGES

OUTPUTS = "outputs/"  # what tools put there themselves: long results in whole
MAX_NAME = 1024
# Of a folder that is copied in: what programs make again, or what holds a history.
LEFT_OUT = {".git", ".hg", "__pycache__", ".venv", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
# Packages that pandas reads some files with: imported in a session whose files need them.
READERS = {"pyarrow": (".parquet", ".feather", ".orc"), "openpyxl": (".xlsx",)}


def readers_of(names: Iterable[str]) -> dict[str, str]:
    """Packages that pandas needs for files of these names, each with the first such file."""
    found: dict[str, str] = {}
    for name in names:
        for package, ends in READERS.items():
            if name.lower().endswith(ends):
                found.setdefault(package, name)
    return found


def missing_readers(names: Iterable[str]) -> list[str]:
    """A line for each package that Python in the jail lacks to read files of these names."""
    needed = readers_of(names)
    there = {package.name for package in packages.of_host(tuple(needed))} | set(packages.versions())
    return [
        f"{name}: pandas reads it with {package}, which is not installed here: `pip install {package}`"
        for package, name in needed.items()
        if package not in there
    ]


@dataclass(frozen=True, slots=True)
class FileState:
    """Size in bytes and sha256 (hexadecimal) of a file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> FileState:
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class WorkspaceDiff:
    """What became of the files that were put in; `outputs/` is left out. `changed` has the state
    before and after.
    """

    added: Mapping[str, FileState]
    changed: Mapping[str, tuple[FileState, FileState]]
    removed: Mapping[str, FileState]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


class Workspace:
    """One session of `sandbox` (default: the process's own), started with the first cell.

    `files` is a mapping of names to contents, or a folder of the host, of which regular files are
    copied. `box_mb` bounds the files together, `limits` the cells. `programs` shows bash and the
    system's programs in the jail, which needs the level namespaces; `packages` of the host's Python
    are there beside the usual ones and those that read `files`, where they are installed. Raises
    UsageError for a name that leads out of the workspace, and for more files than it holds.
    """

    def __init__(
        self,
        sandbox: Sandbox | None = None,
        *,
        files: Mapping[str, bytes] | str | os.PathLike[str] | None = None,
        box_mb: int | None = None,
        limits: SessionLimits | None = None,
        programs: bool = False,
        packages: Sequence[str] = (),
    ):
        limits = limits or SessionLimits()
        self.limits = replace(limits, box_mb=box_mb) if box_mb is not None else limits
        self.programs = programs
        self._sandbox = sandbox
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._turn: asyncio.Lock | None = None
        self._seeds: dict[str, bytes] = {}
        self._waiting: dict[str, bytes] = {}  # files that go in before the next cell
        if files is not None:
            self.add(files if isinstance(files, Mapping) else read_folder(files, self.limits))
        self.packages = (*PACKAGES, *packages, *readers_of(self._seeds))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def sandbox(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = default_sandbox()
        return self._sandbox

    @property
    def session(self) -> Session:
        """The session; its process starts with the first cell."""
        if self._session is None:
            self._session = self.sandbox.session(self.limits, packages=self.packages, programs=self.programs)
        return self._session

    @property
    def level(self) -> Level:
        return self.sandbox.level

    @property
    def has_files(self) -> bool:
        """Whether somebody's files were put in."""
        return any(not name.startswith(OUTPUTS) for name in self._seeds)

    @property
    def is_used(self) -> bool:
        """Whether a session was started; without one the files are as they were put in."""
        return self._session is not None

    def add(self, files: Mapping[str, bytes]) -> None:
        """Put files in before the next cell; `diff` counts from them."""
        for name in files:
            if not is_safe(name):
                raise UsageError(
                    f"{name!r} is no name of a workspace's file: give a relative path of signs that can be printed, "
                    "without .. and backslashes"
                )
        with self._lock:
            seeds = {**self._seeds, **files}
            check_size({name: len(data) for name, data in seeds.items()}, self.limits)
            self._seeds = seeds
            self._waiting.update(files)

    def run_cell(self, code: str, timeout_s: float | None = None) -> CellResult:
        """Run one cell. Raises as `Session.run` does."""
        self._put_waiting()
        result = self.session.run(code, timeout_s=timeout_s)
        self._note(result)
        return result

    async def run_cell_async(self, code: str, timeout_s: float | None = None) -> CellResult:
        """`run_cell` in a thread, after those that were asked for before, so that the numbers of
        cells follow the order of the calls. Cancelling the task interrupts the cell.
        """
        self._turn = self._turn or asyncio.Lock()
        async with self._turn:
            if self._waiting:
                await asyncio.to_thread(self._put_waiting)
            result = await self.session.run_async(code, timeout_s=timeout_s)
            self._note(result)
        return result

    def _put_waiting(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            result = self.session.send(None, self._waiting, (), None)
            if result.state is SessionState.LOST:
                result = self.session.send(None, self._seeds, (), None)
            if result.error is not None:
                raise UsageError(f"the files cannot be put into the workspace: {result.error[1]}")
            self._waiting = {}

    def _note(self, result: CellResult) -> None:
        if result.state is SessionState.LOST:  # the process is empty: the files go in again
            with self._lock:
                self._waiting = dict(self._seeds)

    def read(self, name: str) -> bytes:
        """A file of the workspace. UsageError where there is none, or it is larger than 20 MB."""
        self._put_waiting()
        return self.session.get(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file now. UsageError where it cannot be written."""
        self._put_waiting()
        self.session.put(name, data)

    def list(self) -> dict[str, int]:
        """Names and sizes of the files."""
        self._put_waiting()
        return {name: size for name, size in self.session.files().items() if is_safe(name)}

    def snapshot(self) -> dict[str, bytes]:
        """All files. Names that would lead out of a folder are left out, and files over 20 MB."""
        files: dict[str, bytes] = {}
        for names in _in_portions(self.list(), MAX_FETCHED):
            fetched = self.session.send(None, {}, names, None).files
            files |= {name: fetched[name] for name in names if name in fetched}
        return files

    def diff(self) -> WorkspaceDiff:
        """What the run added, changed and removed."""
        before = {name: FileState.of(data) for name, data in self._seeds.items() if not name.startswith(OUTPUTS)}
        after = {name: FileState.of(data) for name, data in self.snapshot().items() if not name.startswith(OUTPUTS)}
        return WorkspaceDiff(
            added={name: state for name, state in after.items() if name not in before},
            changed={n: (before[n], state) for n, state in after.items() if n in before and before[n] != state},
            removed={name: state for name, state in before.items() if name not in after},
        )

    def restart(self, *, replay: bool = True) -> Sequence[int]:
        """A new process in which the cells run again, or, without `replay`, one with only the files
        that were put in. Returns the numbers of cells that gave something else than before.
        """
        self._put_waiting()
        differs = self.session.restart(replay=replay)
        if not replay:
            with self._lock:
                self._waiting = dict(self._seeds)
        return differs

    def interrupt(self) -> None:
        """Interrupt the cell that runs, from another thread; state is kept if it obeys."""
        if self._session is not None:
            self._session.interrupt()

    def close(self) -> None:
        """End the session; nothing of it is left. Safe to call twice."""
        if self._session is not None:
            self._session.close()


def is_safe(name: str) -> bool:
    """Whether a file's name stays below the folder that it is joined to, is one line, and lies no
    deeper than the jail lists files.
    """
    parts = name.split("/")
    return (
        0 < len(name) <= MAX_NAME
        and len(parts) <= MAX_DEPTH
        and name.isprintable()
        and "\\" not in name
        and not any(part in ("", ".", "..") for part in parts)
    )


def check_size(sizes: Mapping[str, int], limits: SessionLimits) -> None:
    """UsageError for more files or bytes than a workspace of these limits holds."""
    num_bytes = sum(sizes.values())
    if len(sizes) > limits.box_files // 2:
        raise UsageError(f"{len(sizes):,} files: a workspace takes up to {limits.box_files // 2:,}: leave some out")
    if num_bytes > limits.box_mb << 20:
        raise UsageError(
            f"the files take {num_bytes / (1 << 20):.1f} MB, the workspace holds {limits.box_mb} MB: "
            "leave some out, or raise it (box_mb, --box-mb)"
        )


def read_files(paths: Mapping[str, str]) -> dict[str, bytes]:
    """Contents by name of files of the host. UsageError for what is no regular file."""
    return {name: _read_regular(Path(path)) for name, path in paths.items()}


def read_folder(folder: str | os.PathLike[str], limits: SessionLimits) -> dict[str, bytes]:
    """The regular files below a folder, by relative name. Links, devices and pipes are left out,
    and so are the folders of LEFT_OUT. UsageError where there is no folder, or it holds too much.
    """
    top = Path(folder)
    if not top.is_dir():
        raise UsageError(f"no folder {top}: give the folder to copy into the workspace")
    paths: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    for path in _regular_files(top):
        name = path.relative_to(top).as_posix()
        if is_safe(name):
            paths[name], sizes[name] = path, path.lstat().st_size
            check_size(sizes, limits)
    return {name: _read_regular(path) for name, path in paths.items()}


def _regular_files(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(names):
            path = Path(folder) / name
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def _read_regular(path: Path) -> bytes:
    """What a path holds that is a regular file at the moment of opening: neither a link that came
    in between, nor a pipe that blocks.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{path} is no regular file: give files")
            return file.read()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _in_portions(sizes: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Names in groups whose files take up to `limit` bytes together."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group
