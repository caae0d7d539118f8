"""Does torch.compile pay in training here? Each layer's work before and behind attention, compiled,
beside the layers as they are.

    python benchmarks/compiled.py --model DIR --tokens 1024 --threads 1

One forward and backward pass of packed tokens, the two in turn; both gradients are compared. The
first lines say what the compilation took. Attention stays outside: its layouts change with every
batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from arguments import at_least, model_folder
from torch import Tensor

from qwq.model import transformer
from qwq.model.layouts import Packed
from qwq.model.rope import apply_rope
from qwq.model.weights import load_model


def before(
    x: Tensor,
    norm: Tensor,
    qkv_w: Tensor,
    qkv_b: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    turned: int,
    E: int,
) -> tuple[Tensor, Tensor]:
    qkv = F.linear(F.rms_norm(x, (x.shape[-1],), norm, eps), qkv_w, qkv_b)
    return apply_rope(qkv[:, :turned].unflatten(1, (-1, E)), cos, sin), qkv[:, turned:].unflatten(1, (-1, E))


def behind(x: Tensor, attended: Tensor, o: Tensor, norm: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
    x = x + F.linear(attended, o)
    gate, up = F.linear(F.rms_norm(x, (x.shape[-1],), norm, eps), gate_up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, down)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=model_folder, required=True)
    parser.add_argument("--tokens", type=at_least(8), default=1024)
    parser.add_argument("--threads", type=at_least(0), default=0)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load_model(options.model)
    ids, layout = torch.randint(0, model.config.vocab_size, (options.tokens,)), Packed([options.tokens // 8] * 8)
    plain, before_c, behind_c = (
        transformer.Block.forward,
        torch.compile(before, dynamic=True),
        torch.compile(behind, dynamic=True),
    )

    def compiled(self: Any, x: Tensor, cos: Tensor, sin: Tensor, layout: Any) -> Tensor:
        heads, E = self.config.num_heads, self.config.head_dim
        qk, v = before_c(
            x,
            self.input_norm.weight,
            self.qkv.weight,
            self.qkv.bias,
            cos,
            sin,
            self.input_norm.eps,
            self.q_dim + self.kv_dim,
            E,
        )
        attended = layout.attend(self.index, qk[:, :heads], qk[:, heads:], v)
        return behind_c(
            x, attended, self.o.weight, self.post_norm.weight, self.gate_up.weight, self.down.weight, self.post_norm.eps
        )

    def step(forward: Any) -> tuple[float, Tensor]:
        transformer.Block.forward = forward
        model.zero_grad()
        began = time.perf_counter()
        model(ids, layout).square().mean().backward()
        return time.perf_counter() - began, torch.cat([p.grad.flatten() for p in model.blocks.parameters()])

    seconds: dict[str, list[float]] = {"compiled": [], "plain": []}
    print(f"first compiled pass {step(compiled)[0]:.1f} s", flush=True)
    for _ in range(options.rounds):
        took, want = step(plain)
        seconds["plain"].append(took)
        took, got = step(compiled)
        seconds["compiled"].append(took)
        apart = float((got - want).norm() / want.norm())
    ours, theirs = statistics.median(seconds["compiled"]), statistics.median(seconds["plain"])
    print(
        f"gradients differ by {apart:.1e}; "
        + "; ".join(f"{k} {statistics.median(v):.2f} s ({min(v):.2f} to {max(v):.2f})" for k, v in seconds.items())
    )
    print(
        json.dumps(
            {
                "name": f"forward and backward, {options.tokens} tokens, compiled beside plain (s)",
                "ours": round(ours, 3),
                "theirs": round(theirs, 3),
                "ratio": round(ours / theirs, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
