"""Where a benchmark's files come from: a folder of the user's, or the place where they were published.

`--data DIR` takes DIR/BENCH/*.jsonl as they are; a file that bears a published file's name with another content is used, and
said so. Without it the published file is downloaded once, and one whose checksum differs is refused: its scores would
not be the benchmark's.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwq.common.files import write_atomic
from qwq.data.files import read_rows, split_in_name
from qwq.errors import DataError
from qwq.tasks.published import PLACES, QWEN

DOWNLOAD_TIMEOUT_S = 60.0
HUB_MODES = ("jsonl", "parquet")


@dataclass(frozen=True, slots=True)
class Published:
    """A benchmark's published form: a file by URL with its checksum (of what is in it, where it is packed), or a data set.

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


PUBLISHED: dict[str, Published] = {
    "aime24": Published("test.jsonl", PLACES["aime24/test.jsonl"], "5a7a817807c8c2b6b541631deaa6d8c2eb7f0420e0f2373a25878921e920b6da"),
    "aime25": Published("test.jsonl", QWEN + "aime25.jsonl", "9da60057135388687f3c594476b211538d0be8e7f3b2de6e680513281412c0ec"),
    "ifeval": Published("prompts.jsonl", QWEN + "ifeval.jsonl", "04c069cf5d5770952244f7b6bb38eb7b6e5faa143fc70995457a85de455e4cd2"),
    "gsm8k": Published(
        "test.jsonl",
        PLACES["gsm8k/test.jsonl"],
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        ("752adc99f23132275139f1f7be57126b08735a55daf0c56859ee6df70abafbac",),
    ),
    "humaneval": Published(
        "HumanEval.jsonl",
        PLACES["humaneval/HumanEval.jsonl"],
        "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2",
        ("621ff099e7d6a9b630619acd3568aef441dec51a8c84f881a9dd1f2d2ed15914",),
    ),
    "mbpp": Published(
        "mbpp.jsonl", hub=("google-research-datasets/mbpp",),
        known=("147e0434ec6b0e9a69b43d82084ac5afbce79f9f9c085cae6c21c3ace23236dd",),
    ),
    "math500": Published("test.jsonl", hub=("HuggingFaceH4/MATH-500",), hub_files=("test.jsonl",)),
    "livecodebench": Published(
        "prompts_v5_2408_2501.jsonl", hub=("livecodebench/code_generation_lite",),
        hub_files=("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl"),
        known=("6441538a8f5f4d598480315fb5b0b4ca47489bfb7d496972e290d06e39679905",),
    ),
    "livebench": Published(
        "question.jsonl",
        hub=tuple(f"livebench/{c}" for c in ("math", "reasoning", "coding", "language", "data_analysis", "instruction_following")),
    ),
    "bfcl": Published("BFCL_v4_simple_python.json", url="https://pypi.org/project/bfcl-eval/ (folder bfcl_eval/data)"),
}  # fmt: skip


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwq" / "benchmarks"


@dataclass(slots=True)
class DataFolder:
    """One benchmark's files. `folder` None: as published. `checksums` of all that was read, for the settings of a run."""

    bench: str
    folder: Path | None
    checksums: dict[str, str] = field(default_factory=dict)
    quiet: bool = False  # read a second time: what there is to say was said

    @classmethod
    def of(cls, bench: str, data: Path | None) -> DataFolder:
        """DIR/BENCH. DataError where it is missing, saying where the files are published."""
        if data is None:
            return cls(bench, None)
        folder = data.expanduser() / bench
        if not folder.is_dir():
            raise DataError(f"no folder {folder}: {_where(bench)}, and put it there")
        return cls(bench, folder)

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"note: {self.bench}: {text}", file=sys.stderr, flush=True)

    def rows(
        self, *, patterns: Sequence[str] = ("*.jsonl",), without: str = ""
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file and line, row) of the test files, in order; files whose rows have the field `without` are left out."""
        for path in self.files(patterns):
            for row in read_rows(path):
                if without and without in row.fields:
                    break
                if self.name_of(path) not in self.checksums:
                    self.note(path)
                yield f"{path}, row {row.number}", row.fields

    def files(self, patterns: Sequence[str] = ("*.jsonl",)) -> list[Path]:
        if self.folder is None:
            return self._published()
        found = sorted({p for pattern in patterns for p in self.folder.glob(pattern) if p.is_file()})
        # Of a set that is published in splits, the test split.
        test = (
            [p for p in found if split_in_name(p.name) == "test"]
            or [p for p in found if split_in_name(p.name) is None]
            or found
        )
        if not test:
            raise DataError(f"no {' or '.join(patterns)} in {self.folder}: {_where(self.bench)}, and put it there")
        return test

    def name_of(self, path: Path) -> str:
        """How a file is called among the checksums: data sets of the hub have files of equal names."""
        if self.folder is not None:
            return path.relative_to(self.folder).as_posix()
        _, mark, inside = path.as_posix().rpartition("/datasets--")
        return inside if mark else path.name

    def note(self, path: Path) -> None:
        """Keep a file's checksum, and say where it is not the published file's."""
        found = self.checksums[self.name_of(path)] = sha256_of(path)
        published = PUBLISHED.get(self.bench)
        if self.folder is None or published is None or path.name != published.file:
            return
        expected = [c for c in (published.sha256, *published.known) if c]
        if expected and found not in expected:
            self.say(
                f"{path.name} is not the published file (sha256 {found[:12]}..., published {expected[0][:12]}...): scores do not compare with others'"
            )

    def _published(self) -> list[Path]:
        published = PUBLISHED[self.bench]
        if published.sha256:
            return [download(self.bench, published, cache_folder() / self.bench / published.file)]
        if not published.hub:
            raise DataError(
                f"{self.bench} is not downloaded: {_where(self.bench)}, put its files in DIR/{self.bench} and give --data DIR"
            )
        return [p for name in published.hub for p in _from_hub(name, published.hub_files)]


def _where(bench: str, published: Published | None = None) -> str:
    published = published or PUBLISHED.get(bench)
    if published is None:
        return f"get the files of {bench}"
    checksum = published.sha256 or next(iter(published.known), "")
    return f"get {published.file} from {published.place}" + (f" (sha256 {checksum})" if checksum else "")


def download(bench: str, published: Published, path: Path) -> Path:
    """The published file, from the cache or the net. DataError where it cannot be had or is another one."""
    import httpx2

    if not path.is_file():
        try:
            answer = httpx2.get(published.url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise DataError(
                f"{bench}: {published.url} cannot be fetched ({type(error).__name__}: {error}): {_where(bench, published)}, put it in "
                f"DIR/{bench} and give --data DIR"
            ) from None
        content = gzip.decompress(answer.content) if published.url.endswith(".gz") else answer.content
        write_atomic(path, content)
    found = sha256_of(path)
    if found not in (published.sha256, *published.known):
        raise DataError(
            f"{path} has sha256 {found}, {published.sha256} is expected: it is damaged or another version; delete it, or "
            f"{_where(bench, published)}; --data DIR takes any file"
        )
    return path


def _from_hub(name: str, files: Sequence[str]) -> list[Path]:
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        if not files:
            listed = [f for f in HfApi().list_repo_files(name, repo_type="dataset") if f.endswith(HUB_MODES)]
            full = [f for f in listed if f.startswith(("full/", "main/"))] or listed
            files = sorted(f for f in full if split_in_name(f.rpartition("/")[2]) == "test") or sorted(full)
        return [Path(hf_hub_download(name, file, repo_type="dataset")) for file in files]
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"the hub does not give {name} ({type(error).__name__}: {reason}): check the network, or put its files in DIR/BENCH and give --data DIR"
        ) from None
