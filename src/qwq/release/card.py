"""The model card: `README.md` of a released model, its metadata in YAML at the top.

Every figure comes from the run's folder. A card without a run tells what the model's folder tells.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from huggingface_hub import EvalResult, ModelCardData

from qwq.release.card_rules import faults_of, is_licence_link
from qwq.release.facts import UNKNOWN_LICENCE, ModelFacts, Score

PLACE = "ORG/NAME"  # takes the place of a repository in the commands that has no name yet
TRAINING = {
    "recipe.toml": "the recipe: `qwq train recipe.toml` trains the model again",
    "report.html": "curves, verdicts and answers of the training",
    "results.json": "every score after every stage",
}
FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}


def model_card(
    facts: ModelFacts,
    *,
    repository: str = PLACE,
    ggufs: Sequence[str] = (),
    adapter: bool = False,
    training: Sequence[str] = (),
) -> str:
    """Text of README.md. `ggufs` are the names of the GGUF files beside it, `training` those of the
    run's files.
    """
    card = (
        f"---\n{_metadata(facts, ggufs)}\n---\n\n"
        + "\n".join(_text(facts, repository, ggufs, adapter, training)).rstrip()
        + "\n"
    )
    faults = faults_of(card)
    assert not faults, faults
    return card


def _metadata(facts: ModelFacts, ggufs: Sequence[str]) -> str:
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=score.hub or score.task,
            dataset_name=score.task,
            metric_type="accuracy",
            metric_name=f"accuracy ({score.reading}), 95% interval {score.low:.3f} to {score.high:.3f}",
            metric_value=round(score.value, 4),
            metric_args={
                "answers": score.reading,
                "problems": score.num,
                "samples": score.samples,
                "interval_95": [round(score.low, 4), round(score.high, 4)],
            },
        )
        for score in facts.scores
    ]
    by_rl = any(stage.verdicts for stage in facts.stages)
    other = facts.licence == UNKNOWN_LICENCE
    data = ModelCardData(
        license=facts.licence,
        license_name=(facts.licence_name or "unknown") if other else None,
        license_link=(facts.licence_link if is_licence_link(facts.licence_link) else "LICENSE") if other else None,
        language=list(facts.languages),
        base_model=facts.base or None,
        base_model_relation="finetune" if facts.base else None,
        datasets=list(facts.datasets) or None,
        pipeline_tag="text-generation",
        library_name="transformers",
        tags=["qwq", "reasoning", *(["gguf"] if ggufs else []), *(["reinforcement-learning"] if by_rl else [])],
        model_name=facts.name,
        eval_results=results or None,
    )  # fmt: skip
    if not results:
        data.pop("model_name")
    return data.to_yaml(line_break="\n")


def _text(
    facts: ModelFacts, repository: str, ggufs: Sequence[str], adapter: bool, training: Sequence[str]
) -> Iterator[str]:
    family = FAMILIES.get(facts.family, facts.family)
    origin = (
        f"a fine-tune of [{facts.base}](https://huggingface.co/{facts.base})"
        if facts.base
        else "trained from random weights"
        if facts.preset
        else "a model"
    )
    yield f"# {facts.name}\n"
    yield (
        f"{facts.name} is {origin} with {facts.parameters:,} parameters of the {family} architecture and a context of "
        f"{facts.context:,} tokens. It writes its thinking between `<think>` and `</think>`, then its answer.\n"
    )
    yield from _files(ggufs, adapter, training)
    if facts.scores:
        yield from _scores(facts.scores)
    if facts.stages:
        yield from _training(facts)
    yield from _limits(facts)
    yield from _programs(facts, repository, ggufs)


def _files(ggufs: Sequence[str], adapter: bool, training: Sequence[str]) -> Iterator[str]:
    yield "## Files\n"
    rows = {"config.json, model*.safetensors, tokenizer": "the model, as transformers, vLLM, SGLang and MLX read it"}
    rows |= {name: "for llama.cpp and Ollama" for name in ggufs}
    rows["Modelfile"] = "for Ollama: chat template with thinking and calls, sampling, context"
    if adapter:
        rows["adapter/"] = "the LoRA adapter alone (PEFT's format)"
    rows |= {name: TRAINING[name] for name in training}
    rows["SHA256SUMS"] = "checksums: `sha256sum -c SHA256SUMS`"
    yield from _table(("file", "what it is"), [(f"`{name}`", what) for name, what in rows.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def _scores(scores: Sequence[Score]) -> Iterator[str]:
    yield "## Scores\n"
    yield "Share of right answers after the last stage, with 95% intervals. An unfinished answer counts as wrong.\n"
    rows = [
        (s.task, s.reading, f"{100 * s.value:.1f}%", f"{100 * s.low:.1f} to {100 * s.high:.1f}%", f"{s.num:,}",
         _counts(s.outcomes))
        for s in scores
    ]  # fmt: skip
    yield from _table(("task", "answers", "score", "95% interval", "problems", "verdicts"), rows)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "none"


def _training(facts: ModelFacts) -> Iterator[str]:
    yield "## How it was trained\n"
    seed = f" with seed {facts.seed}" if facts.seed is not None else ""
    yield f"With `qwq`, stage after stage{seed}; its recipe has every setting.\n"
    rows = [
        (s.name, s.kind, f"{s.steps:,}" if s.steps else "", f"{s.seconds / 60:.1f}",
         _counts(s.verdicts) if s.verdicts else "")
        for s in facts.stages
    ]  # fmt: skip
    yield from _table(("stage", "kind", "steps", "minutes", "verdicts of its rollouts"), rows)
    if facts.sources:
        yield "Texts and problems: " + ", ".join(facts.sources) + ".\n"
    for stage in facts.stages:
        yield from (f"- {stage.name}: {note}" for note in stage.notes)
    yield ""


def _limits(facts: ModelFacts) -> Iterator[str]:
    yield "## Limits\n"
    yield from (f"- {text}" for text in _limit_texts(facts))
    yield ""


def _limit_texts(facts: ModelFacts) -> Iterator[str]:
    if facts.parameters < 1e9:
        yield f"{facts.parameters:,} parameters know little of the world: elsewhere than trained, answers are guesses."
    if facts.scores:
        tasks = ", ".join(dict.fromkeys(s.task for s in facts.scores))
        yield f"It was scored on {tasks} alone. What it does elsewhere was not measured."
        if any(not s.hub for s in facts.scores):
            yield "Procedural tasks are generated problems: their scores do not compare with published benchmarks'."
    else:
        yield "It was not scored."
    yield "It can be wrong with confidence, and its thinking need not be how it came to its answer."
    yield "It was not trained or tested for safety: filter what goes in and out where others use it."
    for stage in facts.stages:
        yield from (f"Alarm at the last step of {stage.name}: {alarm}." for alarm in stage.alarms)
    if facts.licence == UNKNOWN_LICENCE and not facts.licence_name:
        yield "Its licence is not stated: ask who published it before you use it."


def _programs(facts: ModelFacts, repository: str, ggufs: Sequence[str]) -> Iterator[str]:
    yield "## How to run it\n"
    if repository == PLACE:
        yield f"`{PLACE}` is the repository's name on the hub, or this folder's path.\n"
    question = "How many positive divisors does 360 have?"
    small = min(facts.context, 32_768)
    yield from _program(
        "qwq",
        "sh",
        f"qwq chat {repository}    # in the terminal\n"
        f"qwq serve {repository}   # an OpenAI-compatible server and a chat page",
    )
    yield from _program(
        "transformers",
        "python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{repository}", dtype="auto")\n'
        f'messages = [{{"role": "user", "content": "{question}"}}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
        ")\n"
        f"out = model.generate(**inputs, max_new_tokens={min(1024, facts.context // 2)})\n"
        'print(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]))',
    )
    yield from _program("vLLM", "sh", f"vllm serve {repository} --max-model-len {small}")
    yield from _program(
        "SGLang", "sh", f"python -m sglang.launch_server --model-path {repository} --context-length {small}"
    )
    yield from _llama_programs(facts, repository, ggufs, small)
    yield from _program(
        "MLX", "sh", f'mlx_lm.generate --model {repository} --prompt "{question}" --max-tokens {min(1024, small // 2)}'
    )


def _llama_programs(facts: ModelFacts, repository: str, ggufs: Sequence[str], context: int) -> Iterator[str]:
    name = re.sub(r"[^a-z0-9._-]+", "-", facts.name.lower()).strip("-._") or "model"  # as Ollama takes names
    if not ggufs:
        yield from _program(
            "llama.cpp", "sh", f"qwq export {repository} {name}.gguf   # this folder has no GGUF file\n"
            f"llama-cli -m {name}.gguf -c {context} --jinja"
        )  # fmt: skip
    else:
        yield from _program(
            "llama.cpp",
            "sh",
            f"llama-cli -m {shlex.quote(ggufs[-1])} -c {context} --jinja\n"
            f"llama-server -hf {repository} -c {context} --jinja   # fetches it from the hub",
        )
    yield from _program("Ollama", "sh", f"ollama create {name} -f Modelfile\nollama run {name}")


def _program(title: str, language: str, commands: str) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"```{language}\n{commands}\n```\n"
