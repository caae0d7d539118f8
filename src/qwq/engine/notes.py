"""What a server ignores is said in its log, once for each kind: a client that repeats itself does
not fill the log.
"""

from __future__ import annotations

from qwq.engine.load import say

LIMIT = 1000  # keys come from clients, who may make up ever new ones
_said: set[str] = set()


def note_once(key: str, line: str) -> None:
    """Write `line` to standard error, unless one of the same `key` was written before."""
    if key not in _said and len(_said) < LIMIT:
        _said.add(key)
        say(line)
