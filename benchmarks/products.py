"""torch's float32 products beside oneDNN's, for the shapes of training and decoding: why
`model/linear.py` has two ways.

    python benchmarks/products.py --threads 2 --sizes 576x960 576x3072 1536x576 576x49152      # SmolLM2-135M's matrices, in x out

Each product reads another weight than the one before, as a model's layers do. The last lines are
JSON `{"name", "ours", "theirs", "ratio"}`: GFLOP/s of oneDNN and of torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from arguments import at_least, sizes
from torch import Tensor

WORKING_SET = 80e6  # bytes of weights, more than a cache holds
Multiply = Callable[[Tensor, Tensor, Tensor], Tensor]  # of rows x, their gradient g and a weight


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


WAYS: dict[str, tuple[Multiply, Multiply]] = {
    "x W^T": (lambda x, g, w: onednn(x, w), lambda x, g, w: F.linear(x, w)),
    "g W": (lambda x, g, w: onednn(g, w.t()), lambda x, g, w: g @ w),
    "g^T x": (lambda x, g, w: onednn(g.t(), x.t()), lambda x, g, w: g.t() @ x),
}


def rate(multiply: Multiply, x: Tensor, grad: Tensor, weights: list[Tensor], rounds: int) -> float:
    """GFLOP/s, by the median of `rounds`."""
    floats, taken = 2.0 * len(x) * weights[0].numel(), []
    for number, weight in zip(range(rounds + 2), itertools.cycle(weights), strict=False):
        began = time.perf_counter()
        multiply(x, grad, weight)
        if number > 1:
            taken.append(time.perf_counter() - began)
    return floats / statistics.median(taken) / 1e9


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=sizes(1, 1),
        default=["576x960", "576x3072", "1536x576", "576x49152"],
        help="inputs x outputs of a weight",
    )
    parser.add_argument("--rows", nargs="+", type=at_least(1), default=[1, 8, 64, 1024])
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count())
    parser.add_argument("--rounds", type=at_least(1), default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size, rows in itertools.product(options.sizes, options.rows):
        inputs, outputs = map(int, size.split("x"))
        weights = [
            torch.randn(outputs, inputs) for _ in range(min(40, max(1, int(WORKING_SET / (4 * inputs * outputs)))))
        ]
        x, grad = torch.randn(rows, inputs), torch.randn(rows, outputs)
        for name, ways in WAYS.items():
            a, b = (rate(way, x, grad, weights, options.rounds) for way in ways)
            print(
                json.dumps(
                    {
                        "name": f"{name}, {rows} rows, {size}, GFLOP/s",
                        "ours": round(a, 1),
                        "theirs": round(b, 1),
                        "ratio": round(a / b, 2),
                    }
                )
            )


if __name__ == "__main__":
    main()
