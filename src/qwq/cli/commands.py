"""The command line: reads arguments, calls the part of the project that does the work, prints.

Nothing here computes, and nothing heavy is imported before a command needs it, so `qwq --help` is
quick. Results go to standard output, progress and summaries to standard error. A QwqError becomes
one line and its exit status, and so does what the system says of a place where nothing may be read
or written; any other exception is a bug and shows its traceback.

Exit status: 0 done, 1 failed, 2 wrong usage or input, 70 our machinery failed, 130 stopped by the
user.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from qwq.cli.agent import agent_app, task_hint, with_task
from qwq.cli.data import data_app
from qwq.cli.engine import bench_app, chat, serve
from qwq.cli.eval import eval_app
from qwq.cli.foreign import own_options
from qwq.cli.formats import export
from qwq.cli.look import look, watch
from qwq.cli.offer import mcp
from qwq.cli.overrides import Overrides, with_seed
from qwq.cli.recipe_plan import explain
from qwq.cli.recipes import recipes
from qwq.cli.release import push, release
from qwq.cli.reward import reward_app
from qwq.cli.run_processes import cluster_app
from qwq.cli.sandbox import sandbox_app
from qwq.cluster.place import is_launched, leave, place_of, was_in_group
from qwq.errors import ConfigError, Interrupted, PeerLost, QwqError, nearest

if TYPE_CHECKING:
    from qwq.config import Recipe

# A full, read-only or forbidden place is the user's to change; a missing file (ENOENT) is told by
# whoever wanted it, and else a bug.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
# What Ctrl-C leaves, by command.
AFTER_STOP = {
    "train": "; the same command without --fresh resumes from the last checkpoint",
    "agent": "; `qwq agent resume DIR` resumes the run in DIR (--out, else the newest of runs/agent)",
}
RECIPE_COMMANDS = ("train", "explain")
HYPHENED = re.compile(r"-[^-].")  # such as -x.csv, and no flag of one letter
DOTLESS_OVERRIDES = (
    "name",
    "report_to",
)  # top-level keys of a recipe that are neither a table nor an option of its own

Lines = Annotated[Path, Parameter(allow_leading_hyphen=True)]  # a file of JSON lines, or - for standard input

app = App(
    name="qwq",
    help="Train, evaluate and talk to a QwQ-style reasoning model.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)
verify_app = App(name="verify", help="Grade answers: JSON lines in, one JSON line out for each, in order.")
app.command(verify_app)
app.command(sandbox_app)
app.command(serve)
app.command(mcp)
app.command(chat)
app.command(bench_app)
app.command(eval_app)
app.command(explain)
app.command(look)
app.command(recipes)
app.command(export)
app.command(watch)
app.command(data_app)
app.command(reward_app)
app.command(agent_app)
app.command(cluster_app)
app.command(release)
app.command(push)


# -- recipes ---------------------------------------------------------------------------------------


@app.command
def train(
    recipe: Path,
    *,
    until: str | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    seed: int | None = None,
    max_minutes: float | None = None,
    runs: Path = Path("runs"),
    processes: int | None = None,
    launcher: Literal["processes", "ray"] = "processes",
    overrides: Overrides,
) -> int:
    """Run a recipe, or resume it where it was stopped.

    Any field of the recipe can be set by its dotted key: `--stages.rl1.steps=30` or
    `--stages.rl1.steps 30`, and `--name=other` names the run.

    Parameters
    ----------
    recipe
        TOML file, or the name of a recipe that comes with qwq, such as tiny (`qwq recipes` lists
        them).
    until
        Last stage to run.
    dry_run
        Read and check the recipe and what it names (data, reward functions, model folder,
        template), print the plan, write nothing.
    fresh
        Start over. What the run has written before is kept as runs/NAME.1 (.2, ...), once all that
        the new run needs was read and checked.
    seed
        Seed of weights, data order and sampling (the recipe's own by default); seed S writes
        runs/NAME-sS.
    max_minutes
        Stop after the step that reaches this time, state saved; the same command resumes.
    runs
        Folder that holds the runs.
    processes
        Processes of this machine that train together (cluster.processes, by default the recipe's
        own); a run may be resumed with another number. docs/cluster.md has more than one machine.
    launcher
        What starts them: this command, or Ray on the hosts of its cluster (RAY_ADDRESS).
    """
    from qwq.cli.train_processes import on_processes, train_on_processes
    from qwq.config import load_recipe

    overrides = dict(overrides) if processes is None else {**overrides, "cluster.processes": processes}
    loaded = load_recipe(recipe, with_seed(overrides, seed))
    if until is not None and until not in loaded.stages:
        raise ConfigError(f"--until {until}: the recipe has no such stage: {nearest(until, loaded.stages)}")
    if dry_run:
        return _dry_run(loaded, runs, until, fresh)
    command = _go_on_command(recipe, until, seed, runs, overrides)
    if on_processes(loaded, launcher) and place_of() is None:
        return train_on_processes(loaded, launcher, command, fresh=fresh, max_minutes=max_minutes)
    from qwq.cli.train import train_recipe

    train_recipe(loaded, runs, until=until, fresh=fresh, command=command, max_minutes=max_minutes)
    return 0


def _dry_run(loaded: Recipe, runs: Path, until: str | None, fresh: bool) -> int:
    """Check what a recipe needs, and print its plan."""
    from qwq.cli.train import check_recipe
    from qwq.pipeline.plan.explain import explain_with_cluster as plan

    check_recipe(loaded, runs, until=until, fresh=fresh)
    print(plan(loaded, runs))
    return 0


@app.command
def report(run: Path) -> int:
    """Write a run's report.html again from what is in its folder.

    Parameters
    ----------
    run
        The run's folder, such as runs/tiny.
    """
    from qwq.pipeline.run_report import write_report

    print(write_report(run))
    return 0


# -- models ----------------------------------------------------------------------------------------


@app.command
def logits(model: str, file: Path, *, device: str = "cpu") -> int:
    """Print the float32 logits of given token ids: lines `{"ids": [...]}` in, `{"index", "logits"}`
    out.

    Parameters
    ----------
    model
        Model folder, a run's folder (its last policy), or a hub name.
    file
        JSON lines.
    device
        torch device.
    """
    from qwq.model.logits import logits_of_file, to_line
    from qwq.pipeline.resolve import model_folder

    for row in logits_of_file(model_folder(model), file, device=device):
        sys.stdout.buffer.write(to_line(row))
        sys.stdout.buffer.flush()
    return 0


# -- verifiers -------------------------------------------------------------------------------------


def _verify(kind: Literal["code", "instructions", "tools"], file: Path, strict: bool) -> int:
    from qwq.verify.cli_io import print_verdicts

    print_verdicts(kind, file, strict=strict)
    return 0


@verify_app.command(name="math")
def verify_math(
    file: Lines,
    *,
    boxes: Literal["last", "all"] = "last",
    units: Literal["strict", "convert"] = "strict",
    strict: bool = False,
) -> int:
    """Grade lines with `gold` and `pred` (and optionally `form`: response, extract or bare;
    `boxes`, `units`).

    Parameters
    ----------
    file
        JSON lines; - reads standard input.
    boxes
        The box of a response that counts: the last one, or all of them together as one list.
    units
        Whether another unit of the same dimension is another answer, or is converted.
    strict
        Stop at the first line that cannot be graded, with status 2. Else such a line gets a line
        with an error, the rest are still graded, and the status is 2 only if no line can be graded.
    """
    from qwq.verify.cli_io import print_verdicts

    print_verdicts("math", file, strict=strict, defaults={"boxes": boxes, "units": units})
    return 0


@verify_app.command(name="code")
def verify_code(
    file: Lines, *, server: str | None = None, api_key: str | None = None, unsafe: bool = False, strict: bool = False
) -> int:
    """Run lines with `code` and `tests` in the sandbox.

    Parameters
    ----------
    file
        JSON lines; - reads standard input.
    server
        URL of a sandbox server to run the programs on; they are graded here.
    api_key
        Key of that server; the environment's QWQ_SANDBOX_API_KEY by default.
    unsafe
        Run also where no jail that protects is possible; each verdict is marked.
    strict
        Stop at the first line that cannot be graded, with status 2. Else such a line gets a line
        with an error, the rest are still graded, and the status is 2 only if no line can be graded.
    """
    from qwq.cli.sandbox import runner
    from qwq.verify.cli_io import print_verdicts

    with runner(server, api_key, unsafe) as sandbox:
        print_verdicts("code", file, sandbox=sandbox, strict=strict)
    return 0


@verify_app.command(name="instructions")
def verify_instructions(file: Lines, *, reward: bool = False, strict: bool = False) -> int:
    """Check lines with `response` and `rules`; or IFEval's, with `instruction_id_list` and
    `kwargs`: strict and loose verdicts.

    Parameters
    ----------
    file
        JSON lines; - reads standard input.
    reward
        For IFEval's: the strict reading that rewards use, in which nothing is met by an empty or
        senseless answer.
    strict
        Stop at the first line that cannot be graded, with status 2. Else such a line gets a line
        with an error, the rest are still graded, and the status is 2 only if no line can be graded.
    """
    from qwq.verify.cli_io import print_instructions

    print_instructions(file, reward=reward, strict=strict)
    return 0


@verify_app.command(name="tools")
def verify_tools(file: Lines, *, strict: bool = False) -> int:
    """Check lines with `response` (a string, or an object with `text` and `calls`) and `truth`; or
    BFCL's lines, with `category`, `functions`, `ground_truth` and `calls`; a multi-turn category
    has `initial_config` and `involved_classes` instead of `functions`, and a list of turns as
    `ground_truth` and `calls`.

    Parameters
    ----------
    file
        JSON lines; - reads standard input.
    strict
        Stop at the first line that cannot be graded, with status 2. Else such a line gets a line
        with an error, the rest are still graded, and the status is 2 only if no line can be graded.
    """
    return _verify("tools", file, strict)


@verify_app.command(name="audit")
def verify_audit(
    dataset: Lines,
    *,
    kind: Literal["math", "code"] = "math",
    clean: Path | None = None,
    field: str | None = None,
    timeout_s: float = 10.0,
) -> int:
    """Say of each row of a set whether it can be graded, and why not: a math row's gold answer, a
    code row's tests.

    Parameters
    ----------
    dataset
        JSON lines with a gold answer, or with tests and, if there is one, a reference solution; -
        reads standard input.
    kind
        math or code. Code rows are tried in the sandbox: the reference must pass, a program that
        does nothing must not.
    clean
        File to write the gradable rows to.
    field
        Column of the gold answer (the first of gold, answer, ground_truth, final_answer, solution
        by default), or of the reference solution (the first of reference, canonical_solution,
        solution, solutions, code).
    timeout_s
        Time limit for each case of a code row.
    """
    if kind == "code":
        from qwq.verify.code.audit import audit_code_file

        rows = audit_code_file(dataset, clean, field=field, timeout_s=timeout_s)
    else:
        from qwq.verify.math.audit import audit_file

        rows = audit_file(dataset, clean, field=field)
    while True:
        try:
            row = next(rows)
        except StopIteration as stop:
            summary = stop.value
            break
        print(json.dumps(row, ensure_ascii=False), flush=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(summary["kinds"].items()))
    print(f"{summary['n']} rows: {kinds}" + (f"; gradable rows in {clean}" if clean else ""), file=sys.stderr)
    return 0


@app.command
def env() -> int:
    """Print versions, processor, memory and the sandbox level in force: what a bug report needs."""
    from qwq.cli.env import describe

    for name, value in describe().items():
        print(f"{name:<14} {value}")
    return 0


# -- arguments -------------------------------------------------------------------------------------


def split_overrides(tokens: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take the recipe's own keys (`--a.b=v`, `--a.b v`, `--name v`) out of a command's arguments.

    What is left are the command's options. ConfigError for a key without a value.
    """
    rest: list[str] = []
    found: dict[str, str] = {}
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or not ("." in key or key in DOTLESS_OVERRIDES):
            rest.append(token)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise ConfigError(f"--{key} has no value: write --{key}=VALUE")
            value = waiting.pop(0)
        found[key] = value
    return rest, found


def _go_on_command(recipe: Path, until: str | None, seed: int | None, runs: Path, overrides: Mapping[str, Any]) -> str:
    """The command that resumes this run: the same one, without --fresh."""
    words = ["qwq", "train", str(recipe)]
    words += [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]
    for option, given in (("--until", until), ("--seed", seed), ("--runs", None if runs == Path("runs") else runs)):
        words += [] if given is None else [option, str(given)]
    return shlex.join(words)


def run(argv: Sequence[str]) -> int:
    """Parse and run one command; returns its exit status. Errors pass through."""
    tokens, overrides = list(argv), {}
    if tokens[:1] == ["serve"]:
        tokens = ["serve", *own_options(tokens[1:])]
    if (tokens and tokens[0] in RECIPE_COMMANDS) or tokens[:2] == ["cluster", "up"]:
        from qwq.config import parse_value

        tokens, texts = split_overrides(tokens)
        overrides = {key: parse_value(text) for key, text in texts.items()}
    tokens = with_task(_with_hyphens(tokens))
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    extra = {"overrides": overrides} if "overrides" in ignored else {}
    status = command(*bound.args, **bound.kwargs, **extra)
    return status if isinstance(status, int) else 0


def _with_hyphens(tokens: Sequence[str]) -> list[str]:
    """Files and folders here that begin with one hyphen as ./-NAME: no option of ours looks so."""
    return [f"./{t}" if HYPHENED.match(t) and Path(t).exists() else t for t in tokens]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `qwq`, which takes its arguments from the command line where `argv` is None:
    the exit status. A process that was in a process group does not return from there, but ends by
    `cluster.place.leave`.
    """
    if argv is not None:
        return _status(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # half a surrogate pair, or a sign that the locale lacks
    try:
        status = _status(sys.argv[1:])
    except Exception:
        if not was_in_group():
            raise
        traceback.print_exc()  # as the interpreter does
        status = 1
    return leave(status) if was_in_group() else status


def _status(argv: Sequence[str]) -> int:
    """`run`, with one line for every error a user can meet."""
    try:
        return run(argv)
    except CycloptsError as error:
        message = " ".join(str(error).split())
        print(f"error: {message}{task_hint(error, argv)} (`{_help_for(argv)}` shows what there is)", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except QwqError as error:
        if not (isinstance(error, PeerLost) and is_launched()):  # else the launcher says what happened
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader of our output went away (`qwq verify ... | head`); nothing is left to say to
        # it.
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in REFUSED or (error.filename is None and error.errno not in FULL):
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{os.strerror(error.errno)}", file=sys.stderr)
        return ConfigError.exit_status
    except KeyboardInterrupt:
        print(f"stopped{AFTER_STOP.get(argv[0] if argv else '', '')}", file=sys.stderr)
        return Interrupted.exit_status


def _help_for(argv: Sequence[str]) -> str:
    known = [c for c in argv[:1] if c in ("verify", "sandbox", "data", "reward", *app)]
    return " ".join(["qwq", *known, "--help"])
