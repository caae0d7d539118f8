"""An MCP server of 2025-11-25 on standard input and output, written by hand: it knows `initialize`
and no `server/discover`, and lists its tools on two pages.

`python mcp_old_server.py NOTES`: it also has `note`, which appends to that file, `say`, and `die`,
which ends the server in the middle of the call.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

NOTES = Path(sys.argv[1]) if sys.argv[1:] else None
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = [
    {"name": "zeta.last", "description": "Says zeta.", "inputSchema": {"type": "object"}},
    {
        "name": "double", "description": "Doubles.", "annotations": {"readOnlyHint": True, "idempotentHint": True},
        "inputSchema": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
]  # fmt: skip
if NOTES is not None:
    TOOLS.append({"name": "note", "inputSchema": TEXT})
    TOOLS.append({"name": "say", "inputSchema": TEXT, "annotations": {"readOnlyHint": True}})
    TOOLS.append({"name": "die", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}})


def answer(method: str, params: dict) -> dict | None:
    match method:
        case "initialize":
            return {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "old", "version": "1"},
            }
        case "tools/list":
            if params.get("cursor") is None:
                return {"tools": TOOLS[:1], "nextCursor": "2"}
            return {"tools": TOOLS[1:]}
        case "tools/call" if params["name"] == "double":
            return {"content": [{"type": "text", "text": str(2 * params["arguments"]["x"])}]}
        case "tools/call" if params["name"] == "note":
            assert NOTES is not None
            with NOTES.open("a", encoding="utf-8") as file:
                file.write(params["arguments"]["text"] + "\n")
            return {"content": [{"type": "text", "text": "noted"}]}
        case "tools/call" if params["name"] == "die":
            os._exit(11)
        case "tools/call" if params["name"] == "say":
            return {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
        case "tools/call":
            return {"content": [{"type": "text", "text": "zeta"}]}
    return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    result = answer(message["method"], message.get("params") or {})
    reply = {"result": result} if result is not None else {"error": {"code": -32601, "message": "Method not found"}}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **reply}), flush=True)
