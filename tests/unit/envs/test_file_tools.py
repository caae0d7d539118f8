"""read, write, edit, list and grep on the workspace's files."""

from __future__ import annotations

import pytest

from qwq.envs import Effect, ResultKind, Toolbox, Workspace, make_toolsets
from qwq.envs.base import in_background
from qwq.sandbox import Sandbox
from qwq.types import Message, Problem, ToolCall

CODE = "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x + 2\n"


def run(work):
    return in_background(work).result()


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(slots=1) as opened:
        yield opened


@pytest.fixture
def ask(sandbox):
    files = {"m.py": CODE.encode(), "d/t.csv": b"a,b\n1,x\n", "bin": b"\x00\xff", "latin": "grün".encode("latin-1")}
    with Workspace(sandbox, files=files) as desk:
        box = Toolbox(make_toolsets(["files", "python"]), desk)
        run(box.reset(Problem("p", "tools", (Message("user", "?"),), {}, "?")))

        def call(name, **arguments):
            result = run(box.run_call(ToolCall(name, arguments)))
            assert result.kind is (ResultKind.ERROR if result.text.startswith("error: ") else ResultKind.OK)
            return result.text

        call.box = box
        yield call
        run(box.close())


def test_read(ask):
    assert ask("read", path="m.py") == CODE.rstrip()
    assert ask("read", path="m.py", **{"from": 5, "lines": 1}) == "def g(x):\n[lines 5 to 5 of 6]"
    assert ask("read", path="m.py", **{"from": 6}) == "    return x + 2\n[lines 6 to 6 of 6]"
    assert ask("read", path="m.py", **{"from": 7}) == "error: read: m.py has 6 lines, from is 7"
    assert ask("read", path="latin") == "grün"
    assert ask("read", path="bin") == "error: read: bin is not text: 2 bytes"
    assert ask("read", path="d") == "error: read: d is a folder: list it"
    assert ask("read", path="x") == "error: read: no file x: the workspace has bin, latin, m.py, d/t.csv"
    ask("write", path="empty", content="")
    assert ask("read", path="empty") == "[empty is empty]"


def test_write(ask):
    assert ask("write", path="a/b.txt", content="x\ny") == "wrote a/b.txt: 2 lines"
    assert ask("write", path="a/b.txt", content="z\n") == "replaced a/b.txt: 1 lines"
    assert ask("python", code="open('a/b.txt').read()") == "'z\\n'"
    assert ask("write", path="d", content="") == "error: write: d is a folder: give the path of a file"
    assert ask("write", path="m.py/x", content="").startswith("error: write: m.py/x cannot be written: ")
    # A program keeps its permission, and nothing is left beside the file.
    ask("python", code="import os\nos.chmod('a/b.txt', 0o750)")
    ask("write", path="a/b.txt", content="new")
    assert ask("python", code="oct(os.stat('a/b.txt').st_mode)[-3:], os.listdir('a')") == "('750', ['b.txt'])"


def test_a_file_that_does_not_fit_leaves_the_old_one(sandbox):
    with Workspace(sandbox, files={"a": b"old"}, box_mb=1) as desk:
        box = Toolbox(make_toolsets(["files"]), desk)
        run(box.reset(Problem("p", "tools", (Message("user", "?"),), {}, "?")))
        result = run(box.run_call(ToolCall("write", {"path": "a", "content": "x" * (2 << 20)})))
        assert result.kind is ResultKind.ERROR and "cannot be written" in result.text
        assert desk.snapshot() == {"a": b"old"}


def test_edit(ask):
    assert ask("edit", path="m.py", old="x + 1", new="x - 1") == "changed m.py at line 2"
    assert ask("edit", path="m.py", old="def g(x):\n    return x + 2\n", new="") == "changed m.py at line 5"
    assert ask("python", code="open('m.py').read()") == repr("def f(x):\n    return x - 1\n\n\n")
    assert ask("edit", path="m.py", old="x", new="y") == (
        "error: edit: old is in m.py 2 times, at lines 1, 2: give more of the text around it"
    )
    assert ask("edit", path="m.py", old="zz", new="") == (
        "error: edit: old is not in m.py: read it, and give the text exactly"
    )
    assert "though its first line is like line 2" in ask("edit", path="m.py", old="  return x - 1\nnope", new="")
    assert ask("edit", path="m.py", old="", new="x").startswith("error: edit: old is empty")
    assert ask("edit", path="latin", old="gr", new="x") == "error: edit: latin is not UTF-8 text: 4 bytes"


def test_edit_keeps_line_ends(ask):
    ask("python", code="open('w.txt', 'wb').write(b'a\\r\\nb\\r\\n')")
    ask("edit", path="w.txt", old="b", new="c")
    assert ask("python", code="open('w.txt', 'rb').read()") == "b'a\\r\\nc\\r\\n'"


def test_list(ask):
    assert ask("list") == "bin  2 bytes\nlatin  4 bytes\nm.py  56 bytes\nd/t.csv  8 bytes"
    assert ask("list", path="d") == "d/t.csv  8 bytes"
    assert ask("list", path="e").startswith("error: list: no folder e")


def test_grep(ask):
    assert ask("grep", pattern=r"return x \+ \d") == "m.py:2:     return x + 1\nm.py:6:     return x + 2"
    assert ask("grep", pattern="^A,", path="d/t.csv", ignore_case=True) == "d/t.csv:1: a,b"
    assert ask("grep", pattern="nothing") == "[no line matches in 4 files]"
    assert ask("grep", pattern="(").startswith("error: grep: '(' is no regular expression: ")
    assert ask("grep", pattern="x", path="gone").startswith("error: grep: no file gone")
    ask("write", path="long", content="y\n" * 300)
    assert len(ask("grep", pattern="y", path="long").splitlines()) == 201


def test_a_folder_that_python_changed_into_changes_no_paths(ask):
    ask("python", code="import os\nos.chdir('d')")
    assert ask("read", path="d/t.csv") == "a,b\n1,x"


def test_effects(ask):
    effects = {spec.name: (spec.effect, spec.untrusted) for spec in ask.box.specs().values()}
    assert effects["read"] == effects["list"] == effects["grep"] == (Effect.NONE, True)
    assert effects["write"] == effects["edit"] == (Effect.WORKSPACE, True)


def test_calls_are_cells_and_a_replay_repeats_them(ask):
    ask("write", path="n", content="1")
    ask("edit", path="n", old="1", new="2")
    assert ask.box.workspace.restart() == []
    assert ask("read", path="n") == "2"
