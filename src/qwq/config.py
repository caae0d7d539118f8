"""The typed recipe: a TOML file plus dotted overrides, checked before anything runs. Imports without torch.

A recipe names a model, and stages in the order in which they run. Every field has a type, a
default, a range and one sentence; unknown keys fail with the nearest valid name. `--stages.rl1.steps=10`
on the command line sets one field.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qwq.common.cpu import has_bfloat16
from qwq.errors import ConfigError, nearest
from qwq.types import CUSTOM, DOMAINS

Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Domain = Literal["math", "code", "instructions", "tools", "preference"]
POLICY_KINDS = ("pretrain", "sft", "rl1", "rl2", "dpo")  # the kinds whose result the next stage starts from
MAX_THREADS = 1024  # OpenMP ends the process where it cannot start as many as it is asked for
DEVICES = ("cpu", "cuda", "mps", "xpu")
MAX_SEED = 2**32 - 1  # seeds of requests are made of it, and stay within 64 bits
# Names folders and files of a run, and stands in dotted keys.
STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Losses that are registered (train.losses; those of a program's own are added here when they are), with the clip range each has by
# default; None: it has no such clip.
LOSS_CLIPS: dict[str, tuple[float | None, float | None]] = {
    "dr_grpo": (0.2, 0.28), "dapo": (0.2, 0.28), "grpo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (None, 4.0),
}  # fmt: skip
DUAL_CLIPPED = ("dr_grpo", "dapo", "grpo", "gspo")  # losses that `dual_clip` acts on
ADVANTAGES = ["group_mean", "group_std", "rloo", "batch_std", "batch_norm"]  # registered forms, likewise
START = "start"  # what the recipe's model itself scored, beside the stages


class Section(BaseModel):
    """Base of all parts of a recipe: unknown keys are errors, values are never coerced from text, numbers are finite."""

    model_config = ConfigDict(extra="forbid", validate_default=True, strict=True, allow_inf_nan=False)


class ModelSection(Section):
    """Where the weights come from: a preset starts from nothing, a path continues a checkpoint."""

    preset: str | None = Field(
        None, description="named shape (tiny, small, qwen2.5-0.5b, qwen3-0.6b, qwen2.5-7b, qwq-32b) with fresh weights"
    )
    path: str | None = Field(None, description="Hugging Face folder or hub id to start from")
    shape: str | None = Field(
        None, description="named shape that the checkpoint at path has, so that `qwq explain` needs no download"
    )
    chat_template: str | None = Field(
        None,
        description="Jinja file in place of the checkpoint's own template, or \"qwq\": ours, which opens the thinking as QwQ's does",
    )
    vocab_size: Positive | None = Field(
        None, description="tokens of the tokenizer trained for a preset; default: the preset's"
    )
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="of the weights of policies on disk; default: the checkpoint's own (of a quantised one: compute.dtype), float32 for a preset",
    )

    @model_validator(mode="after")
    def _one(self) -> ModelSection:
        if (self.preset is None) == (self.path is None):
            raise ValueError(f"give exactly one of preset (now {self.preset!r}) and path (now {self.path!r})")
        if self.preset and self.shape:
            raise ValueError(f"shape={self.shape!r} goes with path; preset {self.preset!r} has its own")
        if self.path and self.vocab_size:
            raise ValueError(
                f"vocab_size={self.vocab_size} goes with preset; a checkpoint at {self.path!r} has its own tokenizer"
            )
        if self.preset and self.chat_template:
            raise ValueError(
                f"chat_template={self.chat_template!r} goes with path; preset {self.preset!r} is trained with ours"
            )
        return self


class Cluster(Section):
    """The machines that a recipe is planned for: `qwq explain` says what each GPU holds and how long a step takes there.

    `qwq train` runs on one device and refuses a recipe whose cluster has more.
    """

    gpus: Positive = Field(description="GPUs, all alike; trainer and sampler take turns on them")
    gpu_gib: float = Field(80.0, gt=0, description="memory of each, in GiB")
    tflops: float = Field(990.0, gt=0, description="dense bfloat16 rate of each, in TFLOP/s, as its maker states it")
    mfu: float = Field(0.4, gt=0, le=1, description="share of it that training reaches")
    sample_tokens_s: float = Field(
        description="tokens a second that one GPU samples with this model; measured, or an aim", gt=0
    )
    tensor_parallel: Positive = Field(1, description="GPUs that share one copy of the weights when sampling")


class ComputeSection(Section):
    """What to run on."""

    device: str = Field("cpu", description="torch device: cpu, cuda, cuda:1, mps, xpu")
    threads: int = Field(0, ge=0, le=MAX_THREADS, description="CPU threads of torch; 0: all cores")
    max_rows: Positive = Field(256, description="rows sampled at once (bounds the key/value cache)")
    micro_batch_tokens: Positive = Field(8192, description="tokens of one forward and backward pass of an RL update")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="of weights and products; in bfloat16 the optimiser keeps a float32 copy of what it trains; "
        "auto, settled when the recipe is read: bfloat16 on GPUs and on CPUs with instructions for it",
    )
    recompute: bool = Field(
        False, description="keep each layer's input only and compute the rest again in the backward pass"
    )
    cluster: Cluster | None = Field(None, description="machines to plan for")
    checkpoint_interval_s: float = Field(
        5.0,
        ge=0,
        description="seconds between checkpoints, more where saving would take over 4% of the time; 0: after every step",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        kind, colon, number = value.partition(":")
        if kind not in DEVICES or (colon and not number.isdecimal()):
            raise ValueError(
                f"device {value!r} is none of {', '.join(DEVICES)} or one of these with a number, such as cuda:1: {nearest(kind, DEVICES)}"
            )
        return value

    @model_validator(mode="after")
    def _settle_dtype(self) -> ComputeSection:
        if self.dtype == "auto":
            self.dtype = "bfloat16" if self.device != "cpu" or has_bfloat16() else "float32"
        return self


SOURCE_DOMAINS = {
    "gsm8k": "math", "math": "math", "arithmetic": "math", "code": "code", "mbpp": "code", "constraints": "instructions", "prompts": CUSTOM,
}  # fmt: skip


class Source(Section):
    """A set of problems: a file in a published set's own format, a hub data set, or plain sums of a level."""

    kind: Literal["gsm8k", "math", "code", "mbpp", "constraints", "arithmetic", "prompts", "task"] = Field(
        description="format of the rows; math: `problem` or `question` with `answer` or `solution`; code: `prompt` with `tests`; arithmetic needs no file; "
        "prompts: `prompt` (or `messages`) and any columns, judged by reward functions alone; task: a task of your own, its class in `path`"
    )
    path: str = Field(
        "",
        description='JSON-lines or parquet file, folder, or hub id; "builtin" for generated constraints; file.py:Name of a task',
    )
    level: int = Field(
        0, ge=0, le=6, description="of arithmetic: 1 to 3 sums up to 20, 99, 999; 4 three terms; 5 and 6 products"
    )
    split: Literal["train", "validation", "test"] = Field(
        "train", description="rows to take where one file holds several splits"
    )
    weight: float = Field(1.0, gt=0, description="share of the prompts, relative to the other sources and the mix")
    limit: Positive | None = Field(None, description="first rows only")
    decontaminate: list[str] = Field(
        default_factory=list, description="benchmark files; problems that share 13 words in a row with one are left out"
    )

    @model_validator(mode="after")
    def _from_somewhere(self) -> Source:
        if (self.kind == "arithmetic") != bool(self.level) or (self.kind == "arithmetic") == bool(self.path):
            raise ValueError(
                f"a source of kind {self.kind!r} has path {self.path!r} and level {self.level}: arithmetic takes a level, the others a path"
            )
        return self

    @property
    def label(self) -> str:
        """What the source is called in mixes, metrics and the contract's log."""
        return f"{self.kind}:{self.path or self.level}:{self.split}"

    @property
    def domain(self) -> str:
        """The domain that its problems belong to; of a task of the user's own, the name of its class."""
        return self.path.rpartition(":")[2] if self.kind == "task" else SOURCE_DOMAINS[self.kind]

    @property
    def held_as(self) -> tuple[str, ...]:
        """The names by which a contract may hold it: its domain, its kind, its label. None for prompts that no verifier judges."""
        return () if self.kind == "prompts" else (self.domain, self.kind, self.label)


class Mix(Section):
    """Relative weights of the procedural families."""

    math: float = Field(0.0, ge=0, description="multi-step arithmetic word problems")
    code: float = Field(0.0, ge=0, description="small Python functions")
    instructions: float = Field(0.0, ge=0, description="format, length and wording rules")
    tools: float = Field(0.0, ge=0, description="calculator calls")
    preference: float = Field(0.0, ge=0, description="open questions with a hidden rule")

    def weights(self) -> dict[str, float]:
        return {d: w for d in DOMAINS if (w := getattr(self, d)) > 0}


class Optim(Section):
    """AdamW with warm-up and decay (Loshchilov and Hutter 2019)."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: Unit = Field(0.02, description="share of the steps over which the rate rises")
    decay: Literal["constant", "linear", "cosine"] = Field("linear", description="course after the warm-up")
    final_lr: Unit = Field(0.05, description="rate at the end, as a share of the peak")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of matrices")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class Lora(Section):
    """Low-rank adapters on every matrix of the blocks; all else is frozen (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Positive = Field(8, description="rank of each projection's change")
    alpha: float | None = Field(None, gt=0, description="the change is scaled by alpha / rank; default: 2 x rank")
    merged: bool = Field(
        True, description="write the merged model as the stage's final folder; false: the adapter alone"
    )


class Stage(Section):
    """What all stages share."""

    start_from: str | None = Field(
        None, description="stage whose result to start from; default: the last one that changed the policy"
    )
    evaluate: bool = Field(True, description="run the benchmarks after the stage")
    optim: Optim = Field(default_factory=Optim)


class PretrainStage(Stage):
    """Next-token prediction on an endless stream of documents."""

    kind: Literal["pretrain"]
    tokens: Positive = Field(description="training tokens")
    batch_tokens: Positive = Field(1024, description="tokens a step, at least (documents are not cut)")
    mix: Mix = Field(default_factory=Mix)
    noise: Unit = Field(0.0, description="share of documents with a mistake")
    drills: Unit = Field(0.0, description="share of documents that are pages of single-step exercises")
    prompt_weight: Unit = Field(0.1, description="weight of prompt tokens in the loss")


class SftStage(Stage):
    """Supervised cold start on demonstrations; the loss counts the assistant's tokens only."""

    kind: Literal["sft"]
    documents: Positive | None = Field(
        None, description="demonstrations; default: 1,000, or with path all rows; with path, the first so many rows"
    )
    epochs: Positive = Field(1, description="passes over them")
    batch_tokens: Positive = Field(1024, description="tokens a step, at least")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    mix: Mix = Field(default_factory=Mix)
    path: str | None = Field(
        None,
        description="conversations instead of procedural demonstrations: JSON lines or parquet, or a hub id, in any shape of docs/data.md",
    )
    max_tokens: Positive = Field(
        8192,
        description="longest conversation of the file; longer ones, and those beyond the model's positions, are left out and counted",
    )
    recheck: Unit = Field(
        0.0,
        description="share of procedural demonstrations that think everything twice before they answer, as models that overthink do",
    )
    source: Source | None = Field(None, description="arithmetic of a level instead: its training sums, each worked out")

    @model_validator(mode="after")
    def _one_source(self) -> SftStage:
        if self.source and (self.source.kind != "arithmetic" or self.path):
            raise ValueError(
                f"source of kind {self.source.kind!r} with path {self.path!r}: demonstrations come from one of mix, path, or arithmetic"
            )
        if self.documents is None and not self.path:
            self.documents = 1000
        return self


class ControlStage(Stage):
    """The SFT stage continued on its own demonstrations for as long as another stage trained."""

    kind: Literal["control"]
    of: str = Field("sft", description="SFT stage to continue")
    match: str = Field("rl1", description="stage whose training seconds to match")
    steps: Positive | None = Field(None, description="fixed number of steps instead of matching seconds")


class PairsStage(Stage):
    """What stages on preference pairs share."""

    pairs: Positive | None = Field(
        None, description="training pairs; default: 2,000, or with path all of the file's 70%"
    )
    test_pairs: Positive | None = Field(
        None, description="held-out pairs for its accuracy; default: 500, or with path all of the file's 20%"
    )
    epochs: Positive = Field(1, description="passes over the pairs")
    batch_pairs: Positive = Field(16, description="pairs a step")
    path: str | None = Field(
        None,
        description="pairs instead of procedural ones: JSON lines or parquet, or a hub id, with chosen and rejected answers (docs/data.md)",
    )
    max_tokens: Positive = Field(
        4096,
        description="longest prompt and answer together; pairs with a longer one, or one beyond the model's positions, are left out and counted",
    )
    micro_batch_tokens: Positive = Field(8192, description="tokens of one forward and backward pass")

    @model_validator(mode="after")
    def _procedural_numbers(self) -> PairsStage:
        if not self.path:
            self.pairs, self.test_pairs = self.pairs or 2000, self.test_pairs or 500
        return self


class RewardModelStage(PairsStage):
    """Bradley-Terry reward model on preference pairs (Bradley and Terry 1952; Ouyang et al. 2022)."""

    kind: Literal["reward_model"]


class DpoStage(PairsStage):
    """The policy itself trained on preference pairs, without a reward model (DPO, Rafailov et al. 2023, arXiv 2305.18290)."""

    kind: Literal["dpo"]
    beta: float = Field(
        0.1,
        gt=0,
        description="weight of the log-probability ratio to the stage's start: larger keeps the policy nearer to it",
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")


class Function(Section):
    """A reward function of the user's own, as TRL or verl calls it."""

    function: str = Field(description="file.py:function, package.module:function, or a name given by @qwq.reward")
    style: Literal["trl", "verl"] = Field("trl", description="whose signature it has")
    weight: float = Field(1.0, description="factor on its values")


class Validation(Section):
    """Looks at validation problems while an RL stage runs: which weights to keep, and when to stop."""

    every: int = Field(0, ge=0, description="steps between looks; 0: none")
    problems: Positive = Field(100, description="validation problems of each domain and source")
    patience: int = Field(0, ge=0, description="looks without a better one after which the stage ends; 0: never")
    keep: Literal["last", "best"] = Field("best", description="which weights the stage hands on")


class RlStage(Stage):
    """Reinforcement learning with verifiable rewards, GRPO family (Shao et al. 2024, arXiv 2402.03300).

    Defaults follow Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) and DAPO (Yu et al. 2025, arXiv 2503.14476).
    """

    steps: Positive = Field(description="batches of rollouts")
    prompts: Positive = Field(32, description="prompts a step")
    samples: int = Field(8, ge=2, description="rollouts of each prompt: a group")
    max_new_tokens: Positive = Field(
        160, description="longest completion; a longer one is unfinished and never correct"
    )
    temperature: float = Field(
        1.0,
        ge=0.01,
        description="sampling temperature of rollouts; near 0 all samples of a prompt are alike and teach nothing",
    )
    mix: Mix = Field(default_factory=Mix)
    sources: list[Source] = Field(default_factory=list, description="real problem sets")
    loss: str = Field(
        "dr_grpo", description="dr_grpo, dapo, grpo, gspo, cispo (docs/training.md), or file.py:function of your own"
    )
    advantage: str = Field(
        "group_mean",
        description="from rewards to advantages: group_mean, group_std, rloo, batch_std, batch_norm (docs/training.md), or file.py:function",
    )
    scale_advantage: bool = Field(
        False,
        description='the same as advantage = "group_std": divide by the group\'s standard deviation (original GRPO)',
    )
    clip_low: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="lower clip of the ratio; acts only with several updates a batch; default: the loss's own (0.2; gspo 3e-4; cispo none)",
    )
    clip_high: float | None = Field(
        None,
        gt=0,
        description="upper clip of the ratio (DAPO's clip-higher); default: the loss's own (0.28; gspo 4e-4; cispo 4)",
    )
    dual_clip: float | None = Field(
        None,
        gt=1,
        description="largest loss of a token with a negative advantage, in advantages (dual-clip PPO); default: none",
    )
    mask_truncated: bool = Field(
        False,
        description="leave completions that max_new_tokens cut off out of the loss (DAPO's overlong filtering); their rewards count",
    )
    importance_cap: float | None = Field(
        None, ge=0, description="cap of the weight that corrects for a sampler that differs from the trainer; 0: no correction; default: 2 where weights "
        "are in 16 bits, 0 in float32, where both agree within rounding",
    )  # fmt: skip
    updates: Positive = Field(1, description="optimiser updates a batch; 1 is strictly on-policy")
    kl: float = Field(0.0, ge=0, description="weight of the KL term against the stage's start")
    kl_estimator: Literal["k2", "k3", "k3_ratio"] = Field(
        "k3_ratio",
        description="estimator; k3 is unbiased in value, k2 in gradient (Schulman 2020), k3_ratio in both (DeepSeek-V3.2)",
    )
    drop_zero_signal: bool = Field(
        True, description="leave out groups with equal rewards where no other term needs them"
    )
    refill: int = Field(
        0, ge=0, description="rounds of replacing prompts whose verdicts all agree by new ones (dynamic sampling)"
    )
    partial_credit: Unit = Field(0.0, description="share of the reward paid for the share of tests or rules passed")
    overlong_buffer: int = Field(
        0,
        ge=0,
        description="last tokens before max_new_tokens over which a punishment grows from 0 to overlong_penalty (DAPO); 0: none",
    )
    overlong_penalty: Unit = Field(1.0, description="punishment of a response that reaches max_new_tokens")
    length_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a correct answer's reward that goes to the short ones among its group's correct answers",
    )
    thinking_budgets: list[int] = Field(
        default_factory=list,
        description="thinking budgets in tokens, one drawn for each prompt and enforced as when served; -1 stands for none",
    )
    rewards: list[Function] = Field(
        default_factory=list, description="reward functions whose values are added to what the verifiers pay"
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    validation: Validation = Field(default_factory=Validation, description="looks at validation problems")
    watch_kl: int = Field(
        0, ge=0, description="steps between measurements of the KL to the stage's start where no KL term does; 0: none"
    )
    max_infra_error_rate: Unit = Field(
        0.05, description="share of infrastructure errors in a step at which the run stops"
    )

    @model_validator(mode="after")
    def _objective(self) -> RlStage:
        for key, name, known in (("loss", self.loss, LOSS_CLIPS), ("advantage", self.advantage, ADVANTAGES)):
            if name not in known and ":" not in name:
                raise ValueError(
                    f"{key} {name!r} is none of {', '.join(known)}, nor file.py:function: {nearest(name, known)}"
                )
        for key, default in zip(
            ("clip_low", "clip_high"), LOSS_CLIPS.get(self.loss, LOSS_CLIPS["dr_grpo"]), strict=True
        ):
            if default is None and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} is {getattr(self, key):g}, and loss {self.loss!r} has no such clip: leave {key} out"
                )
            if getattr(self, key) is None:
                setattr(self, key, default)
        if self.dual_clip is not None and self.loss in LOSS_CLIPS and self.loss not in DUAL_CLIPPED:
            raise ValueError(
                f"dual_clip is {self.dual_clip:g}, and loss {self.loss!r} has none: leave it out, or take one of {', '.join(DUAL_CLIPPED)}"
            )
        if self.scale_advantage and self.advantage not in ("group_mean", "group_std"):
            raise ValueError(
                f'scale_advantage is true and advantage {self.advantage!r}: the first means "group_std"; give one of the two'
            )
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> RlStage:
        if self.overlong_buffer >= self.max_new_tokens:
            raise ValueError(
                f"overlong_buffer is {self.overlong_buffer}, max_new_tokens {self.max_new_tokens}: the buffer must be the smaller"
            )
        if any(b < -1 for b in self.thinking_budgets):
            raise ValueError(
                f"thinking_budgets holds {min(self.thinking_budgets)}: give numbers of tokens from 0 up, or -1 for no budget"
            )
        custom = [s.path for s in self.sources if s.kind == "prompts"]
        if custom and not self.rewards:
            raise ValueError(
                f"source {custom[0]!r} has prompts that no verifier judges: give rewards, a list of reward functions"
            )
        if custom and self.validation.every:
            raise ValueError(
                f"validation grades by the verifiers, and none judges the prompts of {custom[0]!r}: set validation.every to 0"
            )
        labels = [s.label for s in self.sources]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(
                f"sources name {twice[0]} {labels.count(twice[0])} times: name it once, with the weights added up"
            )
        return self


class Rl1Stage(RlStage):
    """Stage 1: math by the accuracy verifier, code by the execution server, outcome rewards, no KL."""

    kind: Literal["rl1"]


class Contract(Section):
    """Per-domain floors, watched on validation problems while stage 2 runs."""

    domains: list[str] | None = Field(
        None,
        description="what may not be lost, and so must be replayed: domains (math, code, ...: a family and every source of them), kinds of sources "
        "(gsm8k, mbpp, ...) or single ones (kind:path:split); default: what the RL stages before trained on; []: nothing is held",
    )
    every: Positive = Field(10, description="steps between checks; there is one after the last step, too")
    problems: Positive = Field(
        200, description="validation problems of each name in domains and check, shared evenly by what replays it"
    )
    max_drop: Unit = Field(0.03, description="largest tolerated drop against the end of stage 1")
    on_breach: Literal["hold", "reweight", "rollback", "stop"] = Field(
        "reweight", description="what a breach causes; rollback and stop put the weights of the last good check back"
    )
    reweight: float = Field(1.5, gt=1, description="factor on a breached domain's share of the prompts")


class RewardMixing(Section):
    """How the reward model's score becomes a reward beside the rules."""

    model: str = Field("reward_model", description="stage that trained the reward model")
    weight: float = Field(1.0, ge=0, description="weight of the reward model's term")
    debias_length: bool = Field(True, description="regress the answer's length out of the score")
    canaries: int = Field(16, ge=0, description="prompts with known-bad answers scored at every check")


class Rl2Stage(RlStage):
    """Stage 2: reward model and rules for the general domains, math and code replayed and held by the contract."""

    kind: Literal["rl2"]
    kl: float = Field(1e-3, ge=0, description="weight of the KL term against the end of stage 1")
    contract: Contract = Field(default_factory=Contract)
    reward_model: RewardMixing = Field(default_factory=RewardMixing)

    def drawn(self) -> dict[str, tuple[str, ...]]:
        """What prompts are drawn from, families and the labels of sources, with the names by which the contract may hold each."""
        return {d: (d,) for d in self.mix.weights()} | {s.label: s.held_as for s in self.sources}

    def replays(self) -> dict[str, list[str]]:
        """For each name that the contract holds, what of `drawn` replays it."""
        return {
            held: [label for label, names in self.drawn().items() if held in names]
            for held in dict.fromkeys(self.contract.domains or ())
        }


AnyStage = Annotated[
    PretrainStage | SftStage | ControlStage | Rl1Stage | RewardModelStage | Rl2Stage | DpoStage,
    Field(discriminator="kind"),
]


class EvalSection(Section):
    """Benchmarks after every stage: sampled at T=1 and greedily, on the fixed test splits."""

    math: int = Field(0, ge=0, description="test problems; 0 leaves the benchmark out")
    code: int = Field(0, ge=0, description="test problems")
    instructions: int = Field(0, ge=0, description="test problems")
    tools: int = Field(0, ge=0, description="test problems")
    preference: int = Field(0, ge=0, description="test problems")
    sources: list[Source] = Field(default_factory=list, description="real benchmarks")
    max_new_tokens: Positive = Field(160, description="longest completion")
    greedy: bool = Field(True, description="also evaluate greedily")
    start: bool = Field(
        False,
        description="read the benchmarks before the first stage too, of the checkpoint at model.path: the baseline",
    )
    budgets: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list,
        description="thinking budgets to read the procedural and real benchmarks under as well: the overthinking curve",
    )

    def counts(self) -> dict[str, int]:
        return {d: n for d in DOMAINS if (n := getattr(self, d)) > 0}


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="names the run's folder")
    seed: int = Field(
        0,
        ge=0,
        le=MAX_SEED,
        description="seed of weights, data order and sampling; fixed test sets do not depend on it",
    )
    model: ModelSection
    compute: ComputeSection = Field(default_factory=ComputeSection)
    eval: EvalSection = Field(default_factory=EvalSection)
    stages: dict[str, AnyStage] = Field(min_length=1, description="stages in the order in which they run")

    @classmethod
    def load(cls, path: str | Path, /, **overrides: Any) -> Recipe:
        """A recipe from a file, or by the name of one that comes with the package.

        `overrides` set keys, dotted ones as `**{"stages.rl1.steps": 10}`. ConfigError with one line that names the key and the repair.
        """
        return load_recipe(path, overrides)

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        names = list(self.stages)
        for i, (name, stage) in enumerate(self.stages.items()):
            if not STAGE_NAME.fullmatch(name):
                raise ValueError(
                    f"stage {name!r}: a stage's name is made of letters, digits, _ and -, 64 at most, and begins with a letter or digit: rename it"
                )
            wanted = {"start_from": stage.start_from}
            if isinstance(stage, ControlStage):
                wanted |= {"of": stage.of, "match": stage.match if stage.steps is None else None}
            if isinstance(stage, Rl2Stage) and stage.mix.preference > 0:
                wanted |= {"reward_model.model": stage.reward_model.model}
            if isinstance(stage, Rl1Stage) and stage.mix.preference > 0:
                raise ValueError(
                    f"stages.{name}.mix.preference is {stage.mix.preference}: no rule judges it, so it goes in an rl2 stage"
                )
            for key, other in wanted.items():
                if other is not None and other not in names[:i]:
                    hint = nearest(other, names[:i]) if i else "it is the first"
                    raise ValueError(f"stages.{name}.{key} is {other!r}, which is not an earlier stage: {hint}")
            self._kinds_fit(name, stage)
            if isinstance(stage, Rl2Stage):
                self._settle_contract(name, stage)
            if not self.has_data(stage):
                raise ValueError(f"stages.{name} has no data: give stages.{name}.mix a weight or a path or sources")
        if self.eval.start and (self.model.preset or START in names):
            raise ValueError(
                f"eval.start reads the checkpoint at model.path as {START!r}: a preset has none, and no stage may be called so"
            )
        if self.model.preset and not isinstance(next(iter(self.stages.values())), PretrainStage):
            raise ValueError(
                f"a preset has fresh weights, so the first stage must be a pretrain stage, not {names[0]!r}"
            )
        return self

    def _kinds_fit(self, name: str, stage: Any) -> None:
        """That the earlier stages which a stage names are of the kinds that it can use."""
        scored = isinstance(stage, Rl2Stage) and stage.mix.preference > 0
        for key, other, fits, wanted in (
            (
                "start_from",
                stage.start_from,
                lambda s: not isinstance(s, RewardModelStage),
                "a stage that trains a policy, which a reward model is not",
            ),
            (
                "of",
                stage.of if isinstance(stage, ControlStage) else None,
                lambda s: isinstance(s, SftStage),
                "an sft stage, whose demonstrations it goes on with",
            ),
            (
                "reward_model.model",
                stage.reward_model.model if scored else None,
                lambda s: isinstance(s, RewardModelStage),
                "a reward_model stage",
            ),
        ):
            if other is not None and not fits(self.stages[other]):
                raise ValueError(
                    f"stages.{name}.{key} is {other!r}, a stage of kind {self.stages[other].kind}: name {wanted}"
                )

    def _settle_contract(self, name: str, stage: Rl2Stage) -> None:
        """Settle what the contract of stage `name` holds, and that the stage replays it: else no action could bring back what is lost.

        By default it holds what the RL stages before it trained on, and each family and each kind of source of theirs is replayed. Where none
        comes before it, it holds what it replays of math and code.
        """
        drawn, missing, why = stage.drawn(), [], ""
        if stage.contract.domains is None:
            before = [s for s in list(self.stages.values())[: list(self.stages).index(name)] if isinstance(s, Rl1Stage)]
            families = [d for s in before for d in s.mix.weights()]
            sources = [source for s in before for source in s.sources if source.held_as]
            there = [d for d in ("math", "code") if any(d in names for names in drawn.values())]
            stage.contract.domains = (
                list(dict.fromkeys([*families, *(s.domain for s in sources)])) if before else there or ["math", "code"]
            )
            kinds = {s.path if s.kind == "task" else s.kind for s in stage.sources}
            missing = [f"mix.{d} a weight" for d in families if d not in drawn]
            missing += [
                f"a source of kind {s.kind} (such as {s.path or s.level})"
                for s in sources
                if (s.path if s.kind == "task" else s.kind) not in kinds
            ]
            why = " (what the RL stages before it trained on)" if before else ""
        known = [n for names in drawn.values() for n in names]
        missing = missing or [
            f"mix.{held} a weight or a source of {held}"
            if held in DOMAINS
            else f"a source of {held} ({nearest(held, known)})"
            for held, labels in stage.replays().items()
            if not labels
        ]
        if missing:
            raise ValueError(
                f"stages.{name}.contract holds {', '.join(stage.contract.domains)}{why}, and the stage draws prompts from {', '.join(drawn)} alone, which do "
                f"not replay all of that: give stages.{name} {', '.join(dict.fromkeys(missing))}, or set stages.{name}.contract.domains ([] holds nothing)"
            )

    @staticmethod
    def has_data(stage: Any) -> bool:
        if isinstance(stage, RlStage):
            return bool(stage.mix.weights() or stage.sources)
        if isinstance(stage, PretrainStage):
            return bool(stage.mix.weights())
        if isinstance(stage, SftStage):
            return bool(stage.path or stage.source or stage.mix.weights())
        return True

    @property
    def run_name(self) -> str:
        return self.name if self.seed == 0 else f"{self.name}-s{self.seed}"

    def start_of(self, name: str) -> str | None:
        """The stage whose weights `name` starts from; None: the recipe's model itself."""
        stage = self.stages[name]
        if stage.start_from:
            return stage.start_from
        if isinstance(stage, ControlStage):
            return stage.of
        before = list(self.stages)[: list(self.stages).index(name)]
        return next((b for b in reversed(before) if self.stages[b].kind in POLICY_KINDS), None)


def parse_value(text: str) -> Any:
    """A TOML value; what is not one is a string (`--model.path=../dir` needs no quotes)."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def apply_override(data: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested tables in place."""
    *path, last = dotted.split(".")
    for key in path:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--{dotted}: {key!r} is a value, not a table")
    last = last.replace("-", "_")
    if path == ["model"] and last in ("preset", "path"):
        # A model is a preset or a path: naming one on the command line replaces the other.
        data.pop("path" if last == "preset" else "preset", None)
    data[last] = value


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """Valid names beside the last key of a validation error's location."""
    model: Any = Recipe
    for key in location[:-1]:
        if model is Recipe and key == "stages":
            model = "stages"
        elif model == "stages":
            model = "stage"
        elif model == "stage":
            model = {c.model_fields["kind"].annotation.__args__[0]: c for c in STAGE_TYPES}.get(key)
        elif isinstance(model, type) and key in model.model_fields:
            annotation = model.model_fields[key].annotation
            args = getattr(annotation, "__args__", ())
            model = (
                annotation
                if isinstance(annotation, type) and issubclass(annotation, BaseModel)
                else (args[0] if args else None)
            )
        elif isinstance(key, int):
            continue
        else:
            model = None
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


STAGE_TYPES = (PretrainStage, SftStage, ControlStage, Rl1Stage, RewardModelStage, Rl2Stage, DpoStage)
_KINDS = [c.model_fields["kind"].annotation.__args__[0] for c in STAGE_TYPES]


def _one_line(error: ValidationError, where: str) -> str:
    """The first thing wrong, in one line with its repair."""
    first = error.errors()[0]
    # Pydantic inserts the union's tag into the location; a reader of the TOML does not see it.
    loc = [str(p) for i, p in enumerate(first["loc"]) if not (i == 2 and first["loc"][0] == "stages" and p in _KINDS)]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        valid = _fields_at(first["loc"])
        return f"{where}: unknown key {key!r}: {nearest(loc[-1], valid)}" if valid else f"{where}: unknown key {key!r}"
    if first["type"] == "missing":
        return f"{where}: {key!r} is missing: add it"
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kind = first.get("ctx", {}).get("tag")
        hint = nearest(kind, _KINDS) if kind else f"add one of {', '.join(_KINDS)}"
        return f"{where}: {key}.kind is {kind!r}: {hint}" if kind else f"{where}: {key} has no kind: {hint}"
    message = first["msg"].removeprefix("Value error, ")
    shown = first["input"] if not isinstance(first["input"], dict) else None
    return f"{where}: {key + ': ' if key else ''}{message}" + (
        f", not {json.dumps(shown, default=str)}" if shown is not None else ""
    )


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}


def find_recipe(path: str | Path) -> Path:
    """A file, or the name of a recipe that comes with the package (`tiny`). ConfigError where it is neither."""
    path = Path(path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if path.parent == Path() and path.name in shipped:
        return shipped[path.name]
    near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    here = f"there: {', '.join(near)}; " if near else ""
    raise ConfigError(f"no recipe at {path}: {here}by name: {', '.join(shipped)} (`qwq recipes` describes them)")


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read and check a recipe. Raises ConfigError with one line that names the key and the repair."""
    path = find_recipe(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for dotted, value in (overrides or {}).items():
        apply_override(data, dotted, value)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_one_line(error, str(path))) from None


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids DEL, JSON does not
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return repr(value)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML, every default written out. `load_recipe` reads it back to an equal one."""
    lines: list[str] = []

    def table(prefix: str, data: dict[str, Any]) -> None:
        plain = {k: v for k, v in data.items() if not isinstance(v, dict) and v is not None}
        if prefix and (plain or not data):
            lines.append(f"\n[{prefix}]")
        lines.extend(f"{k} = {_toml(v)}" for k, v in plain.items())
        for k, v in data.items():
            if isinstance(v, dict):
                table(f"{prefix}.{k}" if prefix else k, v)

    table("", recipe.model_dump(exclude_none=True))
    return "\n".join(lines).strip() + "\n"
