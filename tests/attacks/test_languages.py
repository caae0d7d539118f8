"""Other languages: hostile sources, hostile programs, and levels that do not run them.

One property each.
"""

from __future__ import annotations

import os
import shutil
import time

import pytest

from qwq.errors import UsageError
from qwq.sandbox import Level, RunStatus, Sandbox
from qwq.types import Outcome
from qwq.verify.code import verify

needs_gcc = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ on this machine")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no node on this machine")


def within(seconds: float) -> float:
    """Wall time that a bound on a run's own time comes to here and now: limits do not count what a
    busy machine takes.
    """
    return seconds * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def still_works(box) -> bool:
    return box.run("echo well", language="bash").stdout == b"well\n"


@needs_gcc
@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/shadow", "/proc/self/environ", __file__])
def test_include_of_a_host_file(compilers, path):
    result = compilers.run(f'#include "{path}"\nint main() {{}}', language="c")
    assert result.status is RunStatus.COMPILE_ERROR
    assert b"No such file" in result.stderr and b"root:" not in result.stderr


@needs_gcc
def test_incbin_of_a_host_file(compilers):
    source = 'asm(".incbin \\"/etc/passwd\\"");\nint main() {}'
    result = compilers.run(source, language="c")
    assert result.status is RunStatus.COMPILE_ERROR and b"root:" not in result.stderr


@needs_gcc
def test_incbin_of_an_endless_device_is_bounded(compilers):
    started = time.monotonic()
    result = compilers.run('asm(".incbin \\"/dev/zero\\"");\nint main() {}', language="c", compile_timeout_s=2)
    assert result.status in (RunStatus.COMPILE_ERROR, RunStatus.TIMEOUT)
    assert time.monotonic() - started < within(6) and still_works(compilers)


@needs_gcc
def test_options_cannot_be_set_from_a_source(compilers):
    source = (
        '#pragma GCC optimize ("-fplugin=./evil.so")\n#pragma GCC optimize ("plugin=evil")\nint main() { return 5; }'
    )
    result = compilers.run(source, language="c", files={"evil.so": b"\x7fELF"})
    assert result.exit_code == 5 or result.status is RunStatus.COMPILE_ERROR


@needs_gcc
def test_code_inside_the_compiler_meets_the_same_jail(compilers):
    """What -fplugin would give an attacker: a process in the compiler's jail.

    Here that process is a shell.
    """
    script = (
        "cat /etc/passwd; ls /home /root; (exec 3<>/dev/tcp/127.0.0.1/22) && echo connected; echo x > /usr/bin/gcc; "
        "kill -9 -1"
    )
    result = compilers.run(script, language="bash")
    assert b"root:x" not in result.stdout and b"connected" not in result.stdout
    assert os.path.getsize(os.path.realpath(shutil.which("gcc"))) > 10_000 and still_works(compilers)


@needs_gcc
def test_template_bomb_is_bounded(compilers):
    source = (
        "template<int N> struct A { A<N-1> a; A<N-2> b; int c[A<N-1>::v + 1]; static const int v = A<N-1>::v + "
        "A<N-2>::v; };\ntemplate<class...> struct L {}; template<int N, class... T> struct B : B<N-1, T..., "
        "L<T...>, L<T..., T...>> {}; B<100000> b;\nint main() {}"
    )
    started = time.monotonic()
    result = compilers.run(source, language="cpp", compile_timeout_s=3)
    assert result.status in (RunStatus.COMPILE_ERROR, RunStatus.TIMEOUT)
    assert len(result.stderr) <= 1 << 20
    assert time.monotonic() - started < within(8) and still_works(compilers)


@needs_gcc
def test_include_of_itself_without_end(compilers):
    result = compilers.run('#include "main.c"\n#include "main.c"\nint main() {}', language="c", compile_timeout_s=3)
    assert result.status in (RunStatus.COMPILE_ERROR, RunStatus.TIMEOUT)


@needs_gcc
def test_a_compile_cannot_change_the_next_one(compilers):
    compilers.run("int main() { return 1; }", language="c")
    script = (
        "echo 'int main() { return 66; }' > main.c; mkdir -p /usr/local/include /box/include; echo > /tmp/program; "
        "exit 0"
    )
    compilers.run(script, language="bash")
    assert compilers.run("int main() { return 2; }", language="c").exit_code == 2
    assert compilers.run("int main() { return 1; }", language="c").exit_code == 1  # from the cache


@needs_gcc
def test_native_code_meets_the_same_system_calls(compilers):
    source = """
#include <stdio.h>
#include <errno.h>
#include <unistd.h>
#include <sys/syscall.h>
int main() {
    long calls[] = {SYS_socket, SYS_ptrace, SYS_mount, SYS_unshare, SYS_bpf, SYS_keyctl, SYS_setns, SYS_chroot};
    for (int i = 0; i < 8; i++) printf("%d ", (syscall(calls[i], 0, 0, 0, 0, 0), errno));
    printf("%d\\n", (syscall(425, 0, 0, 0, 0, 0), errno));
}"""
    assert compilers.run(source, language="c").stdout == b"1 1 1 1 1 1 1 1 38\n"


@needs_gcc
def test_native_memory_and_fork_bombs_are_bounded(compilers):
    hungry = (
        "#include <stdlib.h>\n#include <string.h>\nint main() { for (;;) { char *p = malloc(1 << 24); if (!p) "
        "return 9; memset(p, 1, 1 << 24); } }"
    )
    assert compilers.run(hungry, language="c", memory_mb=128, timeout_s=4).status in (RunStatus.ERROR, RunStatus.MEMORY)
    bomb = "#include <unistd.h>\nint main() { for (;;) fork(); }"
    started = time.monotonic()
    result = compilers.run(bomb, language="c", timeout_s=1)
    assert result.status in (RunStatus.TIMEOUT, RunStatus.MEMORY)
    assert time.monotonic() - started < within(8) and still_works(compilers)


@needs_gcc
def test_the_result_channel_is_not_the_programs(compilers):
    source = (
        '#include <unistd.h>\nint main() { for (int fd = 3; fd < 64; fd++) write(fd, "{\\"files\\": {}, '
        '\\"status\\": 0}\\n", 27); return 4; }'
    )
    result = compilers.run(source, language="c")
    assert (result.status, result.exit_code) == (RunStatus.ERROR, 4)


@needs_node
def test_javascript_meets_the_same_jail(compilers):
    source = (
        "const fs = require('fs'), cp = require('child_process');\n"
        "for (const p of ['/etc/passwd', '/proc/1/environ']) try { console.log(fs.readFileSync(p).length) } catch "
        "(e) { console.log(e.code) }\n"
        "try { console.log(process.kill(1, 9)) } catch (e) { console.log(e.code) }\n"
        "require('net').connect(22, '127.0.0.1').on('error', e => console.log(e.code))"
    )
    words = compilers.run(source, language="javascript").stdout.split()
    assert words[:2] == [b"ENOENT", b"ENOENT"] and words[-1] in (b"EPERM", b"EACCES")
    grow = "const a = []; for (;;) a.push(new Array(1e6).fill(1.5))"
    assert compilers.run(grow, language="javascript", memory_mb=128, timeout_s=5).status is not RunStatus.OK
    buffers = "const a = []; for (;;) a.push(Buffer.alloc(1 << 24, 1))"
    assert compilers.run(buffers, language="javascript", memory_mb=128, timeout_s=5).status is not RunStatus.OK
    assert still_works(compilers)


def test_bash_cannot_fill_the_box(compilers):
    result = compilers.run("head -c 500000000 /dev/zero > big; ls -l big | cut -d' ' -f5", language="bash", timeout_s=4)
    assert result.status is not RunStatus.OK or int(result.stdout or 0) <= 64 << 20
    assert still_works(compilers)


@needs_gcc
def test_verdicts_of_other_languages(compilers):
    tests = {"kind": "stdio", "cases": [{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in (1, 2, 3)]}
    double = "#include <iostream>\nint main() { long n; std::cin >> n; std::cout << 2 * n << std::endl; }"
    assert verify(double, tests, language="cpp", sandbox=compilers).correct
    wrong = verify(double.replace("2 * n", "n * n"), tests, language="c++", sandbox=compilers)
    assert (wrong.outcome, wrong.passed) == (Outcome.WRONG, 1)
    broken = verify("int main( {", tests, language="c", sandbox=compilers)
    assert broken.outcome is Outcome.WRONG and "does not compile" in broken.reason
    spin = verify("while true; do :; done", tests, language="bash", timeout_s=0.5, sandbox=compilers)
    assert spin.outcome is Outcome.TIMEOUT


def test_function_tests_are_for_python(compilers):
    tests = {"kind": "call", "entry_point": "f", "cases": [{"args": [], "expected": 1}]}
    with pytest.raises(UsageError, match="call tests are for Python programs"):
        verify("int f() { return 1; }", tests, language="c", sandbox=compilers)


def test_a_missing_compiler_is_one_clear_line(compilers, monkeypatch):
    monkeypatch.setattr("qwq.sandbox.languages.shutil.which", lambda *a, **k: None)
    with pytest.raises(UsageError, match="needs g\\+\\+, which is not installed"):
        compilers.run("int main() {}", language="cpp")


@pytest.mark.parametrize("level", [Level.LANDLOCK, Level.RLIMITS])
def test_levels_without_processes_refuse_other_languages(level):
    with (
        Sandbox(slots=1, level=level, unsafe=True) as box,
        pytest.raises(UsageError, match="need the level namespaces"),
    ):
        box.run("echo 1", language="bash")


def test_python_programs_do_not_see_the_tools(strongest):
    assert (
        strongest.run("import os\nprint(os.path.exists('/usr/bin/gcc'), os.path.exists('/usr/include'))").stdout
        == b"False False\n"
    )
