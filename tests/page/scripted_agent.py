"""The server's page with its agent over a scripted model: `python scripted_agent.py PORT FOLDER`.

The engine, the jail and the MCP server are real; what the model says depends on the task's words
and on how many results it has read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import scripted
import uvicorn

from qwq.serve.app import create_app
from qwq.serve.options import ServeOptions

TABLE = """import pandas as pd
sales = pd.read_csv("sales.csv")
by_month = sales.groupby("month")["amount"].sum()
by_month.to_frame()"""
PLOT = """import matplotlib.pyplot as plt
by_month.plot.bar(color="#3d5a80", title="Sales by month")
plt.tight_layout()
by_month.to_csv("by_month.csv")
print("best:", by_month.idxmax(), by_month.max())"""
REPORT = """The best month was **March** with 5,200; January had 4,100.

| month | amount |
|---|---:|
| Jan | 4100 |
| Feb | 3900 |
| Mar | 5200 |

Growth from January to March was 26.8%, and I would expect 9999 next."""


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


STORIES = {
    "sales": [
        ("I look at the table first: which columns it has, and how many rows.", call("python", code=TABLE)),
        ("The months are there. Now a figure, and the best month.", call("python", code=PLOT)),
        ("One thing is left: the growth.", call("python", code="round(100 * (5200 / 4100 - 1), 1)")),
        ("All is there.", REPORT),
    ],
    "note": [
        ("The user wants it written down outside.", call("demo__note", text="Order 3 boxes of tea")),
        ("I have its answer.", "It is done."),
    ],
    "fail": [
        ("I try the file.", call("python", code="open('missing.csv').read()")),
        ("A wrong call next.", '<tool_call>\n{"name": "python", "arguments": {"code": "1"}\n</tool_call>'),
        ("I give up.", "There is no such file."),
    ],
    "slow": [
        ("This takes long.", call("python", code="import time\nwhile True: time.sleep(0.1)")),
        ("It was interrupted.", "I waited."),
    ],
}


def reply(prompt: str) -> str:
    task = prompt.split("<|im_start|>user\n")[1].partition("<|im_end|>")[0]
    story = next((s for words, s in STORIES.items() if words in task), [("So.", "Hello.")])
    thought, said = story[min(prompt.count("<tool_response>"), len(story) - 1)]
    return f"{thought}\n</think>\n\n{said}"


class LongScript(scripted.Script):
    slot_capacity, max_positions = 60_000, 16_000


def main(port: int, folder: Path) -> None:
    server = str(Path(__file__).parents[1] / "support" / "mcp_old_server.py")
    servers = folder / "mcp.json"
    entry = {"command": sys.executable, "args": [server, str(folder / "notes.txt")], "start_timeout_s": 60}
    servers.write_text(json.dumps({"mcpServers": {"demo": entry}}), encoding="utf-8")
    chat = scripted.chat_format()
    model = scripted.opened(chat, LongScript(chat, reply), max_len=16_000)
    options = ServeOptions(
        served_model_name=("scripted-1b",), conversations=Path(":memory:"), agent=True, agent_runs=folder / "runs",
        agent_mcp=servers,
    )  # fmt: skip
    uvicorn.run(create_app(model, options), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
