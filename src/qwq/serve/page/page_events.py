"""Events of the page's own streams."""

from __future__ import annotations

import json
from typing import Any

HEARTBEAT_S = 15.0
STILL_HERE = b": still here\n\n"  # a proxy ends a connection that says nothing


def page_event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
