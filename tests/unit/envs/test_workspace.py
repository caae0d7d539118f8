"""The workspace: files in, files out, what changed, and what is refused."""

from __future__ import annotations

import hashlib
import os

import pytest

from qwq.envs.workspace import FileState, Workspace, is_safe, read_folder
from qwq.errors import UsageError
from qwq.sandbox import Sandbox, SessionLimits


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(slots=1) as opened:
        yield opened


def state(data: bytes) -> FileState:
    return FileState(len(data), hashlib.sha256(data).hexdigest())


def test_the_diff_says_what_was_added_changed_and_removed(sandbox):
    with Workspace(sandbox, files={"a": b"1", "b": b"2", "d/c": b"3"}) as desk:
        assert not desk.diff()
        desk.run_cell("import os\nopen('a', 'w').write('11')\nos.remove('b')")
        desk.run_cell("os.mkdir('e')\nopen('e/n', 'w').write('4')")
        desk.run_cell("print('x' * 10_000)")
        desk.run_cell("1")
        diff = desk.diff()
        assert diff.added == {"e/n": state(b"4")}
        assert diff.changed == {"a": (state(b"1"), state(b"11"))}
        assert diff.removed == {"b": state(b"2")}
        assert set(desk.snapshot()) == {"a", "d/c", "e/n", "outputs/cell-3.txt"}
        assert desk.list()["e/n"] == 1


def test_read_and_write(sandbox):
    with Workspace(sandbox) as desk:
        desk.write("x/y.bin", b"\x00\xff")
        assert desk.read("x/y.bin") == b"\x00\xff"
        with pytest.raises(UsageError, match="no file 'z'"):
            desk.read("z")
        assert desk.run_cell("1").number == 1  # files are no cells


def test_a_restart_replays_the_cells_or_keeps_the_files_only(sandbox):
    with Workspace(sandbox, files={"a": b"1"}) as desk:
        desk.run_cell("x = open('a').read()\nopen('b', 'w').write(x)")
        desk.run_cell("import os\nos.urandom(8).hex()")
        assert desk.restart() == [2]
        assert desk.run_cell("x").value == "'1'"
        desk.restart(replay=False)
        assert desk.list() == {"a": 1}
        assert desk.run_cell("x").error[0] == "NameError"


def test_files_go_in_again_when_the_state_is_lost(sandbox):
    with Workspace(sandbox, files={"a": b"1"}) as desk:
        desk.run_cell("import random, os\nif os.path.exists('gone'): pass")
        # A cell that ends at once the first time and not the second: the replay gives up.
        desk.run_cell("import time\nif hasattr(time, 'again'): time.sleep(100)")
        desk.session._interpreter._replays = False
        assert desk.run_cell("os._exit(1)").state == "lost"
        assert desk.run_cell("open('a').read()").value == "'1'"


def test_snapshots_larger_than_one_message(sandbox):
    files = {f"f{n}": bytes([n]) * (9 << 20) for n in range(4)}
    with Workspace(sandbox, files=files) as desk:
        assert desk.snapshot() == files


REFUSED = ["", "/etc/x", "../x", "a/../b", "a//b", "a/", "./a", "a\nb", "a\x00", "a\\b", "x" * 2000, "d/" * 16 + "f"]


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_refused(name):
    assert not is_safe(name)
    with pytest.raises(UsageError, match="relative path"):
        Workspace(files={name: b""})


def test_too_much_for_a_workspace():
    with pytest.raises(UsageError, match=r"3\.0 MB, the workspace holds 2 MB"):
        Workspace(files={"a": b"x" * (3 << 20)}, box_mb=2)
    with pytest.raises(UsageError, match="600 files"):
        Workspace(files={f"f{n}": b"" for n in range(600)})


def test_as_many_files_as_fit_are_seen_again(sandbox):
    files = {f"{'d/' * 15}f{n}": b"" for n in range(512)}
    with Workspace(sandbox, files=files) as desk:
        assert not desk.diff() and desk.snapshot() == files


def test_a_folder_is_copied_without_links_and_devices(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"a")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"left out")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    (tmp_path / "odd\nname").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    assert read_folder(tmp_path, SessionLimits()) == {"in/a.txt": b"a"}
    with pytest.raises(UsageError, match="no folder"):
        read_folder(tmp_path / "gone", SessionLimits())


def test_closing_twice_and_before_the_first_cell(sandbox):
    desk = Workspace(sandbox)
    desk.interrupt()
    desk.close()
    desk.run_cell("1")
    desk.close()
    desk.close()
