"""The jail under attack, at each level that this machine allows.

What a fallback does not cover is not skipped in silence: `tests/attacks/test_fallback_limits.py` shows it, and
docs/sandbox.md lists it.
"""

from __future__ import annotations

import pytest

from qwq.errors import QwqError
from qwq.sandbox import Level, Sandbox


def _open(level: Level) -> Sandbox:
    box = Sandbox(slots=1, level=level)
    try:
        assert box.level is level
    except QwqError as error:
        pytest.skip(f"level {level} is not possible on this machine: {error}")
    return box


@pytest.fixture(scope="session")
def strongest():
    with _open(Level.NAMESPACES) as box:
        yield box


@pytest.fixture(scope="session", params=[Level.NAMESPACES, Level.LANDLOCK], ids=str)
def jail(request):
    with _open(request.param) as box:
        yield box
