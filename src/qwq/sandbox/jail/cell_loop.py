"""The loop of a session inside its jail: cells one after another in one namespace. The parent's
side is `sandbox/session.py`.

A cell comes as a packet on a socket with four descriptors: a sealed file that holds {"number",
"code", "files", "fetch"}, and the write ends of the cell's own stdout, stderr and result pipe. A
second packet holds a number that is drawn at random for this cell; it waits in the socket until the
cell has ended, and the cell's record carries it back. So what a cell writes to its result pipe
closes nothing, and what it leaves running (processes are ended, threads are not) cannot write into
the pipes of a later cell that it does not share.

All of this runs in the process of the cells, as state demands: code that takes the interpreter
itself over (frames, ctypes) is the session from then on, and its later results are its own word.
What a cell has given before is out of its reach.

Behind each cell the builtins, signal handlers, timers, hooks and trace functions are put back; its
streams are its own.
"""

# ruff: noqa: BLE001 (whatever a cell raises is a result)

from __future__ import annotations

import array
import builtins
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any

from .box_files import list_files, read_files, write_files
from .notebook import Notebook
from .results import RESULT_FD
from .streams import use_standard_streams

NUM_DESCRIPTORS = 4
_CONTROL_FD = 4
_NULL_FD = 5
_KILL_ROUNDS = 100
# Held here because a cell may replace what the modules hold.
_close, _dup2, _exit, _getpid, _kill = os.close, os.dup2, os._exit, os.getpid, os.kill
_fdopen, _sleep, _waitpid, _write = os.fdopen, time.sleep, os.waitpid, os.write
_signal, _setitimer = signal.signal, signal.setitimer
_process_time, _usage = time.process_time, resource.getrusage
_update, _builtins = dict.update, vars(builtins)
_encode = json.JSONEncoder(check_circular=False).encode
_decode = json.loads
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_DEFAULT = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM,
signal.SIGHUP,
            signal.SIGCHLD, signal.SIGQUIT)  # fmt: skip


def serve(notebook: Notebook, *, end_left: bool) -> int:
    """Run cells until the parent closes the socket, which comes as descriptor 0. `end_left`: the
    processes of this PID namespace are the session's, and what a cell leaves of them is ended.
    """
    _dup2(0, _CONTROL_FD, inheritable=False)
    null = os.open("/dev/null", os.O_RDWR)
    if null != _NULL_FD:
        _dup2(null, _NULL_FD, inheritable=False)
        _close(null)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=_CONTROL_FD)
    _detach()
    pid, here = _getpid(), os.getcwd()
    own_builtins = dict(_builtins)
    os.register_at_fork(after_in_child=lambda: (_close(_CONTROL_FD), _dup2(_NULL_FD, RESULT_FD)))
    while True:
        cell = _receive(control)
        if cell is None:
            return 0
        record = _run(cell, notebook, own_builtins, here)
        if _getpid() != pid:  # a fork of the cell that came back here
            _exit(0)
        if end_left:
            _end_left_processes()
        record["echo"] = control.recv(64).decode()
        data = b"\n" + _encode(record).encode() + b"\n"  # a cell may have started a line
        while data:
            try:
                data = data[_write(RESULT_FD, data) :]
            except OSError:  # the parent has given the cell up
                break
        _detach()


def _detach() -> None:
    """Let go of a cell's pipes: what still runs writes nowhere."""
    for fd in (0, 1, 2, RESULT_FD):
        _dup2(_NULL_FD, fd, inheritable=fd != RESULT_FD)


def _receive(control: socket.socket) -> dict[str, Any] | None:
    fds = array.array("i")
    data, ancillary, _, _ = control.recvmsg(64, socket.CMSG_SPACE(NUM_DESCRIPTORS * fds.itemsize))
    if not data:
        return None
    for _, _, payload in ancillary:
        fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    source, *streams = fds
    for target, fd in enumerate(streams, 1):
        _dup2(fd, target, inheritable=target != RESULT_FD)
        _close(fd)
    with _fdopen(source, "rb") as file:
        cell: dict[str, Any] = _decode(file.read())
    return cell


def _run(cell: dict[str, Any], notebook: Notebook, own_builtins: dict[str, Any], here: str) -> dict[str, Any]:
    """One cell, which may be interrupted at any point; between cells SIGINT is ignored."""
    record: dict[str, Any] = {"number": cell["number"], "display": [], "error": []}
    started = _cpu_s()
    try:
        _restore(own_builtins)  # again: a thread may have been at it
        use_standard_streams()
        write_files(cell["files"], here)
        if cell["code"] is not None:
            _signal(signal.SIGINT, signal.default_int_handler)
            record |= notebook.run(cell["code"], cell["number"], restore=lambda: _restore(own_builtins))
            _ignore_interrupts()
        record["files"] = read_files(cell["fetch"], here)
        record["listing"] = list_files(here)
    except BaseException as error:
        record["error"] = record["error"] or [{"ename": type(error).__name__, "evalue": str(error), "traceback": []}]
    _ignore_interrupts()
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(BaseException):
            stream.flush()  # type: ignore[union-attr]
    record["cpu_s"] = round(_cpu_s() - started, 6)
    return record


def _cpu_s() -> float:
    """Processor time of this process and of those that it waited for."""
    children = _usage(resource.RUSAGE_CHILDREN)
    return _process_time() + children.ru_utime + children.ru_stime


def _ignore_interrupts() -> None:
    while True:
        try:
            _signal(signal.SIGINT, signal.SIG_IGN)
            return
        except KeyboardInterrupt:  # it came as the cell ended
            continue


def _restore(own_builtins: dict[str, Any]) -> None:
    """What a cell may have replaced, and we or a later cell rely on."""
    _update(_builtins, own_builtins)
    sys.displayhook, sys.excepthook = sys.__displayhook__, sys.__excepthook__
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)
    threading.setprofile(None)
    for timer in _TIMERS:
        _setitimer(timer, 0)
    for number in _DEFAULT:
        _signal(number, signal.SIG_DFL)
    _signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _end_left_processes() -> None:
    """Kill all of this PID namespace but its first process and this one. A thread that starts more
    and more of them wins, and is bounded by the limit on processes.
    """
    for _ in range(_KILL_ROUNDS):
        others = True
        try:
            _kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            others = False
        with contextlib.suppress(ChildProcessError):
            while _waitpid(-1, os.WNOHANG)[0]:
                pass
        if not others:
            return
        _sleep(0.0005)
