"""An MCP server on standard input and output, made with the SDK: every protocol version it knows.

`python mcp_sdk_server.py NOTES`: the tool `note` appends to that file. With the word `http` and a
port behind it, it serves streamable HTTP instead.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("demo", log_level="ERROR")
READS = ToolAnnotations(read_only_hint=True)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)
NOTES = Path(sys.argv[1])


@server.tool(annotations=READS)
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@server.tool()
def note(text: str) -> str:
    """Write a note."""
    with NOTES.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    return f"noted {text}"


@server.tool(annotations=READS)
def fail(reason: str) -> str:
    """Fail."""
    raise ToolError(f"no such table: {reason}")


@server.tool(annotations=READS)
def hang() -> str:
    """Never answer in time."""
    time.sleep(60)
    return "late"


@server.tool()
def die(text: str = "") -> str:
    """End the server in the middle of a call."""
    print("segmentation fault (of a kind)", file=sys.stderr, flush=True)
    os._exit(11)


@server.tool(annotations=READS)
def picture() -> list:
    """A picture of one pixel, and a line."""
    return ["a red pixel", Image(data=PNG, format="png")]


@server.tool(annotations=READS)
def say(text: str) -> str:
    """Say what was given."""
    return text


if __name__ == "__main__":
    if sys.argv[2:3] == ["http"]:
        server.run("streamable-http", port=int(sys.argv[3]))
    else:
        server.run()
