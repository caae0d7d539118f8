"""Runs a program in this process's own group, and ends the whole group when the process that
started it dies, however it dies.

    python -I -S mcp_guard.py PARENT_PID PROGRAM ARGUMENT...

A file of its own that imports nothing of the package: it lives as long as the program and should be
small. What leaves the group (setsid) is not ended.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
GRACE_S = 1.0


def main(parent: int, command: list[str]) -> int:
    def check_parent(*_: object) -> None:
        """The signal comes when the starting thread ends; its process may live on."""
        if os.getppid() != parent:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)
            time.sleep(GRACE_S)
            os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, check_parent)
    # Ended from outside as a group: the program has the signal too, and this process waits for it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
    check_parent()
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigdef=[signal.SIGINT])
    except OSError as error:
        print(f"{command[0]}: {error.strerror or error}", file=sys.stderr)
        return 127
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
