"""`qwq agent ...`: a model that works with tools; its runs are resumed, replayed and checked."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

from qwq.engine.options import MODEL_DEFAULTS, ModelOptions

RUN = ["agent", "run"]
HYPHENED_TEXT = re.compile(r"-[^\s=]*\s")  # such as "-5 + 3?": no option has a blank in its name
OPTION = re.compile(r"--[a-z][\w.-]*(=.*)?", re.DOTALL)

agent_app = App(name="agent", help="A model that works with tools: runs, and what became of them (docs/agent.md).")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class AgentFlags:
    """What the agent works with, and what it may use."""

    endpoint: str | None = None
    """URL of an OpenAI-compatible server; its key comes from QWQ_API_KEY or OPENAI_API_KEY."""
    tools: str = "python"
    """Tools, separated by commas; `qwq agent tools` lists them."""
    allow_host: tuple[str, ...] = ()
    """Host that the tool fetch may ask (docs.python.org, or *.python.org); may be given several
    times. Without one there is no fetch."""
    mcp: Path | None = None
    """File of MCP servers ({"mcpServers": {...}}), whose tools the model gets too."""
    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Files that are copied into the workspace."""
    workspace: Path | None = None
    """Folder that is copied into the workspace; `qwq agent apply` copies changes out."""
    policy: Path | None = None
    """TOML file of rules: which calls run, ask or are denied. Without one external effects ask."""
    budget: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """NAME=NUMBER, several: model_calls (20), tool_calls (50), parallel (8), tokens, seconds, or
    the name of a tool."""
    out: Path | None = None
    """The run's folder; runs/agent/TIME-TASK by default."""
    max_new_tokens: int = 8192
    """Longest turn."""
    temperature: float = 0.6
    """Sampling temperature."""
    top_p: float = 0.95
    """Smallest set of tokens with this probability."""
    top_k: int | None = None
    """Likeliest tokens to choose from, 0 for all; 40 by default. With --endpoint it is sent only
    where it is given: many servers know no top_k."""
    seed: int = 0
    """Seed of the sampling."""
    thinking_budget: int | None = None
    """End the thinking of a turn after so many tokens."""
    compaction: Literal["summary", "rule"] = "summary"
    """How turns leave a full context: summed up by the model (a model call), or by rule alone."""
    box_mb: int = 64
    """Size of the workspace in MB."""


def words_of(words: tuple[str, ...], flags: AgentFlags) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The words, files and budgets of a command line. An option that takes several values also
    swallows a task that follows it: what is no file, or no NAME=NUMBER, is a word.
    """
    whole = len(words) >= (1 if flags.endpoint is not None else 2)
    files = tuple(name for name in flags.data if whole or Path(name).exists())
    pairs = tuple(pair for pair in flags.budget if whole or "=" in pair)
    swallowed = [name for name in flags.data if name not in files] + [b for b in flags.budget if b not in pairs]
    budget = tuple(part for pair in pairs for part in pair.split(","))
    return (*words, *swallowed), files, budget


def with_task(tokens: list[str]) -> list[str]:
    """A task that begins with a hyphen and can be no option is put behind `--`, as words are."""
    texts = [] if tokens[:2] != RUN or "--" in tokens else [t for t in tokens if HYPHENED_TEXT.match(t)]
    return [*(t for t in tokens if t not in texts), "--", *texts] if texts else tokens


def task_hint(error: CycloptsError, argv: Sequence[str]) -> str:
    """What to write where a task was read as an option, "" where none was."""
    if list(argv[:2]) != RUN or not isinstance(error, UnknownOptionError) or OPTION.fullmatch(error.token.value):
        return ""
    first = error.token.value or error.token.keyword or ""
    task = next((token for token in argv if token.startswith(first)), first)
    return f"; if that is the task, write it last and behind two hyphens: -- {shlex.quote(task)}"


@agent_app.command(name="run")
def agent_run(*words: str, flags: AgentFlags = AgentFlags(), engine: ModelOptions = MODEL_DEFAULTS) -> int:
    """Let a model solve a task with tools. The answer goes to standard output; the run's folder
    holds events.jsonl, answer.json, report.md, outputs/ and artefacts/.

    Status 0: answered; 1: not answered, or with numbers that come from no executed call; 75: a call
    waits for approval (`qwq agent resume`).

    Parameters
    ----------
    words
        MODEL (model folder, GGUF file, a run's folder, or a hub name) and the task. With --endpoint
        MODEL is the server's name for it, and may be left out.
    """
    from qwq.agent.command import AgentRequest, start, summary
    from qwq.agent.run import CompactBy
    from qwq.agent.show import for_stream
    from qwq.errors import UsageError
    from qwq.pipeline.resolve import model_folder

    words, data, budget = words_of(words, flags)
    if len(words) not in ((1, 2) if flags.endpoint is not None else (2,)):
        form = 'qwq agent run MODEL "task"' if flags.endpoint is None else 'qwq agent run --endpoint URL "task"'
        raise UsageError(f"{len(words)} arguments, write {form}")
    model = words[0] if len(words) == 2 else ""
    default = AgentRequest("").params
    params = replace(
        default,
        max_new_tokens=flags.max_new_tokens,
        temperature=flags.temperature,
        top_p=flags.top_p,
        top_k=flags.top_k if flags.top_k is not None else 0 if flags.endpoint is not None else default.top_k,
    )
    request = AgentRequest(
        words[-1],
        model=model if flags.endpoint is not None else model_folder(model),
        endpoint=flags.endpoint,
        tools=tuple(name.strip() for name in flags.tools.split(",") if name.strip()),
        data=tuple(map(Path, data)),
        workspace=flags.workspace,
        policy=flags.policy,
        budget=budget,
        out=flags.out,
        params=params,
        seed=flags.seed,
        thinking_budget=flags.thinking_budget,
        compaction=CompactBy(flags.compaction),
        box_mb=flags.box_mb,
        engine=engine,
        mcp=flags.mcp,
        allow_hosts=flags.allow_host,
    )
    outcome, out = start(request)
    print(for_stream(outcome.answer, sys.stdout))
    print(summary(outcome, out), file=sys.stderr)
    return outcome.exit_status


@agent_app.command(name="resume")
def agent_resume(
    run: Path,
    *,
    approve: tuple[str, ...] = (),
    deny: tuple[str, ...] = (),
    reason: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    endpoint: str | None = None,
    engine: ModelOptions = MODEL_DEFAULTS,
) -> int:
    """Resume a run that was killed, or that waits for approval. External effects that may have
    happened are not repeated: the model is told.

    Parameters
    ----------
    run
        The run's folder.
    approve
        Call that may run, such as call-3; may be given several times.
    deny
        Call that may not.
    reason
        What the model is told of the denied calls.
    endpoint
        URL of the server, where it is another than before.
    """
    from qwq.agent.command import resume, summary
    from qwq.agent.show import for_stream

    outcome = resume(run, approved=approve, denied=dict.fromkeys(deny, reason), engine=engine, endpoint=endpoint)
    print(for_stream(outcome.answer, sys.stdout))
    print(summary(outcome, run), file=sys.stderr)
    return outcome.exit_status


@agent_app.command(name="show")
def agent_show(run: Path) -> int:
    """Tell what happened in a run, event by event.

    Parameters
    ----------
    run
        The run's folder.
    """
    from qwq.agent.show import lines

    for line in lines(run):
        print(line)
    return 0


@agent_app.command(name="replay")
def agent_replay(run: Path, *, model: bool = False, endpoint: str | None = None) -> int:
    """Run the jailed calls of a run once more in a fresh session and compare texts and artefacts.
    Prints one JSON object; status 1 where a call or a turn comes out differently.

    Calls that read a clock or draw at random are told apart by a second replay (`varies`).

    Parameters
    ----------
    run
        The run's folder.
    model
        Ask the model for its turns again too, each behind what the log holds, with the run's seed
        and sampling; they stand under `model`.
    endpoint
        With --model: URL of the server, where it is another than before.
    """
    import json

    from qwq.agent.replay import replay
    from qwq.agent.replay_model import replay_model
    from qwq.errors import UsageError

    if endpoint is not None and not model:
        raise UsageError("--endpoint is the server of the model: give --model too")
    outcome = replay(run)
    turns = replay_model(run, endpoint=endpoint) if model else None
    shown = outcome.to_dict()
    if turns is not None:
        shown |= {"agrees": outcome.agrees and turns.agrees, "model": turns.to_dict()}
    print(json.dumps(shown, ensure_ascii=False))
    return 0 if shown["agrees"] else 1


@agent_app.command(name="trace")
def agent_trace(run: Path, *, otel: Path, content: bool = False) -> int:
    """Write a run as OpenTelemetry spans in OTLP's JSON form.

    Parameters
    ----------
    run
        The run's folder.
    otel
        File to write.
    content
        With what was said, called and answered.
    """
    from qwq.agent.otel import write_trace

    print(f"{write_trace(run, otel, content=content)} spans in {otel}", file=sys.stderr)
    return 0


@agent_app.command(name="report")
def agent_report(run: Path, *, check: bool = False) -> int:
    """Write report.md and report.html of a run again. Prints one JSON object: what is unsupported
    (numbers that no executed call gave, deeds that no event proves), and how many numbers each call
    gave.

    Parameters
    ----------
    run
        The run's folder.
    check
        End with status 1 where something is unsupported.
    """
    import json

    from qwq.agent.report import write_report

    outcome = write_report(run)
    print(json.dumps(outcome.to_dict(), ensure_ascii=False))
    return 1 if check and outcome.unsupported else 0


@agent_app.command(name="apply")
def agent_apply(run: Path, folder: Path, *, yes: bool = False) -> int:
    """Show what a run changed in its workspace, and copy it out. Without --yes a terminal is asked;
    status 1 where nothing was copied.

    Parameters
    ----------
    run
        The run's folder.
    folder
        Where the changes go: the folder that was given as --workspace, or a copy of it.
    yes
        Copy without asking.
    """
    from qwq.agent.copy_out import changes_of, copy_out, diff_lines

    changes = changes_of(run)
    for line in diff_lines(changes):
        print(line)
    if not changes:
        print("no file was changed", file=sys.stderr)
        return 0
    if not yes and not (sys.stdin.isatty() and input(f"copy to {folder}? [y/N] ").strip().lower() == "y"):
        print(f"nothing was copied: --yes copies to {folder}", file=sys.stderr)
        return 1
    copy_out(changes, folder)
    print(f"{len(changes)} files copied to {folder}", file=sys.stderr)
    return 0


@agent_app.command(name="tools")
def agent_tools(*, json: bool = False, mcp: Path | None = None) -> int:
    """List the tools, what they may change, and how long a call may take.

    Parameters
    ----------
    json
        One JSON object a line, with each tool's schema.
    mcp
        File of MCP servers: they are started, and their tools are listed too.
    """
    from qwq.agent.show import tool_lines

    for line in tool_lines(as_json=json, mcp=mcp):
        print(line)
    return 0
