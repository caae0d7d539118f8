"""A slot's process: enters the outer jail once, then forks one child per run. Started by `slot.py`.

    python -s -P -S -B zygote.py CONTROL_FD

With {"template": true} in its configuration this program is a template instead: it imports, and
then forks a stage 0 for each control socket that it is sent, so that many slots share the memory of
large packages.

stage 0 (this program) reads its configuration from the control socket, imports what programs
usually import, enters the namespaces and forks; the fork, first process of the slot's PID
namespace, is the zygote. Killing it kills all that it started. The zygote never reads a program,
its input or its output: these travel through descriptors that go straight to the child, so one run
leaves nothing in memory for the next to find.

Each run has a PID namespace of its own. Its first process is not the program but one of ours that
only waits, because the kernel ignores signals that the first process sends itself:
`os.kill(os.getpid(), 9)` would not end a program there.

Control packets. Parent: the configuration, then {limits} with five descriptors (payload, stdin,
stdout, stderr, result), b"I" to interrupt the run, or b"K" to kill it. Zygote: {"ready"} or
{"error"}, then a packed (status, CPU seconds, peak KiB) per run.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
from importlib.machinery import PathFinder
from typing import Any

if __name__ == "__main__":
    # Siblings are imported by their folder: the package above them need not be importable here.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from jail import child, kernel, landlock, rootfs, seccomp  # type: ignore[import-not-found]

    sys.path.pop(0)
else:
    from . import child, kernel, landlock, rootfs, seccomp

EXIT_PACKET = struct.Struct("<id q")
SETUP_FAILED = 125
NUM_DESCRIPTORS = 5
STACK_ROOM = 1 << 30
THREAD_STACK = 8 << 20


class _OnlyShown:
    """Hides, while this process is still outside the jail, those of the host's packages that the
    jail will not show.
    """

    def __init__(self, folders: list[str], shown: list[str]):
        self.folders = folders
        self.shown = shown

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        spec = PathFinder.find_spec(name, self.folders) if path is None else None
        if spec is None:
            return
        places = [*(spec.submodule_search_locations or ()), spec.origin or ""]
        if not any(os.path.realpath(place).startswith(top) for place in places for top in self.shown):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def preimport(names: list[str], folders: list[str], shown: list[str]) -> list[str]:
    """Import what programs usually import; absent modules are left out.

    Returns what was imported.
    """
    found = []
    hider = _OnlyShown(folders, shown)
    sys.meta_path.insert(0, hider)
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            found.append(name)
    sys.meta_path.remove(hider)
    return found


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _stack(value: int) -> None:
    """The hard limit stays: programs often begin by raising the soft one.

    What a stack takes counts as memory.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def set_limits(limits: dict[str, int], base_bytes: int, count_processes: bool) -> None:
    """rlimits of one run. The address space is counted on top of what the zygote already maps.

    Processes are counted per user and user namespace, so the count means something only in a
    namespace of our own.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, limits["files"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    if count_processes:
        _limit(resource.RLIMIT_NPROC, limits["processes"])
    _limit(resource.RLIMIT_CPU, limits["cpu_s"])
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    if limits["runtime_bytes"]:
        # Stacks of threads count as data; 8 MB is what such a runtime expects.
        _stack(8 << 20)
        _limit(resource.RLIMIT_DATA, base_bytes + limits["memory_bytes"] + limits["runtime_bytes"])
        return
    # Threads of a started program reserve as much as its stack may grow, so it gets less than
    # Python's own main thread.
    _stack(limits["stack_bytes"] // 4 if limits["supervises"] else limits["stack_bytes"])
    _limit(resource.RLIMIT_AS, base_bytes + limits["memory_bytes"] + limits["reserved_bytes"])


def mapped_bytes() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * resource.getpagesize()


def clear_folder(folder: str) -> None:
    """Empty a folder however deep, closed or odd its content: what lies deeper is first moved up,
    so nothing recurses.
    """
    moved = 0
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)  # moving a folder writes to it
                moved += 1
                os.rename(inner.path, os.path.join(folder, f".moved-{moved}-{inner.inode()}"))
            os.rmdir(entry.path)


class Zygote:
    """State of the slot process between runs."""

    def __init__(self, control: socket.socket, config: dict[str, Any]):
        self.control = control
        self.level = config["level"]
        self.scratch = config["scratch"]
        self.oom_folder = -1
        self.filter = seccomp.build()
        if not self.filter and self.level != "rlimits":
            raise OSError(f"no seccomp filter for {kernel.ARCH}")
        self.ruleset = -1
        self.all_but_proc: landlock.AllBut | None = None
        self.own_fd = -1
        self.init = 0
        if self.level == "landlock":
            self.ruleset = landlock.create(config["read_only"], config["hidden"], list(rootfs.DEVICES), self.scratch)
        self.base_bytes = mapped_bytes()
        if config["cgroup"]:
            # The child marks itself as the first to go when the slot's memory group is full.
            self.oom_folder = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

    def serve(self) -> None:
        # No signal handler, see `kernel.start_idle_init`.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.own_fd = os.pidfd_open(os.getpid())
        if self.level == "namespaces" and rootfs.cover_proc(allowed=landlock.can_hide()):
            shown = [name for name in os.listdir("/") if f"/{name}" != rootfs.PROC]
            self.all_but_proc = landlock.AllBut(shown, [rootfs.BOX, rootfs.PRIVATE])
        self.control.send(json.dumps({"ready": self.level}).encode())
        while True:
            data, descriptors = self._receive()
            if not data:
                return
            if len(descriptors) != NUM_DESCRIPTORS:
                continue  # it came too late for a run that has already ended
            self._run(json.loads(data), descriptors)

    def _receive(self) -> tuple[bytes, list[int]]:
        fds = array.array("i")
        data, ancillary, _, _ = self.control.recvmsg(4096, socket.CMSG_SPACE(NUM_DESCRIPTORS * fds.itemsize))
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return data, list(fds)

    def _start(self) -> int:
        """Fork the process of a run; 0 in the child.

        At the strongest level the run's PID namespace is there first.
        """
        if self.level != "namespaces":
            return os.fork()
        self.init = kernel.start_idle_init()
        init_fd = os.pidfd_open(self.init)
        try:
            kernel.enter_pid_namespace(init_fd)
            pid = kernel.clone(kernel.CLONE_NEWNS)
        finally:
            os.close(init_fd)
        if pid:
            kernel.enter_pid_namespace(self.own_fd)
        return pid

    def _run(self, limits: dict[str, int], descriptors: list[int]) -> None:
        pid = self._start()
        if pid == 0:
            self._child(limits, descriptors)
        for fd in descriptors:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(self.control, select.POLLIN)
        alive = True
        while alive:
            for fd, _ in poller.poll():
                if fd == pidfd:
                    alive = False
                    continue
                packet = self.control.recv(4096)
                if packet == b"I":
                    os.kill(pid, signal.SIGINT)
                    continue
                self._kill(pid)
                if not packet:
                    os._exit(0)
        os.close(pidfd)
        _, status, usage = os.wait4(pid, 0)
        if self.level == "namespaces":
            os.kill(self.init, signal.SIGKILL)
            os.waitpid(self.init, 0)  # returns when nothing of the run is left
        else:
            self._sweep()
        self.control.send(EXIT_PACKET.pack(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))

    def _kill(self, pid: int) -> None:
        if self.level != "namespaces":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)

    def _sweep(self) -> None:
        """Without a PID namespace: kill what the run left (it was handed to us as subreaper) and
        its files.
        """
        own = f"/proc/self/task/{os.getpid()}/children"
        while True:
            with open(own) as f:
                left = [int(word) for word in f.read().split()]
            if not left:
                break
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)
        clear_folder(self.scratch)

    def _child(self, limits: dict[str, int], descriptors: list[int]) -> None:
        """Set up the inner jail and run; never returns.

        What fails before the program starts is our fault.
        """
        code = SETUP_FAILED
        try:
            payload_fd, *streams = descriptors
            if self.level == "namespaces":
                rootfs.mount_box(limits["box_bytes"], limits["box_files"])
                if self.all_but_proc:
                    rootfs.mount_proc()
                child.program_file = f"{rootfs.PRIVATE}/program.py"
                child.own_pid_namespace = True
            payload = self._confine(limits, payload_fd, streams)
            code = child.run(payload)
        except BaseException as error:  # noqa: BLE001 (reported to the parent, which raises)
            if code == SETUP_FAILED:
                with contextlib.suppress(OSError):
                    os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
        finally:
            os._exit(code)

    def _confine(self, limits: dict[str, int], payload_fd: int, streams: list[int]) -> bytes:
        if self.oom_folder >= 0:
            fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self.oom_folder)
            os.write(fd, b"1000")
            os.close(fd)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if self.all_but_proc:
            self.ruleset = self.all_but_proc.ruleset()  # one for each run: its rules hold for this run's mounts
        if self.ruleset >= 0:
            landlock.enforce(self.ruleset)
        with open(payload_fd, "rb", closefd=False) as f:
            payload = f.read()
        high = [os.dup2(fd, 200 + index) for index, fd in enumerate(streams)]
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.setsid()
        if self.level != "namespaces":
            os.chdir(self.scratch)
        os.closerange(4, 4096)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        set_limits(limits, self.base_bytes, count_processes=self.level == "namespaces")
        if limits["supervises"]:
            # Its descriptors must not be reached through /proc; the program that it starts is not
            # bound by this.
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.drop_capabilities()
        if self.filter:
            kernel.install_filter(self.filter if self.level == "namespaces" else seccomp.build(os.getpid()))
        return payload


def _become_zygote(config: dict[str, Any]) -> None:
    if config["level"] == "namespaces":
        rootfs.enter(config["read_only"], config["hidden"], config["links"], config["own_uid"])
    elif config["own_uid"] is not None:
        rootfs.become(config["own_uid"])


def _with_room_for_the_stack() -> None:
    """Start this program again where the kernel has left too little room below the stack, which it
    does at exec.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if sys.argv[2:] == ["again"] or soft == resource.RLIM_INFINITY or soft >= STACK_ROOM:
        return
    room = STACK_ROOM if hard == resource.RLIM_INFINITY else min(STACK_ROOM, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (room, hard))
    os.execv(sys.executable, [*sys.orig_argv, "again"])


def _fork_slots(control: socket.socket) -> socket.socket:
    """Be the template. Returns in each fork, with the control socket of its slot."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control.send(json.dumps({"ready": "template"}).encode())
    while True:
        fds = array.array("i")
        data, ancillary, _, _ = control.recvmsg(64, socket.CMSG_SPACE(fds.itemsize))
        if not data:
            os._exit(0)
        for _, _, payload in ancillary:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        pid = os.fork()
        if pid == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            return socket.socket(fileno=fds[0])
        os.close(fds[0])
        control.send(json.dumps({"pid": pid}).encode())


def main() -> None:
    """Entry of the slot process; errors before the first run go to the parent as {"error": ...}."""
    _with_room_for_the_stack()
    threading.stack_size(THREAD_STACK)  # not the main thread's limit, which the C library would take
    kernel.set_thread_stack(THREAD_STACK)  # the same for threads of libraries, such as Arrow's
    control = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(control.recv(1 << 16))
    os.environ.clear()
    os.environ.update(config["environment"])
    sys.path.extend(config["path"])
    if config["font_cache"]:
        os.environ["MPLCONFIGDIR"] = config["font_cache"]
    if not config["bare"]:
        child.import_notebooks()
    preimport(config["preimport"], config["path"], config["read_only"])
    os.environ.pop("MPLCONFIGDIR", None)
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise touch, and so copy, every page of these objects
    if config["template"]:
        control = _fork_slots(control)
        config = json.loads(control.recv(1 << 16))
    try:
        zygote = Zygote(control, config)
        _become_zygote(config)
        pid = os.fork()
    except OSError as error:
        control.send(json.dumps({"error": f"{error}"}).encode())
        os._exit(1)
    if pid:
        control.close()
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    zygote.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
