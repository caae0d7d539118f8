"""shell: state that is kept from call to call, how commands end, and where it is refused."""

from __future__ import annotations

import pytest

from qwq.envs import ResultKind, Toolbox, Workspace, make_toolsets
from qwq.envs.base import in_background
from qwq.envs.toolbox import workspace_for
from qwq.errors import QwqError, UsageError
from qwq.sandbox import Level, Sandbox
from qwq.types import Message, Problem, ToolCall

FAILS = b"import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 2)\n"
EMPTY = Problem("p", "tools", (Message("user", "?"),), {}, "?")


def run(work):
    return in_background(work).result()


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(slots=1) as opened:
        if opened.level is not Level.NAMESPACES:
            pytest.skip("the shell needs the level namespaces")
        yield opened


SHORT = pytest.mark.parametrize("shell", [3.0], indirect=True)  # seconds of a call, where one is to meet its limit


@pytest.fixture
def shell(sandbox, request):
    toolsets = make_toolsets(["shell", "python"], shell_timeout_s=getattr(request, "param", 60.0))
    with workspace_for(toolsets, sandbox, files={"t.py": FAILS}) as desk:
        box = Toolbox(toolsets, desk)
        run(box.reset(EMPTY))

        def call(command):
            return run(box.run_call(ToolCall("shell", {"command": command})))

        call.box, call.desk = box, desk
        yield call
        run(box.close())


def test_folder_variables_functions_and_options_are_kept(shell):
    shell("mkdir -p 'a b' && cd 'a b'\nX=1; export Y='two words'; L=(1 '2 3'); declare -A M=([k]=v)")
    shell("f() { echo \"f $1\"; }\nalias hi='echo hello'; shopt -s expand_aliases extglob; set -u")
    text = shell(
        "pwd; echo $X $Y ${L[1]} ${M[k]}; f 3; env | grep ^Y; hi\nshopt -q extglob && echo glob\necho $no"
    ).text
    assert text.splitlines()[:6] == ["/box/a b", "1 two words 2 3 v", "f 3", "Y=two words", "hello", "glob"]
    assert "no: unbound variable" in text


def test_how_a_command_ends(shell):
    ok = shell("echo out; echo err >&2")
    assert (ok.text, ok.kind, ok.detail["exit_status"]) == ("out\nerr", ResultKind.OK, 0)
    failed = shell("echo before; exit 3")
    assert (failed.text, failed.kind, failed.detail["exit_status"]) == ("before\n[exit status 3]", ResultKind.ERROR, 3)
    killed = shell("kill -9 $$")
    assert (killed.text, killed.kind, killed.detail["exit_status"]) == ("[ended by SIGKILL]", ResultKind.ERROR, -9)
    assert "syntax error" in shell("if").text
    assert shell("true").text == "(no output)"


def test_a_command_cannot_print_its_own_exit_status(shell):
    result = shell("echo '[exit status 0]'; exit 4")
    assert result.detail["exit_status"] == 4


def test_state_is_kept_by_exit_and_lost_by_nothing_but_a_kill(shell):
    shell("X=1")
    shell("X=2; exit 1")
    assert shell("echo $X").text == "2"
    shell("X=3; kill -9 $$")
    assert shell("echo $X").text == "2"


@SHORT
def test_a_command_that_is_stopped_while_its_state_is_saved_leaves_the_one_before(shell):
    shell("X=1; cd /tmp")
    slow = shell("X=2; declare() { sleep 100; }")  # the state is written with `declare`
    assert slow.kind is ResultKind.TIMEOUT
    assert shell("echo $X; pwd").text == "1\n/tmp"


@SHORT
def test_a_command_that_takes_too_long_is_stopped_and_the_state_kept(shell):
    shell("X=1")
    slow = shell("echo begun; sleep 100 & sleep 100")
    assert slow.kind is ResultKind.TIMEOUT and slow.text.startswith("begun\n")
    assert slow.text.endswith("[The cell met its time limit. Variables and files are kept.]")
    assert "exit_status" not in slow.detail
    assert shell("echo $X").text == "1"


def test_python_and_its_packages_are_there(shell):
    assert shell("python -c 'import numpy; print(numpy.arange(3).sum())'").text == "3"
    result = shell("python3 -m unittest t.py")
    assert result.detail["exit_status"] == 1 and "AssertionError: 1 != 2" in result.text


def test_shell_and_python_share_the_files_and_nothing_else(shell):
    shell("echo hi > f; X=1; cd /")
    code = "import os\nopen('f').read(), os.getcwd(), 'X' in os.environ"
    result = run(shell.box.run_call(ToolCall("python", {"code": code})))
    assert result.text == "('hi\\n', '/box', False)"


def test_a_command_has_no_input_and_no_network(shell):
    assert shell('read x; echo "<$x>"').text == "<>"
    assert shell("exec 3<>/dev/tcp/1.1.1.1/80").detail["exit_status"] != 0


def test_long_output_is_cut_and_whole_in_a_file(shell):
    result = shell("seq 1 20000")
    assert "the whole output is in outputs/cell-1.txt" in result.text and len(result.text) < 8300
    assert shell("tail -1 outputs/cell-1.txt").text == "20000"


def test_a_replay_rebuilds_the_shell(shell):
    shell("cd /tmp; X=5")
    assert shell.desk.restart() == []
    assert shell("echo $X in $PWD").text == "5 in /tmp"


def test_it_is_refused_where_the_jail_has_no_processes():
    try:
        with Sandbox(slots=1, level=Level.LANDLOCK) as box:
            box.level  # noqa: B018  # starts the first slot
            toolsets = make_toolsets(["shell"])
            with pytest.raises(UsageError, match="needs the sandbox level namespaces, here it is landlock: leave"):
                run(Toolbox(toolsets, workspace_for(toolsets, box)).reset(EMPTY))
    except QwqError as error:
        pytest.skip(f"level landlock is not possible on this machine: {error}")


def test_it_is_refused_without_programs(sandbox):
    with pytest.raises(UsageError, match=r"Workspace\(programs=True\)"):
        run(Toolbox(make_toolsets(["shell"]), Workspace(sandbox)).reset(EMPTY))
