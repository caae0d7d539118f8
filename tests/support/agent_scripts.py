"""Forty scripted runs of the agent over its tools, and 21 that meet trouble and go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SALES = b"region,month,sum\nNorth,1,20\nNorth,2,35\nSouth,1,5\nSouth,2,\n"
CODE = b"def mean(values):\n    return sum(values) / len(value)\n"
CHECK = b"from stats import mean\nassert mean([1, 2, 6]) == 3\nprint('tests pass')\n"
MAKE_DB = (
    "import sqlite3\nlink = sqlite3.connect('shop.db')\n"
    "link.execute('create table sale (id integer primary key, item text, price real)')\n"
    "link.executemany('insert into sale (item, price) values (?, ?)', [('pen', 1.5), ('ink', 4.0), ('pen', 2.5)])\n"
    "link.commit()\nlink.close()"
)


def call(name: str, /, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def py(code: str) -> str:
    return call("python", code=code)


def sh(command: str) -> str:
    return call("shell", command=command)


def sql(query: str) -> str:
    return call("sql", query=query)


@dataclass(frozen=True, slots=True)
class AgentScript:
    """Turns of a model, the tools that it has, and the files of its workspace. `limits` are fields
    of `AgentLimits`. `words`: what the results must hold, one for each, in the calls' order.
    """

    name: str
    tools: str
    turns: Sequence[str]
    files: dict[str, bytes] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()
    answer: str = "Done."
    stop: str = "end"


def _runs() -> list[tuple[str, str, list[str], dict[str, bytes]]]:
    sales, code = {"sales.csv": SALES}, {"stats.py": CODE, "check.py": CHECK}
    write = lambda path, content: call("write", path=path, content=content)
    read = lambda path, **more: call("read", path=path, **more)
    edit = lambda path, old, new: call("edit", path=path, old=old, new=new)
    return [
        ("value", "python", [py("6 * 7")], {}),
        ("state", "python", [py("x = 6"), py("x *= 7"), py("x")], {}),
        ("print and value", "python", [py("print('one')\nprint('two')\n3")], {}),
        ("table", "python", [py("import pandas as pd\ndf = pd.read_csv('sales.csv')\ndf.groupby('region')['sum'].sum()")], sales),
        ("mean of a gap", "python", [py("import pandas as pd\npd.read_csv('sales.csv')['sum'].mean()")], sales),
        ("figure", "python", [py("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.title('rise')")], {}),
        ("two figures", "python", [py("import matplotlib.pyplot as plt\nfor n in (1, 2):\n    plt.figure()\n    plt.bar([1, 2], [n, n])")], {}),
        ("exception", "python", [py("1 / 0"), py("1 / 2")], {}),
        ("file of a cell", "python", [py("open('out.txt', 'w').write('hello')"), py("open('out.txt').read()")], {}),
        ("long output", "python", [py("for n in range(4000):\n    print(n * n)")], {}),
        ("signs of many languages", "python", [py("print('αβγ 数 😀')")], {}),
        ("a function of one's own", "python", [py("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)"), py("f(20)")], {}),
        ("read", "files", [read("sales.csv")], sales),
        ("read some lines", "files", [read("sales.csv", **{"from": 2, "lines": 2})], sales),
        ("write and read", "files", [write("a/b.txt", "one\ntwo\n"), read("a/b.txt")], {}),
        ("edit", "files", [edit("stats.py", "len(value)", "len(values)"), read("stats.py")], code),
        ("edit what is not there", "files", [edit("stats.py", "len(x)", "len(values)"), edit("stats.py", "len(value)", "len(values)")], code),
        ("list", "files", [call("list")], sales | code),
        ("grep", "files", [call("grep", pattern="mean"), call("grep", pattern="MEAN", ignore_case=True)], code),
        ("nothing to read", "files", [read("none.txt"), read("sales.csv")], sales),
        ("two reads in a turn", "files", [read("sales.csv") + read("stats.py")], sales | code),
        ("echo", "shell", [sh("echo hello")], {}),
        ("state of a shell", "shell", [sh("mkdir d; cd d; NAME=pen"), sh("echo $NAME; basename $PWD")], {}),
        ("exit status", "shell", [sh("false"), sh("true")], {}),
        ("pipe", "shell", [sh("sort -t, -k3 -n sales.csv | tail -1")], sales),
        ("query", "python,sql", [py(MAKE_DB), call("schema"), sql("select item, sum(price) from sale group by item")], {}),
        ("no such column", "python,sql", [py(MAKE_DB), sql("select cost from sale"), sql("select price from sale")], {}),
        ("a write is refused", "python,sql", [py(MAKE_DB), sql("delete from sale"), sql("select count(*) from sale")], {}),
        ("no rows", "python,sql", [py(MAKE_DB), sql("select * from sale where price > 9")], {}),
        ("repair", "files,shell", [sh("python3 check.py 2>&1 | tail -1"), edit("stats.py", "len(value)", "len(values)"), sh("python3 check.py")], code),
        ("files and cells", "python,files", [write("n.txt", "21"), py("int(open('n.txt').read()) * 2")], {}),
        ("cells and shell", "python,shell", [py("open('n.txt', 'w').write('21')"), sh("cat n.txt")], {}),
        ("all four", "python,files,shell,sql", [write("a.txt", "5"), sh("wc -c a.txt"), py(MAKE_DB), sql("select max(price) from sale"), read("a.txt")], {}),
        ("a call outside", "outside", [call("look", text="a"), call("send", text="b")], {}),
        ("two calls outside", "outside", [call("send", text="a") + call("send", text="b")], {}),
        ("reads together", "outside", [call("look", text="a") + call("look", text="b") + call("look", text="c")], {}),
        ("cells and outside", "python,outside", [py("x = 2"), call("look", text="a"), py("x + 1")], {}),
        ("mail", "outside", [call("mail")], {}),
        ("a thought before a call", "python", ["<think>\nI compute.\n</think>\n\n" + py("2 ** 10")], {}),
        ("no call", "python", [], {}),
    ]  # fmt: skip


RUNS = [AgentScript(name, tools, [*turns, "Done."], files) for name, tools, turns, files in _runs()]

BROKEN = py("1").replace("}}", "}")
# Each meets trouble and goes on; `words` are what the results hold.
RECOVERIES = [
    AgentScript("malformed", "python", [BROKEN, py("1"), "Done."], words=["its JSON is broken", "1"]),
    AgentScript("malformed and good", "python", [BROKEN + py("2"), "Done."], words=["its JSON is broken", "2"]),
    AgentScript("good and malformed", "python", [py("2") + BROKEN, "Done."], words=["2", "its JSON is broken"]),
    AgentScript("not an object", "python", ["<tool_call>[1]</tool_call>", py("3"), "Done."], words=["it is no JSON object", "3"]),
    AgentScript("wrong type", "python", [call("python", code=5), py("4"), "Done."], words=["the schema of python", "4"]),
    AgentScript("missing argument", "python", [call("python"), py("4"), "Done."], words=["the schema of python", "4"]),
    AgentScript("unknown argument", "python", [call("python", code="1", lang="py"), py("4"), "Done."], words=["the schema of python", "4"]),
    AgentScript("unknown tool", "python", [call("pyton", code="1"), py("5"), "Done."], words=["did you mean 'python'", "5"]),
    AgentScript("an exception", "python", [py("int('x')"), py("6"), "Done."], words=["ValueError", "6"]),
    AgentScript("a tool that raises", "outside", [call("fail"), call("look", text="a"), "Done."], words=["fail raised KeyError", "seen a"]),
    AgentScript("timeout", "python", [py("x = 7\nwhile True: pass"), py("x"), "Done."], limits={"timeout_s": 1.0}, words=["time limit", "7"]),
    AgentScript("memory", "python", [py("x = 8"), py("y = bytearray(3 << 30)"), py("x"), "Done."], words=["", "MemoryError", "8"]),
    AgentScript("killed session", "python", [py("x = 9"), py("import os\nos.kill(os.getpid(), 9)"), py("x"), "Done."], words=["", "", "9"]),
    AgentScript("a process that exits", "python", [py("x = 9"), py("import os\nos._exit(3)"), py("x"), "Done."], words=["", "", "9"]),
    AgentScript("dead MCP server", "mcp", [call("old__die"), call("old__double", x=4) + call("old__say", text="here"), "Done."], words=["ended while old__die ran", "8", "here"]),
    AgentScript("too many in a turn", "outside", [call("look", text="a") * 4, call("look", text="b"), "Done."], limits={"parallel": 2}, words=["seen a", "seen a", "at most 2 calls", "at most 2 calls", "seen b"]),
    AgentScript("no call left of a tool", "outside", [call("look", text="a"), call("look", text="b"), "Done."], limits={"per_tool": {"look": 1}}, words=["seen a", "no call of look is left"]),
    AgentScript("denied", "outside", [call("put", text="a"), call("look", text="b"), "Done."], words=["not allowed", "seen b"]),
    AgentScript("budget of calls", "outside", [call("look", text="a"), call("look", text="b"), call("look", text="c"), "Done."], limits={"tool_calls": 2}, words=["seen a", "seen b", "no call is left"], stop="turns"),
    AgentScript("budget of turns", "outside", [call("look", text="a"), call("look", text="b"), "Done."], limits={"model_calls": 3}, words=["seen a", "seen b"], stop="turns"),
    AgentScript("loop", "outside", [*[call("look", text="a")] * 5, "Done."], words=["seen a"] * 5, stop="loop"),
]  # fmt: skip
