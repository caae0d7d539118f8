"""What the stages that are left to run need, read and checked before anything is written, moved,
downloaded as weights, or trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qwq.common.memory import Memory, check_device, free_memory, require
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.data.examples import FileUse
from qwq.model.config import ModelConfig
from qwq.model.model_folder import read_config
from qwq.model.weights import check_model
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.plan.counts import PlanContext
from qwq.pipeline.plan.explain import position_notes
from qwq.pipeline.plan.peak import evaluation_memory
from qwq.pipeline.plan.processes import check_context, free_for_each, in_each_process
from qwq.pipeline.plan.shape import model_config
from qwq.pipeline.preflight import chat_format, missing_files, own_data, require_files
from qwq.pipeline.stage import stage_of
from qwq.text.template import ChatFormat


def check_run(inputs: RunInputs, left: Sequence[str], *, fresh: bool = False, machine: bool = True) -> list[str]:
    """Read and check what the stages `left` need; returns what a user should know besides.
    UsageError for what is wrong; nothing is written.

    What was read is kept in `inputs`. With `fresh` the run's folder is not that of the run to come.
    Without `machine` neither device nor memory is looked at.
    """
    recipe = inputs.recipe
    evaluates = recipe.eval.start or any(
        recipe.stages[name].evaluate and recipe.stages[name].trains_policy for name in left
    )
    if machine:
        check_device(recipe.compute.device)
    require_files(missing_files(recipe, left, evaluation=evaluates))
    config = model_config(recipe)
    check_context(recipe, config)
    notes = [note for name in left for note in stage_of(recipe, name).check(name, inputs, config)]
    if evaluates:
        inputs.benchmarks()
    # A plan by `shape` needs neither the hub nor the network.
    if machine or not recipe.model.shape or Path(recipe.model.path or "").expanduser().exists():
        _check_model_and_own_data(inputs, left, config, fresh)
    if not machine:
        return []
    for name in left:
        check_capacity(recipe, name, inputs.folder, inputs.use_of(name))
    return notes + position_notes(recipe, config, left)


def _check_model_and_own_data(inputs: RunInputs, left: Sequence[str], config: ModelConfig, fresh: bool) -> None:
    """The model folder as far as its headers go, tokenizer and template, and the files of
    conversations and pairs, in tokens.
    """
    recipe = inputs.recipe
    own = [name for name in own_data(recipe, left) if name not in inputs.own]
    if recipe.model.preset and not own:
        return  # the tokenizer of a preset is trained when the run begins
    chat = chat_format(recipe, None if fresh else inputs.folder.tokenizer)
    if recipe.model.path:
        config = check_model(recipe.model.path)
        chat.tokenizer.check_fits(config)
        _check_template(inputs, chat, left)
    for name in own:
        inputs.own[name] = stage_of(recipe, name).read_data(chat, name, recipe.seed, config.max_positions)


def _check_template(inputs: RunInputs, chat: ChatFormat, left: Iterable[str]) -> None:
    """That the chat template writes a prompt of each kind that the stages draw, and continues after
    a tool's result where there are tools.
    """
    for name in left:
        for problem in stage_of(inputs.recipe, name).sample_problems(inputs):
            chat.prompt_ids(problem.messages, problem.tools)
            if problem.tools:
                chat.tool_result_ids(["1"])


def check_capacity(
    recipe: Recipe, stage_name: str, folder: RunFolder, use: FileUse | None = None, local_size: int | None = None
) -> None:
    """Raise CapacityError when stage `stage_name` of the run in `folder` needs more memory than
    there is; `use` as in `PlanContext`. `local_size` processes of the run share this machine
    (default: all of them).
    """
    start = recipe.start_of(stage_name)
    trained = start is not None and (folder.final(start) / "config.json").is_file()
    config = read_config(folder.final(start)) if start and trained else model_config(recipe)
    free = free_for_each(free_memory(recipe.compute.device), recipe, local_size)
    stage = stage_of(recipe, stage_name)
    memory = stage.memory(PlanContext(recipe, stage_name, config, use))
    memory = in_each_process(memory, recipe, config, stage.trained_parameters(recipe, config))
    of_each = "each process of " if recipe.cluster and recipe.cluster.processes > 1 else ""
    require(memory, free, f"{of_each}stage {stage_name}")
    if stage.evaluate and stage.trains_policy and (recipe.eval.counts() or recipe.eval.sources):
        memory = evaluation_memory(recipe, config)
        repairs = dict.fromkeys(memory.repairs, f"compute.max_rows (now {recipe.compute.max_rows})")
        require(Memory(memory.parts, repairs), free, f"the evaluation after stage {stage_name}")
