"""Which process of a run this is, by the variables of three launchers."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from qwq.cluster.place import RankPlace, place_of
from qwq.errors import ConfigError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
ADDRESS = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"}


def test_a_process_on_its_own_has_no_place():
    assert place_of({}) is None
    assert place_of({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert place_of(SLURM) is None  # an interactive shell of Slurm has these as well; MASTER_ADDR makes it a run


def test_each_launcher_is_read():
    own = RankPlace(1, 2, 1, 2, "/tmp/meet")
    assert place_of(own.variables()) == own
    assert place_of(TORCHRUN | ADDRESS) == RankPlace(5, 8, 1, 4)
    assert place_of(SLURM | ADDRESS) == RankPlace(3, 4, 1, 2)
    assert place_of(SLURM | TORCHRUN | ADDRESS) == RankPlace(5, 8, 1, 4)  # torchrun inside a Slurm job


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": "8"}, "RANK is 8 and WORLD_SIZE is 8"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"MASTER_PORT": ""}, "MASTER_ADDR and MASTER_PORT are not both"),
    ],
)
def test_what_contradicts_itself_is_one_line(change, words):
    with pytest.raises(ConfigError, match=words):
        place_of(TORCHRUN | ADDRESS | change)


def end_of(code: str) -> tuple[int, str, str]:
    """Status and words of a process that runs this code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_launched_process_leaves_with_its_status_its_last_words_and_its_clean_up():
    code = (
        "import atexit; from qwq.cluster.place import leave; "
        "atexit.register(print, 'cleaned up', end=''); print('done, ', end=''); leave(3)"
    )
    assert end_of(code) == (3, "done, cleaned up", "")


def test_a_launched_process_leaves_also_where_nobody_reads_its_words():
    code = "import os; from qwq.cluster.place import leave; print('x'); os.close(1); leave(4)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60).returncode == 4


def test_a_process_leaves_after_what_its_pools_of_threads_still_do():
    code = (
        "import time; from concurrent.futures import ThreadPoolExecutor; from qwq.cluster.place import leave; "
        "ThreadPoolExecutor(1).submit(lambda: (time.sleep(0.3), print('written', end=''))); leave(0)"
    )
    assert end_of(code) == (0, "written", "")


# The interpreter's own end aborts, as it does with torch's threads.
ABORTS = "import ctypes; ctypes.pythonapi.Py_AtExit(ctypes.CDLL(None).abort); "
QWQ = "import sys; sys.argv = ['qwq', {!r}]; from qwq.cli import main; sys.exit(main())"


def ended(command: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{ABORTS}{before}{QWQ.format(command)}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_the_command_leaves_so_whoever_started_it_where_there_was_a_process_group():
    """Under torchrun and Slurm as from our launcher; a bug has the last word."""
    group = "from qwq.cluster.place import note_group; note_group(); "
    assert ended("recipes").returncode == -signal.SIGABRT
    done = ended("recipes", group)
    assert done.returncode == 0 and "tiny" in done.stdout
    assert ended("nonsense", group).returncode == 2
    bug = "import qwq.cli.commands as c; c.run = lambda argv: 1 / 0; "
    done = ended("recipes", group + bug)
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")
