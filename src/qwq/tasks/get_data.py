"""`qwq data get`: the published files of a task, or a data set of a hub, fetched and checked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from qwq.common.checksums import sha256_of
from qwq.common.files import atomic_file, writing_to
from qwq.common.web_file import fetch_file
from qwq.data.row_files import data_files, is_hub_id, split_in_name
from qwq.errors import ConfigError, DataError
from qwq.tasks.downloads import DataFiles, Published, cache_folder, checked, how, reason_of
from qwq.tasks.published import PLACES
from qwq.tasks.registry import get, names


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is here now."""

    path: Path
    size: int
    sha256: str


def get_data(name: str, out: Path | None, split: str | None = None) -> list[Fetched]:
    """Fetch the files of `name`: a task, or a data set of a hub (org/name, hf:, modelscope:).

    Those of a task go to OUT/TASK, as `--data OUT` reads them; a data set's to OUT/NAME. Without
    `out` they stay in the cache. ConfigError for a name that is neither, DataError where a file
    cannot be had or is another one than published.
    """
    if is_hub_id(name) and ("/" in name):
        files, folder = data_files(name, split or "train"), name.rpartition("/")[2]
    else:
        files, folder = _of_task(name, out, split), name.partition(":")[0]
    if out is not None:
        with writing_to(out, at="--out"):
            files = [_placed(path, out / folder / path.name) for path in files]
    return [Fetched(path, path.stat().st_size, sha256_of(path)) for path in files]


def _of_task(name: str, out: Path | None, split: str | None) -> list[Path]:
    """The files of a task: every published one, or those of one split."""
    task = get(name)
    if not task.reads_files:
        raise ConfigError(f"{name} makes its own problems: there is nothing to get. {_tasks_with_files()}")
    published: Published | None = getattr(task, "published", None)
    places = {path.rpartition("/")[2]: url for path, url in PLACES.items() if path.partition("/")[0] == name}
    if published and published.sha256:  # else the address may be a page that says more
        places |= {published.file: published.url}
    if split is not None:
        places = {file: url for file, url in places.items() if split_in_name(file) in (split, None)}
    if not places:
        if published is None or not published.hub:
            raise DataError(
                f"{name} has no file to fetch: {how(name, published)}, and put it in DIR/{name} for --data DIR"
            )
        return DataFiles(name, published).files(split or "test")
    folder = (out or cache_folder()) / name
    return [_published(name, url, folder / file, published) for file, url in sorted(places.items())]


def _published(task: str, url: str, path: Path, published: Published | None) -> Path:
    known = published if published and published.file == path.name and published.sha256 else None
    if not path.is_file():
        import httpx2

        try:
            fetch_file(url, path, resume=known is not None)
        except httpx2.HTTPError as error:
            raise DataError(
                f"{task}: {url} cannot be fetched ({reason_of(error)}): check the network and run it again"
            ) from None
    return checked(task, known, path) if known else path


def _placed(path: Path, target: Path) -> Path:
    """A copy of a file in the cache at its place; the file itself where it is there."""
    if path.resolve() != target.resolve():
        with path.open("rb") as read, atomic_file(target) as written:
            shutil.copyfileobj(read, written, 1 << 20)
    return target


def _tasks_with_files() -> str:
    return "Tasks with files: " + ", ".join(n for n in names() if get(n).reads_files)
