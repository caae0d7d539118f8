"""Read rate of weights by the number of rows multiplied, four ways of writing the same product:
what `model/linear.py` chooses by.

    python benchmarks/narrow_products.py
    python benchmarks/narrow_products.py --dtype bfloat16

Prints GB/s of weights read (bytes of the matrix over the median time), for shapes of Qwen2.5-0.5B
and SmolLM2-135M, and as the last lines JSON: ours is `model.linear`, theirs F.linear. `product` is
oneDNN's where `model/linear.py` takes it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from qwq.model.linear import linear, product

SHAPES = {"gate and up": (9728, 896), "down": (896, 4864), "head": (151936, 896), "small gate and up": (3072, 576)}
BYTES = 400 << 20  # of different matrices, so that no cache holds them


def rate(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, weights: list[torch.Tensor]
) -> float:
    times = []
    for _ in range(7):
        started = time.perf_counter()
        for w in weights:
            product(x, w)
        times.append(time.perf_counter() - started)
    return sum(w.nbytes for w in weights) / statistics.median(times) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    dtype = getattr(torch, parser.parse_args().dtype)
    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    with torch.inference_mode():
        for name, (out, width) in SHAPES.items():
            weights = [torch.randn(out, width).to(dtype) for _ in range(max(1, BYTES // (4 * out * width)))]
            for n in (1, 2, 4, 8, 12, 16, 24, 32):
                x = torch.randn(n, width).to(dtype)
                plain, turned, onednn, ours = (
                    rate(p, x, weights)
                    for p in (F.linear, lambda x, w: torch.mm(w, x.t()).t().contiguous(), product, linear)
                )
                print(
                    f"{name:18s} {n:3d} rows: F.linear {plain:5.1f}  W @ x.T {turned:5.1f}  product {onednn:5.1f}  "
                    f"model.linear {ours:5.1f} GB/s",
                    flush=True,
                )
                if n in (1, 4, 16):
                    rows.append(
                        {
                            "name": f"{name}, {n} rows, GB/s",
                            "ours": round(ours, 2),
                            "theirs": round(plain, 2),
                            "ratio": round(ours / plain, 2),
                        }
                    )
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
