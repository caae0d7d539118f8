"""The rows of a data file, a folder or a hub data set: JSON lines, one JSON array, or parquet,
always as UTF-8.

A row is named by file and line (`row` in an array or a parquet file), so that every complaint about
it can be found. Lines end at a line feed alone: U+2028 and its kin are characters of a text. Whole
numbers keep their digits, however many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qwq.common.hub_files import HubName, download, list_files, parse_hub_name
from qwq.common.jsonl import BOM, numbered_lines, parse_line
from qwq.errors import DataError

HUB_FOLDERS = ("main", "full", "default", "data", "")  # where a data set has several forms, the first of these
SUFFIXES = (".jsonl", ".parquet")
ARRAYS = ".json"  # read too: one array of objects, or one object a line
NEEDS = "JSON lines, a JSON array or parquet"


class Row(NamedTuple):
    """One row: its number from 1, where it is in words (file and line), and its fields."""

    number: int
    where: str
    fields: dict[str, Any]


def read_rows(path: Path, refused: list[str] | None = None, *, noun: str = "rows", needs: str = "") -> Iterator[Row]:
    """The rows of one file in order. Blank lines are skipped. DataError names file and line.

    Where `refused` is given, it gets what is wrong with a line, and the rest are read. `noun` and
    `needs` tell in errors what rows are called and which fields they need.
    """
    with path.open("rb") as file:
        head = file.read(64).removeprefix(BOM).lstrip()
    if path.suffix == ".parquet" or head.startswith(b"PAR1"):
        rows = _parquet_rows(path)
    else:
        rows = _array_rows(path, refused, needs) if head.startswith(b"[") else _line_rows(path, refused, needs)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty and not refused:
        raise DataError(f"{path} is empty, it holds no {noun}: it needs at least one row, a JSON object a line")


def _object(value: Any, where: str, needs: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: {f'needs {needs}; it ' if needs else ''}holds a {type(value).__name__}, an object is needed"
        )
    return value


def _line_rows(path: Path, refused: list[str] | None, needs: str) -> Iterator[Row]:
    for number, line in numbered_lines(path, NEEDS):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = Row(number, where, _object(parse_line(line, where), where, needs))
        except DataError as error:
            if refused is None:
                raise
            refused.append(str(error))
            continue
        yield row


def _array_rows(path: Path, refused: list[str] | None, needs: str) -> Iterator[Row]:
    """A file that begins with a bracket: one array of objects, or JSON lines whose first row is a
    list, which is no row.
    """
    whole = path.read_bytes().removeprefix(BOM)
    try:
        rows = parse_line(whole, str(path))
    except DataError as error:
        try:
            parse_line(whole.lstrip().partition(b"\n")[0], "")
        except DataError:
            raise DataError(f"{error}; it begins as one JSON array, and is none") from None
        rows = []  # its lines are looked at one by one
    if not any(isinstance(row, dict) for row in rows):
        yield from _line_rows(path, refused, needs)
        return
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        yield Row(number, where, _object(row, where, needs))


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path} is a parquet file, and pyarrow is not installed: `pip install pyarrow`, or give JSON lines"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(number, f"{path}, row {number}", {k: _without_nulls(v) for k, v in row.items()})
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as parquet ({' '.join(str(error).split())[:120]}): copy it again, or give JSON "
            "lines"
        ) from None


def _without_nulls(value: Any) -> Any:
    """A parquet struct has every key of every row; a key that a row did not have is null there."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


# -- where the files are ---------------------------------------------------------------------------


def split_in_name(name: str) -> str | None:
    """The split that a file's name claims: `train.jsonl`, `test-00000-of-00001.parquet`; None where
    it claims none.
    """
    for split, words in {"train": "train", "test": "test", "validation": "validation|valid|val|dev"}.items():
        if re.search(rf"(?<![a-z])({words})(?![a-z])", name.lower()):
            return split
    return None


def is_hub_id(path: str) -> bool:
    """Whether `path` names a data set of the hub: `org/name`, no path here, and not the name of a
    data file.
    """
    return _hub_name(path) is not None


def _hub_name(path: str) -> HubName | None:
    name = parse_hub_name(path if ":" in path else f"hf:{path}")
    plain = ":" not in path
    is_here = plain and (Path(path).suffix in (*SUFFIXES, ARRAYS) or Path(path).exists())
    return None if name is None or name.names_file or is_here else name


def data_files(name: str, split: str = "train", *, give: str = "give a JSON-lines or parquet file") -> list[Path]:
    """The local files of a data set: the path itself, the fitting files of a folder, or those of a
    hub data set.

    `give` says in the error what to give instead where there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        return [path / file for file in choose_files(names, split, str(path))]
    if repository := _hub_name(name):
        names = list_files(repository, kind="dataset")
        chosen = choose_files(names, split, f"the data set {name}")
        folder = download(repository, chosen, kind="dataset", what="data file")
        return [folder / file for file in chosen]
    raise DataError(f"no data file at {path}: {give}")


def choose_files(names: Sequence[str], split: str, where: str) -> list[str]:
    """The data files of `split` among the file names of a folder or data set, in order.

    Validation comes from a file of its own where there is one, else from the training file.
    DataError where none fits.
    """
    data = [n for n in names if n.endswith(SUFFIXES)]
    folders = {n.rpartition("/")[0] for n in data}
    folder = next((f for f in HUB_FOLDERS if f in folders), next(iter(folders)) if len(folders) == 1 else None)
    if folder is None:
        found = f"files in {', '.join(sorted(folders))}" if folders else "no JSON-lines or parquet file"
        raise DataError(f"{where} has {found}: give the path of one data file")
    here = [n for n in data if n.rpartition("/")[0] == folder]
    for wanted in (split, "train" if split == "validation" else None, None):
        fitting = sorted(n for n in here if split_in_name(n.rpartition("/")[2]) == wanted)
        lines = [n for n in fitting if n.endswith(".jsonl")]
        if fitting:
            return lines or fitting
    raise DataError(
        f"{where} has no {split} file, only {', '.join(sorted(here)[:6])}: give another split or the path of a file"
    )


def keys_of(row: Mapping[str, Any]) -> str:
    """The keys of a row, for an error."""
    return ", ".join(map(str, row)) or "no keys"
