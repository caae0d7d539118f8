"""The same run on 1, 2 and 4 processes, resumed on other numbers, and with its processes killed at
random moments. `make test-cluster`.

    python tests/slow/cluster.py                     # tests/e2e/cluster.toml, 20 kills
    python tests/slow/cluster.py --kills 0           # without the kills
    python tests/slow/cluster.py --only scatter

Prints a line for each comparison and ends with JSON; the exit status is 1 where one is beyond its
limit: scatter 1e-6 for losses and 2e-5 for weights, fixed bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from os import kill
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from processes import differences, finish, ranks, rows, start, wait_for

WORLDS = (1, 2, 4)
RESUMED = (1, 3, 4)
LIMITS = {"scatter": (1e-6, 2e-5), "fixed": (0.0, 0.0)}


def run(runs: Path, processes: int, reduction: str) -> Path:
    status, err = finish(runs, processes, reduction)
    if status:
        sys.exit(f"{reduction} on {processes} processes ended with status {status}:\n{err}")
    return runs / "cluster"


def compare(name: str, reduction: str, one: Path, other: Path, wrong: list[str]) -> None:
    loss, weight, unequal = differences(one, other)
    limits = LIMITS[reduction]
    good = loss <= limits[0] and weight <= limits[1] and (reduction == "scatter" or not unequal)
    if not good:
        wrong.append(name)
    print(
        f"{'ok   ' if good else 'WRONG'} {name}: losses {loss:.1e}, weights {weight:.1e}, tensors unequal {unequal}",
        flush=True,
    )


def resumed(place: Path, reduction: str, expected: Path, wrong: list[str], only: str | None) -> None:
    """Stop a run on 2 processes in the middle of every stage, and resume each on other numbers."""
    stages = [r["stage"] for r in rows(expected)]
    for stage in [only] if only else dict.fromkeys(stages):
        at = stages.index(stage) + 2
        half = place / f"{reduction}-{stage}-half"
        process = start(half, 2, reduction)
        assert wait_for(process, half / "cluster", at), stage
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 130, err
        for processes in RESUMED:
            copy = place / f"{reduction}-{stage}-{processes}"
            shutil.copytree(half, copy)
            compare(
                f"{reduction}: {stage} begun on 2, resumed on {processes}", reduction, expected,
                run(copy, processes, reduction), wrong,
            )  # fmt: skip
            shutil.rmtree(copy)


def killed(place: Path, reduction: str, expected: Path, num_kills: int, seed: int, wrong: list[str]) -> None:
    """Kill a random process at a random moment, resume on a random number of them, and so on."""
    rng, done, number = random.Random(seed), 0, 0
    while done < num_kills:
        wild, number, ended = place / f"{reduction}-wild{number}", number + 1, False
        while done < num_kills and not ended:
            processes = rng.choice((2, 2, 3, 4))
            process = start(wild, processes, reduction)
            before = len(rows(wild / "cluster"))
            if not wait_for(process, wild / "cluster", before + rng.randint(0, 3)) and process.poll() is None:
                sys.exit("the run does not take steps")
            time.sleep(rng.random() * 3.0)
            victims = {} if process.poll() is not None else ranks(process.pid)
            if not victims:
                process.communicate(timeout=300)
                ended = process.returncode == 0
                continue
            victim = rng.choice(sorted(victims))
            kill(victims[victim], signal.SIGKILL)
            begun = time.monotonic()
            _, err = process.communicate(timeout=300)
            waited = time.monotonic() - begun
            lines = [line for line in err.splitlines() if line.startswith("error: ")]
            done += 1
            good = waited < 30 and (process.returncode == 0 or (process.returncode == 70 and len(lines) == 1))
            if not good:
                wrong.append(f"kill {done}")
            print(
                f"{'ok   ' if good else 'WRONG'} {reduction}, kill {done}: process {victim} of {processes} after "
                f"{len(rows(wild / 'cluster'))} steps; all ended after {waited:.1f} s; {lines[-1:]}",
                flush=True,
            )
        compare(f"{reduction}: after kills {done}", reduction, expected, run(wild, 1, reduction), wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(LIMITS))
    parser.add_argument("--stage", help="resume on other numbers from the middle of this stage alone")
    parser.add_argument("--worlds", type=int, nargs="*", default=WORLDS[1:])
    args = parser.parse_args()
    wrong: list[str] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for reduction in [args.only] if args.only else list(LIMITS):
            expected = run(place / f"{reduction}-1", 1, reduction)
            for processes in args.worlds:
                found = run(place / f"{reduction}-{processes}", processes, reduction)
                compare(f"{reduction} on {processes} processes", reduction, expected, found, wrong)
            resumed(place, reduction, expected, wrong, args.stage)
            if reduction == "fixed" or args.only:
                killed(place, reduction, expected, args.kills, args.seed, wrong)
    print(json.dumps({"wrong": wrong, "kills": args.kills, "seconds": round(time.monotonic() - began)}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
