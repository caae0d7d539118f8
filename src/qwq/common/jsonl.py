"""JSON lines: one reader and one writer for all commands.

A line ends at a line feed and nowhere else: U+2028, U+2029, U+0085 and the ASCII separators are
legal inside a JSON text, and `str.splitlines` cuts there. Text is UTF-8, with or without a byte
order mark. Whole numbers keep all their digits (orjson makes floats of those beyond 64 bits). Every
fault is a DataError of one line that names the file and the line.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from qwq.errors import DataError

STDIN = "-"
NEEDS = "JSON lines: one object a line"
BOM = b"\xef\xbb\xbf"
# What a file is that begins so, and how it becomes text.
OTHER_FORMS = {
    b"\xff\xfe": "UTF-16 text: `iconv -f utf-16 -t utf-8 FILE > NEW`",
    b"\xfe\xff": "UTF-16 text: `iconv -f utf-16 -t utf-8 FILE > NEW`",
    b"\x1f\x8b": "compressed by gzip: `gunzip FILE`",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: `unzstd FILE`",
    b"\xfd7zXZ": "compressed by xz: `unxz FILE`",
    b"PAR1": "a parquet file",
}
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def name_of(source: str | Path) -> str:
    """How messages call a source: its path, or "standard input" for `-`."""
    return "standard input" if str(source) == STDIN else str(source)


def numbered_lines(source: str | Path, needs: str = NEEDS) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without the line feed) of every line, blank ones too. `-` reads
    standard input.

    `needs` says what the file should hold, for the errors. DataError: missing, a folder, not
    readable, another form of file.
    """
    if str(source) == STDIN:
        yield from _plain(enumerate(sys.stdin.buffer, 1), source, needs)
        return
    path = Path(source)
    if not path.is_file() and not path.is_fifo() and not path.is_char_device():
        raise DataError(
            f"{path} is a folder: give a file of {needs}"
            if path.is_dir()
            else f"no file at {path}: give a file of {needs}"
        )
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a file of {needs}") from None
    with file:
        yield from _plain(enumerate(file, 1), source, needs)


def _plain(lines: Iterator[tuple[int, bytes]], source: str | Path, needs: str) -> Iterator[tuple[int, bytes]]:
    for number, raw in lines:
        line = raw.removesuffix(b"\n")
        if number == 1:
            form = next((said for start, said in OTHER_FORMS.items() if line.startswith(start)), None)
            if form is not None:
                raise DataError(f"{name_of(source)} is {form}; {needs} in UTF-8 is needed")
            line = line.removeprefix(BOM)
        yield number, line


def parse_line(raw: bytes, where: str, *, surrogates: bool = False) -> Any:
    """The value of one line. `where` ("FILE, line 3") begins the DataError's text.

    Half of a surrogate pair, which no tokenizer takes and UTF-8 cannot write, is refused, or kept
    where `surrogates` is set.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x} at place {error.start + 1}): "
            "convert the file, as with `iconv -f latin1 -t utf-8`"
        ) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if b"\n" in raw.rstrip() else f"column {error.colno}"
        raise DataError(f"{where}: not JSON ({error.msg} at {place}): mend or remove the line") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply to be read: mend or remove the line") from None
    except ValueError:  # Python's limit against numbers that take minutes to read
        raise DataError(
            f"{where}: not JSON that can be read: a whole number of over 4,300 digits: mend or remove the line"
        ) from None
    if (
        not surrogates
        and _ESCAPED_SURROGATE.search(raw)
        and (half := _SURROGATE.search(json.dumps(value, ensure_ascii=False)))
    ):
        raise DataError(
            f"{where}: holds \\u{ord(half[0]):04x}, half of a surrogate pair, which is no text: mend or remove the line"
        )
    return value


def read_jsonl(source: str | Path, needs: str = NEEDS, *, surrogates: bool = False) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every line that is not blank, as the file is read; `-` reads
    standard input.

    `needs` says in errors what the file should hold. DataError: missing, empty, not UTF-8, not JSON
    (see `parse_line`).
    """
    empty = True
    for number, raw in numbered_lines(source, needs):
        if raw.strip():
            empty = False
            yield number, parse_line(raw, f"{name_of(source)}, line {number}", surrogates=surrogates)
    if empty:
        raise DataError(f"{name_of(source)} is empty: it needs at least one line of {needs}")


def read_objects(
    source: str | Path, needs: str = NEEDS, *, surrogates: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`read_jsonl` for files whose every line is an object.

    DataError names the line that holds something else.
    """
    for number, value in read_jsonl(source, needs, surrogates=surrogates):
        yield number, object_of(value, f"{name_of(source)}, line {number}")


def object_of(value: Any, where: str) -> dict[str, Any]:
    """`value` where it is an object; else DataError, with the repair for a file that is one JSON
    array.
    """
    if isinstance(value, dict):
        return value
    array = isinstance(value, list) and where.endswith("line 1") and bool(value) and isinstance(value[0], dict)
    repair = "; of one array in a file `jq -c '.[]' FILE` makes lines" if array else ""
    raise DataError(f"{where}: a JSON object is needed, got {type(value).__name__}{repair}")


def to_line(value: Any) -> bytes:
    """One line with its line feed, in UTF-8.

    Half of a surrogate pair is escaped, so that any reader takes the line.
    """
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def to_json(value: Any) -> bytes:
    """`value` without a line feed, by the fast encoder. What that refuses (half of a surrogate
    pair, a whole number beyond 64 bits, deep nesting) the other one takes.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return to_line(value)[:-1]


def without_nonfinite(value: Any, name: str = "") -> tuple[Any, list[str]]:
    """`value` with None for every NaN and infinity, which JSON has no numbers for, and the names of
    these fields, such as `evals.math.score` or `rows[2]`.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None, [name]
    if isinstance(value, Mapping):
        parts = {k: without_nonfinite(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()}
        return {k: v for k, (v, _) in parts.items()}, [n for _, names in parts.values() for n in names]
    if isinstance(value, list | tuple):
        rows = [without_nonfinite(v, f"{name}[{i}]") for i, v in enumerate(value)]
        return [v for v, _ in rows], [n for _, names in rows for n in names]
    return value, []
