"""Verdicts do not depend on load: 200 pairs around the symbolic limit, graded alone and beside busy
processes.

    python benchmarks/verifier_load.py                # eight busy processes, about four minutes on two cores
    python benchmarks/verifier_load.py --pairs 40

The pairs are integrals, sums and powers whose work grows in small steps past the limit of
`qwq.verify.math`, so that many of them end close to it on either side. Each of the two runs has a
process of its own: nothing is cached between them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from arguments import at_least


def pairs(num: int) -> list[tuple[str, str]]:
    """(gold, answer), the work growing with the number in each of five families."""
    made = []
    for step in range(num // 5 + 1):
        n, m = 2 + step % 8, 2 + step // 8
        made += [
            ("0.12345678", rf"\int_0^1 \frac{{x^{m}}}{{1+x^{n}}} dx"),
            ("n^3", rf"\sum_{{k=1}}^{{n}} k^{{{n}}}+k^{{{m}}}"),
            (rf"(x+y+z)^{{{9 + step // 2}}}(x+y+2z) \int_0^1 dx", rf"(x+y+z)^{{{10 + step // 2}}} \int_0^1 dx"),
            ("3", rf"\int_0^{{{n}}}\int_0^{{{m}}} x^{{{n}}} y e^{{x+y}} dx dy"),
            (rf"\frac{{\pi}}{{{n}}}", rf"\int_0^{{{m}}} \frac{{{n}}}{{{m}+x^2}} dx"),
        ]
    return made[:num]


def outcomes(path: Path) -> list[str]:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from qwq.verify.cli_io import print_verdicts; print_verdicts('math', sys.argv[1])",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line)["outcome"] for line in run.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=at_least(1), default=200)
    parser.add_argument("--load", type=at_least(0), default=8, help="busy processes in the second run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        path.write_text(
            "".join(json.dumps({"gold": g, "pred": a, "form": "bare"}) + "\n" for g, a in pairs(args.pairs))
        )
        start = time.perf_counter()
        alone = outcomes(path)
        middle = time.perf_counter()
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.load)]
        try:
            loaded = outcomes(path)
        finally:
            for process in busy:
                process.kill()
                process.wait()
    print(
        f"{os.cpu_count()} cores; alone {middle - start:.0f} s: {dict(Counter(alone))}; load {args.load}, "
        f"{time.perf_counter() - middle:.0f} s: {dict(Counter(loaded))}"
    )
    same = sum(a == b for a, b in zip(alone, loaded, strict=True))
    print(
        json.dumps(
            {
                "name": f"verifier verdicts unchanged at load {args.load}",
                "ours": same,
                "theirs": len(alone),
                "ratio": round(same / len(alone), 4),
            }
        )
    )
    sys.exit(same != len(alone))


if __name__ == "__main__":
    main()
