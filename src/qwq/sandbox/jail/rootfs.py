"""The outer jail of a slot: made once, before any program arrives.

After `enter` the process sees a read-only tmpfs that holds the interpreter, the system's shared
libraries, five harmless device nodes and an empty `/box`; no /proc, no /sys, no /home, and no way
back to the old root. So that /dev/stdin, /dev/stdout and /dev/fd lead somewhere, a run has a proc
file system of its own PID namespace at /.proc; Landlock keeps all else in it closed
(`landlock.AllBut`), and where the kernel has no Landlock those links lead nowhere.
"""

from __future__ import annotations

import os

from . import kernel

BOX = "/box"
PRIVATE = "/run"  # beside the working folder: the program's own file, and /dev/shm
PROC = "/.proc"  # not where programs look for what it tells of processes and the machine
INNER_ID = 1000
DEVICE_LINKS = {
    "/dev/fd": f"{PROC}/self/fd",
    "/dev/stdin": f"{PROC}/self/fd/0",
    "/dev/stdout": f"{PROC}/self/fd/1",
    "/dev/stderr": f"{PROC}/self/fd/2",
    "/dev/shm": f"{PRIVATE}/shm",
}
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWCGROUP
)


def _write_at(folder_fd: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY, dir_fd=folder_fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _bind(source: str, target: str) -> None:
    """Read-only view of `source` at `target`; both are files or both are folders."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID
    if not source.startswith("/old/dev/"):
        attributes |= kernel.MOUNT_ATTR_NODEV
    kernel.set_mount_attributes(target, attributes)


def _show(read_only: list[str], hidden: list[str]) -> None:
    """Bind what is to be read, cover the hidden folders below it with empty ones, and bind what is
    shown of these.
    """
    inside = [path for path in read_only if any(path.startswith(folder + "/") for folder in hidden)]
    for path in read_only:
        if path not in inside:
            _bind("/old" + path, path)
    covers = [folder for folder in hidden if os.path.isdir(folder)]
    for folder in covers:
        kernel.mount("hidden", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=256k,nr_inodes=256,mode=755")
    for path in inside:
        _bind("/old" + path, path)
    for folder in covers:
        kernel.set_mount_attributes(folder, kernel.MOUNT_ATTR_RDONLY, recursive=False)


def build(read_only: list[str], hidden: list[str], links: dict[str, str]) -> None:
    """Replace the root of this mount namespace. `links` are symlinks to remake, name to target."""
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # /tmp is only a mount point: the tmpfs covers it in this mount namespace alone.
    options = "size=4m,nr_inodes=4096,mode=755"
    kernel.mount("qwq", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    os.mkdir("/tmp/old")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    _show(read_only, hidden)
    for device in DEVICES:
        if os.path.exists("/old" + device):
            _bind("/old" + device, device)
    for name, target in (links | DEVICE_LINKS).items():
        os.makedirs(os.path.dirname(name), exist_ok=True)
        if not os.path.lexists(name):
            os.symlink(target, name)
    os.mkdir(BOX, 0o755)
    os.mkdir(PROC, 0o555)
    os.makedirs(PRIVATE, exist_ok=True)
    # The kernel lets a user namespace mount a /proc only where one can be seen already;
    # `cover_proc` covers this one.
    kernel.mount("/old/proc", PROC, None, kernel.MS_BIND)
    # An interpreter that is installed below /tmp has made that folder already; temporary files then
    # go to the box by the standard library's own fallback, the working folder.
    if not os.path.lexists("/tmp"):
        os.symlink(BOX, "/tmp")
    kernel.umount("/old")
    os.rmdir("/old")
    kernel.set_mount_attributes("/", kernel.MOUNT_ATTR_RDONLY, recursive=False)


def become(uid: int) -> None:
    """Give root up for an id that nobody uses, so that process limits hold and files are not
    ours.
    """
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # cleared by setuid; uid_map is not writable without it


def enter(read_only: list[str], hidden: list[str], links: dict[str, str], own_uid: int | None) -> None:
    """Enter all namespaces. The PID namespace begins with the next fork.

    Real root builds the file tree first and then becomes `own_uid`; another user (`own_uid` None)
    builds it inside its user namespace.
    """
    proc_self = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    if own_uid is not None:
        kernel.unshare(kernel.CLONE_NEWNS)
        build(read_only, hidden, links)
        become(own_uid)
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(NAMESPACES)
    _write_at(proc_self, "setgroups", "deny")
    _write_at(proc_self, "uid_map", f"{INNER_ID} {uid} 1")
    _write_at(proc_self, "gid_map", f"{INNER_ID} {gid} 1")
    os.close(proc_self)
    if own_uid is None:
        build(read_only, hidden, links)
    kernel.set_hostname("box")


_PROC_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def mount_proc() -> None:
    """A proc file system that shows the processes of the caller's PID namespace and nothing of the
    machine.
    """
    kernel.mount("proc", PROC, "proc", _PROC_FLAGS, "subset=pid,hidepid=2")


def cover_proc(allowed: bool) -> bool:
    """Cover the host's proc for good; whether runs can have one of their own.

    Called in the slot's PID namespace.
    """
    if allowed:
        try:
            mount_proc()
            return True
        except OSError:  # where parts of the host's are masked, as in containers
            pass
    kernel.mount("none", PROC, "tmpfs", _PROC_FLAGS, "size=4k,nr_inodes=2,mode=000")
    return False


def mount_box(limit_bytes: int, max_files: int) -> None:
    """A fresh, private working folder for one run, and what lies beside it; all vanish with the
    run's mount namespace.
    """
    options = f"size={limit_bytes},nr_inodes={max_files},uid={INNER_ID},gid={INNER_ID}"
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("box", BOX, "tmpfs", flags, f"{options},mode=700")
    kernel.mount("private", PRIVATE, "tmpfs", flags, f"{options},mode=755")
    os.mkdir(f"{PRIVATE}/shm", 0o700)
    os.chdir(BOX)
