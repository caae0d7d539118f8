"""How the launcher sees its processes end: one line, in bounded time. The processes are small
scripts here.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwq.cluster import launch as launcher
from qwq.cluster.launch import launch
from qwq.cluster.place import RankPlace
from qwq.cluster.ray_launch import _places, on_ray
from qwq.cluster.world import _meeting
from qwq.errors import ConfigError, InfraError, PeerLost

WAIT = "import time; time.sleep(60)"


@pytest.fixture
def run(monkeypatch):
    """Runs one script a process; returns the status, and fails where that takes long."""

    def start(*scripts: str) -> int:
        by_rank = "import os, sys, time, signal; exec(" + repr(list(scripts)) + "[int(os.environ['RANK'])])"
        monkeypatch.setattr(launcher, "START", by_rank)
        monkeypatch.setattr(launcher, "GRACE_S", 0.3)
        begun = time.monotonic()
        try:
            return launch(len(scripts), ["train", "x"], "qwq train x")
        finally:
            assert time.monotonic() - begun < 20

    return start


def test_the_status_is_that_of_the_first(run):
    assert run("sys.exit(0)", "sys.exit(0)") == 0
    assert run("sys.exit(130)", "sys.exit(130)") == 130
    # It has said itself what is wrong, and the others ended because of it.
    assert run("time.sleep(0.2); sys.exit(2)", f"time.sleep(0.1); sys.exit({PeerLost.exit_status})") == 2


def test_a_killed_process_ends_the_others_and_is_named(run):
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(InfraError, match=r"process 1 of 2 was ended by SIGKILL; all were ended: `qwq train x` resumes"):
        run(WAIT, killed)
    with pytest.raises(InfraError, match="process 0 of 3 was ended by SIGKILL"):
        run(killed, WAIT, WAIT)


def test_one_that_aborts_because_of_it_is_not_named(run):
    aborts = "time.sleep({}); os.kill(os.getpid(), signal.SIGABRT)"
    with pytest.raises(InfraError, match="process 1 of 2 was ended by SIGKILL"):
        run(aborts.format(0.3), "time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(InfraError, match="process 0 of 2 was ended by SIGABRT"):
        run(aborts.format(0), WAIT)


def test_the_words_of_a_process_that_failed_alone_are_handed_on(run):
    words = "sys.stderr.write('noise\\nerror: the disk of this host is full\\n'); sys.exit(2)"
    with pytest.raises(InfraError, match=r"process 1 of 2 ended with status 2 \(the disk of this host is full\)"):
        run(f"time.sleep(0.1); sys.exit({PeerLost.exit_status})", words)


def test_silence_is_named_by_its_keys(run):
    with pytest.raises(InfraError, match=r"one of 2 processes did not answer within cluster.timeout_s"):
        run(f"sys.exit({PeerLost.exit_status})", WAIT)


def test_signals_are_handed_on_once(run):
    stops = "signal.signal(signal.SIGTERM, lambda *a: sys.exit(130)); {}time.sleep(30)"
    assert run(stops.format("time.sleep(0.5); os.kill(os.getppid(), signal.SIGTERM); "), stops.format("")) == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
def test_a_killed_launcher_leaves_no_process(tmp_path):
    started = f"import os, time; open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(60)"
    script = (
        f"from qwq.cluster import launch\nlaunch.START = {started!r}\nlaunch.launch(2, ['train', 'x'], 'qwq train x')"
    )
    launched = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len([p for p in tmp_path.iterdir() if p.read_text()]) < 2:
            time.sleep(0.02)
        members = [int((tmp_path / rank).read_text()) for rank in ("0", "1")]
    finally:
        launched.kill()
        launched.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(_runs, members)):
        time.sleep(0.02)
    assert not any(map(_runs, members))


def _runs(pid: int) -> bool:
    """Whether a process lives; one that nobody waits for (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_all_are_started_again_after_one_was_lost(tmp_path, capsys):
    """The first process of the second start finds no --fresh, and ends well."""
    mark = tmp_path / "begun"
    dies = (
        f"import os, sys, time, pathlib; p = pathlib.Path({str(mark)!r}); "
        "again = p.exists(); rank = os.environ['RANK']; "
        "time.sleep(0.3 if rank == '1' else 0); "
        "(p.touch(), os.kill(os.getpid(), 9)) if rank == '1' and not again else None; "
        "sys.exit(5 if again and '--fresh' in sys.argv else 0) if again or rank == '1' else time.sleep(60)"
    )

    def run(restarts: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launcher, "START", dies)
            patch.setattr(launcher, "GRACE_S", 0.3)
            return launch(2, ["train", "x"], "qwq train x", first=["--fresh"], restarts=restarts)

    assert run(2) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "process 1 of 2 was ended by SIGKILL" in line and line.endswith("started again, 1 restarts left")
    mark.unlink()
    with pytest.raises(InfraError, match="process 1 of 2 was ended by SIGKILL; all were ended: `qwq train x` resumes"):
        run(0)


# --- Ray; a run on it is e2e/test_ray.py ----------------------------------------------------------


def test_without_ray_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="--launcher ray needs the package ray: "), on_ray(2, ["train", "x"]):
        pass


class Remote:
    """An actor's method, or what it gives."""

    def __init__(self, value: object) -> None:
        self.value = value

    def remote(self) -> object:
        return self.value


class StandInRay:
    @staticmethod
    def get(value: object, timeout: float) -> object:
        return value


class StandInRunner:
    def __init__(self, host: str) -> None:
        self.host, self.free_port = Remote(host), Remote(2999)


def test_ranks_are_counted_on_each_of_ray_s_hosts_and_meet_on_the_first():
    runners = [StandInRunner(host) for host in ("10.0.0.1", "10.0.0.1", "10.0.0.7")]
    meet = "tcp://10.0.0.1:2999"
    assert _places(StandInRay, runners, False) == [
        RankPlace(0, 3, 0, 2, meet), RankPlace(1, 3, 1, 2, meet), RankPlace(2, 3, 0, 1, meet),
    ]  # fmt: skip
    assert [p.local_rank for p in _places(StandInRay, runners, True)] == [0, 0, 0]  # each sees its own GPU alone
    assert _meeting(RankPlace(0, 3, 0, 2, meet)) == meet
    assert _meeting(RankPlace(0, 2, 0, 2, "/tmp/x")) == "file:///tmp/x" and _meeting(RankPlace(0, 2)) == "env://"
