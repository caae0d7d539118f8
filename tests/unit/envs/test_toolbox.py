"""The toolbox: arguments checked once for all tools, each call answered in its place, long results
cut, one workspace for the jailed tools.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from qwq.envs import (
    Effect,
    ResultKind,
    Toolbox,
    ToolResult,
    Toolset,
    ToolSpec,
    Workspace,
    answer_calls,
    environment_for,
    make_toolsets,
)
from qwq.envs.base import environment_class, in_background, make_environment, with_environment
from qwq.envs.toolbox import tool_schema
from qwq.errors import ConfigError, InfraError, UsageError
from qwq.sandbox import Sandbox, SessionLimits
from qwq.types import Message, Problem, ToolCall


def problem(environment: str = "", **files: str) -> Problem:
    return Problem("p", "tools", (Message("user", "?"),), {}, "?", environment=environment, files=files)


def spec(name: str, effect: Effect = Effect.NONE, timeout_s: float = 5.0, **options) -> ToolSpec:
    return ToolSpec(tool_schema(name, name, {"n": {"type": "integer"}}, []), effect, timeout_s, **options)


class Counter(Toolset):
    """Tools of every effect; a note of when each was run."""

    name = "counter"

    def __init__(self):
        self.events: list[str] = []

    async def open(self, desk):
        self.events.append("open")

    async def close(self):
        self.events.append("close")

    def specs(self):
        return (
            spec("look"),
            spec("change", Effect.WORKSPACE),
            spec("send", Effect.EXTERNAL, 0.05),
            spec("pay", Effect.EXTERNAL, 0.05, idempotent=True),
            spec("long"),
            spec("broken"),
            spec("lost"),
        )

    async def run(self, call):
        self.events.append(f"{call.name} begins")
        if call.name in ("look", "change"):
            await asyncio.sleep(0.05)
        elif call.name in ("send", "pay"):
            await asyncio.sleep(5)
        elif call.name == "broken":
            raise KeyError("no till")
        elif call.name == "lost":
            raise InfraError("the till burnt down")
        self.events.append(f"{call.name} ends")
        return ToolResult("x" * 30_000 if call.name == "long" else call.name)


def run(work):
    return in_background(work).result()


@pytest.fixture
def counter():
    return Counter()


@pytest.fixture
def toolbox(counter):
    box = Toolbox([counter])
    run(box.reset(problem()))
    yield box
    run(box.close())
    assert counter.events[0] == "open" and counter.events[-1] == "close"


def ask(box: Toolbox, name: str, **arguments) -> ToolResult:
    return run(box.run_call(ToolCall(name, arguments)))


def test_a_call_is_answered_with_what_it_gave(toolbox):
    result = ask(toolbox, "look", n=3)
    assert (result.text, result.kind, result.whole) == ("look", ResultKind.OK, None)
    assert result.seconds >= 0.05


def test_arguments_are_checked_and_nothing_runs(toolbox, counter):
    result = ask(toolbox, "change", n="3")
    assert result.kind is ResultKind.ERROR
    assert result.text.startswith("error: change: n is '3', it must be integer; the schema of change: {")
    assert ask(toolbox, "lok").text == "error: no tool 'lok': did you mean 'look'?"
    assert counter.events == ["open"]


def test_calls_run_together_only_where_nothing_is_changed(toolbox, counter):
    answer_calls(toolbox, [ToolCall("look", {})] * 2)
    assert counter.events[1:] == ["look begins", "look begins", "look ends", "look ends"]
    counter.events[1:] = []
    answers = answer_calls(toolbox, [ToolCall("look", {}), ToolCall("change", {}), ToolCall("nothing", {})])
    assert counter.events[1:] == ["look begins", "look ends", "change begins", "change ends"]
    assert [answer.content[:6] for answer in answers] == ["look", "change", "error:"]


@pytest.mark.parametrize(("name", "kind"), [("send", ResultKind.UNKNOWN), ("pay", ResultKind.TIMEOUT)])
def test_a_call_that_takes_too_long(toolbox, name, kind):
    result = ask(toolbox, name)
    assert (result.text, result.kind) == (f"error: {name} gave no result within 0.05 s", kind)


def test_the_limit_of_an_episode_bounds_each_call(counter):
    box = Toolbox([counter])
    box.timeout_s = 0.01
    run(box.reset(problem()))
    assert ask(box, "look").text == "error: look gave no result within 0.01 s"


def test_what_a_tool_raises_is_its_answer_and_our_failures_are_not(toolbox):
    assert ask(toolbox, "broken").text == "error: broken raised KeyError: 'no till'"
    with pytest.raises(InfraError, match="burnt"):
        ask(toolbox, "lost")


def test_a_long_result_is_cut_and_whole_in_the_workspace(toolbox):
    result = ask(toolbox, "long")
    assert len(result.text) < 8200 and result.whole == "x" * 30_000
    assert "[22000 characters left out here; the whole output is in outputs/call-1.txt]" in result.text


def test_two_toolsets_with_one_name():
    with pytest.raises(ConfigError, match="two toolsets offer a tool 'look'"):
        Toolbox([Counter(), Counter()]).schemas()


# -- names


def test_toolsets_by_name():
    assert [t.name for t in make_toolsets(["python"], timeout_s=3.0)] == ["python"]
    with pytest.raises(UsageError, match="no tools 'pyton': did you mean 'python'"):
        make_toolsets(["pyton"])
    with pytest.raises(UsageError, match="no option 'timeout': did you mean 'timeout_s'"):
        make_toolsets(["python"], timeout=3)


def test_environments_by_name():
    assert environment_class("python") is environment_class("python")
    assert [s["function"]["name"] for s in environment_class("python")().schemas()] == ["python"]
    with pytest.raises(ConfigError, match="'sqll' is no toolset"):
        environment_class("python+sqll")
    with pytest.raises(ConfigError, match="no environment 'pyton'"):
        environment_class("pyton")
    assert with_environment(problem(), "python").tools[0]["function"]["name"] == "python"


# -- python


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(slots=1) as opened:
        yield opened


@pytest.fixture
def python(sandbox):
    with Workspace(sandbox, files={"a.csv": b"x\n1\n"}) as desk:
        box = Toolbox(make_toolsets(["python"], timeout_s=1.0), desk)
        run(box.reset(problem()))
        yield box
        run(box.close())


def cell(box: Toolbox, code: str) -> ToolResult:
    return ask(box, "python", code=code)


def test_variables_are_kept_and_the_last_value_is_shown(python):
    assert cell(python, "x = 6 * 7").text == "(no output)"
    result = cell(python, "print('out')\nx")
    assert (result.text, result.kind, result.detail["cell"], result.detail["value"]) == ("out\n42", "ok", 2, "42")
    assert python.spec("python").untrusted  # somebody's files are there


def test_python_that_goes_wrong(python):
    cell(python, "x = 1")
    error = cell(python, "1 / 0")
    assert error.kind is ResultKind.ERROR and error.text.endswith("ZeroDivisionError: division by zero")
    slow = cell(python, "while True: pass")
    assert slow.kind is ResultKind.TIMEOUT
    assert slow.text.endswith("[The cell met its time limit. Variables and files are kept.]")
    dead = cell(python, "import os\nos._exit(3)")
    assert dead.kind is ResultKind.ERROR and "earlier cells were run again" in dead.text
    full = cell(python, "y = bytearray(1 << 34)")
    assert full.kind is ResultKind.LIMIT
    assert cell(python, "x").text == "1"


def test_python_output_is_cut_once(python):
    result = cell(python, "print('y' * 20_000)")
    assert "the whole output is in outputs/cell-1.txt" in result.text and len(result.text) < 8200
    assert result.whole == "y" * 20_000
    assert cell(python, "len(open('outputs/cell-1.txt').read())").text == "20000"


def test_figures_are_artefacts_named_by_their_cell(python):
    pytest.importorskip("matplotlib")
    code = "import matplotlib.pyplot as plt\nfor t in 'ab':\n    plt.figure()\n    plt.plot([1, 2])\n    plt.title(t)"
    result = cell(python, code)
    names = [artefact.name for artefact in result.artefacts]
    assert names == ["figure-1.png", "figure-1.svg", "figure-1-2.png", "figure-1-2.svg"]
    assert result.artefacts[0].data[:4] == b"\x89PNG" and b"<svg" in result.artefacts[1].data
    assert result.text == "figure 1: title 'a', 1 line\nfigure 2: title 'b', 1 line"


def test_processor_time_of_a_cell(python):
    busy = cell(python, "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass")
    assert 0.15 < busy.detail["cpu_s"] < 1.0
    assert cell(python, "time.sleep(0.3)").detail["cpu_s"] < 0.15


def test_a_cancelled_call_interrupts_the_cell(python):
    async def give_up():
        call = ToolCall("python", {"code": "x = 5\nimport time\ntime.sleep(30)"})
        task = asyncio.ensure_future(python.run_call(call))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    started = time.monotonic()
    run(give_up())
    assert time.monotonic() - started < 5
    assert cell(python, "x").text == "5"


def test_an_environment_of_a_problem_has_its_files(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    made = environment_for(problem("python", **{"t.csv": str(tmp_path / "t.csv")}))
    (answer,) = answer_calls(made, [ToolCall("python", {"code": "open('t.csv').read()"})])
    assert answer == Message("tool", "'a,b\\n1,2\\n'")
    session = made.workspace.session
    run(made.close())
    assert session.is_closed
    unused = make_environment(problem("python"))
    run(unused.close())  # also before a reset


def test_a_file_of_a_problem_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.csv cannot be read"):
        environment_for(problem("python", **{"t.csv": str(tmp_path / "gone.csv")}))


def test_limits_of_a_workspace_hold_for_its_cells(sandbox):
    with Workspace(sandbox, limits=SessionLimits(text_chars=100), box_mb=1) as desk:
        assert desk.run_cell("open('f', 'wb').write(b'x' * (2 << 20))").error[0] == "OSError"
