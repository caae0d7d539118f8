"""JSON lines and files: every form that is legal is read, every fault is one line with file and
line number.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from qwq.common.files import GrowingFile, atomic_file, hold, locked, whole_lines, write_atomic
from qwq.common.jsonl import numbered_lines, object_of, parse_line, read_jsonl, read_objects, to_line
from qwq.common.source import literal, parse_python
from qwq.errors import ConfigError, DataError


def file_of(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "f.jsonl"
    path.write_bytes(data)
    return path


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d"  # JSON allows these raw; \x0b, \x0c and \x1c to \x1e only as escapes
    path = file_of(tmp_path, json.dumps({"t": text}, ensure_ascii=False).encode() + b'\r\n\n{"t": "\\u000b\\u001c"}')
    assert list(read_objects(path)) == [(1, {"t": text}), (3, {"t": "\x0b\x1c"})]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    assert list(read_jsonl(file_of(tmp_path, b"\xef\xbb\xbf[1]\n"))) == [(1, [1])]


def test_whole_numbers_keep_their_digits(tmp_path: Path) -> None:
    gold = 123456789012345678901234567890123
    assert list(read_jsonl(file_of(tmp_path, b'{"answer": %d}\n' % gold))) == [(1, {"answer": gold})]


def test_standard_input_is_named_by_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"a": 1}\n{"a": \n')))
    rows = read_objects("-")
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(DataError, match=r"^standard input, line 2: not JSON \(Expecting value at column 7\)"):
        next(rows)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: not JSON (Expecting value at column 7)"),
        (b'{"a": 1} {"a": 2}\n', "line 1: not JSON (Extra data at column 10)"),
        ('{"a": "café"}'.encode("latin-1"), "line 1: not UTF-8 (byte 0xe9 at place 11)"),
        (b'{"a": "\xed\xa0\x80"}', "line 1: not UTF-8 (byte 0xed at place 8)"),  # a surrogate in UTF-8's form
        ('{"a": 1}'.encode("utf-16"), "is UTF-16 text"),
        (b"\x1f\x8b\x08rest", "is compressed by gzip: `gunzip FILE`"),
        (b"PAR1rest", "is a parquet file"),
        (b'{"a": ["\\ud83d"]}', "line 1: holds \\ud83d, half of a surrogate pair"),
        (b'{"\\uDE00": 1}', "line 1: holds \\ude00, half of a surrogate pair"),
        (b"[" * 100_000, "line 1: nested too deeply"),
        (b"1" * 5000, "line 1: not JSON that can be read: a whole number of over 4,300 digits"),
        (b"", "is empty: it needs at least one line of JSON lines"),
        (b"\n \n\n", "is empty"),
        (b"7\n", "line 1: a JSON object is needed, got int"),
        (
            b'[{"a": 1}, {"a": 2}]\n',
            "line 1: a JSON object is needed, got list; of one array in a file `jq -c '.[]' FILE`",
        ),
    ],
)
def test_every_fault_is_one_line_with_its_place(tmp_path: Path, data: bytes, said: str) -> None:
    path = file_of(tmp_path, data)
    with pytest.raises(DataError) as error:
        list(read_objects(path))
    assert str(error.value).startswith(f"{path}") and said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_whole_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    assert list(read_jsonl(file_of(tmp_path, b'"\\ud83d\\ude00 \\\\ud83d"'))) == [(1, "\U0001f600 \\ud83d")]


def test_a_store_may_keep_half_a_pair() -> None:
    assert to_line({"a": "\ud800é"}) == b'{"a": "\\ud800\\u00e9"}\n'
    assert parse_line(to_line({"a": "\ud800é"}), "x", surrogates=True) == {"a": "\ud800é"}
    assert to_line({"a": "é\u2028"}) == '{"a": "é\u2028"}\n'.encode()


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file at .*none: give a file of pairs"):
        next(numbered_lines(tmp_path / "none", "pairs"))
    with pytest.raises(DataError, match=r"is a folder: give a file of pairs"):
        next(numbered_lines(tmp_path, "pairs"))


def test_object_of_names_the_line() -> None:
    with pytest.raises(DataError, match=r"^f, line 2: a JSON object is needed, got list$"):
        object_of([{}], "f, line 2")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f.json"
    write_atomic(path, "é")
    assert path.read_bytes() == "é".encode()
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == "é".encode()
    assert [p.name for p in path.parent.iterdir()] == ["f.json"]


def test_a_link_stays_and_a_device_is_written_straight(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    write_atomic(link, "a")
    assert link.is_symlink() and target.read_text() == "a"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, "b")
    assert os.read(reader, 9) == b"b" and pipe.is_fifo()
    os.close(reader)
    write_atomic(Path(os.devnull), "c")
    assert Path(os.devnull).is_char_device()


def test_a_lock_is_held_against_another_process_and_let_go(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from qwq.common.files import hold; hold(Path(sys.argv[1]), 'busy')"
    try_it = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with locked(tmp_path, "busy"):
        with pytest.raises(ConfigError, match="^in use$"):
            hold(tmp_path / ".lock", "in use")
        assert b"busy" in subprocess.run(try_it, capture_output=True, check=False).stderr
    assert subprocess.run(try_it, capture_output=True, check=False).returncode == 0


def test_a_torn_line_is_dropped_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.jsonl"
    assert whole_lines(path) == []
    GrowingFile(path, "busy").close()
    for torn, whole in [
        ("a\u2028b\nc\ntor".encode(), "a\u2028b\nc\n".encode()),
        (b"a\n" + b"x" * 200_000, b"a\n"),
        (b"x" * 70_000, b""),
        (b"a\n", b"a\n"),
    ]:
        path.write_bytes(torn)
        assert whole_lines(path) == whole.split(b"\n")[:-1]
        file = GrowingFile(path, "busy", durable=True)
        assert path.read_bytes() == whole
        file.append(b"next\n")
        with pytest.raises(ConfigError, match="^in use$"):
            GrowingFile(path, "in use")
        file.close()
        file.close()
        assert path.read_bytes() == whole + b"next\n"


def test_sources_are_parsed_on_threads_without_a_mismatch():
    """CPython 3.11 alone ends some of these in a SystemError: the depth of a tree is counted once
    for all threads.
    """
    source = "f(" * 60 + "1" + ")" * 60 + "\n" + "x = [{'a': (1, [2, 3])}] * 3\n" * 40
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(lambda _: len(parse_python(source).body), range(400)))
    assert set(trees) == {41}
    assert literal(" {'a': (1, None)}") == {"a": (1, None)}
