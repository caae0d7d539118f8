"""The jail under attack, at each level that this machine allows: the strongest, every fallback, and
inside a session.

What a fallback does not cover is not skipped in silence. `UNCOVERED` lists it, and docs/sandbox.md
says it in words: such a test must fail at that level (a strict xfail, so the list cannot go stale),
or, where running it would harm the machine, is reported as an expected failure without being run.
"""

from __future__ import annotations

import pytest
from session_box import SessionBox

from qwq.errors import QwqError
from qwq.sandbox import Level, Sandbox

# "no cgroup" is the strongest level as an ordinary user has it: memory of a process tree is
# watched, not bounded.
LEVELS = {
    "namespaces": {"level": Level.NAMESPACES},
    "no cgroup": {"level": Level.NAMESPACES, "cgroups": False},
    "landlock": {"level": Level.LANDLOCK},
    "rlimits": {"level": Level.RLIMITS, "unsafe": True, "cgroups": False},
    "session": {"level": Level.NAMESPACES},  # every program is a cell of one session, as long as that lives
}
_HARMFUL = "not run: as root it would write to the machine's own files"
UNCOVERED: dict[str, dict[str, str]] = {
    "session": {
        "test_no_descriptor_beyond_the_four": "a session holds two more: its cells' socket, and /dev/null",
        "test_state_left_for_the_next_test": "cells share their state on purpose",
        "test_deep_and_closed_folders_do_not_stop_the_slot": "the working folder of a cell is the next one's",
    },
    "rlimits": {
        "test_host_files_are_not_readable": "host files are readable",
        "test_host_folders_are_not_listed": "host folders can be listed",
        "test_host_is_not_writable": _HARMFUL,
        "test_symlinks_lead_nowhere": "host files are readable, through links too",
        "test_renames_and_hard_links_do_not_cross": _HARMFUL,
        "test_interpreter_files_keep_mode_owner_and_times": _HARMFUL,
        "test_no_view_of_other_processes": "/proc is open",
    },
}


def _open(name: str) -> Sandbox:
    box = Sandbox(slots=1, **LEVELS[name])
    try:
        assert box.level is LEVELS[name]["level"]
    except QwqError as error:
        pytest.skip(f"level {name} is not possible on this machine: {error}")
    return SessionBox(box) if name == "session" else box


@pytest.fixture(scope="session")
def open_level():
    """Opens a sandbox at a level by its name, or skips."""
    return _open


@pytest.fixture(scope="session")
def strongest():
    with _open("namespaces") as box:
        yield box


@pytest.fixture(scope="session", params=list(LEVELS))
def _box(request):
    with _open(request.param) as box:
        yield request.param, box


@pytest.fixture
def jail(_box, request):
    """Every level in turn. A test in UNCOVERED is expected to fail there."""
    name, box = _box
    reason = UNCOVERED.get(name, {}).get(request.node.originalname)
    if reason is _HARMFUL:
        pytest.xfail(f"{name} does not cover it; {reason}")
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=f"{name} does not cover it: {reason}", strict=True))
    return box


@pytest.fixture(scope="session", params=["namespaces", "no cgroup"])
def compilers(request):
    """The levels that run other languages; `test_languages.py` shows that the others refuse
    them.
    """
    with _open(request.param) as box:
        yield box
