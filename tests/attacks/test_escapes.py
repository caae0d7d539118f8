"""Programs that want out. One property each; `jail` is every level that protects by default."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile

import pytest

from qwq.sandbox import Level


def errno_of(box, statement: str) -> str:
    """What a statement gives: "done", or the name of the error."""
    body = "\n    ".join(statement.split("\n"))
    program = (
        f"import os, socket, ctypes, signal, errno, sys\ntry:\n    {body}\n    print('done')\nexcept OSError as e:\n"
        "    print(errno.errorcode.get(e.errno, e.errno))"
    )
    result = box.run(program, timeout_s=3)
    return result.stdout.decode().strip() or f"{result.status} {result.stderr[-200:]!r}"


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/passwd", "/proc/self/environ", __file__])
def test_host_files_are_not_readable(jail, path):
    assert errno_of(jail, f"open({path!r}).read(1)") in ("ENOENT", "EACCES")


def test_the_environment_of_another_process(jail):
    assert errno_of(jail, "open('/proc/1/environ').read(1)") in ("ENOENT", "EACCES")


def test_host_folders_are_not_listed(jail):
    for path in ("/home", "/root", "/proc", "/var", "/sys", "/mnt"):
        listed = errno_of(jail, f"print([n for n in os.listdir({path!r}) if n != '.pyenv'])")
        assert listed in ("ENOENT", "EACCES", "[]\ndone"), (path, listed)


def test_host_is_not_writable(jail):
    for path in ("/x", "/etc/x", "/usr/lib/x", "/dev/x", "/var/tmp/x", f"{sys.base_prefix}/x"):
        assert errno_of(jail, f"open({path!r}, 'w')") in ("EROFS", "EACCES", "ENOENT", "EPERM")
        assert not os.path.exists(path)


def test_no_view_of_other_processes(jail):
    assert errno_of(jail, "print(len(os.listdir('/proc')) > 0)") in ("ENOENT", "EACCES")


def test_the_tests_own_folder_is_out_of_reach(jail):
    if jail.level is Level.RLIMITS:
        pytest.xfail("rlimits does not cover it: host files are readable (and /tmp is)")
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as tests:
        tests.write('{"expected": 42}')
        tests.flush()
        os.chmod(tests.name, 0o644)
        assert errno_of(jail, f"print(open({tests.name!r}).read())") in ("ENOENT", "EACCES")


def test_symlinks_lead_nowhere(jail):
    assert errno_of(jail, "os.symlink('/etc/shadow', 'link')\nopen('link').read()") in ("ENOENT", "EACCES")


def test_renames_and_hard_links_do_not_cross(jail):
    library = os.path.realpath(os.__file__)
    assert errno_of(jail, f"os.link({library!r}, 'copy')") in ("EXDEV", "EACCES", "EPERM")
    assert errno_of(jail, f"os.rename({library!r}, 'moved')") in ("EXDEV", "EACCES", "EROFS", "EPERM")


def test_interpreter_files_keep_mode_owner_and_times(jail):
    library = os.path.realpath(os.__file__)
    before = os.stat(library)
    for call in (
        f"os.chmod({library!r}, 0)",
        f"os.chown({library!r}, 1, 1)",
        f"os.utime({library!r}, (1, 1))",
        f"os.truncate({library!r}, 0)",
    ):
        assert errno_of(jail, call) in ("EROFS", "EPERM", "EACCES")
    after = os.stat(library)
    assert (after.st_mode, after.st_uid, after.st_mtime, after.st_size) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime,
        before.st_size,
    )


@pytest.mark.parametrize(
    "family, kind",
    [
        ("AF_INET", "SOCK_STREAM"),
        ("AF_INET", "SOCK_DGRAM"),
        ("AF_INET6", "SOCK_STREAM"),
        ("AF_UNIX", "SOCK_STREAM"),
        ("AF_NETLINK", "SOCK_RAW"),
    ],
)
def test_no_sockets(jail, family, kind):
    assert errno_of(jail, f"socket.socket(socket.{family}, socket.{kind})") == "EPERM"


def test_tcp_to_a_listening_port_of_the_host(jail):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert errno_of(jail, f"socket.create_connection(('127.0.0.1', {port}), timeout=1)") != "done"


def test_datagram_pair_cannot_reach_an_abstract_socket(jail):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0qwq-attack-test")
        server.settimeout(0.1)
        statement = "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', '\\0qwq-attack-test')"
        assert errno_of(jail, statement) == "EPERM"
        with pytest.raises(TimeoutError):
            server.recv(1)


def test_sequenced_packet_pair_cannot_reach_an_abstract_socket(jail):
    """Rust's programs start others with such a pair, so it is allowed; an address goes nowhere."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        server.bind("\0qwq-attack-packets")
        server.listen()
        server.settimeout(0.1)
        other.bind("\0qwq-attack-datagrams")
        other.settimeout(0.1)
        for name in ("packets", "datagrams"):
            for call in (
                f"a.sendto(b'x', '\\0qwq-attack-{name}')",
                f"a.connect('\\0qwq-attack-{name}')",
                f"a.sendmsg([b'x'], [], 0, '\\0qwq-attack-{name}')",
            ):
                errno_of(jail, f"a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n{call}")
        for waiting in (server.accept, lambda: other.recv(1)):
            with pytest.raises(TimeoutError):
                waiting()


def test_kill_everything(jail):
    bystander = subprocess.Popen(["sleep", "20"])
    try:
        jail.run("import os\nos.kill(-1, 9)")
        assert bystander.poll() is None
        assert jail.run("print('well')").stdout == b"well\n"
    finally:
        bystander.kill()
        bystander.wait()


def test_kill_the_parent(jail):
    slot = next(iter(jail._slot_pool.live))
    jail.run("import os\nfor pid in (os.getppid(), 1, 2):\n    try: os.kill(pid, 9)\n    except OSError: pass")
    assert jail.run("print('well')").stdout == b"well\n"
    assert slot in jail._slot_pool.live and not slot.dead


# name, number on x86_64, number on aarch64
CALLS = [
    ("ptrace", 101, 117), ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271), ("mount", 165, 40),
    ("umount2", 166, 39), ("pivot_root", 155, 41), ("chroot", 161, 51), ("setns", 308, 268), ("unshare", 272, 97),
    ("bpf", 321, 280), ("userfaultfd", 323, 282), ("keyctl", 250, 219), ("add_key", 248, 217),
    ("perf_event_open", 298, 241), ("init_module", 175, 105), ("open_by_handle_at", 304, 265),
    ("memfd_create", 319, 279), ("shmget", 29, 194), ("mq_open", 240, 180), ("seccomp", 317, 277),
    ("personality", 135, 92), ("setuid", 105, 146), ("syslog", 103, 116), ("kexec_load", 246, 104),
    ("io_uring_setup", 425, 425), ("clone3", 435, 435), ("mount_setattr", 442, 442), ("fsopen", 430, 430),
]  # fmt: skip


@pytest.mark.parametrize("name, x86, arm", CALLS, ids=[c[0] for c in CALLS])
def test_system_call_is_refused(jail, name, x86, arm):
    program = (
        "import ctypes, platform\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"r = libc.syscall({{'x86_64': {x86}, 'aarch64': {arm}}}[platform.machine()], 0, 0, 0, 0, 0)\n"
        "print(r, ctypes.get_errno())"
    )
    expected = b"-1 38\n" if x86 >= 424 else b"-1 1\n"
    assert jail.run(program).stdout == expected


def test_new_user_namespace_through_clone(jail):
    program = (
        "import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "r = libc.syscall({'x86_64': 56, 'aarch64': 220}[platform.machine()], 0x10000000 | 17, 0, 0, 0, 0)\n"
        "print(r, ctypes.get_errno())"
    )
    assert jail.run(program).stdout == b"-1 1\n"


def test_no_privileges_are_held(jail):
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nd = (ctypes.c_uint32 * 6)()\n"
        "h = (ctypes.c_uint32 * 2)(0x20080522, 0)\nlibc.capget(h, d)\nprint(list(d), libc.prctl(39, 0, 0, 0, 0))"
    )
    assert jail.run(program).stdout == b"[0, 0, 0, 0, 0, 0] 1\n"


def test_no_descriptor_beyond_the_four(jail):
    program = (
        "import os\nopen_ = []\nfor fd in range(300):\n    try: os.fstat(fd); open_.append(fd)\n"
        "    except OSError: pass\nprint(open_)"
    )
    assert jail.run(program).stdout == b"[0, 1, 2, 3]\n"


def test_environment_is_not_inherited(monkeypatch):
    from qwq.sandbox import Sandbox

    monkeypatch.setenv("QWQ_SECRET", "1")
    with Sandbox(slots=1) as box:
        names = box.run("import os\nprint(sorted(os.environ))").stdout.decode()
    assert "QWQ_SECRET" not in names and "PATH" in names


def test_input_of_an_earlier_run_is_not_in_memory(jail):
    first = "x = input()\nkeep = [x, x + '!']\nprint(len(x))"
    assert jail.run(first, stdin=b"qwq-this-is-the-secret").stdout == b"22\n"
    program = (
        "import gc\nneedle = ''.join(reversed('terces-eht'))\ngc.unfreeze()\nfound = 0\n"
        "for o in gc.get_objects():\n"
        "    parts = list(o.values()) if type(o) is dict else o if type(o) in (list, tuple, set) else ()\n"
        "    found += sum(type(x) in (str, bytes) and needle in str(x) and x is not needle for x in parts)\n"
        "print(found)"
    )
    assert jail.run(program).stdout == b"0\n"
    seen = "kept = [''.join(['the-', 'secret', '!'])]\n" + program
    assert int(jail.run(seen).stdout) > 0  # the scan does find what is there


def test_without_a_default_level_it_refuses():
    from qwq.errors import UsageError
    from qwq.sandbox import Sandbox

    with Sandbox(slots=1, level=Level.RLIMITS) as box, pytest.raises(UsageError, match="unsafe=True"):
        box.run("print(1)")


def test_scratch_folders_are_removed(tmp_path, monkeypatch):
    from qwq.sandbox import Sandbox

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Sandbox(slots=1, level=Level.RLIMITS, unsafe=True) as box:
        box.run("open('x', 'w').write('x')")
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


def test_installed_packages_of_the_interpreter_are_not_readable(jail):
    if jail.level is Level.RLIMITS:
        pytest.xfail("rlimits does not cover it: host files are readable")
    program = (
        "import importlib.machinery, json, os, sys\n"
        "folders = [p + '/' + n for p in {sys.base_prefix, sys.prefix, '/usr', '/usr/local'} for l in ('lib', "
        "'lib64')\n"
        "    if os.path.isdir(f'{p}/{l}') for v in (f'python{sys.version_info[0]}.{sys.version_info[1]}', 'python3')\n"
        "    for n in (f'{l}/{v}/site-packages', f'{l}/{v}/dist-packages')] + [p for p in sys.path if "
        "p.endswith('-packages')]\n"
        "read = []\n"
        "for folder in folders:\n"
        "    try: names = os.listdir(folder)\n"
        "    except OSError: continue\n"
        "    for name in names:\n"
        "        for file in (f'{folder}/{name}', f'{folder}/{name}/__init__.py', f'{folder}/{name}/METADATA'):\n"
        "            try: open(file, 'rb').read(1)\n"
        "            except OSError: continue\n"
        "            read.append(name)\n"
        "print(json.dumps(sorted(set(read))))"
    )
    result = jail.run(program, timeout_s=10)
    assert {name.split("-")[0] for name in json.loads(result.stdout)} <= {"numpy", "numpy.libs"}, result
    assert jail.run("import numpy, sqlite3, ctypes, decimal\nprint(int(numpy.arange(5).sum()))").stdout == b"10\n"
    assert jail.run("import pip").exit_code == 1


def test_the_file_system_behind_dev_stdin_tells_nothing(jail):
    if jail.level is Level.RLIMITS:
        pytest.xfail("rlimits does not cover it: /proc is open")
    for root in ("/.proc", "/proc"):
        for name in (
            "self/environ",
            "self/maps",
            "self/mem",
            "self/cgroup",
            "self/mountinfo",
            "1/environ",
            "1/fd/3",
            "cpuinfo",
            "self/root/etc/passwd",
        ):
            assert errno_of(jail, f"open('{root}/{name}').read(1)") in ("ENOENT", "EACCES"), (root, name)
        for name in ("", "self", "self/fd", "self/task"):
            assert errno_of(jail, f"print(os.listdir('{root}/{name}'))") in ("ENOENT", "EACCES"), (root, name)
        for name in ("self/oom_score_adj", "self/clear_refs", "self/mem", "1/oom_score_adj"):
            assert errno_of(jail, f"open('{root}/{name}', 'w').write('0')") in ("ENOENT", "EACCES"), (root, name)


def test_the_first_process_of_a_run_cannot_be_ended_or_reached(strongest):
    program = (
        "import os, signal\nfor number in range(1, 32):\n    try: os.kill(1, number)\n    except OSError: pass\n"
        "try: os.kill(-1, 9)\nexcept ProcessLookupError: print(os.getppid())"
    )
    assert strongest.run(program).stdout == b"0\n"
    assert strongest.run("print(1)").stdout == b"1\n"
