"""One file by its address, into its place, whole."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from qwq.common.files import atomic_file

TIMEOUT_S = 60.0


def fetch_file(url: str, path: Path, *, resume: bool) -> None:
    """Fetch `url` to `path`; what ends in .gz is unpacked.

    With `resume` a second try resumes with what the first one left beside `path`: for files whose
    checksum is known, because another version of the file would be joined to the first part
    otherwise. httpx2's HTTPError where it cannot be had.
    """
    import httpx2

    part = path.with_name(f".{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    start = part.stat().st_size if resume and part.is_file() else 0
    headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"} if start else {"Accept-Encoding": "identity"}
    with httpx2.stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as answer:
        if answer.status_code != 416:  # 416: all of it is here
            answer.raise_for_status()
            with part.open("ab" if answer.status_code == 206 else "wb") as file:
                for block in answer.iter_raw():
                    file.write(block)
    with gzip.open(part) if url.endswith(".gz") else part.open("rb") as read, atomic_file(path) as whole:
        shutil.copyfileobj(read, whole, 1 << 20)
    part.unlink()
