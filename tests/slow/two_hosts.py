"""Two hosts with torchrun, as docs/cluster.md has it: two network namespaces joined by a cable.
Needs root and `ip`. `make test-hosts`.

    python tests/slow/two_hosts.py                  # 2 hosts with 2 processes each
    python tests/slow/two_hosts.py --per-host 1
    python tests/slow/two_hosts.py --only cut       # the cable alone

Both reductions against one process; then the cable is cut, and the run resumed.

Prints a line for each comparison and ends with JSON; the exit status is 1 where something is wrong.
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

from commands import QWQ
from processes import RECIPE, differences, finish, rows

HOSTS = ("qwqhost0", "qwqhost1")
CABLE = ("qwqcable0", "qwqcable1")
PATIENCE_S = 1200
TIMEOUT_S = 15


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, stderr=None if check else subprocess.DEVNULL)


def set_up() -> None:
    for host in HOSTS:
        ip("netns", "add", host)
    ip("link", "add", CABLE[0], "netns", HOSTS[0], "type", "veth", "peer", "name", CABLE[1], "netns", HOSTS[1])
    for number, host in enumerate(HOSTS):
        ip("-n", host, "addr", "add", f"10.77.0.{number + 1}/24", "dev", CABLE[number])
        for device in ("lo", CABLE[number]):
            ip("-n", host, "link", "set", device, "up")


def tear_down() -> None:
    for host in HOSTS:
        ip("netns", "del", host, check=False)


def start(number: int, per_host: int, runs: Path, *options: str) -> subprocess.Popen[str]:
    """torchrun on one of the hosts."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", str(per_host)]
    torchrun += ["--node-rank", str(number), "--master-addr", "10.77.0.1", "--master-port", "29500", "--no-python"]
    train = [QWQ, "train", str(RECIPE), "--processes", str(2 * per_host), "--runs", str(runs), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE[number]}
    return subprocess.Popen(
        ["ip", "netns", "exec", HOSTS[number], *torchrun, *train], env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def on_hosts(per_host: int, runs: Path, reduction: str) -> Path:
    processes = [start(number, per_host, runs, f"--cluster.reduction={reduction}") for number in (0, 1)]
    errors = [p.communicate(timeout=PATIENCE_S)[1] for p in processes]
    if any(p.returncode for p in processes):
        sys.exit(f"{reduction} on two hosts failed:\n" + "\n".join(errors))
    return runs / "cluster"


def cut(per_host: int, runs: Path) -> tuple[float, list[str]]:
    """Cut the cable in mid-run; seconds until both hosts have ended, and what they said."""
    processes = [start(n, per_host, runs, f"--cluster.timeout_s={TIMEOUT_S}", "--until", "sft") for n in (0, 1)]
    while len(rows(runs / "cluster")) < 2 and all(p.poll() is None for p in processes):
        time.sleep(0.05)
    ip("-n", HOSTS[0], "link", "set", CABLE[0], "down")
    began = time.monotonic()
    errors = [p.communicate(timeout=PATIENCE_S)[1] for p in processes]
    waited = time.monotonic() - began
    ip("-n", HOSTS[0], "link", "set", CABLE[0], "up")
    return waited, [line for text in errors for line in text.splitlines() if line.startswith("error: ")]


def cut_and_resumed(per_host: int, runs: Path) -> list[str]:
    """What went wrong."""
    waited, said = cut(per_host, runs)
    print(f"cable cut: all ended after {waited:.1f} s; {said[:1]}", flush=True)
    status, err = finish(runs, 1, "scatter", "--until", "sft")
    print(f"the same run resumed on one process: status {status}", flush=True)
    late = [] if said and waited < 4 * TIMEOUT_S + 30 else ["cut"]
    return late + ([] if status == 0 and "resuming" in err else ["resume"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-host", type=int, default=2)
    parser.add_argument("--only", choices=("fixed", "scatter", "cut"))
    args = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        status, err = (0, "") if args.only == "cut" else finish(place / "alone", 1, "fixed")
        if status:
            sys.exit(err)
        tear_down()
        set_up()
        try:
            for reduction, limits in (("fixed", (0.0, 0.0)), ("scatter", (1e-6, 2e-5))):
                if args.only not in (None, reduction):
                    continue
                found = on_hosts(args.per_host, place / reduction, reduction)
                loss, weight, unequal = differences(place / "alone" / "cluster", found)
                good = loss <= limits[0] and weight <= limits[1]
                wrong += [] if good else [reduction]
                print(
                    f"{reduction} on 2 hosts x {args.per_host}: losses {loss:.1e}, weights {weight:.1e}, "
                    f"tensors unequal {unequal}",
                    flush=True,
                )
            if args.only in (None, "cut"):
                wrong += cut_and_resumed(args.per_host, place / "cut")
        finally:
            tear_down()
    print(json.dumps({"wrong": wrong}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
