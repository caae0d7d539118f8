"""Faults of rollout engines at random moments of a run, against an undisturbed run: the same
prompts, tokens and weights, bit for bit. `make test-fleet-faults`.

    python tests/slow/fleet_faults.py                     # 20 moments of each fault
    python tests/slow/fleet_faults.py --times 3 --faults kill link

Prints one line a run and ends with JSON; the exit status is 1 where one of them differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch
from engine_processes import KEY, may_make_namespaces
from fleet_faults import FAULTS, LONGER, check_fault
from fleets import ending_model, run

from qwq.errors import QwqError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, default=4.0, help="seconds from the start in which the fault falls")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["QWQ_API_KEY"] = KEY
    rng, failed = random.Random(args.seed), 0
    faults = [f for f in args.faults if f != "link" or may_make_namespaces()]
    done: dict[str, int] = dict.fromkeys(faults, 0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = ending_model(folder / "model")
        undisturbed = run(folder / "local", model, **LONGER)
        for fault in faults:
            for number in range(args.times):
                try:
                    figures = check_fault(
                        fault, rng.uniform(0, args.within), folder / f"{fault}{number}", model, undisturbed, 1 + number
                    )
                    done[fault] += 1
                    print(json.dumps(figures), flush=True)
                except (AssertionError, QwqError, OSError):
                    failed += 1
                    print(f"{fault} {number}: {traceback.format_exc()}", flush=True)
    print(json.dumps({"name": "faults of rollout engines", "passed": done, "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
