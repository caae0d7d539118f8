"""bash with a state that outlives a call, inside a session's jail.

Each call is a process of its own, which ends with all that it started; what a shell keeps (folder,
variables, functions, aliases, options) is saved when it ends and loaded by the next. So a replay of
the session's cells rebuilds the shell, too, and nothing runs between two calls.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile

from . import desk_paths

BASH = "/usr/bin/bash"
EXIT_STATUS = "application/x-qwq-exit-status"
_PRIVATE = "/run"  # beside the workspace, and gone with the session
# What bash itself sets: read-only, or different in each process.
_SHELLS_OWN = (
    "BASH*|COMP_*|DIRSTACK|EPOCH*|EUID|FUNCNAME|GROUPS|HISTCMD|LINENO|OPTERR|OPTIND|PIPESTATUS|PPID|RANDOM|SECONDS|"
    "SHELLOPTS|SRANDOM|UID|_|__qwq_*"
)
_WHOLE = "# whole"  # the end of a saved state
_SAVE = f"""
__qwq_save() {{
  local __qwq_name
  {{
    for __qwq_name in $(compgen -v); do
      case $__qwq_name in ({_SHELLS_OWN}) continue;; esac
      declare -p "$__qwq_name"
    done
    declare -f
    alias -p
    shopt -p
    set +o
    printf 'cd -- %q\\n%s' "$PWD" '{_WHOLE}'
  }} > "$1" 2> /dev/null
}}
"""


class CommandEnd:
    """How a command ended, for the caller; the model reads it where it is not 0."""

    def __init__(self, status: int):
        self.status = status

    def _repr_mimebundle_(self) -> dict[str, str]:
        bundle = {EXIT_STATUS: str(self.status)}
        if self.status < 0:
            bundle["text/plain"] = f"[ended by {signal.Signals(-self.status).name}]"
        elif self.status:
            bundle["text/plain"] = f"[exit status {self.status}]"
        return bundle


def bash(command: str) -> CommandEnd:
    """Run a command on the cell's own streams."""
    if not os.access(BASH, os.X_OK):
        raise desk_paths.ToolFault("there is no bash here")
    places = _Places()
    script = f"{places.load}{_SAVE}trap '__qwq_save {places.fresh}' EXIT\n{command}\n"
    with tempfile.NamedTemporaryFile("w", dir=places.folder, encoding="utf-8", errors="surrogateescape") as file:
        file.write(script)
        file.flush()
        process = subprocess.Popen(
            [BASH, "--noprofile", "--norc", file.name],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            cwd=desk_paths.here,
            env=places.environment,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    places.keep()
    return CommandEnd(status)


class _Places:
    """Where the shell's state is kept, and what a shell is started with."""

    def __init__(self) -> None:
        self.folder = _PRIVATE if os.access(_PRIVATE, os.W_OK) else desk_paths.here
        self.saved = os.path.join(self.folder, "shell-state")
        self.fresh = f"{self.saved}.new"  # what the command leaves, until it is known to be whole
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.fresh)
        self.load = f"[ -f {self.saved} ] && . {self.saved} 2> /dev/null\n"
        programs = os.path.join(self.folder, "bin")
        os.makedirs(programs, exist_ok=True)
        for name in ("python", "python3"):  # of the host's folder only the interpreter itself is shown
            with contextlib.suppress(FileExistsError):
                os.symlink(sys.executable, os.path.join(programs, name))
        packages = [path for path in sys.path if path and not path.startswith(desk_paths.here)]
        self.environment = dict(os.environ) | {
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": ":".join(packages),
            "PWD": desk_paths.here,
        }

    def keep(self) -> None:
        """Take the state that a command left for the next one. One that was stopped while it saved
        leaves the state from before it.
        """
        with contextlib.suppress(OSError), open(self.fresh, "rb") as file:
            file.seek(-len(_WHOLE), os.SEEK_END)
            if file.read() == _WHOLE.encode():
                os.replace(self.fresh, self.saved)
