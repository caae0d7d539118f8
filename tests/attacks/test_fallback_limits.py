"""What the fallback level does not give, shown rather than skipped: each line here stands in
docs/sandbox.md.
"""

from __future__ import annotations

import os

import pytest

from qwq.errors import QwqError
from qwq.sandbox import Level, RunStatus, Sandbox


@pytest.fixture(scope="module")
def fallback():
    with Sandbox(slots=1, level=Level.LANDLOCK) as box:
        try:
            assert box.level is Level.LANDLOCK
        except QwqError as error:
            pytest.skip(f"no Landlock on this machine: {error}")
        yield box


def error_of(box: Sandbox, program: str) -> str:
    lines = box.run(program).stderr.decode().strip().splitlines()
    return lines[-1].split(":")[0] if lines else "none"


def test_programs_cannot_start_processes(fallback):
    assert error_of(fallback, "import os\nos.fork()") == "PermissionError"
    assert (
        error_of(fallback, "import subprocess, sys\nsubprocess.run([sys.executable, '-c', '1'])") == "PermissionError"
    )


def test_programs_cannot_make_folders(fallback):
    assert error_of(fallback, "import os\nos.mkdir('x')") == "PermissionError"


def test_a_short_run_may_exceed_the_number_of_files(fallback):
    """Files on disk are counted from outside, some times a second."""
    assert fallback.run("for i in range(1100): open(str(i), 'w').close()\nprint('all')").stdout in (b"all\n", b"")


def test_the_existence_of_host_files_can_be_seen(fallback):
    path = os.path.realpath(__file__)
    assert fallback.run(f"import os\nprint(os.path.exists({path!r}))").stdout == b"True\n"
    assert error_of(fallback, f"open({path!r})") == "PermissionError"


def test_process_ids_and_host_name_are_the_hosts(fallback):
    result = fallback.run("import os\nprint(os.getpid() > 1, os.uname().nodename)")
    assert result.status is RunStatus.OK
    assert result.stdout.decode().split() == ["True", os.uname().nodename]
