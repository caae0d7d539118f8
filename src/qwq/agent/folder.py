"""The folder of an agent's run: `events.jsonl` and what its events name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.agent.events import Event, sha256
from qwq.common.files import write_atomic
from qwq.envs.toolbox import Artefact
from qwq.envs.workspace import is_safe
from qwq.errors import DataError

FILES_BELOW = "\n\nFiles in the workspace:"  # begins the list of files that a run adds to its task


def own_task(task: str) -> str:
    """The task as it was written, without the list of files behind it."""
    return task.partition(FILES_BELOW)[0]


def resume_command(out: Path, *more: str) -> str:
    """The command that resumes the run in `out`."""
    return shlex.join(["qwq", "agent", "resume", str(out), *more])


@dataclass(frozen=True, slots=True)
class AgentFolder:
    """Paths below a run's folder.

    inputs/      the files that were copied into the workspace, so that a run can be rebuilt
    outputs/     whole texts of results that the model read cut: call-3.txt
    artefacts/   figures and files that calls made
    workspace/   files that the run added or changed, as they were at its end
    """

    path: Path

    @property
    def inputs(self) -> Path:
        return self.path / "inputs"

    @property
    def workspace(self) -> Path:
        return self.path / "workspace"

    @property
    def answer(self) -> Path:
        return self.path / "answer.json"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    def keep_inputs(self, files: Mapping[str, bytes]) -> None:
        _write_all(self.inputs, files)

    def read_inputs(self, first: Event) -> dict[str, bytes]:
        """What `keep_inputs` wrote, by the run's first event: nothing else that lies there.

        DataError where a file is absent or another one. Logs of older versions hold sizes alone.
        """
        files = {name: self._input(name, size) for name, size in first["files"].items()}
        for name, digest in first.get("sha256", {}).items():
            if sha256(files[name]) != digest:
                raise DataError(f"{self.inputs / name} is not the file that the run was given: put it back from a copy")
        return files

    def _input(self, name: str, size: int) -> bytes:
        path = self.inputs / name
        data = path.read_bytes() if is_safe(name) and path.is_file() and not path.is_symlink() else None
        if data is None or len(data) != size:
            found = "absent" if data is None else f"of {len(data):,} bytes"
            raise DataError(f"{path} is {found}, the run was given {size:,} bytes: put it back from a copy")
        return data

    def keep_workspace(self, files: Mapping[str, bytes]) -> None:
        _write_all(self.workspace, files)

    def keep_output(self, call: str, text: str) -> str:
        """Keep the whole of a result; returns its place in the folder."""
        name = f"outputs/{call}.txt"
        write_atomic(self.path / name, text.encode(errors="replace"))
        return name

    def keep_artefact(self, call: str, artefact: Artefact) -> dict[str, Any]:
        """Keep what a call made, under a name of its own; returns what its event says."""
        digest = sha256(artefact.data)
        path = self.path / "artefacts" / Path(artefact.name).name
        if path.is_file() and sha256(path.read_bytes()) != digest:
            path = path.with_name(f"{call}-{path.name}")
        write_atomic(path, artefact.data)
        return {
            "name": path.name, "sha256": digest, "bytes": len(artefact.data), "media_type": artefact.media_type,
            "title": artefact.title,
        }  # fmt: skip


def _write_all(top: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        write_atomic(top / name, data)
