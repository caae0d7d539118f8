"""Attacks on what programs may do beyond pure functions: /dev/shm, /dev/fd, packages, checkers,
conversations, setups, cells, and other languages. One property each.
"""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time

import pytest

from qwq.errors import DataError, UsageError
from qwq.sandbox import Level, RunStatus, Sandbox
from qwq.sandbox.languages import available
from qwq.types import Outcome, Response
from qwq.verify.code import clear_cache, read_tests, verify, verify_response


@pytest.fixture(autouse=True)
def _fresh():
    clear_cache()


def need(language: str) -> None:
    found = available()[language]
    if not found.startswith("/"):
        pytest.skip(found)


def stdio(box, code, output="1000\n", given="", **more):
    options = {k: more.pop(k) for k in ("language", "timeout_s", "memory_mb", "compile_timeout_s") if k in more}
    return verify(
        code, {"kind": "stdio", "cases": [{"input": given, "output": output}], **more}, sandbox=box, **options
    )


def refused(verdict) -> bool:
    return not verdict.correct and not verdict.forgeable


# -- /dev/shm and the run's private folder


def test_dev_shm_is_bounded(strongest):
    program = (
        "f = open('/dev/shm/x', 'wb')\ntry:\n    for _ in range(500): f.write(b'x' * (1 << 20)); f.flush()\n"
        "except OSError as e: print(e.errno)"
    )
    result = strongest.run(program, timeout_s=10)
    assert result.stdout in (b"28\n", b"27\n") or result.status in (RunStatus.MEMORY, RunStatus.ERROR)
    assert strongest.run("print(1)").stdout == b"1\n"


def test_dev_shm_holds_few_files(strongest):
    program = (
        "n = 0\ntry:\n    while n < 5000: open(f'/dev/shm/{n}', 'w').close(); n += 1\nexcept OSError: pass\nprint(n)"
    )
    assert int(strongest.run(program).stdout) < 2000


def test_nothing_is_left_in_dev_shm_and_the_private_folder(strongest):
    first = (
        "open('/dev/shm/x', 'w').write('secret')\ntry: open('/run/x', 'w').write('secret')\nexcept OSError: pass\n"
        "import multiprocessing as m\ns = m.get_context('fork').Semaphore(3)\nprint(1)"
    )
    assert strongest.run(first).stdout == b"1\n"
    assert (
        strongest.run("import os\nprint(sorted(os.listdir('/dev/shm')), sorted(os.listdir('/run')))").stdout
        == b"[] ['program.py', 'shm']\n"
    )


def test_two_runs_do_not_share_dev_shm():
    with Sandbox(slots=2) as box:
        if box.level is not Level.NAMESPACES:
            pytest.skip("there is no /dev/shm below namespaces")
        writer = threading.Thread(
            target=lambda: box.run("open('/dev/shm/x', 'w').write('secret')\nimport time\ntime.sleep(2)", timeout_s=5)
        )
        writer.start()
        time.sleep(0.5)
        assert box.run("import os\nprint(os.listdir('/dev/shm'))").stdout == b"[]\n"
        writer.join()


def test_links_in_dev_shm_lead_nowhere(strongest):
    program = (
        "import os\nos.symlink('/etc/shadow', '/dev/shm/l')\ntry: open('/dev/shm/l')\n"
        "except OSError as e: print(e.errno)"
    )
    assert strongest.run(program).stdout in (b"2\n", b"13\n")


def test_rewriting_its_own_file_changes_no_test(strongest):
    code = (
        "open(__file__, 'w').write('def f(n): return 1000')\nimport linecache\nlinecache.clearcache()\n"
        "def f(n): return 0"
    )
    assert refused(verify(code, {"kind": "asserts", "asserts": ["assert f(1) == 1000"]}, sandbox=strongest))


def test_programs_in_dev_shm_have_no_more_rights(strongest):
    program = (
        "import os, subprocess, sys\nopen('/dev/shm/p.py', 'w').write('import os\\ntry: "
        'print(open("/etc/passwd").read(4))\\nexcept OSError: print("no")\')\n'
        "print(subprocess.run([sys.executable, '/dev/shm/p.py'], capture_output=True, text=True).stdout)"
    )
    assert b"root" not in strongest.run(program, timeout_s=10).stdout


def test_shared_memory_counts_as_memory(strongest):
    program = (
        "from multiprocessing import shared_memory as s\nkept = []\nfor i in range(40):\n"
        "    m = s.SharedMemory(create=True, size=32 << 20)\n    m.buf[:] = b'x' * (32 << 20)\n    kept.append(m)\n"
        "print('too much')"
    )
    assert b"too much" not in strongest.run(program, memory_mb=128, timeout_s=10).stdout


# -- /dev/fd


def test_the_result_channel_by_name_says_no_more_than_by_number(strongest):
    code = (
        'import os\ntry:\n    with open("/dev/fd/3", "w") as out: out.write(\'{"i": 0, "t": true}\\n{"i": 0, "v": '
        "[7]}\\n')\nexcept OSError: pass\ndef f(n): return 0"
    )
    assert refused(
        verify(
            code, {"kind": "call", "entry_point": "f", "cases": [{"args": [1], "expected": 1000}]}, sandbox=strongest
        )
    )


def test_a_native_program_has_no_result_channel(strongest):
    need("c")
    source = (
        "#include <stdio.h>\n#include <unistd.h>\n#include <fcntl.h>\n"
        'int main() { const char *r = "{\\"files\\": {}, \\"status\\": 0}\\n";\n'
        'for (int i = 3; i < 64; i++) write(i, r, 28); int p = open("/.proc/1/fd/3", O_WRONLY); if (p >= 0) '
        "write(p, r, 28);\n"
        'p = open("/dev/fd/3", O_WRONLY); if (p >= 0) write(p, r, 28); puts("1000"); return 3; }'
    )
    result = strongest.run(source, language="c", timeout_s=20)
    assert (result.status, result.exit_code) == (RunStatus.ERROR, 3)


def test_the_input_cannot_be_changed_through_its_name(strongest):
    program = (
        "try: open('/dev/stdin', 'r+').write('x')\nexcept OSError as e: print('no')\ntry:\n    import os\n"
        "    os.truncate('/dev/stdin', 0)\nexcept OSError: print('no')\nprint(input())"
    )
    assert strongest.run(program, stdin=b"kept\n").stdout.endswith(b"no\nkept\n")


def test_reading_back_its_own_output_gains_nothing(strongest):
    code = (
        "print(5, flush=True)\nopen('/dev/fd/1').read(2) if False else None\nimport os\n"
        "fd = os.open('/dev/fd/1', os.O_RDONLY | os.O_NONBLOCK)\nprint(os.read(fd, 10))"
    )
    assert refused(stdio(strongest, code))


def test_names_of_other_processes_descriptors_are_not_there(strongest):
    program = (
        "import os\nfor pid in (1, 2, 3, os.getppid()):\n    for fd in range(8):\n"
        "        path = f'/.proc/{pid}/fd/{fd}'\n        if pid != os.getpid():\n"
        "            try: open(path).read(1); print('opened', path)\n            except OSError: pass\nprint('end')"
    )
    assert strongest.run(program).stdout == b"end\n"


# -- packages


def test_the_added_packages_cannot_be_written(strongest):
    program = (
        "import sys, os\nfor p in sys.path:\n    if os.path.isdir(p) and p != os.getcwd():\n"
        "        try: open(p + '/evil.py', 'w'); print('wrote', p)\n        except OSError: pass\nprint('end')"
    )
    assert strongest.run(program).stdout == b"end\n"


def test_a_module_of_the_working_folder_does_not_reach_the_judge(strongest):
    code = (
        "open('math.py', 'w').write('isclose = lambda *a: True')\nopen('sitecustomize.py', 'w').write('raise "
        "SystemExit')\nimport sys\nsys.modules.pop('math', None)\ndef f(n): return 0.5"
    )
    assert refused(
        verify(
            code,
            {"kind": "asserts", "setup": "import math", "asserts": ["assert math.isclose(f(1), 1037.5)"]},
            sandbox=strongest,
        )
    )
    assert strongest.run("import math\nprint(math.floor(1.5))").stdout == b"1\n"


def test_pip_and_venv_are_of_no_use(strongest):
    program = (
        "import subprocess, sys\nfor m in ('pip', 'ensurepip', 'venv'):\n"
        "    r = subprocess.run([sys.executable, '-m', m, 'install', 'x'], capture_output=True)\n"
        "    print(r.returncode != 0)"
    )
    assert strongest.run(program, timeout_s=20).stdout == b"True\nTrue\nTrue\n"


def test_the_homes_above_shown_folders_are_empty(strongest):
    program = (
        "import os, sys\nseen = []\nfor p in [sys.base_prefix, *sys.path, os.__file__]:\n    while len(p) > 1:\n"
        "        p = os.path.dirname(p)\n        if p in ('/root', '/home', '/work', '/opt'): seen += [n for n in "
        "os.listdir(p) if n.startswith('.ssh') or n.startswith('.git')]\nprint(seen)"
    )
    assert strongest.run(program).stdout == b"[]\n"


# -- checkers

CHECKER = (
    "import sys\ngiven, got, answer = (open(n).read() for n in sys.argv[1:])\n"
    "sys.exit(0 if got.split() == answer.split() else 1)"
)


def checked(box, code, **more):
    return stdio(box, code, "1000", "7\n", checker={"program": CHECKER}, **more)


def test_a_program_finds_no_answer_beside_it(strongest):
    code = (
        "import os\nfor n in ('answer.txt', '/box/answer.txt', '../answer.txt', '/run/answer.txt', "
        "'/tmp/answer.txt'):\n    try: print(open(n).read())\n    except OSError: pass"
    )
    assert refused(checked(strongest, code))


def test_files_of_a_program_do_not_reach_its_checker(strongest):
    code = (
        "for n in ('answer.txt', 'output.txt', 'input.txt', 'sys.py', 'program.py', 'sitecustomize.py'):\n"
        "    for d in ('.', '/tmp', '/dev/shm'):\n        try: open(f'{d}/{n}', 'w').write('1000')\n"
        "        except OSError: pass\nprint(5)"
    )
    assert refused(checked(strongest, code))


def test_what_is_written_to_stderr_is_no_output(strongest):
    assert refused(checked(strongest, "import sys\nprint(1000, file=sys.stderr)"))


def test_a_flood_does_not_reach_the_checker(strongest):
    verdict = checked(strongest, "while True: print('1000 ' * 1000)", timeout_s=5)
    assert refused(verdict) and verdict.output_cut


def test_output_that_looks_like_options_or_names_is_only_text(strongest):
    for text in ("--help", "answer.txt", "@answer.txt", "$(cat answer.txt)", "../answer.txt", "\\x00"):
        assert refused(checked(strongest, f"print('{text}')"))


def test_a_program_that_crashes_is_not_shown_to_the_checker(strongest):
    assert refused(checked(strongest, "print(1000)\n1 / 0"))


# -- conversations

SECRET = (
    "secret = open('input.txt').read().strip()\nprint('say it', flush=True)\nimport sys\n"
    "line = sys.stdin.readline().strip()\nsys.exit(0 if line == secret else 1)"
)


def talk(box, code, **options):
    tests = {"kind": "interactive", "interactor": {"program": SECRET}, "cases": [{"input": "1000", "output": "1000"}]}
    return verify(code, tests, sandbox=box, timeout_s=options.pop("timeout_s", 3.0), **options)


def test_a_conversation_shows_no_files_of_the_other_side(strongest):
    assert talk(strongest, "input()\nprint(1000)").correct
    code = (
        "import glob\nfor n in glob.glob('/**/input.txt', recursive=True) + ['input.txt', 'answer.txt']:\n"
        "    try: print(open(n).read(), flush=True)\n    except OSError: pass"
    )
    assert refused(talk(strongest, code))


def test_a_flood_of_a_conversation_is_bounded(strongest):
    started = time.monotonic()
    assert refused(talk(strongest, "while True: print('x' * 100000)"))
    assert time.monotonic() - started < 60 and strongest.run("print(1)").stdout == b"1\n"


def test_one_who_says_nothing_is_ended(strongest):
    assert talk(strongest, "import sys, time\nsys.stdout.close()\ntime.sleep(60)", timeout_s=0.5).outcome in (
        Outcome.TIMEOUT,
        Outcome.WRONG,
    )


def test_closing_the_line_is_no_answer(strongest):
    assert refused(talk(strongest, "import os\nos.close(1)\nos.close(0)"))


def test_killing_itself_is_no_answer(strongest):
    assert refused(talk(strongest, "import os\nos.kill(os.getpid(), 13)"))


# -- what a setup shows


def test_poisoned_builtins_of_the_judge(strongest):
    code = (
        "import sys, builtins\ndef f(n):\n    for space in (globals(), vars(builtins)):\n"
        "        for name in ('len', 'sorted', 'isinstance', 'list'):\n"
        "            space['_judge_' + name] = lambda *a: True\n    child = sys.modules.get('jail.child')\n"
        "    if child: child.OWN_BUILTINS.clear()\n    return [1]"
    )
    tests = ["assert len(f(1)) == 3", "assert len(f(2)) == 3", "assert sorted(f(3)) == [1, 2]"]
    assert verify(code, {"kind": "asserts", "asserts": tests}, sandbox=strongest).outcome is Outcome.WRONG


def test_values_that_a_setup_gave_are_copies(strongest):
    setup = "data = [3, 1, 2]\nexpected = [1, 2, 3]"
    code = (
        "import gc\ndef f(a):\n    for thing in gc.get_objects():\n        if type(thing) is list and thing == [1, "
        "2, 3]: return thing\n    return a"
    )
    assert refused(
        verify(code, {"kind": "asserts", "setup": setup, "asserts": ["assert f(data) == expected"]}, sandbox=strongest)
    )


def test_emptying_an_argument_makes_no_equation_true(strongest):
    tests = {
        "kind": "asserts",
        "setup": "import random\nd = [random.random() for _ in range(4)]",
        "asserts": ["assert f(d) == sorted(d)", "assert g(d) == len(d)"],
    }
    verdict = verify("def f(d):\n    d.clear()\n    return []\ndef g(d): return 0", tests, sandbox=strongest)
    assert not verdict.correct or verdict.forgeable


def test_a_lying_array(strongest):
    code = (
        "import numpy as np\nclass A(np.ndarray):\n    def __eq__(s, o): return np.ones(2, bool)\n"
        "    def tobytes(s): return np.array([2, 4]).tobytes()\n    def __array_ufunc__(s, *a, **k): return True\n"
        "def f(a): return np.zeros(2, dtype=int).view(A)"
    )
    for test in (
        "assert np.array_equal(f(1), np.array([2, 4]))",
        "assert np.allclose(f(1), [2, 4])",
        "assert f(1).tolist() == [2, 4]",
    ):
        verdict = verify(code, {"kind": "asserts", "setup": "import numpy as np", "asserts": [test]}, sandbox=strongest)
        assert not verdict.correct, test


def test_malformed_values_of_the_new_kinds_do_not_hurt_the_grader(strongest):
    for node in (
        ["n", "<i8", [2], "AAAA"], ["n", "<i8", [1 << 60], ""], ["n", "O", [1], "AAAAAAAAAAA="], ["n", "<i8", [-1], ""],
        ["a", "i", "AAA"], ["a", "zz", ""], ["P", "posix", 5], ["U", "f" * 100],
        ["dz", [2020, 1, 1, 0, 0, 0, 0], 10**18], ["n", "<U999999999", [1], ""], ["q", 10**9], ["O", 5],
    ):  # fmt: skip
        record = json.dumps({"i": 0, "v": [node]})
        code = f"import os\nos.write(3, {record!r}.encode() + b'\\n')\ndef f(n): return 0"
        assert refused(
            verify(
                code,
                {"kind": "call", "entry_point": "f", "cases": [{"args": [1], "expected": 1000}]},
                sandbox=strongest,
            )
        ), node


def test_a_first_argument_that_is_forged(strongest):
    record = json.dumps({"i": 0, "v": [None], "a": [["l", 10**9]]})
    code = f"import os\nos.write(3, {record!r}.encode() + b'\\n')\ndef f(n): return 0"
    tests = {"kind": "call", "entry_point": "f", "cases": [{"args": [[1]], "expected": [1000]}]}
    assert refused(verify(code, tests, sandbox=strongest))


def test_a_program_that_does_nothing_is_not_in_place(strongest):
    cases = [{"args": [[n, n + 1]], "expected": [n, n + 1]} for n in range(3)]
    assert refused(verify("def f(a): pass", {"kind": "call", "entry_point": "f", "cases": cases}, sandbox=strongest))


# -- tests and responses from outside


def test_packed_tests_are_never_unpickled(tmp_path):
    import pickle
    import zlib

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    packed = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(DataError):
        read_tests({"test": packed})
    assert not (tmp_path / "ran").exists()


def test_texts_of_tests_that_would_take_for_ever():
    for text in (
        "[" * 100_000,
        '{"a":' * 50_000,
        "def " * 50_000,
        "assert " + "(" * 5_000,
        "x = " + "-" * 100_000 + "1",
    ):
        started = time.monotonic()
        with pytest.raises(UsageError):
            verify("pass", text)
        assert time.monotonic() - started < 5


def test_responses_that_would_take_for_ever(strongest):
    tests = {"kind": "stdio", "cases": [{"input": "", "output": "1"}]}
    for text in (
        "```python\n" * 20_000,
        "`" * 200_000,
        "</think>" * 20_000,
        "```python\nx```" * 10_000,
        "<think>" + "```\n" * 50_000,
    ):
        started = time.monotonic()
        assert not verify_response(Response(text), tests, sandbox=strongest).correct
        assert time.monotonic() - started < 20, text[:20]


# -- other languages


def test_java_reads_no_file_of_the_host(compilers):
    need("java")
    source = (
        "import java.nio.file.*;\nclass M { public static void main(String[] a) { try { "
        'System.out.println(Files.readString(Path.of("/etc/passwd"))); } catch (Exception e) { '
        'System.out.println("no"); } } }'
    )
    assert compilers.run(source, language="java", timeout_s=20, compile_timeout_s=60).stdout == b"no\n"


def test_java_has_no_network_and_starts_few_processes(compilers):
    need("java")
    source = (
        "import java.net.*;\nclass M { public static void main(String[] a) throws Exception { try { new "
        'Socket("127.0.0.1", 22); System.out.println("net"); } catch (Exception e) {}\n'
        'int n = 0; try { for (; n < 500; n++) new ProcessBuilder("sleep", "50").start(); } catch (Throwable e) {} '
        "System.out.println(n < 100); System.exit(0); } }"
    )
    printed = compilers.run(source, language="java", timeout_s=20, compile_timeout_s=60).stdout
    assert printed.endswith(b"true\n") and b"net" not in printed.splitlines()
    assert compilers.run("echo well", language="bash").stdout == b"well\n"


def test_java_memory_is_bounded(compilers):
    need("java")
    source = (
        "import java.util.*;\nclass M { public static void main(String[] a) { List<byte[]> l = new ArrayList<>(); "
        "while (true) l.add(new byte[1 << 20]); } }"
    )
    result = compilers.run(source, language="java", timeout_s=20, memory_mb=128, compile_timeout_s=60)
    assert result.status in (RunStatus.ERROR, RunStatus.MEMORY) and result.memory_mb < 512


@pytest.mark.parametrize("macro", ["include_str", "include_bytes"])
def test_rust_includes_no_file_of_the_host(compilers, macro):
    need("rust")
    result = compilers.run(
        f'fn main() {{ println!("{{:?}}", {macro}!("/etc/passwd")); }}',
        language="rust",
        timeout_s=20,
        compile_timeout_s=60,
    )
    assert result.status is RunStatus.COMPILE_ERROR and b"root:" not in result.stderr + result.stdout


def test_rust_sees_no_environment_of_the_host(compilers, monkeypatch):
    need("rust")
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1000")
    result = compilers.run(
        'fn main() { println!("{:?}", option_env!("SECRET_OF_THE_HOST")); }',
        language="rust",
        timeout_s=20,
        compile_timeout_s=60,
    )
    assert result.stdout == b"None\n"


@pytest.mark.skipif(not shutil.which("perl"), reason="no perl on this machine")
def test_perl_reads_no_file_of_the_host_and_leaves_no_process(compilers):
    source = (
        'open(my $f, "<", "/etc/passwd") and print <$f>; if (fork() == 0) { setpgrp(0, 0); sleep 60; } print "end\\n";'
    )
    result = compilers.run(source, language="perl", timeout_s=10)
    assert result.stdout == b"end\n" and result.seconds < 10


SQL = [
    "attach database '/etc/passwd' as p; select * from p.sqlite_master;",
    "select load_extension('/usr/lib/x86_64-linux-gnu/libc.so.6');",
    "select readfile('/etc/passwd');",
    "create virtual table t using fts3tokenize(x); select writefile('/tmp/x', 'y');",
]


@pytest.mark.parametrize("query", SQL)
def test_sql_reads_no_file_of_the_host(jail, query):
    if jail.level is Level.RLIMITS:
        pytest.xfail("rlimits does not cover it: host files are readable")
    result = jail.run(query, language="sql")
    assert b"root:" not in result.stdout and result.exit_code != 0


def test_sql_that_never_ends_is_ended(jail):
    result = jail.run(
        "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c;",
        language="sql",
        timeout_s=0.5,
    )
    assert result.status is RunStatus.TIMEOUT


def test_a_compiler_s_second_try_is_bounded_as_the_first(compilers):
    need("cpp")
    started = time.monotonic()
    source = (
        "template<int N> struct A { static const int v = A<N + 1>::v + A<N + 2>::v; };\nint main() { return A<0>::v; }"
    )
    assert compilers.run(source, language="cpp", compile_timeout_s=2).status in (
        RunStatus.COMPILE_ERROR,
        RunStatus.TIMEOUT,
    )
    assert time.monotonic() - started < 60


# -- cells


def test_cells_cannot_forge_the_next_cell_s_result_into_other_forms(strongest):
    from qwq.sandbox.http import fusion
    from qwq.sandbox.limits import Limits

    forged = json.dumps({"i": 1, "cell": {"stdout": ["not text"], "error": 5}})
    cells = [
        f"import os\nos.write(3, {forged!r}.encode() + b'\\n')\nos.write(3, b'[' * 5000 + b'\\n')\n"
        f'os.write(3, b\'{{"files": {{"x": 5}}}}\\n\')',
        "print('second')",
    ]
    request = {"kind": "cells", "cells": cells, "files": {}, "fetch": []}
    done = strongest._execute(request, b"", Limits(5.0, each_record=True))
    found, files = fusion._cells(done.records, 2)
    assert [cell.stdout for cell in found] == ["", "second\n"] and files == {}


def test_cells_write_no_file_outside_their_folder(strongest):
    from qwq.sandbox.limits import Limits

    request = {"kind": "cells", "cells": ["1"], "files": {"../x": ""}, "fetch": ["/etc/passwd", "../../etc/passwd"]}
    done = strongest._execute(request, b"", Limits(5.0))
    assert done.exit_code == 1 and b"root" not in done.records
