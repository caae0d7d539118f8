"""A seccomp allow-list in plain BPF: what a Python program needs to compute, and no more.

Not on the list, so refused: socket and connect (all families), ptrace, process_vm_*, mount and its
kin, chroot, setns, unshare, new namespaces through clone, bpf, io_uring, userfaultfd, keyctl,
perf_event_open, modules, System V and POSIX message IPC, memfd_create, open_by_handle_at,
personality, setting ids. A refused call fails with EPERM (the program sees an OSError and
continues); newer calls fail with ENOSYS, so that the C library falls back to an older one.

Without namespaces (`own_pid` given) the list is shorter still: no new processes, no programs to
execute, signals only to oneself, no change of a file's mode, owner or times, no new folders
(removing a deep tree takes longer than making it).

Syscall numbers are facts of the kernel's unistd.h; on another architecture there is no filter and
no level above `rlimits`.
"""

from __future__ import annotations

import struct

from .kernel import ARCH

_X86_64 = """
    read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12
    rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17 pwrite64=18 readv=19 writev=20 access=21 pipe=22
    select=23 sched_yield=24 mremap=25 msync=26 mincore=27 madvise=28 dup=32 dup2=33 pause=34 nanosleep=35
    getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 sendto=44 recvfrom=45 sendmsg=46 recvmsg=47 shutdown=48
    getsockname=51 getpeername=52 setsockopt=54 getsockopt=55 fork=57 vfork=58 execve=59 exit=60 wait4=61 uname=63
    fcntl=72 flock=73 fsync=74 fdatasync=75 truncate=76 ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81
    rename=82 mkdir=83 rmdir=84 creat=85 link=86 unlink=87 symlink=88 readlink=89 chmod=90 fchmod=91 chown=92
    fchown=93 lchown=94 umask=95 gettimeofday=96 getrlimit=97 getrusage=98 sysinfo=99 times=100 getuid=102
    getgid=104 geteuid=107 getegid=108 setpgid=109 getppid=110 getpgrp=111 setsid=112 getgroups=115 getresuid=118
    getresgid=120 getpgid=121 getsid=124 capget=125 rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130
    sigaltstack=131 utime=132 statfs=137 fstatfs=138 getpriority=140 sched_getparam=143 sched_getscheduler=145
    sched_get_priority_max=146 sched_get_priority_min=147 arch_prctl=158 setrlimit=160 gettid=186 getxattr=191
    lgetxattr=192 fgetxattr=193 listxattr=194 time=201 futex=202 sched_getaffinity=204 epoll_create=213
    getdents64=217 set_tid_address=218 restart_syscall=219 fadvise64=221 timer_create=222 timer_settime=223
    timer_gettime=224 timer_getoverrun=225 timer_delete=226 clock_gettime=228 clock_getres=229 clock_nanosleep=230
    exit_group=231 epoll_wait=232 epoll_ctl=233 utimes=235 waitid=247 openat=257 mkdirat=258 fchownat=260
    newfstatat=262 unlinkat=263 renameat=264 linkat=265 symlinkat=266 readlinkat=267 fchmodat=268 faccessat=269
    pselect6=270 ppoll=271 set_robust_list=273 get_robust_list=274 splice=275 tee=276 sync_file_range=277
    utimensat=280 epoll_pwait=281 signalfd=282 timerfd_create=283 eventfd=284 fallocate=285 timerfd_settime=286
    timerfd_gettime=287 signalfd4=289 eventfd2=290 epoll_create1=291 dup3=292 pipe2=293 preadv=295 pwritev=296
    getcpu=309 sched_getattr=315 renameat2=316 getrandom=318 membarrier=324 copy_file_range=326 preadv2=327
    pwritev2=328 statx=332 rseq=334 pidfd_open=434 close_range=436 openat2=437 faccessat2=439 epoll_pwait2=441
    futex_waitv=449
"""
_AARCH64 = """
    getxattr=8 lgetxattr=9 fgetxattr=10 listxattr=11 getcwd=17 eventfd2=19 epoll_create1=20 epoll_ctl=21
    epoll_pwait=22 dup=23 dup3=24 fcntl=25 flock=32 mkdirat=34 unlinkat=35 symlinkat=36 linkat=37 renameat=38
    statfs=43 fstatfs=44 truncate=45 ftruncate=46 fallocate=47 faccessat=48 chdir=49 fchdir=50 fchmod=52 fchmodat=53
    fchownat=54 fchown=55 openat=56 close=57 pipe2=59 getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66
    pread64=67 pwrite64=68 preadv=69 pwritev=70 sendfile=71 pselect6=72 ppoll=73 signalfd4=74 splice=76 tee=77
    readlinkat=78 newfstatat=79 fstat=80 fsync=82 fdatasync=83 sync_file_range=84 timerfd_create=85
    timerfd_settime=86 timerfd_gettime=87 utimensat=88 capget=90 exit=93 exit_group=94 waitid=95 set_tid_address=96
    futex=98 set_robust_list=99 get_robust_list=100 nanosleep=101 getitimer=102 setitimer=103 timer_create=107
    timer_gettime=108 timer_getoverrun=109 timer_settime=110 timer_delete=111 clock_gettime=113 clock_getres=114
    clock_nanosleep=115 sched_getscheduler=120 sched_getparam=121 sched_getaffinity=123 sched_yield=124
    sched_get_priority_max=125 sched_get_priority_min=126 restart_syscall=128 sigaltstack=132 rt_sigsuspend=133
    rt_sigaction=134 rt_sigprocmask=135 rt_sigpending=136 rt_sigtimedwait=137 rt_sigreturn=139 getpriority=141
    getresuid=148 getresgid=150 times=153 setpgid=154 getpgid=155 getsid=156 setsid=157 getgroups=158 uname=160
    getrlimit=163 setrlimit=164 getrusage=165 umask=166 getcpu=168 gettimeofday=169 getpid=172 getppid=173
    getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178 sysinfo=179 getsockname=204 getpeername=205 sendto=206
    recvfrom=207 setsockopt=208 getsockopt=209 shutdown=210 sendmsg=211 recvmsg=212 brk=214 munmap=215 mremap=216
    execve=221 mmap=222 fadvise64=223 mprotect=226 msync=227 mincore=232 madvise=233 wait4=260 sched_getattr=275
    renameat2=276 getrandom=278 membarrier=283 copy_file_range=285 preadv2=286 pwritev2=287 statx=291 rseq=293
    pidfd_open=434 close_range=436 openat2=437 faccessat2=439 epoll_pwait2=441 futex_waitv=449
"""
# Judged by their arguments, see `_checks`.
_CHECKED = {
    "x86_64": {
        "ioctl": 16,
        "socketpair": 53,
        "clone": 56,
        "kill": 62,
        "prctl": 157,
        "tkill": 200,
        "tgkill": 234,
        "prlimit64": 302,
    },
    "aarch64": {
        "ioctl": 29,
        "kill": 129,
        "tkill": 130,
        "tgkill": 131,
        "prctl": 167,
        "socketpair": 199,
        "clone": 220,
        "prlimit64": 261,
    },
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEW_NAMESPACES = 0x7E020000
_EPERM, _ENOTTY, _ENOSYS = 1, 25, 38
_CLONE_THREAD = 0x00010000
_NOT_WITHOUT_NAMESPACES = frozenset(
    [
        "fork",
        "vfork",
        "execve",
        "mkdir",
        "mkdirat",
        "chmod",
        "fchmod",
        "fchmodat",
        "chown",
        "fchown",
        "lchown",
        "fchownat",
        "utime",
        "utimes",
        "utimensat",
    ]
)
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_FIRST_NEW_CALL = 424  # from here on all architectures share their numbers
_X32_BIT = 0x40000000

_LOAD, _EQUAL, _GREATER, _BITS, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # isatty, window size, FIONREAD, FIONBIO, close-on-exec
_PRCTLS = (3, 15, 16, 23, 39, 0x53564D41)  # dumpable?, thread name, capability?, no_new_privs?, name of a mapping


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    return _op(_LOAD, 16 + 8 * index)


def _one_of(index: int, values: tuple[int, ...], otherwise: int) -> bytes:
    """Allow where the low word of an argument is one of `values`, else fail with `otherwise`."""
    code = _argument(index)
    for value in values:
        code += _op(_EQUAL, value, 0, 1) + _op(_RETURN, _ALLOW)
    return code + _op(_RETURN, _ERRNO | otherwise)


def _checks(own_pid: int | None) -> dict[str, bytes]:
    """BPF that decides each checked call.

    With `own_pid`, signals go to that process alone and clone makes threads.
    """
    allow = _op(_RETURN, _ALLOW)
    signals = allow if own_pid is None else _one_of(0, (own_pid,), _EPERM)
    connected = (
        _argument(1) + _op(_AND, 0xF) + _op(_EQUAL, 1, 2, 0) + _op(_EQUAL, 5, 1, 0) + _op(_RETURN, _ERRNO | _EPERM)
    )
    refuse = _op(_RETURN, _ERRNO | _EPERM)
    clone = _argument(0) + _op(_BITS, _NEW_NAMESPACES, 0, 1) + refuse
    if own_pid is not None:
        clone += _op(_BITS, _CLONE_THREAD, 1, 0) + refuse
    return {
        "ioctl": _one_of(1, _IOCTLS, _ENOTTY),
        "prctl": _one_of(0, _PRCTLS, _EPERM),
        "prlimit64": _one_of(0, (0,), _EPERM),
        "kill": signals,
        "tkill": signals,
        "tgkill": signals,
        # A datagram pair could send to any unix address; stream and sequenced-packet pairs are
        # connected for good, and the kernel looks at no address that is given with a packet.
        "socketpair": _argument(0) + _op(_EQUAL, 1, 1, 0) + _op(_RETURN, _ERRNO | _EPERM) + connected + allow,
        "clone": clone + allow,
    }


def allowed() -> dict[str, int]:
    """Calls that are allowed whatever their arguments, name to number on this machine; empty if
    unknown.
    """
    table = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(ARCH, "")
    return {name: int(number) for name, _, number in (entry.partition("=") for entry in table.split())}


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def build(own_pid: int | None = None) -> bytes:
    """The filter as BPF instructions of 8 bytes; empty where the architecture is not known."""
    if ARCH not in _AUDIT_ARCH:
        return b""
    code = _op(_LOAD, 4) + _op(_EQUAL, _AUDIT_ARCH[ARCH], 1, 0) + _op(_RETURN, _KILL) + _op(_LOAD, 0)
    if ARCH == "x86_64":
        code += _op(_GREATER, _X32_BIT, 0, 1) + _op(_RETURN, _ERRNO | _ENOSYS)
    dropped = _NOT_WITHOUT_NAMESPACES if own_pid is not None else frozenset()
    for first, last in _ranges([number for name, number in allowed().items() if name not in dropped]):
        if first == last:
            code += _op(_EQUAL, first, 0, 1)
        else:
            code += _op(_GREATER, first, 0, 2) + _op(_GREATER, last + 1, 1, 0)
        code += _op(_RETURN, _ALLOW)
    checks = _checks(own_pid)
    for name, number in _CHECKED[ARCH].items():
        code += _op(_EQUAL, number, 0, len(checks[name]) // 8) + checks[name]
    return code + _op(_GREATER, _FIRST_NEW_CALL, 0, 1) + _op(_RETURN, _ERRNO | _ENOSYS) + _op(_RETURN, _ERRNO | _EPERM)
