"""What a recipe will do and need, before anything runs: `qwq explain`, and the check in front of every stage.

Counts (steps, rollouts, micro-batches, updates) come from the recipe; tokens are upper bounds, since a completion may
use all of `max_new_tokens`. Memory is an estimate of the peak in float32. Covered: weights, gradients, AdamW's
moments, reference and reward model, key/value cache, activations, logits. Not covered: worker processes of the
verifiers and the sandbox, and what an allocator leaves unused. Lengths in tokens are guessed from characters, as the
tokenizer may not exist yet. Imports without torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwq.common.memory import GIB, Memory, free_memory, on_cuda, require
from qwq.common.stats import detectable_drop
from qwq.config import (
    ControlStage,
    DpoStage,
    PairsStage,
    PretrainStage,
    Recipe,
    RewardModelStage,
    Rl2Stage,
    RlStage,
    SftStage,
    Source,
)
from qwq.data.examples import FileUse
from qwq.data.files import is_hub_id
from qwq.errors import CapacityError, ModelError
from qwq.model.config import ModelConfig, preset
from qwq.model.folder import is_hub_name, read_config, resolve_folder
from qwq.model.footprint import (
    FLOAT,
    PROGRAM,
    SCORED_TOKENS,
    inference_memory,
    inference_values,
    lora_parameters,
    sampling_parts,
    update_parts,
)
from qwq.pipeline.preflight import at_hand, missing_lines, read_own_data
from qwq.tasks.mix import ProblemMix, allot
from qwq.tasks.procedural.preference import Preference
from qwq.tasks.sets import MBPP_IDS, load_source

ASSUMED_PROMPT, ASSUMED_DOCUMENT = 256, 512  # tokens, where the data are not at hand
SAMPLE = 64  # procedural problems looked at for their lengths


# -- memory -----------------------------------------------------------------------------------------------------------


def trained_parameters(stage: object, config: ModelConfig) -> int:
    """Parameters that a stage trains: all, or its adapters'."""
    lora = getattr(stage, "lora", None)
    return lora_parameters(config, lora.rank) if lora else config.num_parameters


def _peak(base: dict[str, int], phases: Sequence[tuple[dict[str, int], dict[str, str]]]) -> Memory:
    """The largest phase; each comes with the options that shrink its parts."""
    parts, repairs = max(phases, key=lambda phase: sum(phase[0].values()))
    return Memory(base | parts, repairs)


def stage_memory(recipe: Recipe, name: str, config: ModelConfig, use: FileUse | None = None) -> Memory:
    """Estimated peak of training a stage; `use` as for `document_lengths`."""
    stage, at = recipe.stages[name], f"stages.{name}"
    small = recipe.compute.dtype == "bfloat16"
    trained = trained_parameters(recipe.stages[stage.of] if isinstance(stage, ControlStage) else stage, config)
    base = {"weights": (2 if small else FLOAT) * config.num_parameters, "AdamW": 2 * FLOAT * trained}
    # Parameters in 16 bits have a float32 copy.
    base |= {"float32 copies": FLOAT * trained} if small else {}
    base |= {} if on_cuda(recipe.compute.device) else {"program": PROGRAM}
    if isinstance(stage, RlStage):
        return _rl_memory(recipe, name, stage, config, base)
    if isinstance(stage, PairsStage):
        pair = 2 * document_lengths(recipe, name, use).longest
        scoring = {"activations": FLOAT * inference_values(config, SCORED_TOKENS)}
        tokens = min(stage.batch_pairs * pair, max(stage.micro_batch_tokens, pair))
        repair = f"{at}.batch_pairs (now {stage.batch_pairs}), micro_batch_tokens or max_tokens"
        update = (
            _update_of(recipe, stage, config, tokens)
            if isinstance(stage, DpoStage)
            else update_parts(config, tokens, head=False)
        )
        return _peak(base, [(update, {"activations": repair}), (scoring, {})])
    source = recipe.stages[stage.of] if isinstance(stage, ControlStage) else stage
    assert isinstance(source, PretrainStage | SftStage)
    owner = stage.of if isinstance(stage, ControlStage) else name
    tokens = source.batch_tokens + document_lengths(recipe, owner, use).longest
    option = f"stages.{owner}.batch_tokens (now {source.batch_tokens})"
    return _peak(base, [(_update_of(recipe, source, config, tokens), {"activations": option})])


def _update_of(recipe: Recipe, stage: object, config: ModelConfig, tokens: int) -> dict[str, int]:
    width = 2 if recipe.compute.dtype == "bfloat16" else FLOAT
    return update_parts(
        config, tokens, trained=trained_parameters(stage, config), recompute=recipe.compute.recompute, width=width
    )


def _rl_memory(recipe: Recipe, name: str, stage: RlStage, config: ModelConfig, base: dict[str, int]) -> Memory:
    """The larger of sampling and updating; what stays in both is added to `base`."""
    lengths, compute, weights = prompt_lengths(recipe, name), recipe.compute, base["weights"]
    common: dict[str, str] = {}
    if (stage.kl > 0 or stage.watch_kl) and stage.lora is None:
        base = base | {"reference": weights}
        which = f"kl to 0 (now {stage.kl:g}" if stage.kl > 0 else f"watch_kl to 0 (now {stage.watch_kl}"
        common["reference"] = f"stages.{name}.{which}: it needs a second copy of the weights)"
    scoring: dict[str, int] = {}
    if isinstance(stage, Rl2Stage) and stage.mix.preference:
        base = base | {"reward model": weights}
        scoring = {"activations": FLOAT * inference_values(config, SCORED_TOKENS)}
    rows = min(compute.max_rows, stage.prompts * stage.samples)
    sampling = sampling_parts(config, rows, lengths.longest, stage.max_new_tokens, stage.prompts)
    group = stage.samples * stage.max_new_tokens
    tokens = min(stage.prompts * group, max(compute.micro_batch_tokens, group))
    tokens += groups_in_micro_batch(stage, compute.micro_batch_tokens) * lengths.longest
    # A group is never divided, so below its size the option for micro-batches changes nothing.
    option = f"compute.micro_batch_tokens (now {compute.micro_batch_tokens})"
    if group >= compute.micro_batch_tokens:
        option = (
            f"stages.{name}.samples (now {stage.samples}) or stages.{name}.max_new_tokens (now {stage.max_new_tokens})"
        )
    phases = [
        (sampling, common | dict.fromkeys(sampling, f"compute.max_rows (now {compute.max_rows})")),
        (_update_of(recipe, stage, config, tokens), common | {"activations": option}),
        (scoring, common),
    ]
    return _peak(base, phases)


def evaluation_memory(recipe: Recipe, config: ModelConfig) -> Memory:
    """Estimated peak of the benchmarks after a stage, when the optimiser is gone."""
    problems = sum(recipe.eval.counts().values()) + sum(s.limit or 1000 for s in recipe.eval.sources)
    prompt = _longest_benchmark_prompt(recipe, config)
    rows = min(recipe.compute.max_rows, problems)
    return inference_memory(config, rows, prompt, recipe.eval.max_new_tokens, recipe.compute.device)


# -- memory there is --------------------------------------------------------------------------------------------------


def check_capacity(recipe: Recipe, stage_name: str, folder: Path, use: FileUse | None = None) -> None:
    """Raise CapacityError when stage `stage_name` of the run in `folder` needs more memory than there is; `use` as for `document_lengths`."""
    start = recipe.start_of(stage_name)
    final = folder / "checkpoints" / (start or "") / "final"
    config = read_config(final) if start and (final / "config.json").is_file() else model_config(recipe)
    free = free_memory(recipe.compute.device)
    require(stage_memory(recipe, stage_name, config, use), free, f"stage {stage_name}")
    stage = recipe.stages[stage_name]
    if stage.evaluate and not isinstance(stage, RewardModelStage) and (recipe.eval.counts() or recipe.eval.sources):
        memory = evaluation_memory(recipe, config)
        repairs = dict.fromkeys(memory.repairs, f"compute.max_rows (now {recipe.compute.max_rows})")
        require(Memory(memory.parts, repairs), free, f"the evaluation after stage {stage_name}")


# -- lengths ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Texts:
    """Lengths in characters."""

    longest_prompt: int
    mean_prompt: float
    longest_document: int = 0
    mean_document: float = 0.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens."""

    longest: int
    mean: float


def to_tokens(characters: float, vocab_size: int) -> int:
    """Tokens of a text in a chat template, on the high side.

    Measured: 2.0 characters a token with a vocabulary of 512 on the procedural families; Qwen2.5's gives 4.1 on GSM8K,
    2.8 on MBPP, and 2.5 on their longest prompts.
    """
    return math.ceil(characters / (2.0 if vocab_size < 4096 else 2.5)) + 30


def _longest_benchmark_prompt(recipe: Recipe, config: ModelConfig) -> int:
    """Tokens of the longest prompt of the benchmarks."""
    texts = [_procedural(d) for d in recipe.eval.counts()] + [_real(s) for s in recipe.eval.sources]
    return to_tokens(max(t.longest_prompt for t in texts), config.vocab_size)


def _procedural(domain: str) -> Texts:
    mix = ProblemMix(0, "plan", {domain: 1.0})
    prompts, documents = [], []
    for i in range(SAMPLE):
        problem, turns = mix.demonstration(i, 0.0)
        prompts.append(sum(len(m.content) for m in problem.messages))
        documents.append(prompts[-1] + sum(len(m.content) + sum(len(str(c)) for c in m.tool_calls) for m in turns))
    return Texts(max(prompts), statistics.fmean(prompts), max(documents), statistics.fmean(documents))


def _at_hand(source: Source) -> Source | None:
    """The source as far as it can be read here; None where it is not: nothing is downloaded for an estimate."""
    if source.path and source.kind != "task" and (is_hub_id(source.path) or not at_hand(source.path)):
        return None
    return source.model_copy(
        update={"decontaminate": [benchmark for benchmark in source.decontaminate if at_hand(benchmark)]}
    )


def _real(source: Source) -> Texts:
    here = _at_hand(source)
    if here is None:
        return Texts(int(ASSUMED_PROMPT * 2.5), ASSUMED_PROMPT * 2.5)
    prompts = [sum(len(m.content) for m in p.messages) for p in load_source(here)]
    return Texts(max(prompts), statistics.fmean(prompts))


def prompt_lengths(recipe: Recipe, name: str) -> Lengths:
    """Prompts of an RL stage."""
    stage = recipe.stages[name]
    assert isinstance(stage, RlStage)
    vocab = model_config(recipe).vocab_size
    texts = [(w, _procedural(d)) for d, w in stage.mix.weights().items()] + [
        (s.weight, _real(s)) for s in stage.sources
    ]
    mean = sum(w * t.mean_prompt for w, t in texts) / sum(w for w, _ in texts)
    return Lengths(to_tokens(max(t.longest_prompt for _, t in texts), vocab), to_tokens(mean, vocab))


def document_lengths(recipe: Recipe, name: str, use: FileUse | None = None) -> Lengths:
    """Documents of a pretraining, SFT, reward-model or DPO stage; `use` says what its file holds, where that was read."""
    if use and use.lengths:
        return Lengths(max(use.lengths), statistics.fmean(use.lengths))
    stage, vocab = recipe.stages[name], model_config(recipe).vocab_size
    if getattr(stage, "source", None):
        return Lengths(ASSUMED_DOCUMENT // 4, ASSUMED_DOCUMENT / 8)
    if isinstance(stage, SftStage | PairsStage) and stage.path:
        longest = min(ASSUMED_DOCUMENT, stage.max_tokens)
        return Lengths(longest, longest / 2)
    weights = {Preference.domain: 1.0} if isinstance(stage, PairsStage) else stage.mix.weights()  # type: ignore[union-attr]
    texts = [(w, _procedural(d)) for d, w in weights.items()]
    mean = sum(w * t.mean_document for w, t in texts) / sum(w for w, _ in texts)
    return Lengths(to_tokens(max(t.longest_document for _, t in texts), vocab), to_tokens(mean, vocab))


def model_config(recipe: Recipe) -> ModelConfig:
    """Shape of the recipe's model: the preset, or config.json of its path (from the hub, that file alone)."""
    model = recipe.model
    if model.preset:
        config = preset(model.preset)
        return preset(model.preset, vocab_size=model.vocab_size) if model.vocab_size else config
    path = Path(model.path or "").expanduser()
    if path.suffix == ".gguf":
        from qwq.model.gguf import gguf_config
        from qwq.model.gguf_file import GGUFFile

        return gguf_config(GGUFFile.open(path))
    if path.exists() or path.parent.exists():
        return read_config(resolve_folder(path))
    if model.shape:
        return preset(model.shape)
    if not is_hub_name(path):
        return read_config(resolve_folder(path))  # which says that it is not there
    from huggingface_hub import errors, hf_hub_download

    try:
        return read_config(Path(hf_hub_download(str(model.path), "config.json")).parent)
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"no model folder at {model.path}, and the hub does not give it ({type(error).__name__}: {reason}): "
            "check the name and the network, or set --model.path to a local folder"
        ) from None


# -- counts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a stage does. `tokens` is a bound, `flops` their cost; None where another stage's time decides."""

    steps: int | None
    work: str
    tokens: int | None
    flops: float | None


def groups_in_micro_batch(stage: RlStage, micro_batch_tokens: int) -> int:
    """Groups of full length in one forward and backward pass; `train.packing.micro_batches` divides none."""
    return min(stage.prompts, max(1, micro_batch_tokens // (stage.samples * stage.max_new_tokens)))


def stage_plan(recipe: Recipe, name: str, config: ModelConfig, use: FileUse | None = None) -> StagePlan:
    """Steps, tokens and FLOPs of a stage; `use` as for `document_lengths`."""
    stage = recipe.stages[name]
    if isinstance(stage, RlStage):
        return _rl_plan(recipe, name, stage, config)
    if isinstance(stage, PretrainStage):
        steps = math.ceil(stage.tokens / stage.batch_tokens)
        return StagePlan(
            steps,
            f"{count(stage.batch_tokens)} tokens a step",
            stage.tokens,
            3.0 * stage.tokens * config.flops_per_token(),
        )
    if isinstance(stage, SftStage):
        documents = use.used if use else stage.documents
        if documents is None:  # the rows of a file that is not here
            return StagePlan(
                None,
                f"all rows of {stage.path} x {times(stage.epochs, 'epoch')}, {count(stage.batch_tokens)} tokens a step",
                None,
                None,
            )
        tokens = round(documents * stage.epochs * document_lengths(recipe, name, use).mean)
        work = f"{count(documents)} demonstrations x {times(stage.epochs, 'epoch')}"
        work += f", {count(stage.batch_tokens)} tokens a step"
        return StagePlan(math.ceil(tokens / stage.batch_tokens), work, tokens, 3.0 * tokens * config.flops_per_token())
    if isinstance(stage, ControlStage):
        if stage.steps is None:
            return StagePlan(None, f"{stage.of} goes on for as long as {stage.match} trained", None, None)
        source = recipe.stages[stage.of]
        assert isinstance(source, SftStage)
        tokens = stage.steps * source.batch_tokens
        work = f"{stage.of} goes on, {count(source.batch_tokens)} tokens a step"
        return StagePlan(stage.steps, work, tokens, 3.0 * tokens * config.flops_per_token())
    assert isinstance(stage, PairsStage)
    pairs = use.splits["train"] if use else stage.pairs
    if pairs is None:
        return StagePlan(
            None,
            f"{stage.batch_pairs} pairs a step, 70% of the rows of {stage.path} x {times(stage.epochs, 'epoch')}",
            None,
            None,
        )
    steps = math.ceil(pairs / stage.batch_pairs) * stage.epochs
    passed = round(2 * pairs * document_lengths(recipe, name, use).mean)  # tokens of one pass
    work = f"{stage.batch_pairs} pairs a step, {count(pairs)} pairs x {times(stage.epochs, 'epoch')}"
    # DPO reads every pair once before, under its start.
    passes = 3.0 * stage.epochs + isinstance(stage, DpoStage)
    return StagePlan(steps, work, passed * stage.epochs, passes * passed * config.flops_per_token())


def _rl_plan(recipe: Recipe, name: str, stage: RlStage, config: ModelConfig) -> StagePlan:
    """Sampling (prompts once a group, every new token once) and updates (three forward passes' worth each)."""
    prompt = prompt_lengths(recipe, name).mean
    rounds = 1 + stage.refill
    rollouts = stage.prompts * stage.samples
    new, fed = rollouts * stage.max_new_tokens, stage.prompts * prompt + rollouts * stage.max_new_tokens
    one = config.flops_per_token(int(prompt + stage.max_new_tokens / 2))
    passes = rounds + 3 * stage.updates + (1 if stage.kl > 0 else 0)
    micro = math.ceil(stage.prompts / groups_in_micro_batch(stage, recipe.compute.micro_batch_tokens))
    work = f"{stage.prompts} prompts x {stage.samples} samples x {stage.max_new_tokens} new tokens"
    work += f", {times(micro, 'micro-batch', 'micro-batches')} x {times(stage.updates, 'update')}"
    work += f", up to {times(stage.refill, 'refill')}" if stage.refill else ""
    return StagePlan(stage.steps, work, stage.steps * rounds * new, float(stage.steps * passes * fed * one))


# -- the text ---------------------------------------------------------------------------------------------------------


def count(number: float) -> str:
    """Three digits and a letter: 950, 3.40M, 32.8G."""
    for factor, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:,.0f}"


def times(number: int, one: str, many: str = "") -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns as wide as their widest cell, the first `left` of them to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def explain(recipe: Recipe, runs: Path = Path("runs"), *, one_device: bool = True) -> str:
    """The plan as text: model, a line for each stage with what it does and, for one device, a line with what memory it needs."""
    config, folder = model_config(recipe), runs / recipe.run_name
    try:
        free, there = free_memory(recipe.compute.device), ""
    except CapacityError:
        free, there = None, f"No {recipe.compute.device} here, so nothing says whether it fits. "
    work = [["stage", "kind", "from", "work of a step", "steps", "tokens", "FLOPs"]]
    columns = (
        "program",
        "weights",
        "gradients",
        "AdamW",
        "float32 copies",
        "reference",
        "reward model",
        "key/value cache",
        "activations",
        "logits",
    )
    memory = [["GiB at the peak", *columns, "sum", "fits"]]

    def add(label: str, need: Memory) -> None:
        cells = [f"{need.parts[c] / GIB:.2f}" if c in need.parts else "-" for c in columns]
        fits = "?" if free is None else "yes" if need.total <= free else "NO"
        memory.append([label, *cells, f"{need.total / GIB:.2f}", fits])

    problems = sum(recipe.eval.counts().values())
    uses, data_lines = read_own_data(recipe, folder, config.max_positions)
    for name, stage in recipe.stages.items():
        use = uses.get(stage.of if isinstance(stage, ControlStage) else name)
        plan = stage_plan(recipe, name, config, use)
        done = " (done)" if (folder / "stages" / f"{name}.json").is_file() else ""
        numbers = [count(n) if n is not None else "?" for n in (plan.steps, plan.tokens, plan.flops)]
        work.append(
            [name + done, stage.kind, recipe.start_of(name) or recipe.model.preset or "model", plan.work, *numbers]
        )
        add(name, stage_memory(recipe, name, config, use))
    if problems or recipe.eval.sources:
        add("evaluation", evaluation_memory(recipe, config))
    kind = f"{config.family}, {config.num_layers} layers, hidden {config.hidden_size}, vocabulary {config.vocab_size:,}"
    title, size = recipe.model.preset or recipe.model.path, count(config.num_parameters).replace("G", "B")
    lines = [f"{folder}: {title}, {size} parameters ({kind}), {recipe.compute.dtype} on {recipe.compute.device}", ""]
    lines += [*_aligned(work, 4), ""]
    lines += _evaluation_lines(recipe, problems)
    lines += _contract_lines(recipe)
    lines += data_lines + missing_lines(recipe, f"prompts of {ASSUMED_PROMPT} tokens")
    lines += [line for note in position_notes(recipe, config) for line in (note, "")]
    if not one_device:
        return "\n".join(lines)
    lines += [*_aligned(memory, 1), ""]
    disk = 3 * FLOAT * max(trained_parameters(stage, config) for stage in recipe.stages.values()) / GIB
    there = there or f"Free: {(free or 0) / GIB:.1f} GiB. "
    lines.append(f"Tokens are the most there can be. {there}A checkpoint takes {disk:.2f} GiB of disk.")
    return "\n".join(lines)


def position_notes(recipe: Recipe, config: ModelConfig, names: Iterable[str] | None = None) -> list[str]:
    """Where prompts and completions together may fill the model's positions, by the longest prompt there is."""
    limits = [
        (f"stages.{name}.max_new_tokens", prompt_lengths(recipe, name).longest, stage.max_new_tokens)
        for name in (recipe.stages if names is None else names)
        if isinstance(stage := recipe.stages[name], RlStage)
    ]
    if recipe.eval.counts() or recipe.eval.sources:
        limits.append(("eval.max_new_tokens", _longest_benchmark_prompt(recipe, config), recipe.eval.max_new_tokens))
    return [
        f"{key} is {limit:,} and the longest prompt about {prompt:,} tokens, and the model has {config.max_positions:,} positions: "
        "a response that fills them ends there, unfinished"
        for key, prompt, limit in limits
        if prompt + limit > config.max_positions
    ]


def contract_problems(stage: Rl2Stage) -> dict[str, int]:
    """How many validation problems the contract has of each name that it holds. Sets that are not here are taken to hold out as many as are asked for."""
    num, sources = stage.contract.problems, {s.label: s for s in stage.sources}

    def available(label: str) -> int:
        if label not in sources:
            return num
        if here := _at_hand(sources[label]):
            return len(load_source(here.model_copy(update={"split": "validation", "limit": None})))
        return min(num, len(MBPP_IDS["validation"])) if sources[label].kind == "mbpp" else num

    return {held: sum(allot(num, [available(label) for label in labels])) for held, labels in stage.replays().items()}


def _contract_lines(recipe: Recipe) -> list[str]:
    """What each contract holds, by what it is watched, and which drop its number of problems can see."""
    lines = []
    for name, stage in recipe.stages.items():
        if not isinstance(stage, Rl2Stage):
            continue
        c, replays = stage.contract, stage.replays()
        if not replays:
            lines.append(f"Contract of {name}: holds nothing (contract.domains is empty).")
            continue
        lines.append(
            f"Contract of {name}: at most {100 * c.max_drop:g} points may be lost, looked at every {times(c.every, 'step')} and after the last; on a breach: "
            f"{c.on_breach}. The drop that one check sees with 80% power:"
        )
        for held, num in contract_problems(stage).items():
            asked = f" ({c.problems:,} asked for, more are not held out)" if num < c.problems else ""
            drop = detectable_drop(num, c.max_drop)
            seen = f"{100 * drop:.1f} points" if drop < 1 else "no drop surely"
            away = (
                ", as many as they may hold out"
                if any(s.label in replays[held] and not _at_hand(s) for s in stage.sources)
                else ""
            )
            lines.append(
                f"  {held}: {times(num, 'validation problem')}{asked} of {', '.join(replays[held])}{away}: {seen}"
            )
    return [*lines, ""] if lines else []


def _evaluation_lines(recipe: Recipe, problems: int) -> list[str]:
    if not problems and not recipe.eval.sources:
        return ["No evaluation.", ""]
    stages = sum(s.evaluate and not isinstance(s, RewardModelStage) for s in recipe.stages.values())
    sets = [f"{n:,} {d}" for d, n in recipe.eval.counts().items()] + [
        f"{s.limit or 'all'} {s.kind} ({s.path or 'level ' + str(s.level)})" for s in recipe.eval.sources
    ]
    readings = "sampled and greedy" if recipe.eval.greedy else "sampled"
    return [
        f"Evaluation {'at the start and ' if recipe.eval.start else ''}after {stages} stages, {readings}, {recipe.eval.max_new_tokens} new tokens at most: "
        + ", ".join(sets),
        "",
    ]
