"""`qwq data`: makes and cleans training data."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from qwq.rollout.policy import Policy
    from qwq.text.template import ChatFormat

data_app = App(name="data", help="Make and clean training data.")


@data_app.command
def decontaminate(
    train: Path,
    *,
    against: Annotated[list[str], Parameter(consume_multiple=True)],
    out: Path,
    data: Path | None = None,
    n: int = 13,
    report: Path | None = None,
) -> int:
    """Leave out the rows of a training file that share n words in a row with a benchmark's
    question.

    Prints one JSON object: rows, kept, and how many were dropped for which benchmark.

    Parameters
    ----------
    train
        JSON lines with prompt, question, problem, text, instruction, messages or conversations.
    against
        Benchmarks: files, folders, or names in the data folder.
    out
        File for the clean rows; it appears when all are written.
    data
        Folder with a folder for each benchmark, such as DATA/gsm8k/test.jsonl.
    n
        Words in a row that make a match; shorter questions are looked for whole.
    report
        File for a JSON line on each dropped row: its line, the benchmark, the question's number
        there, the words.
    """
    from qwq.tasks.decontaminate import build_index, decontaminate_file

    summary = decontaminate_file(train, build_index(against, data, n), out, report)
    print(json.dumps(summary))
    reasons = ", ".join(f"{count} by {name}" for name, count in sorted(summary["dropped"].items())) or "none"
    print(
        f"{summary['rows']} rows, {summary['rows'] - summary['kept']} dropped ({reasons}); {summary['kept']} in {out}",
        file=sys.stderr,
    )
    return 0


@data_app.command
def episodes(folder: Path) -> int:
    """Print what `qwq serve --record` kept as token-exact trajectories: one JSON line an episode.

    Parameters
    ----------
    folder
        The folder of --record.
    """
    from qwq.rollout.call_log import read_calls, trajectories

    made = trajectories(read_calls(folder))
    for trajectory in made:
        print(json.dumps(trajectory.to_dict()))
    later = sum(len(t.segments) - 1 for t in made if t.segments)
    calls = [c for t in made for c in t.calls]
    print(
        f"{len(made)} episodes, {len(calls)} calls, {sum(t.num_sampled for t in made)} tokens to train on; "
        f"{sum(c.spliced > 0 for c in calls)} calls took over sampled tokens for the text that came back, {later} "
        f"segments began in the middle of an episode, {sum(bool(c.failure) for c in calls)} calls failed",
        file=sys.stderr,
    )
    return 0


@data_app.command
def constraints(*, out: Path, n: int = 1000, split: str = "train", seed: int = 0) -> int:
    """Write prompts with constraints that rules can check, in IFEval's layout: prompt,
    instruction_id_list, kwargs.

    Parameters
    ----------
    out
        File for the JSON lines.
    n
        Number of prompts.
    split
        train, validation or test; no writing task is in two of them.
    seed
        Seed of the choice.
    """
    from qwq.common.files import write_atomic
    from qwq.errors import ConfigError, nearest
    from qwq.tasks.constraints import constraint_problem
    from qwq.types import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"--split {split}: {nearest(split, SPLITS)}")
    if n < 1:
        raise ConfigError(f"--n is {n}: give at least 1")
    lines = []
    for index in range(n):
        truth = constraint_problem(seed, split, index).truth
        lines.append(
            json.dumps(
                {"key": index, **{k: truth[k] for k in ("prompt", "instruction_id_list", "kwargs")}}, ensure_ascii=False
            )
        )
    write_atomic(out, "\n".join(lines) + "\n")
    print(f"{n} prompts in {out}", file=sys.stderr)
    return 0


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class DistillFlags:
    """Which problems, how the teacher is asked, and what is kept of its answers."""

    endpoint: str | None = None
    """URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    api_key: str | None = None
    """Key of that server; the environment's QWQ_API_KEY or OPENAI_API_KEY by default."""
    n: int | None = None
    """Problems of each source; all of a file, 500 of a family and 2,000 with constraints by
    default."""
    samples: int = 4
    """Answers to each problem."""
    keep_per_problem: int = 1
    """Good answers to keep of each problem, those with the shortest thinking first; with --pairs,
    pairs."""
    pairs: bool = False
    """Write preference pairs instead, for a reward model or DPO: a right answer against a wrong
    one to the same problem, of like length."""
    wrap: bool = False
    """Take answers without thinking too: of math and code problems, what leads to the boxed
    result, or surrounds the program, becomes the thinking; before a bare program or an
    answer to an open prompt goes the prompt in the first person, and under constraints the list
    of them."""
    system: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """A system prompt for the teacher, such as "Think between <think> and </think>, then answer.";
    it is not kept."""
    decontaminate: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    """Benchmark files; problems that share 13 words in a row with one are left out."""
    temperature: float = 0.6
    """Sampling temperature."""
    top_p: float = 0.95
    """Nucleus of the sampling."""
    max_new_tokens: int = 2048
    """Longest answer; a longer one is unfinished."""
    seed: int = 0
    """Seed of the sampling."""
    concurrency: int = 8
    """Requests at once, to an endpoint or here."""
    device: str = "cpu"
    """torch device of a model run here."""
    dtype: str = "auto"
    """Its dtype, as for `qwq serve`."""
    threads: int | None = None
    """CPU threads of a model run here."""


@data_app.command
def distill(*sources: str, model: str, out: Path, flags: DistillFlags = DistillFlags()) -> int:
    """Make an SFT set from a teacher's answers: sampled, judged by the verifiers, sifted, written
    with `<think>` and answer.

    Left out and counted are answers that are wrong, unfinished, without thinking, repetitive,
    guessed or in mixed languages. OUT.samples.jsonl keeps each sample as it is made; the same
    command resumes from it after a kill.

    Parameters
    ----------
    sources
        Tasks, as for `qwq eval`: NAME=FILE for one that reads files (gsm8k, math, code, mbpp,
        prompts, ...), NAME for one that makes its own problems (constraints, preference, ...;
        family:math and family:code are the procedural ones), file.py:Name for one of your own.
        Training problems only. Prompts have no verifier.
    model
        The teacher: its name at the endpoint; or a model folder, GGUF file or run folder, to run
        here.
    out
        File for the SFT set: JSON lines with `messages`; with --pairs, `prompt`, `chosen` and
        `rejected`.
    """
    from qwq.distill.run import DistillPlan, TeacherSampling
    from qwq.distill.run import distill as run

    f = flags
    plan = DistillPlan(sources, f.n, f.samples, f.keep_per_problem, f.wrap, tuple(f.decontaminate or ()), f.pairs)
    sampling = TeacherSampling(f.temperature, f.top_p, f.max_new_tokens, f.seed, f.system)
    with contextlib.closing(_teacher(model, flags)) as teacher:
        print(json.dumps(run(plan, teacher, sampling, out)))
    return 0


def _teacher(model: str, flags: DistillFlags) -> Policy:
    if flags.endpoint is not None:
        from qwq.rollout.policies.endpoint import EndpointPolicy

        return EndpointPolicy(flags.endpoint, model, api_key=flags.api_key, concurrency=flags.concurrency)
    from qwq.engine.options import EngineOptions
    from qwq.pipeline.resolve import model_folder
    from qwq.rollout.policies.local import open_policy

    options = EngineOptions(
        dtype=flags.dtype, device=flags.device, threads=flags.threads, max_num_seqs=flags.concurrency
    )
    return open_policy(model_folder(model), max_new_tokens=flags.max_new_tokens, options=options)


@data_app.command
def convert(
    file: Path,
    *,
    format: str,
    out: Path,
    empty_thinking: bool = False,
    check: str | None = None,
    max_tokens: int | None = None,
) -> int:
    """Bring a published set into the form that SFT (`messages`, `tools`) or the reward model
    (`prompt`, `chosen`, `rejected`) reads.

    Prints one JSON object: rows, kept, and how many were left out for which reason.

    Parameters
    ----------
    file
        JSON lines of the set.
    format
        marco-o1, gsm8k, toolrl, apibank, glaive, sharegpt, alpaca; any (every shape that SFT reads
        itself); dpo, kto.
    out
        File for the converted rows. One that is there with other rows is kept as OUT.1.
    empty_thinking
        Put an empty thinking in front of answers without one; templates that open the thinking
        themselves need it.
    check
        Model folder or hub name: leave out rows of which its chat template cannot make a training
        example.
    max_tokens
        With --check: leave out longer examples.
    """
    from qwq.distill.convert import convert_file

    def load_chat() -> ChatFormat:
        from qwq.model.model_folder import resolve_folder
        from qwq.text.template import ChatFormat

        return ChatFormat.from_folder(resolve_folder(check or ""))

    summary, moved = convert_file(
        file, format, out, empty_thinking=empty_thinking, load_chat=load_chat if check else None, max_tokens=max_tokens
    )
    if moved is not None:
        print(f"{out} was there with other rows: it is {moved} now", file=sys.stderr)
    print(json.dumps(summary))
    return 0


@data_app.command(name="get")
def get_data(name: str, *, out: Path | None = None, split: Literal["train", "test", "validation"] | None = None) -> int:
    """Fetch the published files of a task, or a data set of a hub, and check them.

    Prints a JSON object for each file: path, bytes, sha256. A fetch that was cut off resumes; a
    file that is here is only checked.

    Parameters
    ----------
    name
        Task (gsm8k, humaneval, ...), or data set: org/name, hf:org/name, modelscope:org/name.
    out
        Folder for OUT/NAME/FILE, as `--data OUT` reads it; qwq's and the hubs' caches by default.
    split
        Files of this split alone; all published files of a task, and a data set's train, by
        default.
    """
    from qwq.tasks.get_data import get_data as fetch

    for file in fetch(name, out, split):
        print(json.dumps({"path": str(file.path), "bytes": file.size, "sha256": file.sha256}))
    return 0


@data_app.command
def show(
    file: str,
    *,
    model: str,
    stage: Literal["sft", "reward", "rl"] | None = None,
    kind: Literal["math", "code", "gsm8k", "mbpp", "constraints", "prompts", "preference"] | None = None,
    rows: int = 3,
    max_tokens: int | None = None,
    json: bool = False,
) -> int:
    """Show what a stage would take of a data file: rows as the model reads them, and an account of
    every row.

    What is learnt is green on a terminal and in [[double brackets]] elsewhere. The last lines say
    how many rows are used, which shape they have, their lengths in tokens, what is left out and
    why, and which lines cannot be read; with such lines the exit status is 2.

    Parameters
    ----------
    file
        JSON lines, a JSON array or parquet; a folder, or a data set of the hub.
    model
        Model folder, GGUF file, a run's folder (its last policy), or a hub name: its tokenizer,
        template and positions. No weights are read.
    stage
        sft (conversations), reward (preference pairs) or rl (problems); recognised by the first row
        by default.
    kind
        With --stage rl: the kind of source; recognised by the first row by default.
    rows
        Rows to show.
    max_tokens
        Longest example, as in a recipe: 8,192 of sft and 4,096 of reward by default, and never more
        than the model has positions.
    json
        Print one JSON object instead.
    """
    import os
    from json import dumps

    from qwq.errors import ConfigError
    from qwq.pipeline.preview import preview_file, reader_of
    from qwq.pipeline.resolve import model_folder

    if rows < 0 or (max_tokens is not None and max_tokens < 2):
        raise ConfigError(f"--rows is {rows}, --max-tokens {max_tokens}: give at least 0 rows and 2 tokens")
    chat, max_positions = reader_of(model_folder(model))
    summary = preview_file(
        file, chat, stage=stage, kind=kind, max_tokens=max_tokens, max_positions=max_positions, rows=rows
    )
    if json:
        print(dumps(summary.to_dict(), ensure_ascii=False))
    else:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(summary.lines(colour=colour)))
    return 2 if summary.refused else 0
