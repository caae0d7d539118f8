"""Which processes a run has: `cluster/state.json` in its folder, read and written by all that
start, move or end one. No torch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.common.files import locked, read_record, write_atomic
from qwq.common.run_folder import RunFolder
from qwq.errors import ConfigError

STATE = "state.json"
ENGINE = "engine-"  # how the names of engines begin
LOCK_S = 10.0  # that a command waits for another one
POLL_S = 0.1


class Registry:
    """The processes of the run in `folder`, as plain tables with a `name` each."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @property
    def file(self) -> Path:
        return self.folder.cluster / STATE

    def read(self) -> list[dict[str, Any]]:
        """As they were written down. ConfigError where none were."""
        if not self.file.is_file():
            raise ConfigError(f"no processes of {self.folder}: `qwq cluster up RECIPE` starts them")
        members = read_record(self.file)["members"]
        assert isinstance(members, list)
        return members

    def write(self, members: Sequence[Mapping[str, Any]]) -> None:
        write_atomic(self.file, json.dumps({"members": list(members)}, indent=1))

    def replace(self, member: Mapping[str, Any], *, known_by: str) -> bool:
        """Write `member` down in the place of the one of its name; False, and nothing, where that
        one is not there or another one by the field `known_by`.
        """
        with self.held():
            members = self.read() if self.file.is_file() else []
            same = [m["name"] == member["name"] and m.get(known_by) == member[known_by] for m in members]
            if any(same):
                self.write([{**m, **member} if own else m for m, own in zip(members, same, strict=True)])
            return any(same)

    @contextlib.contextmanager
    def held(self, wait_s: float | None = None) -> Iterator[None]:
        """Nobody else starts or ends processes of this run during the block. ConfigError where
        another one has done so for `wait_s` seconds (`LOCK_S`).
        """
        busy = f"another `qwq cluster` command works on {self.folder}: wait for it"
        until = time.monotonic() + (LOCK_S if wait_s is None else wait_s)
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.folder.cluster, busy))
                    break
                except ConfigError:
                    if time.monotonic() > until:
                        raise
                time.sleep(POLL_S)
            yield


def engine_urls(state: Path) -> list[str]:
    """URLs of the engines in a run's `cluster/state.json`; empty where there is no such file."""
    members = read_record(state)["members"] if state.is_file() else []
    return [m["url"] for m in members if m["name"].startswith(ENGINE) and m["url"]]
