"""Sessions: cells that keep state, what each gives, and what becomes of the state when a cell has
to be stopped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest

from qwq.errors import UsageError
from qwq.sandbox import CellResult, CellStatus, Sandbox, SessionLimits, SessionState, session_slots
from qwq.sandbox.cells import cut_text, result_of
from qwq.sandbox.http.protocol import SessionRequest
from qwq.sandbox.pipes import Pipes

STUBBORN = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"


@pytest.fixture(scope="module")
def box():
    with Sandbox(slots=1, max_sessions=4) as sandbox:
        yield sandbox


@pytest.fixture
def session(box):
    with box.session() as opened:
        yield opened


def test_state_is_kept_from_cell_to_cell(session):
    session.run("x = 6 * 7\ndef f(n): return n + x")
    result = session.run("print('out')\nf(1)")
    assert (result.number, result.status, result.state) == (2, CellStatus.OK, SessionState.KEPT)
    assert (result.stdout, result.value, result.text) == (b"out\n", "43", "out\n43")
    assert session.run("_ + 1").value == "44"


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1", "2"),
        ("1 + 1;", None),
        ("None", None),
        ("x = 3", None),
        ("", None),
        ("# only words", None),
        ("import asyncio\nawait asyncio.sleep(0, 'slept')", "'slept'"),
        ("class A:\n    def __repr__(self): return 'an A'\nA()", "an A"),
        ("if True:\n    5", None),
    ],
)
def test_the_last_expression_is_the_value(session, code, value):
    result = session.run(code)
    assert (result.status, result.value) == (CellStatus.OK, value)


def test_an_error_ends_the_cell_and_not_the_session(session):
    session.run("x = 1")
    result = session.run("x = 2\nprint('before')\n1 / 0\nx = 3")
    assert (result.status, result.state, result.stdout) == (CellStatus.ERROR, SessionState.KEPT, b"before\n")
    assert result.error[:2] == ("ZeroDivisionError", "division by zero")
    assert result.error[2].splitlines()[:3] == [
        "Traceback (most recent call last):",
        '  File "cell 2", line 3, in <module>',
        "    1 / 0",
    ]
    assert result.text.startswith("before\nTraceback")
    assert session.run("x").value == "2"


def test_a_function_of_an_earlier_cell_is_shown_in_tracebacks(session):
    session.run("def f():\n    return [][0]")
    assert '  File "cell 1", line 2, in f\n    return [][0]' in session.run("f()").error[2]


@pytest.mark.parametrize("code", ["exit()", "raise SystemExit(3)", "import sys; sys.exit('so')"])
def test_exit_ends_the_cell_only(session, code):
    session.run("x = 1")
    assert session.run(code).error[0] == "SystemExit"
    assert session.run("x").value == "1"


def test_syntax_errors_and_errors_without_a_text(session):
    assert session.run("1 +").error[0] == "SyntaxError"
    bad = "class E(Exception):\n    def __str__(self): raise ValueError\nraise E"
    assert session.run(bad).error[:2] == ("E", "(no message)")


def test_a_cell_has_no_input(session):
    assert session.run("input()").error[0] == "EOFError"


def test_display_shows_and_tables_keep_their_html(session):
    code = (
        "class T:\n    def __repr__(self): return 'plain'\n    def _repr_html_(self): return '<table></table>'\n"
        "display(1, T())\nT()"
    )
    result = session.run(code)
    assert [data["text/plain"] for data in result.display] == ["1", "plain", "plain"]
    assert result.tables == ["<table></table>"] * 2
    assert result.value == "plain"


# -- files


def test_files_go_in_and_come_back(session):
    session.put("in/a.csv", b"x\n1\n")
    assert session.run("open('in/a.csv').read()").value == "'x\\n1\\n'"
    result = session.run("open('b.txt', 'w').write('b')", files={"c.txt": b"\xff"}, fetch=["b.txt", "missing"])
    assert result.files == {"b.txt": b"b"}
    assert result.listing == {"b.txt": 1, "c.txt": 1, "in/a.csv": 4}
    assert session.get("c.txt") == b"\xff"
    assert session.files() == {"b.txt": 1, "c.txt": 1, "in/a.csv": 4}
    assert session.run("1").number == 3  # files are no cells


def test_files_stay_where_they_are_when_a_cell_changes_the_folder(session):
    session.run("import os\nos.mkdir('d')\nos.chdir('d')\nopen('x', 'w').close()")
    session.put("y", b"1")
    assert session.files() == {"d/x": 0, "y": 1}


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../x"])
def test_files_outside_the_workspace_are_refused(session, name):
    with pytest.raises(UsageError, match="cannot be written"):
        session.put(name, b"x")
    with pytest.raises(UsageError, match="no file"):
        session.get(name)


def test_a_link_leads_to_no_file_outside(session):
    session.run("import os, sys\nos.symlink(sys.executable, 'link')\nos.symlink('/', 'root')")
    assert session.files() == {}
    with pytest.raises(UsageError, match="no file"):
        session.get("link")
    with pytest.raises(UsageError, match="cannot be written"):
        session.put("root/x", b"x")


# -- output


def test_long_output_is_cut_for_the_model_and_whole_in_a_file(box):
    with box.session(SessionLimits(text_chars=100)) as session:
        result = session.run("print('a' * 1000 + 'b')")
        assert result.stdout == b"a" * 1000 + b"b\n"
        left_out = "[901 characters left out here; the whole output is in outputs/cell-1.txt]"
        assert result.text == f"{'a' * 50}\n{left_out}\n{'a' * 49}b"
        assert session.get(result.output_file) == b"a" * 1000 + b"b"
        assert session.run("len(open('outputs/cell-1.txt').read())").value == "1001"


def test_cut_text_keeps_head_and_tail():
    assert cut_text("abcdefghij", 4, "f") == "ab\n[6 characters left out here; the whole output is in f]\nij"


def test_output_beyond_the_limit_stops_the_cell_and_keeps_the_state(box):
    with box.session(SessionLimits(output_limit_bytes=1000, total_output_bytes=2500)) as session:
        session.run("x = 1")
        result = session.run("while True: print('y' * 100)")
        assert (result.status, result.state, len(result.stdout)) == (CellStatus.OUTPUT_LIMIT, SessionState.KEPT, 1000)
        assert session.run("x").value == "1"
        ended = session.run("print('z' * 2000)\nx = 2")
        assert (ended.status, session.run("x").value) == (CellStatus.OUTPUT_LIMIT, "2")
        session.run("print('z' * 999)")
        with pytest.raises(UsageError, match="its limit is 2500"):
            session.run("x")


# -- stopping


def test_a_cell_that_takes_too_long_is_interrupted_and_the_state_kept(session):
    session.run("n = 0")
    result = session.run("while True: n += 1", timeout_s=0.3)
    assert (result.status, result.state) == (CellStatus.TIMEOUT, SessionState.KEPT)
    assert result.error[0] == "KeyboardInterrupt"
    assert "[The cell met its time limit. Variables and files are kept.]" in result.text
    assert int(session.run("n").value) > 0


def test_a_cell_that_does_not_obey_is_killed_and_the_earlier_ones_run_again(session):
    session.run("x = 5\nopen('f', 'w').write('kept')")
    session.put("g", b"put")
    session.run("x += 1")
    result = session.run("x = 100\n" + STUBBORN, timeout_s=0.3)
    assert (result.status, result.state) == (CellStatus.TIMEOUT, SessionState.REBUILT)
    assert session.run("x, open('f').read(), open('g').read()").value == "(6, 'kept', 'put')"


def test_without_replay_a_killed_session_is_empty_and_says_so(box):
    with box.session(replay=False) as session:
        session.run("x = 5")
        result = session.run("import os\nos._exit(7)")
        assert (result.status, result.state, result.exit_code) == (CellStatus.DIED, SessionState.LOST, 7)
        assert "all variables and files are gone" in result.text
        assert session.run("x").error[0] == "NameError"


def test_last_words_of_a_process_that_ended_are_kept_by_a_parent_that_looks_late(session, monkeypatch):
    session.run("x = 1")
    end_of_stream = Pipes.close_write_ends

    def late(self):
        end_of_stream(self)
        time.sleep(0.3)  # the process has written and ended before the parent polls

    monkeypatch.setattr(Pipes, "close_write_ends", late)
    result = session.run("import os\nprint('last words', flush=True)\nos._exit(7)")
    assert (result.status, result.exit_code, result.stdout) == (CellStatus.DIED, 7, b"last words\n")


def test_what_had_not_ended_is_not_run_again_and_named(session):
    session.run("x = 1")
    session.run("x = 2\nwhile True: pass", timeout_s=0.2)
    assert session.run("x").value == "2"
    result = session.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (result.status, result.state, result.not_repeated) == (CellStatus.DIED, SessionState.REBUILT, (2,))
    assert "Not run again, since they had not ended: cells 2." in result.text
    assert session.run("x").value == "1"


def test_cells_that_cannot_run_again_lose_the_state(session):
    session.run("x = 1")
    until = time.time() + 2
    assert session.run(f"import os, time\nif time.time() > {until}: os._exit(1)").status is CellStatus.OK
    time.sleep(max(0.0, until - time.time()) + 0.01)
    result = session.run("os._exit(1)")
    assert (result.status, result.state) == (CellStatus.DIED, SessionState.LOST)
    assert session.run("x").error[0] == "NameError"


def test_another_thread_interrupts(session):
    session.run("x = 1")
    timer = threading.Timer(0.3, session.interrupt)
    timer.start()
    started = time.monotonic()
    result = session.run("import time\ntime.sleep(20)")
    assert (result.status, result.state) == (CellStatus.INTERRUPTED, SessionState.KEPT)
    assert time.monotonic() - started < 10
    session.interrupt()  # nothing runs
    assert session.run("x").value == "1"


def test_memory_refused_is_an_error_of_the_cell(box):
    with box.session(SessionLimits(memory_mb=256)) as session:
        session.run("x = 1")
        result = session.run("y = bytearray(2 << 30)")
        assert (result.status, result.state) == (CellStatus.MEMORY, SessionState.KEPT)
        assert session.run("x").value == "1"


def test_the_time_of_all_cells_together_is_limited(box):
    with box.session(SessionLimits(timeout_s=5, total_s=0.6)) as session:
        assert session.run("while True: pass").status is CellStatus.TIMEOUT
        with pytest.raises(UsageError, match=r"used its 0\.6 s"):
            session.run("1")


@pytest.mark.parametrize("name", ["timeout_s", "memory_mb", "output_limit_bytes", "text_chars", "total_s"])
def test_limits_are_above_zero(name):
    with pytest.raises(UsageError, match=f"{name} is 0"):
        SessionLimits(**{name: 0})


# -- the process


def test_restart_tells_what_gave_something_else(session):
    session.run("x = 1\nprint(x)")
    session.run("import time, random\nprint(time.time_ns(), random.random())")
    session.run("print(open('f', 'w').write('abc'))")
    assert session.restart() == [2]
    assert session.run("x").value == "1"
    session.restart(replay=False)
    assert session.run("x").error[0] == "NameError"


def test_a_server_takes_the_limits_that_the_library_has():
    assert set(SessionRequest.model_fields) - {"replay", "programs"} == {
        field.name for field in dataclasses.fields(SessionLimits)
    }
    assert SessionRequest().model_dump(exclude={"replay", "programs"}) == dataclasses.asdict(SessionLimits())


def test_the_longest_unused_session_gives_its_process_up_and_is_rebuilt():
    with Sandbox(slots=1, max_sessions=2) as sandbox:
        opened = [sandbox.session(packages=()) for _ in range(3)]
        for n, session in enumerate(opened):
            session.run(f"x = {n}")
        states = []
        for n, session in enumerate(opened):
            result = session.run("x")
            assert result.value == str(n)
            states.append(result.state)
        assert states == [SessionState.RESUMED] * 3  # each had been the longest unused of two
        assert opened[2].run("x").state is SessionState.KEPT


def test_a_session_that_gave_its_process_up_says_so_where_it_is_not_the_same():
    with Sandbox(slots=1, max_sessions=1) as sandbox:
        random, stopped, other = (sandbox.session(packages=()) for _ in range(3))
        random.run("import os\nx = os.urandom(8).hex()\nprint(x)")
        stopped.run("y = 1")
        stopped.run("y = 2\nwhile True: pass", timeout_s=0.1)
        other.run("1")
        result = random.run("x")
        assert result.state is SessionState.REBUILT and "was replaced" in result.text
        result = stopped.run("y")
        assert (result.state, result.value, result.not_repeated) == (SessionState.REBUILT, "1", (2,))
        assert other.run("2").text == "2"


def test_a_process_that_was_replaced_for_files_is_told_with_the_next_cell(session):
    session.run("x = 1")
    session.run("import os, threading\nthreading.Timer(0.1, os._exit, [3]).start()")
    until = time.monotonic() + 10
    while session._interpreter.process.is_alive and time.monotonic() < until:
        time.sleep(0.01)
    session.put("f", b"1")
    result = session.run("x")
    assert (result.state, result.value) == (SessionState.REBUILT, "1")
    assert "was replaced" in result.text
    assert session.run("x").state in (SessionState.KEPT, SessionState.REBUILT)  # the timer runs again in the replay


def test_busy_sessions_are_waited_for_and_not_put_out(monkeypatch):
    monkeypatch.setattr(session_slots, "WAIT_S", 0.3)
    with Sandbox(slots=1, max_sessions=1) as sandbox:
        first, second = sandbox.session(packages=()), sandbox.session(packages=())
        thread = threading.Thread(target=first.run, args=("import time\ntime.sleep(20)",))
        thread.start()
        until = time.monotonic() + 30
        while not first.has_process and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(UsageError, match=r"1 sessions have run cells for 0\.3 s, which is the limit"):
            second.run("1")
        monkeypatch.setattr(session_slots, "WAIT_S", 30.0)
        threading.Timer(0.3, first.interrupt).start()
        result = second.run("1 + 1")
        assert (result.value, first.has_process) == ("2", False)
        thread.join()
        assert second.run("1").value == "1"


def test_a_dead_slot_is_replaced_and_the_cell_runs_again(session):
    session.run("x = 1")
    slot = session._interpreter.process.slot
    slot._process.kill()
    while session._interpreter.process.is_alive:
        time.sleep(0.01)
    result = session.run("x += 1\nx")
    assert (result.value, result.state) == ("2", SessionState.REBUILT)


def test_a_closed_session_refuses_and_its_slot_is_used_again(box):
    first = box.session()
    first.run("x = 1")
    slot = first._interpreter.process.slot
    first.close()
    first.close()
    with pytest.raises(UsageError, match="closed"):
        first.run("x")
    with pytest.raises(UsageError, match="closed"):
        first.files()
    with box.session() as second:
        assert second.run("'x' in globals()").value == "False"
        assert second._interpreter.process.slot is slot
        second._interpreter.process.slot._process.kill()  # closing a session whose slot is dead is no error


def test_cells_from_several_threads_run_one_at_a_time(session):
    session.run("n = 0")
    threads = [
        threading.Thread(target=session.run, args=("m = n\nimport time\ntime.sleep(0.01)\nn = m + 1",))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.run("n").value == "8"


def test_async_cells_and_a_cancelled_one(session):
    async def main():
        await session.run_async("x = 1")
        task = asyncio.create_task(session.run_async("import time\nx = 2\ntime.sleep(20)"))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await session.run_async("x")

    assert asyncio.run(main()).value == "2"


# -- packages and figures


def test_figures_come_as_png_and_svg_and_in_words(session):
    pytest.importorskip("matplotlib")
    code = (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4])\nplt.title('Sales')\nplt.xlabel('month')\n"
        "plt.figure()\nplt.bar([1], [2]);"
    )
    first, second = session.run(code).figures
    assert first.text == "figure 1: title 'Sales', x 'month', 1 line"
    assert second.text == "figure 2: 1 bar or area"
    assert first.png.startswith(b"\x89PNG")
    assert ElementTree.fromstring(first.svg).tag == "{http://www.w3.org/2000/svg}svg"
    again = session.run(code).figures
    assert again == (first, second)  # byte for byte, and the first ones were closed


def test_packages_are_imported_before_the_session(session):
    pytest.importorskip("matplotlib")
    assert session.run("import sys\n'matplotlib.pyplot' in sys.modules, 'numpy' in sys.modules").value == "(True, True)"
    assert session.run("import pytest").error[0] == "ModuleNotFoundError"  # nothing else of the host's
    assert session.run("import importlib.metadata as m\nm.version('matplotlib') > ''").value == "True"


# -- results


def test_a_result_travels_as_json(session):
    result = session.run("display(1)\nprint('ä')\n2", fetch=["x"], files={"x": b"\x00"})
    assert CellResult.from_dict(result.to_dict()) == result
    failed = session.run("1 / 0")
    assert CellResult.from_dict(failed.to_dict()) == failed


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"display": 5, "error": {"x": 1}, "files": [1], "listing": "x"}',
        b'{"display": [5, {"data": [1]}, {"data": {"image/png": "no base64"}, "execution_count": 1}], "error": [5]}',
        b'{"display": [{"data": {"text/plain": 5}}], "error": [{"traceback": 5}], "files": {"a": 5}, "listing": '
        b'{"a": "b"}}',
        b"[" * 100_000,
    ],
)
def test_records_that_hostile_code_wrote(record):
    result = result_of(1, None, record, b"", b"", 10, 0.0)
    assert result.number == 1 and result.whole_text() is not None
    assert CellResult.from_dict(result.to_dict()) == result


def test_threads_of_libraries_get_small_stacks(session):
    """The C library would take the main thread's limit for each, so that a few fill the memory."""
    code = (
        "import ctypes\nlibc, size = ctypes.CDLL(None), ctypes.c_size_t()\n"
        "attributes = ctypes.create_string_buffer(128)\n"
        "libc.pthread_getattr_default_np(attributes)\nlibc.pthread_attr_getstacksize(attributes, ctypes.byref(size))\n"
        "size.value"
    )
    assert session.run(code).value == str(8 << 20)
