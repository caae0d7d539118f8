"""Which groups a slot gets, on a folder tree laid out as the kernel lays out cgroup version 2 (the
machines of this project's CI have version 1, which tests/attacks exercises for real).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwq.sandbox import cgroup


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cgroup"
    monkeypatch.setattr(cgroup, "ROOT", root)
    monkeypatch.setattr(cgroup, "SELF", tmp_path / "self")
    root.mkdir()
    return root


def group(folder: Path, *, controllers: str = "memory pids", handed_down: str = "", procs: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text(handed_down)
    (folder / "cgroup.procs").write_text(procs)
    return folder


def here(tree: Path, path: str) -> None:
    (tree.parent / "self").write_text(f"0::{path}\n")


def test_a_delegated_group_is_emptied_into_a_leaf_and_hands_its_controllers_down(tree: Path) -> None:
    group(tree, controllers="cpu memory pids")
    own = group(tree / "user" / "run.scope", procs=f"{os.getpid()}\n")
    here(tree, "/user/run.scope")
    assert cgroup.available() == (True, "cgroup v2 memory and pids group per slot")
    assert (own / "qwq-main" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_a_slot_is_moved_and_limited(tree: Path) -> None:
    group(tree)
    own = group(tree / "box", handed_down="cpu memory pids")
    here(tree, "/box")
    made = cgroup.create("qwq-1-a-0", 4321)
    assert made is not None and (own / "qwq-1-a-0" / "cgroup.procs").read_text() == "4321"
    made.set_limits(300 << 20, 40)
    assert (own / "qwq-1-a-0" / "memory.max").read_text() == str(300 << 20)
    assert (own / "qwq-1-a-0" / "memory.swap.max").read_text() == "0"
    assert (own / "qwq-1-a-0" / "pids.max").read_text() == "40"


def test_from_our_leaf_the_groups_stand_beside_it(tree: Path) -> None:
    group(tree)
    own = group(tree / "box", handed_down="memory pids")
    group(own / "qwq-main", procs=str(os.getpid()))
    here(tree, "/box/qwq-main")
    assert cgroup._folders() == ([own], "")


def test_a_parent_that_hands_down_is_taken(tree: Path) -> None:
    group(tree)
    parent = group(tree / "service", handed_down="memory pids")
    group(parent / "worker", procs="1 2 3")
    here(tree, "/service/worker")
    assert cgroup._folders() == ([parent], "")


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ({"controllers": "cpu"}, "is not given the memory and pids controller"),
        ({"controllers": "cpu memory"}, "is not given the pids controller"),
        ({"procs": "1\n2\n"}, "holds 2 other processes"),
    ],
)
def test_the_reason_is_said_where_there_is_none(tree: Path, layout: dict[str, str], why: str) -> None:
    group(tree)
    group(tree / "box", **layout)
    here(tree, "/box")
    able, reason = cgroup.available()
    assert not able and why in reason
    assert cgroup.create("qwq-1-a-0", 1) is None


def test_neither_version(tree: Path) -> None:
    here(tree, "/")
    assert cgroup.available() == (False, "no cgroup memory controller, version 1 or 2")
