"""Everything that a lent GPU is asked for, as one command that can be stopped and called again:

    make gpu-proof MODEL=DIR            # Qwen2.5-Coder-0.5B-Instruct, a folder or a GGUF file
    make gpu-proof MODEL=DIR MINUTES=8  # a piece: no step begins after it, and training stops
    python tools/gpu_proof.py --rehearse --model DIR   # without a GPU: see below

Steps: the GPU tests (tests/gpu), tokens a second of the engine in bfloat16, int8 and int4 at 1, 16
and 64 requests, vLLM on the same shape where VLLM_PYTHON names the Python of an environment that
has it, and the recipe qwen2.5-0.5b-h100 in pieces. TRL's step is not among them:
benchmarks/rl_step.py compares on CPUs. OUT gets NAME.log of each step, steps.json, and report.md,
which is written after every step and says what was not run and why. Status 0 if every step that
could run is done, 130 if time was over, 1 if one failed, 2 without a GPU.

`--rehearse` starts the same commands on the CPU with a handful of tokens, one step a stage: what is
missing or does not start is found before a GPU is paid for. Its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "qwen2.5-0.5b-h100.toml"
# Keys of the recipe in a rehearsal: one step a stage, no benchmark files, no contract.
REHEARSAL = {
    "compute.device": "cpu", "compute.max_rows": 8, "compute.micro_batch_tokens": 1024,
    "eval.start": "false", "eval.sources": "[]", "eval.instructions": 2, "eval.tools": 2, "eval.max_new_tokens": 8,
    "stages.rl1.steps": 1, "stages.rl1.prompts": 2, "stages.rl1.samples": 2, "stages.rl1.max_new_tokens": 16,
    "stages.rl1.overlong_buffer": 0, "stages.reward_model.pairs": 4, "stages.reward_model.test_pairs": 4,
    "stages.reward_model.batch_pairs": 4, "stages.rl2.steps": 1, "stages.rl2.prompts": 2, "stages.rl2.samples": 2,
    "stages.rl2.max_new_tokens": 16, "stages.rl2.contract.domains": "[]", "stages.rl2.contract.problems": 4,
    "stages.rl2.reward_model.canaries": 2,
}  # fmt: skip
REQUESTS = (1, 16, 64)
PROMPT_TOKENS, NEW_TOKENS = 128, 128
UNFINISHED = 130
# The same random prompts' shape as `qwq bench engine`: greedy, to full length.
VLLM = f"""
import json, random, sys, time
from vllm import LLM, SamplingParams
model = LLM(sys.argv[1], dtype="bfloat16", enable_prefix_caching=False)
draw = random.Random(0)
params = SamplingParams(temperature=0, max_tokens={NEW_TOKENS}, ignore_eos=True)
for requests in {REQUESTS}:
    prompts = [{{"prompt_token_ids": [draw.randrange(1000) for _ in range({PROMPT_TOKENS})]}} for _ in range(requests)]
    started = time.perf_counter()
    model.generate(prompts, params, use_tqdm=False)
    took = time.perf_counter() - started
    print(json.dumps({{"requests": requests, "tokens_per_s": round(requests * {NEW_TOKENS} / took, 2)}}))
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A command; `missing` says why it cannot run here. One in `pieces` takes `--max-minutes`."""

    name: str
    command: tuple[str, ...]
    missing: str = ""
    pieces: bool = False

    def until(self, end: float | None) -> tuple[str, ...]:
        """The command, told to stop at `end` on the monotonic clock where it can."""
        if end is None or not self.pieces:
            return self.command
        return (*self.command, "--max-minutes", f"{max(0.01, (end - time.monotonic()) / 60):.2f}")


@dataclass(frozen=True, slots=True)
class Done:
    """How a step ended. `rows` are the JSON lines of its output."""

    status: int
    seconds: float
    rows: tuple[str, ...]


def steps(model: str, out: Path, environment: Mapping[str, str], *, rehearse: bool = False) -> list[Step]:
    """What is to be done, cheapest first."""
    qwq = (sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())")
    device, new_tokens, requests = ("cpu", 4, (1, 2)) if rehearse else ("cuda", NEW_TOKENS, REQUESTS)
    counts = [word for n in requests for word in ("--requests", str(n))]
    shape = ["--prompt-tokens", str(PROMPT_TOKENS), "--new-tokens", str(new_tokens), *counts, "--device", device]
    vllm = environment.get("VLLM_PYTHON", "")
    no_model = "" if model else "no model: MODEL=DIR"
    no_gpu = "a rehearsal has no GPU" if rehearse else ""
    keys = [f"--{key}={value}" for key, value in REHEARSAL.items()] if rehearse else []
    train = ("train", str(RECIPE), "--runs", str(out / "runs"), f"--model.path={model}", *keys)
    return [
        Step("gpu tests", (sys.executable, "-m", "pytest", "-s", str(ROOT / "tests" / "gpu")), no_gpu),
        Step("engine bfloat16", (*qwq, "bench", "engine", model, *shape, "--dtype", "bfloat16"), no_model),
        Step("engine int8", (*qwq, "bench", "engine", model, *shape, "--quantization", "int8"), no_model or no_gpu),
        Step("engine int4", (*qwq, "bench", "engine", model, *shape, "--quantization", "int4"), no_model or no_gpu),
        Step(
            "vllm", (vllm, "-c", VLLM, model),
            no_model or no_gpu or ("" if vllm else "VLLM_PYTHON names no Python with vLLM"),
        ),
        Step("recipe", (*qwq, *train), no_model or no_data(), pieces=True),
    ]  # fmt: skip


def no_data() -> str:
    """What the recipe needs and is not here, with the command that says how to get it."""
    from qwq.config import load_recipe
    from qwq.pipeline.preflight import missing_files

    missing = [file.path for file in missing_files(load_recipe(RECIPE))]
    return f"not here: {', '.join(missing)}; `qwq explain {RECIPE.name}` says how to get each" if missing else ""


def run(step: Step, log: Path, end: float | None) -> Done:
    """Run a step with its output in `log`, and on the screen by its last line."""
    started = time.monotonic()
    command = step.until(end)
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = tuple(line for line in lines if line.startswith("{") and line.endswith("}"))
    print(f"{step.name}: status {status}, {lines[-1] if lines else 'no output'}", file=sys.stderr, flush=True)
    return Done(status, round(time.monotonic() - started, 1), rows)


def report(planned: Sequence[Step], done: Mapping[str, Done], device: str) -> str:
    """One page: each step with its status, and the figures it printed."""
    lines = [f"# GPU proof: {device}", "", "| step | status | seconds |", "|---|---|---|"]
    for step in planned:
        ended = done.get(step.name)
        if ended is None:
            lines.append(f"| {step.name} | not run{f': {step.missing}' if step.missing else ' yet'} | |")
        else:
            words = {0: "done", UNFINISHED: "unfinished, the same command continues"}
            lines.append(
                f"| {step.name} | {words.get(ended.status, f'failed, {ended.status}')} | {ended.seconds:.0f} |"
            )
    for step in planned:
        if step.name in done and done[step.name].rows:
            lines += ["", f"## {step.name}", "", *(f"    {row}" for row in done[step.name].rows)]
    return "\n".join(lines) + "\n"


def prove(planned: Sequence[Step], out: Path, device: str, end: float | None) -> int:
    """Run what is not done yet until `end` on the monotonic clock; the exit status."""
    record = out / "steps.json"
    out.mkdir(parents=True, exist_ok=True)
    kept = json.loads(record.read_text()) if record.exists() else {}
    done = {name: Done(d["status"], d["seconds"], tuple(d["rows"])) for name, d in kept.items()}
    for step in planned:
        over = end is not None and time.monotonic() >= end
        if not step.missing and not over and (step.name not in done or done[step.name].status != 0):
            done[step.name] = run(step, out / f"{step.name.replace(' ', '-')}.log", end)
        record.write_text(json.dumps({name: asdict(d) for name, d in done.items()}))
        (out / "report.md").write_text(report(planned, done, device), encoding="utf-8")
    statuses = [done[s.name].status if s.name in done else UNFINISHED for s in planned if not s.missing]
    failed = any(status not in (0, UNFINISHED) for status in statuses)
    return 1 if failed else max(statuses, default=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-proof"))
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, small: does each command start?")
    args = parser.parse_args()
    import torch

    if not args.rehearse and not torch.cuda.is_available():
        print("error: no CUDA device: nothing of this can run here; --rehearse tries the commands", file=sys.stderr)
        return 2
    device = "a rehearsal on the CPU" if args.rehearse else torch.cuda.get_device_name()
    end = None if args.max_minutes is None else time.monotonic() + 60 * args.max_minutes
    model = str(Path(args.model).resolve()) if args.model and Path(args.model).exists() else args.model
    out = (args.out.with_name(f"{args.out.name}-rehearsal") if args.rehearse else args.out).resolve()
    os.chdir(ROOT)  # the recipe names its data from here
    planned = steps(model, out, os.environ, rehearse=args.rehearse)
    status = prove(planned, out, f"{device}, torch {torch.__version__}", end)
    print((out / "report.md").read_text())
    return status


if __name__ == "__main__":
    sys.exit(main())
