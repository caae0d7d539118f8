"""What `qwq sandbox doctor` and `qwq sandbox run` do: say how strong the jail is here and why; run
one file.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from qwq.errors import DataError, InfraError, UsageError
from qwq.sandbox import cgroup, languages, packages
from qwq.sandbox.jail import seccomp
from qwq.sandbox.limits import Level
from qwq.sandbox.pool import Sandbox
from qwq.sandbox.runner import RunResult


def doctor() -> dict[str, Any]:
    """The level in force (None where none is safe), each level tried with the reason in words, and
    what bounds memory.
    """
    levels: dict[str, str] = {}
    chosen: str | None = None
    for level in Level:
        try:
            with Sandbox(slots=1, level=level, unsafe=True) as box:
                works = box.run("print(6 * 7)").stdout == b"42\n"
            levels[level.value] = "works" if works else "starts, but a program did not print what it should"
        except (InfraError, UsageError) as error:
            levels[level.value] = str(error)
        if chosen is None and levels[level.value] == "works" and level is not Level.RLIMITS:
            chosen = level.value
    grouped, why = cgroup.available()
    return {
        "level": chosen,
        "levels": levels,
        "memory_of_a_process_tree": why if grouped else f"watched from outside, not bounded: {why}",
        "seccomp": f"allow-list for {platform.machine()}" if seccomp.build() else f"none for {platform.machine()}",
        "languages": languages.available(),
        "packages": packages.versions(),
        "advice": _advice(chosen),
    }


def _advice(chosen: str | None) -> str:
    if platform.system() != "Linux":
        return "the jail needs Linux: run it in a virtual machine or a container (docs/sandbox.md, macOS)"
    if chosen == Level.NAMESPACES:
        return "nothing to do"
    if chosen == Level.LANDLOCK:
        return "allow unprivileged user namespaces for the strongest level (sysctl user.max_user_namespaces)"
    return "allow unprivileged user namespaces or a kernel with Landlock ABI 4 (Linux 6.7 or later)"


def run_file(
    path: str | Path,
    stdin: str | Path | None = None,
    *,
    language: str | None = None,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    unsafe: bool = False,
) -> RunResult:
    """Run a file, with `stdin` a file to read from; the language is told by the suffix.

    DataError for a missing file.
    """
    files = [Path(p) for p in (path, stdin) if p is not None]
    for file in files:
        if not file.is_file():
            raise DataError(f"no file {file}: give the path of a file that can be read")
    program = files[0].read_text(encoding="utf-8", errors="surrogateescape")
    data = files[1].read_bytes() if stdin is not None else b""
    language = language or languages.SUFFIXES.get(files[0].suffix, "python")
    with Sandbox(slots=1, unsafe=unsafe) as box:
        return box.run(program, stdin=data, language=language, timeout_s=timeout_s, memory_mb=memory_mb)
