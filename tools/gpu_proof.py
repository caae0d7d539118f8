"""Everything that a lent GPU is asked for, as one command that can be stopped and called again:

    make gpu-proof MODEL=DIR            # Qwen2.5-Coder-0.5B-Instruct, a folder or a GGUF file
    make gpu-proof MODEL=DIR MINUTES=8  # a piece: no step begins after it, and training stops

Steps: the GPU tests (tests/gpu), tokens a second of the engine in bfloat16, int8 and int4 at 1, 16
and 64 requests, vLLM on the same shape where VLLM_PYTHON names the Python of an environment that
has it, and the recipe qwen2.5-0.5b-h100 in pieces. TRL's step is not among them:
benchmarks/rl_step.py compares on CPUs. OUT gets NAME.log of each step, steps.json, and report.md,
which is written after every step and says what was not run and why. Status 0 if every step that
could run is done, 130 if time was over, 1 if one failed, 2 without a GPU.
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

ROOT = Path(__file__).parents[1]
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
    """A command; `missing` says why it cannot run here."""

    name: str
    command: tuple[str, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """How a step ended. `rows` are the JSON lines of its output."""

    status: int
    seconds: float
    rows: tuple[str, ...]


def steps(model: str, out: Path, minutes: float | None, environment: Mapping[str, str]) -> list[Step]:
    """What is to be done, cheapest first."""
    qwq = (sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())")
    requests = [word for n in REQUESTS for word in ("--requests", str(n))]
    shape = ["--prompt-tokens", str(PROMPT_TOKENS), "--new-tokens", str(NEW_TOKENS), *requests, "--device", "cuda"]
    vllm = environment.get("VLLM_PYTHON", "")
    no_model = "" if model else "no model: MODEL=DIR"
    piece = () if minutes is None else ("--max-minutes", str(minutes))
    train = ("train", str(ROOT / "recipes" / "qwen2.5-0.5b-h100.toml"), "--runs", str(out / "runs"))
    return [
        Step("gpu tests", (sys.executable, "-m", "pytest", "-s", str(ROOT / "tests" / "gpu"))),
        Step("engine bfloat16", (*qwq, "bench", "engine", model, *shape, "--dtype", "bfloat16"), no_model),
        Step("engine int8", (*qwq, "bench", "engine", model, *shape, "--quantization", "int8"), no_model),
        Step("engine int4", (*qwq, "bench", "engine", model, *shape, "--quantization", "int4"), no_model),
        Step("vllm", (vllm, "-c", VLLM, model), no_model or ("" if vllm else "VLLM_PYTHON names no Python with vLLM")),
        Step("recipe", (*qwq, *train, f"--model.path={model}", *piece), no_model),
    ]  # fmt: skip


def run(step: Step, log: Path) -> Done:
    """Run a step with its output in `log`, and on the screen by its last line."""
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(step.command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
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
            done[step.name] = run(step, out / f"{step.name.replace(' ', '-')}.log")
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
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("error: no CUDA device: nothing of this can run here", file=sys.stderr)
        return 2
    device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    end = None if args.max_minutes is None else time.monotonic() + 60 * args.max_minutes
    planned = steps(args.model, args.out.resolve(), args.max_minutes, os.environ)
    status = prove(planned, args.out, device, end)
    print((args.out / "report.md").read_text())
    return status


if __name__ == "__main__":
    sys.exit(main())
