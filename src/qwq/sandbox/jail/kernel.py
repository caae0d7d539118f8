"""The few system calls that a jail needs and Python's os module lacks (Linux, x86_64 and aarch64).

Functions raise OSError with the call's name. Numbers are from the kernel's unistd.h and uapi
headers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

CLONE_VM = 0x00000100
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SECCOMP_MODE_FILTER = 2

ARCH = os.uname().machine
_numbers = {
    "x86_64": {"clone": 56, "pivot_root": 155, "capset": 126},
    "aarch64": {"clone": 220, "pivot_root": 41, "capset": 91},
}
NUMBERS = _numbers.get(ARCH, {}) | {
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock, so that between clone and PyOS_AfterFork nothing else can run.
_locked = ctypes.PyDLL(None, use_errno=True)
_locked.syscall.restype = ctypes.c_long
_libc.syscall.restype = ctypes.c_long


def _check(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _long(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)


def syscall(name: str, *args: object) -> int:
    """One raw system call by name; ints are passed as C longs."""
    converted = [_long(a) if isinstance(a, int) else a for a in args]
    return _check(_libc.syscall(_long(NUMBERS[name]), *converted), name)


def set_thread_stack(size: int) -> None:
    """Bytes of stack for threads that libraries start; without it the C library takes the main
    thread's limit. Python's own are set by `threading.stack_size`.
    """
    attributes = ctypes.create_string_buffer(128)  # a pthread_attr_t has 56 or 64
    if _libc.pthread_attr_init(attributes) == 0:
        _libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(size))
        _libc.pthread_setattr_default_np(attributes)
        _libc.pthread_attr_destroy(attributes)


def clone(flags: int) -> int:
    """fork(2) with namespace flags.

    The interpreter must be single-threaded; returns 0 in the child.
    """
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _locked.syscall(_long(NUMBERS["clone"]), _long(flags | 17), _long(0), _long(0), _long(0), _long(0))
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone: {os.strerror(code)}")
    return pid


_INIT_STACK_BYTES = 1 << 14
_init_stack = ctypes.create_string_buffer(_INIT_STACK_BYTES)


def start_idle_init() -> int:
    """Start the first process of a new PID namespace, which does nothing but be there; returns its
    pid.

    It shares this process's memory and only ever waits in the C library's `pause`, so that it costs
    no copy of any page table. There must be one at a time, and no Python signal handler, which
    would run in the shared memory. It reaps orphans by ignoring SIGCHLD.
    """
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    top = (ctypes.addressof(_init_stack) + _INIT_STACK_BYTES) & ~15
    waiting = ctypes.cast(_libc.pause, ctypes.c_void_p)
    pid = _libc.clone(waiting, ctypes.c_void_p(top), CLONE_VM | CLONE_NEWPID | signal.SIGCHLD, None)
    signal.signal(signal.SIGCHLD, before)
    return _check(pid, "clone")


def enter_pid_namespace(pidfd: int) -> None:
    """Children from now on belong to the PID namespace of a process (setns of a pidfd, Linux
    5.8).
    """
    _check(_libc.setns(pidfd, CLONE_NEWPID), "setns")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check(result, f"mount {target}")


def umount(target: str, flags: int = MNT_DETACH) -> None:
    _check(_libc.umount2(target.encode(), flags), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()))


def set_mount_attributes(target: str, attributes: int, recursive: bool = True) -> None:
    """Turn mount attributes on without touching those that are locked on (mount_setattr, Linux
    5.12).
    """
    attr = ctypes.create_string_buffer(struct.pack("QQQQ", attributes, 0, 0, 0))
    path = ctypes.c_char_p(target.encode())
    syscall("mount_setattr", AT_FDCWD, path, AT_RECURSIVE if recursive else 0, attr, 32)


def prctl(option: int, arg: object = 0, arg2: object = 0) -> None:
    first = ctypes.c_ulong(arg) if isinstance(arg, int) else arg
    second = ctypes.c_ulong(arg2) if isinstance(arg2, int) else arg2
    _check(_libc.prctl(option, first, second, ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl {option}")


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets for good."""
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("6I", 0, 0, 0, 0, 0, 0))
    syscall("capset", header, data)


def set_hostname(name: str) -> None:
    _check(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def install_filter(program: bytes) -> None:
    """Install a seccomp filter made of 8-byte BPF instructions; no_new_privs must be set."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _FilterProgram(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(header))
