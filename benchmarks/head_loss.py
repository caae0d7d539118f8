"""Log-probabilities of tokens and their gradient at a model's head: whole rows of logits beside
blocks of the vocabulary (`train/losses/logprobs.py`), and the sizes of a block.

    python benchmarks/head_loss.py --dtype bfloat16 --frozen       # Qwen2.5-0.5B's head under LoRA
    python benchmarks/head_loss.py --width 576 --vocabulary 49152  # SmolLM2-135M's
    python benchmarks/head_loss.py --blocks 256x4096 512x8192      # tokens x entries of a block

Both ways in turn, several rounds. The last lines are JSON `{"name", "ours", "theirs", "ratio"}`:
seconds of blocks and of whole rows (ratio: theirs / ours), medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from arguments import at_least, sizes

from qwq.train.losses import CHUNK_LOGITS, logprobs, token_logprobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=at_least(1), default=2048)
    parser.add_argument("--width", type=at_least(1), default=896)
    parser.add_argument("--vocabulary", type=at_least(1), default=151_936)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--frozen", action="store_true", help="the head has no gradient")
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--threads", type=at_least(1), default=2)
    here = f"{logprobs.BLOCK_TOKENS}x{logprobs.BLOCK_ENTRIES}"
    parser.add_argument("--blocks", nargs="+", type=sizes(1, 1), default=[here])
    args = parser.parse_args()
    if args.vocabulary <= logprobs.WHOLE_VOCABULARY:
        parser.error(f"--vocabulary is {args.vocabulary}: up to {logprobs.WHOLE_VOCABULARY} there is one way only")
    torch.set_num_threads(args.threads)
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, args.dtype)
    weight = (0.02 * torch.randn(args.vocabulary, args.width, generator=generator)).to(dtype)
    weight.requires_grad_(not args.frozen)
    hidden = torch.randn(args.tokens, args.width, generator=generator).to(dtype)
    targets = torch.randint(0, args.vocabulary, (args.tokens,), generator=generator)

    def seconds(chunk: int | None) -> float:
        own, weight.grad = hidden.clone().requires_grad_(), None
        began = time.perf_counter()
        token_logprobs(own, weight, targets, chunk=chunk)[0].mean().backward()
        return time.perf_counter() - began

    taken: dict[str, list[float]] = {}
    for round_number in range(args.rounds + 1):
        for block in args.blocks:
            logprobs.BLOCK_TOKENS, logprobs.BLOCK_ENTRIES = map(int, block.split("x"))
            for name, chunk in ((block, None), ("rows", max(1, CHUNK_LOGITS // args.vocabulary))):
                if (found := seconds(chunk)) and round_number:  # the first round warms up
                    taken.setdefault(name, []).append(found)
    for name, values in taken.items():
        print(f"{name}: {statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})")
    theirs = statistics.median(taken["rows"])
    for block in args.blocks:
        ours = statistics.median(taken[block])
        print(json.dumps({"name": f"head, blocks of {block}", "ours": ours, "theirs": theirs, "ratio": theirs / ours}))


if __name__ == "__main__":
    main()
