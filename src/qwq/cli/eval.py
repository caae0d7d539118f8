"""`qwq eval`: benchmarks on a model, two results compared, BFCL's leaderboard added up."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qwq.errors import ConfigError

if TYPE_CHECKING:
    from qwq.rollout.policy import Policy


def evaluate(
    model: str,
    *benchmarks: str,
    data: Path | None = None,
    out: Path | None = None,
    endpoint: str | None = None,
    n: int | None = None,
    samples: int | None = None,
    max_new_tokens: int | None = None,
    greedy: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    thinking_budget: tuple[int, ...] = (),
    tool_format: str = "auto",
    opens_thinking: Annotated[bool | None, Parameter(negative="--no-opens-thinking")] = None,
    concurrency: Annotated[int | None, Parameter(name=["--concurrency", "--max-rows"])] = None,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int | None = None,
    deterministic: bool = False,
    aggregate: Path | None = None,
) -> int:
    """Score a model on benchmarks; prints one JSON object, with a 95% interval for each score.

    Every sample is stored in OUT as it is made; the same command goes on where it was stopped. `qwq eval compare A B` compares two OUT
    folders problem by problem; `qwq eval bfcl --aggregate DIR` computes BFCL's overall column from a leaderboard's CSV files.

    Families and KIND=PATH without --out, or with --out FILE.jsonl, are scored at once and without a folder.

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder (its last policy), or a hub name; with --endpoint the server's name for it.
    benchmarks
        aime24, aime25, livecodebench, livebench, ifeval, bfcl, gsm8k, math500, humaneval, mbpp; math, code, instructions, tools,
        preference; NAME:PART for a part (bfcl:simple_python, livebench:math); KIND=PATH for gsm8k, mbpp or math in its own format.
    data
        Folder with BENCH/*.jsonl for each benchmark; without it the published files are downloaded. A file, for one of gsm8k, mbpp, math.
    out
        Folder for samples, results.json and report.html (evals/MODEL by default), or a .jsonl file for transcripts.
    endpoint
        URL of an OpenAI-compatible server; its key comes from QWQ_API_KEY or OPENAI_API_KEY.
    n
        Problems of each benchmark, taken from its categories in turn; all by default, 500 of a family.
    samples
        Answers to each problem; 64 for AIME, 8 for LiveCodeBench, 1 for the others by default.
    max_new_tokens
        Longest answer; 32,768 by default, 512 for families. A longer one is unfinished.
    greedy
        Take the likeliest token instead of sampling.
    temperature
        Sampling temperature; 0.6 by default, 1 for families.
    top_p
        Smallest set of tokens with this probability; 0.95 by default, 1 for families.
    top_k
        Likeliest tokens to choose from; 40 by default, 0 (all) for families.
    seed
        Seed of the sampling; the same for every evaluation by default.
    thinking_budget
        End the thinking after so many tokens; given several times, each is run and accuracy is drawn against thinking.
    tool_format
        How bfcl offers functions: native (the chat template's or server's tools), prompt (BFCL's system prompt), or auto.
    opens_thinking
        With --endpoint: whether the server's chat template opens the thinking, as QwQ's does, so that a text without `</think>` is a
        thought. By default so for QwQ-32B and Qwen's Thinking models; a text of another model that was cut off is taken for a thought,
        one that ended by itself for an answer.
    concurrency
        Answers made at once; 16 by default, 32 without a folder.
    device
        torch device.
    dtype
        Its dtype, as for `qwq serve`.
    threads
        CPU threads.
    deterministic
        An answer does not depend on what else is being answered, bit for bit; slower.
    aggregate
        Folder of BFCL's leaderboard files; a JSON line for each row: model, published and our overall accuracy.
    """
    if aggregate is not None:
        if model != "bfcl" or benchmarks:
            raise ConfigError("--aggregate goes with bfcl alone: qwq eval bfcl --aggregate DIR")
        return _aggregate(aggregate)
    if model == "compare":
        return _compare(benchmarks)
    if greedy and temperature not in (None, 0):
        raise ConfigError(f"--greedy and --temperature {temperature:g} contradict each other: give one of them")
    temperature = 0.0 if greedy else temperature
    here = {
        "--device": device != "cpu",
        "--dtype": dtype != "auto",
        "--threads": threads is not None,
        "--deterministic": deterministic,
    }
    if endpoint is not None and (local := [o for o, given in here.items() if given]):
        raise ConfigError(f"{local[0]} is about a model run here, and the one at {endpoint} runs there: leave it out")
    if endpoint is None and opens_thinking is not None:
        raise ConfigError("--opens-thinking is about a server's chat template: give --endpoint URL, or leave it out")
    stored = {
        "--endpoint": endpoint, "--samples": samples, "--thinking-budget": thinking_budget or None, "--top-p": top_p, "--top-k": top_k,
        "--tool-format": None if tool_format == "auto" else tool_format,
    } | {o: given or None for o, given in here.items() if o != "--device"}  # fmt: skip
    refused = [o for o, v in stored.items() if v is not None]
    if _at_once(benchmarks, data, out, wants_folder=bool(refused)):
        if refused:
            raise ConfigError(
                f"{refused[0]} needs a results folder, and benchmarks by name: give --out DIR (and --data DIR), no KIND=PATH"
            )
        return _score_at_once(model, benchmarks, n, data, temperature, seed, max_new_tokens, concurrency, device, out)
    from qwq.eval.run import Options, prepare, run

    given = {"concurrency": concurrency, "seed": seed}
    options = Options(
        n=n, samples=samples, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, budgets=thinking_budget,
        tool_format=tool_format, **{k: v for k, v in given.items() if v is not None},
    )  # fmt: skip
    prepared = prepare(benchmarks, data, options)
    policy: Policy
    if endpoint is not None:
        from qwq.rollout.policies.endpoint import EndpointPolicy

        policy = EndpointPolicy(
            endpoint, model, concurrency=options.concurrency, opens_thinking=opens_thinking
        ).connect()
    else:
        from qwq.engine.options import EngineOptions
        from qwq.pipeline.resolve import model_folder
        from qwq.rollout.policies.local import open_policy

        longest = max(p.protocol.max_new_tokens for p in prepared)
        engine = EngineOptions(
            device=device, dtype=dtype, threads=threads, deterministic=deterministic, max_num_seqs=options.concurrency
        )
        policy = open_policy(model_folder(model), max_new_tokens=longest, options=engine)
    if out is None:
        out = Path("evals") / (Path(model).name or "model")
        print(f"samples and results go to {out}", file=sys.stderr)
    with contextlib.closing(policy):
        print(json.dumps(run(policy, prepared, options, out, model=model)))
    return 0


def _at_once(benchmarks: tuple[str, ...], data: Path | None, out: Path | None, *, wants_folder: bool) -> bool:
    """Whether the benchmarks are families or files of their own, and no folder is asked for."""
    from qwq.types import DOMAINS

    if (
        any("=" in b for b in benchmarks)
        or (data is not None and data.is_file())
        or (out is not None and out.suffix == ".jsonl")
    ):
        return True
    return out is None and not wants_folder and all(b in DOMAINS for b in benchmarks)


def _score_at_once(
    model: str, benchmarks: tuple[str, ...], n: int | None, data: Path | None, temperature: float | None, seed: int | None,
    max_new_tokens: int | None, concurrency: int | None, device: str, out: Path | None,
) -> int:  # fmt: skip
    from qwq.eval.command import EVAL_SEED, eval_command
    from qwq.pipeline.resolve import model_folder

    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder, and KIND=PATH writes a file of transcripts: give --out FILE.jsonl")
    result = eval_command(
        model_folder(model), benchmarks, n=n, data=data, greedy=temperature == 0, temperature=1.0 if temperature is None else temperature,
        seed=EVAL_SEED if seed is None else seed, max_new_tokens=max_new_tokens or 512, max_rows=concurrency or 32, device=device, out=out,
    )  # fmt: skip
    print(json.dumps(result))
    return 0


def _aggregate(folder: Path) -> int:
    from qwq.tasks.bfcl.aggregate import aggregate as rows

    for row in rows(folder):
        print(json.dumps(row))
        if "missing" in row:
            print(f"note: {row['model']}: {'; '.join(row['missing'])}", file=sys.stderr)
    return 0


def _compare(folders: tuple[str, ...]) -> int:
    from qwq.eval.compare import compare, table

    if len(folders) != 2:
        raise ConfigError(f"compare takes two results folders, {len(folders)} are given: qwq eval compare A B")
    rows = compare(Path(folders[0]), Path(folders[1]))
    print(table(rows, *folders), file=sys.stderr)
    for row in rows:
        print(json.dumps(row))
    return 0
