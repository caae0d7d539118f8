"""Where a task's files come from: a file, folder or hub data set of the user's, or the place where
they were published.

`--data DIR` takes DIR/TASK as it is; a file that has a published file's name and other content is
used, and a note says so. Without it the published file is downloaded once, and one whose checksum
differs is refused: its scores would not be the benchmark's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwq.common.checksums import sha256_of
from qwq.common.hub_files import HubName
from qwq.common.hub_files import download as download_files
from qwq.common.web_file import fetch_file
from qwq.data.row_files import Row, data_files, read_rows
from qwq.errors import DataError


@dataclass(frozen=True, slots=True)
class Published:
    """A task's published form: a file by URL with its checksum (of what is in it, where it is
    packed), or a data set.

    `known` are checksums of the same problems in other files, such as a copy with other line ends.
    """

    file: str
    url: str = ""
    sha256: str = ""
    known: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()  # data sets of the Hugging Face hub
    hub_files: tuple[str, ...] = ()  # their files; empty: the test split, else all

    @property
    def place(self) -> str:
        return self.url or " and ".join(f"https://huggingface.co/datasets/{h}" for h in self.hub)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwq" / "benchmarks"


@dataclass(slots=True)
class DataFiles:
    """The files of task `task`: those at `place` (a file, a folder, a hub data set), or as
    published if it is None.

    `read` are the files read so far; `checksums` names them in the settings of an evaluation.
    """

    task: str
    published: Published | None = None
    place: str | None = None
    quiet: bool = False  # read a second time: the notes have been printed
    read: list[Path] = field(default_factory=list)
    _files: dict[tuple[str, tuple[str, ...]], list[Path]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, task: str, published: Published | None, data: Path | None, *, folders: Sequence[str] = (),
        patterns: Sequence[str] = (),
    ) -> DataFiles:  # fmt: skip
        """What `--data` means for a task: the file itself, or of a folder its part DATA/TASK.

        `folders` are other names of that part. A folder without one that holds files of `patterns`
        itself is the part. DataError if there is none.
        """
        if data is None:
            return cls(task, published)
        path = data.expanduser()
        if path.is_file():
            return cls(task, published, str(path))
        part = next((path / name for name in (task, *folders) if (path / name).is_dir()), None)
        if part is None and any(any(path.glob(pattern)) for pattern in patterns):
            part = path
        if part is None:
            raise DataError(f"no folder {path / task}: {how(task, published)}, and put it there")
        return cls(task, published, str(part))

    @property
    def given(self) -> bool:
        return self.place is not None

    @property
    def folder(self) -> Path | None:
        """The folder that holds the files, if they are here."""
        if self.place is None:
            return None
        path = Path(self.place).expanduser()
        return path if path.is_dir() else path.parent

    @property
    def name(self) -> str:
        """What errors call the files."""
        return self.place or (self.published.place if self.published else self.task)

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"note: {self.task}: {text}", file=sys.stderr, flush=True)

    def rows(
        self, split: str = "test", *, patterns: Sequence[str] = (), without: str = ""
    ) -> Iterator[tuple[Path, Row]]:
        """The rows of the split's files with their file, in order; files whose rows have the field
        `without` are left out.
        """
        for path in self.files(split, patterns):
            for row in read_rows(path):
                if without and without in row.fields:
                    break
                self.note(path)
                yield path, row

    def files(self, split: str = "test", patterns: Sequence[str] = ()) -> list[Path]:
        """The files of the split; of a folder all that fit `patterns`, if there are any patterns.

        Looked for once.
        """
        key = split, tuple(patterns)
        if key not in self._files:
            self._files[key] = self._find(split, patterns)
        return self._files[key]

    def _find(self, split: str, patterns: Sequence[str]) -> list[Path]:
        if self.place is None:
            return self._published(split)
        path = Path(self.place).expanduser()
        if patterns and path.is_dir():
            fitting = sorted({p for pattern in patterns for p in path.glob(pattern) if p.is_file()})
            if not fitting:
                raise DataError(
                    f"no {' or '.join(patterns)} in {path}: {how(self.task, self.published)}, and put it there"
                )
            return fitting
        hub = self.published.hub[0] if self.published and self.published.hub else "org/name"
        give = f"give a JSON-lines file in the format of {self.task}, or a hub data set such as {hub}"
        return data_files(self.place, split, give=give)

    def note(self, path: Path) -> None:
        """Remember that a file was read."""
        if path not in self.read:
            self.read.append(path)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file read, by name. A note says which is not the published one."""
        sums: dict[str, str] = {}
        for path in self.read:
            sums[self._name_of(path)] = self._checked(path)
        return dict(sorted(sums.items()))

    def _checked(self, path: Path) -> str:
        checksum, published = sha256_of(path), self.published
        expected = [c for c in (published.sha256, *published.known) if c] if published else []
        if self.given and published and path.name == published.file and expected and checksum not in expected:
            self.say(
                f"{path.name} is not the published file (sha256 {checksum[:12]}..., published "
                f"{expected[0][:12]}...): scores do not compare with others'"
            )
        return checksum

    def _name_of(self, path: Path) -> str:
        """A file's name among the checksums: data sets of the hub have files of equal names."""
        folder = self.folder
        if folder is not None and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
        _, mark, inside = path.as_posix().rpartition("/datasets--")
        return inside if mark else path.name

    def _published(self, split: str) -> list[Path]:
        published = self.published
        if published and published.sha256 and split == "test":
            return [download(self.task, published, cache_folder() / self.task / published.file)]
        if not published or not published.hub:
            raise DataError(
                f"{self.task} is not downloaded: {how(self.task, published)}, put its files in DIR/{self.task} "
                "and give --data DIR"
            )
        return [
            p for name in published.hub for p in _from_hub(name, split, published.hub_files if split == "test" else ())
        ]


def how(task: str, published: Published | None) -> str:
    if published is None:
        return f"get the files of {task}"
    checksum = published.sha256 or next(iter(published.known), "")
    return f"get {published.file} from {published.place}" + (f" (sha256 {checksum})" if checksum else "")


def download(task: str, published: Published, path: Path) -> Path:
    """The published file, from the cache or the net; a second try resumes where the first stopped.

    DataError where it cannot be had or is another one.
    """
    import httpx2

    if not path.is_file():
        try:
            fetch_file(published.url, path, resume=True)
        except httpx2.HTTPError as error:
            raise DataError(
                f"{task}: {published.url} cannot be fetched ({reason_of(error)}): {how(task, published)}, put it "
                f"in DIR/{task} and give --data DIR"
            ) from None
    return checked(task, published, path)


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def checked(task: str, published: Published, path: Path) -> Path:
    """`path` itself. DataError where its checksum is not a published one."""
    digest = sha256_of(path)
    if digest not in (published.sha256, *published.known):
        raise DataError(
            f"{path} has sha256 {digest}, {published.sha256} is expected: it is damaged or another version; delete "
            f"it, or {how(task, published)}; --data DIR takes any file"
        )
    return path


def _from_hub(name: str, split: str, files: Sequence[str]) -> list[Path]:
    if not files:
        return data_files(name, split)
    folder = download_files(HubName("huggingface", name), files, kind="dataset", what="data set")
    return [folder / file for file in files]
