"""A process that works alone is waited for; one that is stopped meanwhile is noticed soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwq.cluster.launch import LOOPBACK

SCRIPT = """
import os, signal, sys, time
from qwq.cluster.place import RankPlace
from qwq.cluster.world import join
from qwq.config import ClusterSection
from qwq.errors import PeerLost
rank, meet = int(sys.argv[1]), sys.argv[2]
work = {"works": lambda: time.sleep(8), "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP)}[sys.argv[3]]
try:
    with join(ClusterSection(processes=2, timeout_s=4, work_timeout_s=600), RankPlace(rank, 2, rank, 2, meet)) as world:
        world.agree("both are there")
        print(world.alone(lambda: (work(), "done")[1]), world.gather(rank, slow=True), flush=True)
except PeerLost as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(PeerLost.exit_status)
os._exit(0)
"""


@pytest.mark.parametrize("what", ["works", "stops"])
def test_the_first_process(what, tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "meet"), what], text=True,
            env=os.environ | {"GLOO_SOCKET_IFNAME": LOOPBACK},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) for rank in (0, 1)
    ]  # fmt: skip
    try:
        if what == "stops":
            while " T " not in Path(f"/proc/{processes[0].pid}/stat").read_text() and processes[1].poll() is None:
                time.sleep(0.05)
        began = time.monotonic()
        out, err = processes[1].communicate(timeout=120)
        if what == "works":
            assert out == "done [0, 1]\n", err
            assert processes[0].communicate(timeout=60)[0] == out
        else:
            assert processes[1].returncode == 76 and "process 1 of 2 lost another one" in err, out + err
            assert time.monotonic() - began < 110  # not 600
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
