"""A run on three hosts of a Ray cluster, one of which is lost: network namespaces at one switch.
Needs root, `ip` and Ray. `make test-ray-hosts`.

    python tests/slow/ray_hosts.py                  # a host killed, then a link cut
    python tests/slow/ray_hosts.py --only kill

Each host has room for two processes. `qwq train --launcher ray --processes 4` runs on the first
host; a host with two of the four, not that one, is lost in mid-run, and with `cluster.restarts=1`
the run continues on the third and ends bit for bit as on one process.

Prints a line for each and ends with JSON; the exit status is 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from processes import RECIPE, differences, finish, rows
from ray_nodes import RayNode, environment

HOSTS = ("qwqray0", "qwqray1", "qwqray2")
SWITCH = "qwqrayswitch"
PATIENCE_S = 900
QWQ = (sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())")


def ip(*words: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *words], check=check, capture_output=True, text=True)
    return done.stdout


def address(number: int) -> str:
    return f"10.78.0.{number + 1}"


def set_up() -> None:
    for name in (*HOSTS, SWITCH):
        ip("netns", "add", name)
    ip("-n", SWITCH, "link", "add", "switch", "type", "bridge")
    ip("-n", SWITCH, "link", "set", "switch", "up")
    for number, host in enumerate(HOSTS):
        port = f"port{number}"
        ip("link", "add", "cable", "netns", host, "type", "veth", "peer", "name", port, "netns", SWITCH)
        ip("-n", SWITCH, "link", "set", port, "master", "switch", "up")
        ip("-n", host, "addr", "add", f"{address(number)}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", host, "link", "set", device, "up")


def tear_down() -> None:
    for name in (*HOSTS, SWITCH):
        ip("netns", "del", name, check=False)


def ranks_on(host: str) -> dict[int, int]:
    """Process ids by rank of a run's processes on a host."""
    found = {}
    for pid in ip("netns", "pids", host, check=False).split():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(v.startswith(b"QWQ_RENDEZVOUS=tcp") for v in variables):
            found |= {int(v[5:]): int(pid) for v in variables if v.startswith(b"RANK=")}
    return found


def lose(how: str, place: Path, alone: Path, options: list[str]) -> tuple[list[str], str]:
    """A run of which a host is lost; what is wrong, and a line that says how it went."""
    head = f"{address(0)}:6379"
    nodes: list[RayNode] = []
    try:
        for number, host in enumerate(HOSTS):
            prefix = ("ip", "netns", "exec", host)
            nodes.append(RayNode(head, address(number), head=not number, cpus=2, prefix=prefix))
            nodes[-1].wait()
        words = ["train", str(RECIPE), "--processes", "4", "--launcher", "ray", "--runs", str(place), *options]
        process = subprocess.Popen(
            ["ip", "netns", "exec", HOSTS[0], *QWQ, *words, "--cluster.reduction=fixed", "--cluster.restarts=1"],
            env=environment() | {"RAY_ADDRESS": head, "HOME": str(nodes[0].folder), "GLOO_SOCKET_IFNAME": "cable"},
            text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        folder = place / "cluster"
        until = time.monotonic() + PATIENCE_S
        while len(rows(folder)) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        placed = {host: sorted(ranks_on(host)) for host in HOSTS}
        victim = next(number for number in (1, 2) if placed[HOSTS[number]])
        began = time.monotonic()
        if how == "kill":
            nodes[victim].kill()
        else:
            ip("-n", HOSTS[victim], "link", "set", "cable", "down")
        at = len(rows(folder))
        while len(rows(folder)) <= at + 1 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        on_again = time.monotonic() - began
        now = {host: sorted(ranks_on(host)) for host in HOSTS}
        _, err = process.communicate(timeout=PATIENCE_S)
        wrong = [] if process.returncode == 0 and "started again, 0 restarts left" in err else [how]
        if process.returncode:
            return wrong, f"status {process.returncode}: {err[-1500:]}"
        unlike = differences(alone, folder)
        said = [line for line in err.splitlines() if "started again" in line]
        wrong += [] if unlike == (0.0, 0.0, 0) else [f"{how}: other bits"]
        return wrong, (
            f"placed {placed}, {HOSTS[victim]} lost after {at} steps, on {now} the next step after {on_again:.1f} s; "
            f"losses {unlike[0]:.1e}, weights {unlike[1]:.1e}, tensors unequal {unlike[2]}; {said}"
        )
    finally:
        for node in reversed(nodes):
            node.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("kill", "cut"))
    parser.add_argument("--until", help="end behind this stage")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    options = ["--until", args.until] if args.until else []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        status, err = finish(place / "alone", 1, "fixed", *options)
        if status:
            sys.exit(err)
        for how in [args.only] if args.only else ("kill", "cut"):
            tear_down()
            set_up()
            try:
                found, line = lose(how, place / how, place / "alone" / "cluster", [*options, "--cluster.timeout_s=15"])
            finally:
                tear_down()
            wrong += found
            print(f"{'WRONG' if found else 'ok   '} {how}: {line}", flush=True)
    print(json.dumps({"wrong": wrong}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
