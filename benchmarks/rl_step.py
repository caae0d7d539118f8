"""One GRPO step through TRL and through qwq: the same weights, prompts, sampling, loss,
micro-batches and rewards, step after step in turn.

    make install-peers                                                  # trl, accelerate, datasets
    python benchmarks/rl_step.py --model DIR                            # SmolLM2-135M: all cases, two hours and more on two cores
    python benchmarks/rl_step.py --model DIR --modes generate --steps 1      # half an hour

A shape is prompts x samples x new tokens. Cases: `forced`, every completion has full length and
every group signal; `natural`, completions end where the model ends them; `half`, as natural, and
exactly every other group has equal rewards, so nothing to teach. The prompts (`rl_prompts.jsonl`)
have 150 +- 20 tokens. Rewards are a fixed function of a sample's place in its group, so that both
sides have the same signal. TRL: GRPOTrainer on CPU in float32, sdpa, no checkpointing, beta 0, one
iteration, loss dr_grpo without scaling, with transformers' generate and with its continuous
batching; the faster of the two is quoted. One group is one micro-batch on both sides. The first
step of each side is a warm-up and is not counted. Peak memory is that of a process of its own for
each side. The last lines are JSON `{"name", "ours", "theirs", "ratio"}`: seconds a step (ratio:
theirs / ours), MiB, and the share of the measured float32 matrix-product rate that our training
reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from arguments import at_least, model_folder, sizes

from qwq.config import ComputeSection, Optim
from qwq.engine.sampler import SamplingParams
from qwq.model.linear import product
from qwq.model.weights import load_model
from qwq.pipeline.stages.rl1 import Rl1Stage
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import StageRun
from qwq.train.rl import RlTrainer
from qwq.types import Message, Outcome, Problem, Rollout, Verdict

PROMPTS = [json.loads(line)["prompt"] for line in (Path(__file__).parent / "rl_prompts.jsonl").read_text().splitlines()]
LR = 1e-6


class Case:
    """What is measured: a shape, how completions end, and which groups have signal."""

    def __init__(self, shape: str, kind: str) -> None:
        self.kind, self.shape = kind, shape
        self.prompts, self.samples, self.new = map(int, shape.split("x"))
        self.texts = [PROMPTS[i % len(PROMPTS)] for i in range(self.prompts)]

    def reward(self, position: int) -> float:
        group, sample = divmod(position, self.samples)
        return 1.0 if self.kind == "half" and group % 2 else float(sample % 2)


class Step:
    """Seconds of one step and the tokens in it."""

    def __init__(self, sampling: float, training: float, tokens: int, trained: int) -> None:
        self.sampling, self.training, self.tokens, self.trained = sampling, training, tokens, trained

    @property
    def total(self) -> float:
        return self.sampling + self.training


# -- ours ------------------------------------------------------------------------------------------


class FixedRewards:
    """Rewards by place, in the rewarder's interface."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def grader(self) -> Any:
        return types.SimpleNamespace(submit=lambda *_: None)

    def finish(self, grading: Any, rollouts: Sequence[Rollout], *, step: int | None = None) -> None:
        for at, rollout in enumerate(rollouts):
            rollout.reward = self.case.reward(at)
            rollout.rewards = {"accuracy": rollout.reward}
            rollout.verdicts.append(
                Verdict(Outcome.CORRECT if rollout.reward else Outcome.WRONG, "by place", "benchmark")
            )


class FixedPrompts:
    """The same prompts at every step, in the problem mix's interface."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.shares = self.base_shares = {"math": 1.0}

    def problem(self, index: int) -> Problem:
        at = index % self.case.prompts
        return Problem(
            id=f"p{at}",
            domain="math",
            messages=(Message("user", self.case.texts[at]),),
            truth={"gold": "0"},
            canonical=f"p{at}",
        )


def ours(case: Case, model_folder: str, run_folder: str, dtype: torch.dtype = torch.float32) -> Callable[[], Step]:
    """A function that takes one step."""
    chat, model = ChatFormat.from_folder(model_folder), load_model(model_folder, dtype=dtype)
    config = Rl1Stage(
        kind="rl1", steps=1000, prompts=case.prompts, samples=case.samples, max_new_tokens=case.new,
        optim=Optim(lr=LR, warmup=0.0, decay="constant"), mix={"math": 1.0},  # type: ignore[arg-type]
    )  # fmt: skip
    if case.kind == "forced":
        chat.eos_ids = ()
    compute = ComputeSection(micro_batch_tokens=case.samples * case.new)
    trainer = RlTrainer(
        model,
        chat,
        config,
        compute,
        StageRun(Path(run_folder), "rl1", "rl1"),
        FixedPrompts(case),
        FixedRewards(case),
        seed=0,
    )  # type: ignore[arg-type]
    trainer.prepare()
    trainer.params = SamplingParams(temperature=1.0, max_new_tokens=case.new)
    number = 0

    def step() -> Step:
        nonlocal number
        metrics = trainer.step(number)
        trainer.run.state.step = number = number + 1
        return Step(
            metrics["sampling_s"] + metrics["verifying_s"],
            metrics["training_s"],
            metrics["tokens"],
            metrics["trained_tokens"],
        )

    return step


# -- TRL -------------------------------------------------------------------------------------------


def theirs(case: Case, model_folder: str, mode: str, steps: int, between: Callable[[int], None]) -> list[Step]:
    """Run `steps` steps of TRL; `between` is called before each, so that the sides take turns."""
    import transformers
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer.padding_side = "left"
    forced: dict[str, Any] = {}
    if case.kind == "forced":
        ends = model.generation_config.eos_token_id
        forced = {"suppress_tokens": [ends] if isinstance(ends, int) else list(ends)}
    with tempfile.TemporaryDirectory() as out:
        args = GRPOConfig(
            output_dir=out, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, beta=0.0,
            num_iterations=1, learning_rate=LR, lr_scheduler_type="constant", max_steps=steps,
            per_device_train_batch_size=case.samples, gradient_accumulation_steps=case.prompts,
            num_generations=case.samples, max_completion_length=case.new, temperature=1.0, loss_type="dr_grpo",
            scale_rewards="none", report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
            shuffle_dataset=False, seed=0, generation_kwargs=forced,
            use_transformers_continuous_batching=mode == "continuous", dataloader_pin_memory=False,
        )  # fmt: skip
        lengths: list[int] = []

        def reward(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
            lengths.append(sum(map(len, completion_ids)))
            return [case.reward(i) for i in range(len(completions))]

        data = Dataset.from_list([{"prompt": [{"role": "user", "content": t}]} for t in case.texts])
        sampling: list[float] = []
        done: list[Step] = []

        class Turns(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                total = time.perf_counter() - trainer.step_started
                done.append(Step(sampling[-1], total - sampling[-1], lengths[-1], lengths[-1]))

        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Turns()],
        )
        inner = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            # The first thing of a step: samples for all of its micro-batches.
            between(len(done))
            trainer.step_started = time.perf_counter()
            out = inner(inputs)
            sampling.append(time.perf_counter() - trainer.step_started)
            return out

        trainer._generate_and_score_completions = timed
        trainer.train()
    return done


# -- measuring -------------------------------------------------------------------------------------


def matmul_rate() -> float:
    """Float operations a second of a large float32 product, the best of ten: torch's `@` and the
    library that training uses here.
    """
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(5):
        for multiply in (torch.matmul, product):
            t = time.perf_counter()
            multiply(a, b)
            best = max(best, 2 * 2048**3 / (time.perf_counter() - t))
    return best


def training_flops(model_folder: str, case: Case, completion_tokens: int, groups: int) -> float:
    """Float operations of the update's matrix products, prompts fed once a group: 2 forward and 4
    backward a weight and token.
    """
    from qwq.model.model_folder import read_config

    config = read_config(Path(model_folder))
    chat = ChatFormat.from_folder(model_folder)
    head = config.vocab_size * config.hidden_size
    body = config.num_parameters - head * (1 if config.tie_embeddings else 2)
    prompts = sum(len(chat.prompt_ids([{"role": "user", "content": t}])) for t in case.texts[:groups])
    return 6.0 * (body * (completion_tokens + prompts) + head * completion_tokens)


def peak_of(side: str, case: Case, args: argparse.Namespace) -> int:
    """Peak resident bytes of a process that takes two steps on one side."""
    command = [
        sys.executable,
        __file__,
        "--model",
        args.model,
        "--shape",
        case.shape,
        "--case",
        case.kind,
        "--threads",
        str(args.threads),
        "--alone",
        side,
    ]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{out.stderr[-2000:]}")
    return int(json.loads(out.stdout.splitlines()[-1])["peak"])


def alone(side: str, case: Case, model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if side == "ours":
            step = ours(case, model, folder)
            step(), step()
        else:
            theirs(case, model, side, 2, lambda n: None)
    # Not ru_maxrss: a child's begins at its parent's.
    status = Path("/proc/self/status").read_text()
    print(json.dumps({"peak": int(status.partition("VmHWM:")[2].split()[0]) * 1024}))


def compare(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    mine: list[Step] = []
    sides: dict[str, list[Step]] = {}
    name = f"{case.shape} {case.kind}"
    # First, while this process is small.
    memory = (
        {side: peak_of(side, case, args) / 2**20 for side in ("ours", *args.modes)} if case.kind == "forced" else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        step = ours(case, args.model, folder)
        for mode in args.modes:
            sides[mode] = theirs(case, args.model, mode, args.steps + 1, lambda n: mine.append(step()))[1:]
    mine = mine[1:]
    print(
        f"{name}: {len(mine)} steps of ours, {args.steps} of each of TRL's modes; seconds a step, median (least to "
        "most)"
    )
    for label, steps in (("qwq", mine), *((f"TRL, {m}", s) for m, s in sides.items())):
        total = [s.total for s in steps]
        useful = statistics.median(s.tokens / s.total for s in steps)
        print(
            f"  {label:16s} {statistics.median(total):7.2f} ({min(total):.2f} to {max(total):.2f})   sampling "
            f"{statistics.median(s.sampling for s in steps):6.2f}   training "
            f"{statistics.median(s.training for s in steps):6.2f}   {useful:7.1f} sampled tokens/s",
            flush=True,
        )
    best = min(sides, key=lambda m: statistics.median(s.total for s in sides[m]))
    a, b = statistics.median(s.total for s in mine), statistics.median(s.total for s in sides[best])
    rows = [
        {
            "name": f"{name}, seconds a step (TRL: {best})",
            "ours": round(a, 3),
            "theirs": round(b, 3),
            "ratio": round(b / a, 3),
        }
    ]
    if case.kind == "forced":
        rate = matmul_rate()
        used = statistics.median(training_flops(args.model, case, s.trained, case.prompts) / s.training for s in mine)
        print(f"  training at {used / 1e9:.0f} GFLOP/s, {100 * used / rate:.0f}% of the measured {rate / 1e9:.0f}")
        rows.append(
            {
                "name": f"{name}, training beside the matrix-product rate, GFLOP/s",
                "ours": round(used / 1e9, 1),
                "theirs": round(rate / 1e9, 1),
                "ratio": round(used / rate, 3),
            }
        )
        least = min(memory[m] for m in args.modes)
        print("  peak memory in MiB: " + ", ".join(f"{side} {peak:.0f}" for side, peak in memory.items()))
        rows.append(
            {
                "name": f"{name}, peak MiB",
                "ours": round(memory["ours"]),
                "theirs": round(least),
                "ratio": round(least / memory["ours"], 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        type=model_folder,
        required=True,
        help="Hugging Face folder of SmolLM2-135M-Instruct, or of another chat model",
    )
    parser.add_argument("--shape", nargs="+", type=sizes(1, 2, 1), default=["4x8x64", "8x8x128"])
    parser.add_argument(
        "--case", nargs="+", default=["forced", "natural", "half"], choices=["forced", "natural", "half"]
    )
    parser.add_argument("--modes", nargs="+", default=["generate", "continuous"], choices=["generate", "continuous"])
    parser.add_argument("--steps", type=at_least(1), default=3)
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count())
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = [Case(shape, kind) for shape in args.shape for kind in args.case]
    if args.alone:
        alone(args.alone, cases[0], args.model)
        return
    rows = [row for case in cases for row in compare(case, args)]
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
