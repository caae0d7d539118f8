"""`qwq sandbox ...`: the jail from the command line, and its HTTP server."""

from __future__ import annotations

import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

if TYPE_CHECKING:
    from qwq.sandbox.http.protocol import VerifyItem
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


@sandbox_app.command(name="doctor")
def sandbox_doctor() -> int:
    """Say how strong the jail is on this machine, and why not stronger. Status 1 where no level is safe."""
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
    """Run a program in the jail; its output is passed on. Status 1 where the program did not end well.

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


@sandbox_app.command(name="serve")
def sandbox_serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    slots: int | None = None,
    api_key: str | None = None,
    queue: int = 1024,
    max_timeout_s: float = 120.0,
    max_memory_mb: int = 4096,
    max_body_mb: int = 64,
    unsafe: bool = False,
) -> int:
    """Serve the sandbox over HTTP until stopped: POST /batch and /run_code, GET /health and /metrics.

    Parameters
    ----------
    host
        Address to listen on. One that other machines can reach needs a key.
    port
        Port; 0 takes a free one, which is printed.
    slots
        Programs at a time; one per core by default.
    api_key
        Key that requests must bring; the environment's QWQ_SANDBOX_API_KEY by default. Without one only loopback is served.
    queue
        Runs that may be waiting or running; beyond it the answer is 429 with Retry-After.
    max_timeout_s
        Longest time limit that a request may ask for.
    max_memory_mb
        Largest memory limit that a request may ask for, in MiB.
    max_body_mb
        Largest request, in MiB.
    unsafe
        Serve also where no jail that protects is possible; every result is marked.
    """
    try:
        from qwq.sandbox.http.server import serve
    except ModuleNotFoundError as error:
        from qwq.errors import UsageError, install_hint

        raise UsageError(f"qwq sandbox serve needs {error.name}: {install_hint('serve')}") from error
    from qwq.sandbox.http.service import ServerLimits

    limits = ServerLimits(queue=queue, timeout_s=max_timeout_s, memory_mb=max_memory_mb, body_bytes=max_body_mb << 20)
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    serve(grade, host=host, port=port, slots=slots, api_key=key, limits=limits, unsafe=unsafe)
    return 0


def grade(item: VerifyItem, sandbox: Runner) -> dict[str, Any]:
    """The verdict on one line, as the server sends it."""
    from qwq.verify.code import OPTIONS, verify

    options = {name: getattr(item, name) for name in OPTIONS}
    return verify(item.code, item.tests, sandbox=sandbox, **options).to_dict()
