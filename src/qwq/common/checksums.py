"""SHA-256 of files, and the file `SHA256SUMS` that `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from qwq.common.files import write_atomic
from qwq.errors import DataError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_UNESCAPED = {escaped: character for character, escaped in _ESCAPES.items()}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_of(path: Path) -> str:
    """SHA-1 by which git names a file's content; hubs name small files so."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write SHA256SUMS: a line for each file's path in `folder`, sorted. As `sha256sum` does it, a
    line whose path has a backslash or a line break begins with a backslash, and they are escaped.
    """
    write_atomic(folder / SUMS, "".join(map(_line, sorted(sums), (sums[name] for name in sorted(sums)))))


def _line(name: str, digest: str) -> str:
    escaped = re.sub(r"[\\\n\r]", lambda match: _ESCAPES[match[0]], name)
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def read_sums(path: Path) -> dict[str, str]:
    """Checksums by path from a SHA256SUMS file.

    DataError for a line that is none, and for a path that leads out of the folder.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n"), 1):
        match = _LINE.fullmatch(line)
        name = match[3] if match else ""
        if match and match[1]:
            name = re.sub(r"\\[\\nr]", lambda escape: _UNESCAPED[escape[0]], name)
        if not match or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{path}, line {number}: not a checksum and the path of a file: write the folder again")
        sums[name] = match[2]
    return sums


def check_sums(folder: Path) -> dict[str, str]:
    """The checksums of a folder's SHA256SUMS, each compared with its file.

    DataError where a file is missing or differs.
    """
    sums = read_sums(folder / SUMS)
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing, and {SUMS} names it: write or fetch the folder again")
        if (actual := sha256_of(folder / name)) != expected:
            raise DataError(
                f"{folder / name} has sha256 {actual[:12]}..., {SUMS} says {expected[:12]}...: "
                "write or fetch the folder again"
            )
    return sums
