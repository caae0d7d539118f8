"""The Python API behind `import qwq`: load a model and chat, generate, evaluate, train. docs/api.md
shows each.

Nothing heavy is imported before it is used: this module comes without torch, so that verifiers,
recipes and tasks stay light.

    llm = qwq.load("runs/tiny")
    answer = llm.chat("What is 2 plus 3?", temperature=0.6)
    print(answer.thinking, answer.text)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from qwq.api.llm import LLM
from qwq.config import Recipe, load_recipe
from qwq.errors import ConfigError, nearest
from qwq.pipeline.resolve import model_folder
from qwq.tasks.base import Task

if TYPE_CHECKING:
    from qwq.rollout.policy import Policy


class EngineKeywords(TypedDict, total=False):
    """Options of `load`, those of `qwq serve`; what is left out is decided from the model and the
    machine.
    """

    dtype: str  # auto, float32, bfloat16, float16
    device: str  # cpu, cuda, cuda:1
    max_model_len: int | None  # tokens, prompt and answer together
    kv_tokens: int | None  # tokens of KV cache over all sequences
    max_num_seqs: int  # sequences computed at once
    max_num_batched_tokens: int  # tokens computed in one step
    threads: int | None  # CPU threads
    deterministic: bool  # a sequence's tokens do not depend on the others, bit for bit; CPU only
    speculate: bool
    enable_prefix_caching: bool
    yarn: bool
    quantization: str | None  # int8 or int4, on a GPU
    draft_model: str | None
    draft_tokens: int


def load(model: str | Path, *, report: Callable[[str], None] | None = None, **options: Unpack[EngineKeywords]) -> LLM:
    """Load a model: a run's folder (its last policy), a model folder, a hub id, `modelscope:ID`, or
    a GGUF file.

    `options` are those of the engine, with the defaults of `qwq serve` (docs/engine.md); `report`
    gets lines about memory and progress. ModelError where there is no such model or it is damaged,
    ConfigError for an unknown or bad option, CapacityError where it does not fit.
    """
    from qwq.engine.load import load_engine
    from qwq.engine.options import EngineOptions

    unknown = next((name for name in options if name not in EngineKeywords.__annotations__), None)
    if unknown is not None:
        raise ConfigError(f"load: no option {unknown!r}: {nearest(unknown, EngineKeywords.__annotations__)}")
    opened = load_engine(model_folder(str(model)), EngineOptions(**options), report or (lambda line: None))
    return LLM(opened, str(model))


def evaluate(
    model: str | Path, tasks: Sequence[str | Task], *, data: str | Path | None = None, out: str | Path | None = None,
    endpoint: str | None = None, n: int | None = None, samples: int | None = None, max_new_tokens: int | None = None,
    greedy: bool = False, temperature: float | None = None, top_p: float | None = None, top_k: int | None = None,
    seed: int | None = None, thinking_budgets: Sequence[int] = (), tool_format: str = "auto",
    opens_thinking: bool | None = None, concurrency: int | None = None, device: str = "cpu", dtype: str = "auto",
    threads: int | None = None, deterministic: bool = False, tools: str | None = None, tries: int | None = None,
    max_calls: int | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Score a model on tasks: this is `qwq eval`. Figures by task, what results.json of the folder
    `out` holds.

    `tasks`: names (`gsm8k`, `livebench:math`), `file.py:Name` of a task, NAME=PATH, or tasks.
    `data`: folder with NAME/*.jsonl, or the file of the one task that reads files; without it
    published files are downloaded. `tools` ("python+sql", "none"), `tries` and `max_calls` are for
    the tasks for agents. `endpoint`: URL of an OpenAI-compatible server, which knows the
    model by the name `model`. `n`: problems of each task, all by default. None leaves a task's own
    protocol; what is set is recorded in the results. `out` (evals/MODEL by default) keeps every
    sample, so that the same call continues where it was stopped. Scores are shares from 0 to 1 with
    a 95% interval. ConfigError and DataError before the model is loaded, ModelError, CapacityError;
    InfraError where grading or a server failed.
    """
    from qwq.eval.options import EvalOptions, prepare
    from qwq.eval.run import run

    if isinstance(tasks, str):
        raise ConfigError(f"tasks is the text {tasks!r}: give a list, [{tasks!r}]")
    if greedy and temperature not in (None, 0):
        raise ConfigError(f"--greedy and --temperature {temperature:g} contradict each other: give one of them")
    local: dict[str, Any] = {"device": device, "dtype": dtype, "threads": threads, "deterministic": deterministic}
    EvalOptions.check_place(endpoint, opens_thinking, local)
    more = {k: v for k, v in (("seed", seed), ("concurrency", concurrency)) if v is not None}
    options = EvalOptions(
        n=n, samples=samples, max_new_tokens=max_new_tokens, temperature=0.0 if greedy else temperature, top_p=top_p,
        top_k=top_k, budgets=tuple(thinking_budgets), tool_format=tool_format, tools=tools, tries=tries,
        max_calls=max_calls, **more,
    )  # fmt: skip
    items = prepare(tasks, None if data is None else Path(data), options)
    policy: Policy
    if endpoint is not None:
        from qwq.rollout.policies.endpoint import EndpointPolicy

        server = EndpointPolicy(endpoint, str(model), concurrency=options.concurrency, opens_thinking=opens_thinking)
        policy = server.connect()
    else:
        from qwq.engine.options import EngineOptions
        from qwq.rollout.policies.local import open_policy

        engine = EngineOptions(max_num_seqs=options.concurrency, **local)
        longest = max(item.protocol.max_new_tokens for item in items)
        policy = open_policy(model_folder(str(model)), max_new_tokens=longest, options=engine)
    with contextlib.closing(policy):
        folder = Path("evals") / (Path(model).name or "model") if out is None else Path(out)
        return run(policy, items, options, folder, model=str(model))


def train(
    recipe: Recipe | str | Path, *, runs: str | Path = "runs", until: str | None = None, fresh: bool = False,
    max_minutes: float | None = None, progress: bool = False, command: str = "call qwq.train again",
) -> dict[str, Any]:  # fmt: skip
    """Run what a recipe has not done yet, up to and including stage `until`: this is `qwq train`.
    What results.json holds.

    `recipe`: a `Recipe`, a file, or the name of a recipe that comes with the package. The run is
    `runs`/NAME (NAME-sSEED for other seeds) and continues where it was stopped; `fresh` keeps the
    old one beside it and begins again. The report is written as well. `progress` is shown on
    standard error. Ctrl-C, SIGTERM and `max_minutes` stop after the step, state saved: Interrupted,
    which names `command` as the way to resume. Decorated losses, rewards, environments, stages and
    tasks of this process can be named in the recipe. ConfigError, DataError, ModelError,
    CapacityError before the first step.
    """
    from qwq.pipeline.run_recipe import run_recipe

    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"--max-minutes is {max_minutes:g}: give a number above 0")
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    return run_recipe(
        chosen, Path(runs), until=until, fresh=fresh, max_minutes=max_minutes, progress=progress, command=command
    )
