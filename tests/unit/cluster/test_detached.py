"""Detached processes: known again by start time, ended and nobody else's; what events say."""

from __future__ import annotations

import dataclasses
import http.server
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from qwq.cluster.detached import Host, end
from qwq.cluster.group import ProcessGroup, ProcessSpec, status_lines
from qwq.common.run_folder import RunFolder
from qwq.errors import ConfigError, InfraError

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or not shutil.which("setsid"), reason="needs Linux's /proc and setsid"
)


def sleeper(folder, command="sleep 300", host=None):
    return (host or Host()).start("s", command, folder=str(folder), log=str(folder / "s.log"))


@needs_linux
def test_a_process_is_known_by_its_start_time_and_ended(tmp_path):
    member = sleeper(tmp_path)
    other = dataclasses.replace(member, started=f"1 {member.started.split()[1]}")  # its id, of another start
    assert member.alive() and not other.alive()
    assert end([other], 0.1) == []
    other.signal("KILL")
    other.signal("TERM")
    time.sleep(0.2)
    assert member.alive()
    assert end([member], 5.0) == [] and not member.alive()
    assert end([member], 5.0) == []


@needs_linux
def test_one_that_ignores_term_is_killed_with_its_session(tmp_path):
    member = sleeper(tmp_path, "sh -c 'trap \"\" TERM; sleep 300 & echo $!; wait; wait'")
    log = tmp_path / "s.log"
    while not (log.exists() and log.read_text().strip()):
        time.sleep(0.02)
    child = int(log.read_text())
    assert end([member], 0.3) == ["s"] and not member.alive()
    time.sleep(0.2)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or ") Z " in state.read_text()


@needs_linux
def test_a_template_reaches_another_host(tmp_path):
    """A stand-in for ssh writes down whom it was asked for and runs the command in its shell."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\nexec sh -c "$2"\n')
    ssh.chmod(0o755)
    member = sleeper(tmp_path, host=Host("me@far away", f"{ssh} {{host}} {{command}}"))
    assert member.alive() and end([member], 5.0) == []
    assert set((tmp_path / "asked").read_text().splitlines()) == {"me@far away"}
    with pytest.raises(InfraError, match="far: no route"):
        Host("far", "echo no route >&2; false {host} {command}").run("true")


@needs_linux
def test_up_starts_only_what_is_gone(tmp_path):
    group = ProcessGroup(RunFolder(tmp_path / "run"), lambda text: None)
    parts = [ProcessSpec("a", "sleep 300"), ProcessSpec("b", "sleep 301")]
    with pytest.raises(ConfigError, match="qwq cluster up"):
        group.members()
    assert group.up(parts) == ["a", "b"] and group.up(parts) == []
    before = {m.name: m.pid for m in group.members()}
    os.kill(before["b"], signal.SIGKILL)
    while {m.name for m in group.members() if m.alive()} != {"a"}:
        time.sleep(0.02)
    assert group.up(parts) == ["b"]
    assert {m.name: m.pid for m in group.members()}["a"] == before["a"]
    with pytest.raises(ConfigError, match="b runs as `sleep 301`.*`sleep 302` is asked for"):
        group.up([parts[0], ProcessSpec("b", "sleep 302")])
    assert sorted(group.down(5.0)) == ["a", "b"]
    assert not group.registry.file.exists()


@needs_linux
def test_a_server_that_answers_already_is_not_taken_for_ours(tmp_path):
    class Well(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Well) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{foreign.server_port}"
        group = ProcessGroup(RunFolder(tmp_path), lambda text: None)
        with pytest.raises(ConfigError, match=f"engine-0 is to listen at {url}, where another server answers"):
            group.up([ProcessSpec("engine-0", "sleep 300", Host(), url)])
        foreign.shutdown()
    assert not group.registry.file.exists()


@needs_linux
def test_down_ends_what_it_reaches_where_a_host_is_gone(tmp_path):
    """A host that answers at the start and then no more: the others end, and the same command ends
    what is left once the host is back.
    """
    (tmp_path / "up").touch()
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\ntest -e {tmp_path}/up || {{ echo "$1: no route" >&2; exit 255; }}\nexec sh -c "$2"\n')
    ssh.chmod(0o755)
    gone = Host("gpu2", f"{ssh} {{host}} {{command}}")
    group = ProcessGroup(RunFolder(tmp_path / "a run"), lambda text: None)
    group.up([ProcessSpec("trainer", "sleep 300"), ProcessSpec("x", "sleep 301", gone), ProcessSpec("y", "sleep 302")])
    far = next(m for m in group.members() if m.name == "x")
    (tmp_path / "up").unlink()
    assert [line.split()[-1] for line in status_lines(group)[0]] == ["running", "route", "running"]
    assert not status_lines(group)[1]
    with pytest.raises(InfraError) as error:
        group.down(5.0)
    said = str(error.value)
    assert said.startswith(f"ended: trainer, y; not ended: x (process {far.pid} at gpu2): gpu2: gpu2: no route. ")
    assert f"`qwq cluster down '{tmp_path}/a run'` ends the rest" in said and said.endswith("cluster/state.json")
    assert [m.name for m in group.members()] == ["x"]
    with pytest.raises(InfraError, match="ended: nothing; not ended: x"):
        group.down(5.0)
    (tmp_path / "up").touch()
    assert far.alive() and group.down(5.0) == ["x"] and not far.alive()
    assert not group.registry.file.exists()


@needs_linux
def test_up_goes_on_without_engines_of_a_host_that_is_gone(tmp_path):
    (tmp_path / "up").touch()
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\ntest -e {tmp_path}/up || {{ echo "no route" >&2; exit 255; }}\nexec sh -c "$2"\n')
    ssh.chmod(0o755)
    gone, notes = Host("gpu2", f"{ssh} {{host}} {{command}}"), []
    group = ProcessGroup(RunFolder(tmp_path / "run"), notes.append)
    trainer = ProcessSpec("trainer", "sleep 300")
    group.up([trainer, ProcessSpec("engine-0", "sleep 301", gone)])
    near, far = group.members()
    far = dataclasses.replace(far, url="http://gpu2:8000")  # as an engine's is
    group._keep([near, far])
    (tmp_path / "up").unlink()
    with pytest.raises(InfraError, match=rf"still runs: engine-0 \(process {far.pid} at gpu2\): gpu2: no route. Run"):
        group.up([trainer, ProcessSpec("engine-0", "sleep 301", gone, far.url)])
    notes.clear()
    assert group.up([trainer, ProcessSpec("engine-0", "sleep 302")]) == ["engine-0"]
    assert notes[0].startswith(f"engine-0: gpu2: no route: process {far.pid} at gpu2 is left to itself")
    assert {m.name: m.label for m in group.members()} == {"trainer": "", "engine-0": ""}
    group._keep([dataclasses.replace(near, host="gpu2", template=gone.template), *group.members()[1:]])
    with pytest.raises(InfraError, match="still runs: trainer .*where a trainer's host is gone for good"):
        group.up([trainer, ProcessSpec("engine-0", "sleep 302")])
    group._keep([near, *group.members()[1:]])
    (tmp_path / "up").touch()
    assert sorted(group.down(5.0)) == ["engine-0", "trainer"] and end([far], 5.0) == []


@needs_linux
def test_hosts_that_do_not_answer_are_waited_for_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setattr("qwq.cluster.detached.CALL_S", 1.0)
    group = ProcessGroup(RunFolder(tmp_path), lambda text: None)
    group.up([ProcessSpec("near", "sleep 300")])
    (near,) = group.members()
    dead = [
        dataclasses.replace(near, name=f"e{i}", host=f"h{i}", template="sleep 5; : {host} {command}") for i in range(4)
    ]
    group._keep([near, *dead])
    began = time.monotonic()
    with pytest.raises(InfraError, match="ended: near; not ended: e0 .* h3 has not answered within 1 s"):
        group.down(5.0)
    assert time.monotonic() - began < 4.5 and not near.alive()  # one after another: 6 s and more
