"""Products of bfloat16 with a packed weight beside the same with the plain one (`model/packed.py`),
for the shapes of decoding.

    python benchmarks/packed_products.py --sizes 896x9728 4864x896 896x151936    # in x out

Each product reads another weight than the one before, as a model's layers do. The last lines are
JSON `{"name", "ours", "theirs", "ratio"}`: milliseconds packed and plain (ratio: theirs / ours).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from arguments import at_least, sizes
from torch import Tensor

from qwq.model.packed import PackedWeight, can_pack

WORKING_SET = 80e6  # bytes of weights, more than a cache holds


def milliseconds(products: Sequence[Callable[[Tensor], Tensor]], x_ND: Tensor, rounds: int) -> float:
    """Of one product, by the median of `rounds` over all weights; the first round warms up."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for product in products:
            product(x_ND)
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken[1:]) / len(products)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", nargs="+", type=sizes(1, 1), default=["896x1152", "896x896", "896x9728", "4864x896", "896x151936"]
    )
    parser.add_argument("--rows", nargs="+", type=at_least(1), default=[1, 8, 32, 64])
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count())
    parser.add_argument("--rounds", type=at_least(1), default=11)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not can_pack(torch.empty(2, 2, dtype=torch.bfloat16)):
        parser.exit(1, "this CPU has no instructions for bfloat16, or this torch no oneDNN: nothing is packed here\n")
    lines = []
    for size in args.sizes:
        inputs, outputs = map(int, size.split("x"))
        count = max(1, int(WORKING_SET // (2 * inputs * outputs)))
        plain = [torch.randn(outputs, inputs).bfloat16() for _ in range(count)]
        packed = [partial(PackedWeight(weight).product, bias_O=None) for weight in plain]
        for rows in args.rows:
            x = torch.randn(rows, inputs).bfloat16()
            ours = milliseconds(packed, x, args.rounds)
            theirs = milliseconds([partial(F.linear, weight=weight) for weight in plain], x, args.rounds)
            print(f"{size}, {rows} rows: {ours:.3f} ms packed, {theirs:.3f} plain")
            name = f"product {size} of {rows} rows"
            lines.append(json.dumps({"name": name, "ours": ours, "theirs": theirs, "ratio": theirs / ours}))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
