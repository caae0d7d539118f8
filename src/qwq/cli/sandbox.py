"""`qwq sandbox ...`: the jail from the command line, and its HTTP server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from qwq.sandbox.http.protocol import VerifyItem
    from qwq.sandbox.http.service import ServerLimits
    from qwq.sandbox.runner import Runner

API_KEY_VARIABLE = "QWQ_SANDBOX_API_KEY"

sandbox_app = App(name="sandbox", help="The jail in which generated code runs.")


def runner(server: str | None, api_key: str | None, unsafe: bool) -> AbstractContextManager[Any]:
    """Where programs run: on a server, or in a jail here. UsageError where both are asked for."""
    from qwq.errors import UsageError
    from qwq.sandbox.pool import Sandbox

    if server is None:
        return Sandbox(unsafe=unsafe)
    if unsafe:
        raise UsageError("--unsafe is decided where programs run: give it to `qwq sandbox serve`")
    from qwq.sandbox.http.client import RemoteSandbox

    return RemoteSandbox(server, api_key=api_key or os.environ.get(API_KEY_VARIABLE))


packages_app = App(name="packages", help="Python packages that programs in the jail may import.")
sandbox_app.command(packages_app)


@packages_app.command(name="add")
def packages_add(names: list[str], *, preimport: bool = False) -> int:
    """Add packages, pinned to the version that is found now; running servers see them when they
    start again.

    Parameters
    ----------
    names
        Names (sortedcontainers, scipy==1.17.0), or the set rl: sortedcontainers, numpy, scipy,
        pandas, sympy, networkx, more-itertools, pytest.
    preimport
        Import them in each slot before any program runs: importing costs a program nothing then,
        and each run a little.
    """
    from qwq.sandbox import packages

    print(json.dumps({p.name: p.version for p in packages.add(names, preimport=preimport)}, indent=1))
    return 0


@packages_app.command(name="remove")
def packages_remove(names: list[str]) -> int:
    """Take packages away again.

    Parameters
    ----------
    names
        Their names.
    """
    from qwq.sandbox import packages

    print(json.dumps({p.name: p.version for p in packages.remove(names)}, indent=1))
    return 0


@packages_app.command(name="list")
def packages_list() -> int:
    """Say which packages programs may import beside numpy, and their versions."""
    from qwq.sandbox import packages

    print(json.dumps(packages.versions(), indent=1))
    return 0


@sandbox_app.command(name="doctor")
def sandbox_doctor() -> int:
    """Say how strong the jail is on this machine, and why not stronger. Status 1 where no level is
    safe.
    """
    from qwq.sandbox.doctor import doctor

    found = doctor()
    print(json.dumps(found, indent=1))
    return 0 if found["level"] else 1


@sandbox_app.command(name="run")
def sandbox_run(
    file: Path,
    *,
    stdin: Path | None = None,
    language: str | None = None,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    unsafe: bool = False,
) -> int:
    """Run a program in the jail; its output is passed on. Status 1 where the program did not end
    well.

    Parameters
    ----------
    file
        The program.
    stdin
        File that the program reads as standard input.
    language
        python, c, cpp, javascript or bash; by default what the file's name says, else python.
    timeout_s
        Wall-clock limit in seconds.
    memory_mb
        Memory limit in MiB.
    unsafe
        Run also where no jail that protects is possible; the last line says so.
    """
    from qwq.sandbox.doctor import run_file

    result = run_file(file, stdin, language=language, timeout_s=timeout_s, memory_mb=memory_mb, unsafe=unsafe)
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.buffer.flush()
    mark = ", UNSAFE: no jail that protects" if result.unsafe else ""
    print(f"{result.status.value}, exit code {result.exit_code}, {result.seconds:.3f} s{mark}", file=sys.stderr)
    return 0 if result.status.value == "ok" else 1


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class LimitFlags:
    """What the server takes at most."""

    queue: int = 1024
    """Runs that may be waiting or running; beyond it the answer of /batch is 429 with
    Retry-After."""
    hold_s: float = 300.0
    """How long a request of SandboxFusion's clients waits for room in the queue; they take a 429
    for a failure."""
    max_timeout_s: float = 120.0
    """Longest time limit that a request may ask for."""
    max_memory_mb: int = 4096
    """Largest memory limit that a request may ask for, in MiB."""
    max_body_mb: int = 64
    """Largest request, in MiB."""
    sessions: int = 4
    """How many sessions (Python processes that keep state) may be open at a time."""
    session_idle_s: float = 900.0
    """A session that is not used for so long is closed."""


@sandbox_app.command(name="serve")
def sandbox_serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    slots: int | None = None,
    api_key: str | None = None,
    allow: list[str] | None = None,
    limits: LimitFlags = LimitFlags(),
    unsafe: bool = False,
) -> int:
    """Serve the sandbox over HTTP until stopped (docs/sandbox.md). Without a key only loopback and
    --allow are served.

    Parameters
    ----------
    host
        Address to listen on. One that other machines can reach needs a key.
    port
        Port; 0 takes a free one, which is printed.
    slots
        Programs at a time; one per core by default.
    api_key
        Key that requests bring, in a header or as http://HOST:PORT/key/KEY; QWQ_SANDBOX_API_KEY by
        default.
    allow
        Networks (10.0.0.0/8) or addresses whose requests need no key; may be given several times.
    unsafe
        Serve also where no jail that protects is possible; every result is marked.
    """
    serve, server_limits = _server()
    chosen = server_limits(
        queue=limits.queue,
        hold_s=limits.hold_s,
        timeout_s=limits.max_timeout_s,
        memory_mb=limits.max_memory_mb,
        body_bytes=limits.max_body_mb << 20,
        sessions=limits.sessions,
        session_idle_s=limits.session_idle_s,
    )
    api_key = api_key or os.environ.get(API_KEY_VARIABLE)
    serve(grade, host=host, port=port, slots=slots, api_key=api_key, allow=allow or [], limits=chosen, unsafe=unsafe)
    return 0


def _server() -> tuple[Callable[..., None], type[ServerLimits]]:
    """What the extra `serve` brings. Raises UsageError where it is not installed."""
    try:
        from qwq.sandbox.http.server import serve
        from qwq.sandbox.http.service import ServerLimits
    except ModuleNotFoundError as error:
        from qwq.errors import UsageError, install_hint

        raise UsageError(f"qwq sandbox serve needs {error.name}: {install_hint('serve')}") from error
    return serve, ServerLimits


def grade(item: VerifyItem, sandbox: Runner) -> dict[str, Any]:
    """The verdict on one line, as the server sends it."""
    from qwq.types import Response
    from qwq.verify.code import OPTIONS, judge, judge_response, read_row, read_tests

    options = {name: getattr(item, name) for name in OPTIONS}
    tests = read_row(item.row) if item.row else read_tests(item.tests)
    if item.code is not None:
        judged = judge(item.code, tests, sandbox=sandbox, **options)
    else:
        judged = judge_response(Response(item.response or ""), tests, sandbox=sandbox, **options)
    cases = [{"outcome": outcome.value, "reason": reason} for outcome, reason in judged.cases]
    return judged.verdict.to_dict() | ({"cases": cases} if item.cases else {})
