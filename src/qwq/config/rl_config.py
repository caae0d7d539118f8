"""What RL is set by: sampling, loss, rewards, validation, and the contract of stage 2."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qwq.config.base import Positive, Section, Unit
from qwq.config.kinds import StageConfig
from qwq.config.problem_sets import Mix, Source
from qwq.config.training import Lora
from qwq.errors import nearest

# Losses that are registered (train.losses; those of a program's own are added here when they are),
# with the clip range each has by default; None: it has no such clip.
LOSS_CLIPS: dict[str, tuple[float | None, float | None]] = {
    "dr_grpo": (0.2, 0.28), "dapo": (0.2, 0.28), "grpo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (None, 4.0),
}  # fmt: skip
DUAL_CLIPPED = ("dr_grpo", "dapo", "grpo", "gspo")  # losses that `dual_clip` acts on
ADVANTAGES = ["group_mean", "group_std", "group_rate", "rloo", "batch_std", "batch_norm"]  # registered forms, likewise


class CustomReward(Section):
    """A reward function of the user's own, as TRL or verl calls it."""

    function: str = Field(description="file.py:function, package.module:function, or a name given by @qwq.reward")
    style: Literal["trl", "verl"] = Field("trl", description="whose signature it has")
    weight: float = Field(1.0, description="factor on its values")


class Validation(Section):
    """Looks at validation problems while an RL stage runs: which weights to keep, and when to
    stop.
    """

    every: int = Field(0, ge=0, description="steps between looks; 0: none")
    problems: Positive = Field(100, description="validation problems of each domain and source")
    patience: int = Field(0, ge=0, description="looks without a better one after which the stage ends; 0: never")
    keep: Literal["last", "best"] = Field("best", description="which weights the stage hands on")


class ToolLimits(Section):
    """Limits of the tool calls of one rollout."""

    max_calls: Positive | None = Field(
        None, description="calls of a rollout, malformed ones too; default: the environment's own (4)"
    )
    max_parallel: Positive | None = Field(
        None, description="calls of one turn that run; more are answered with an error; default: no limit"
    )
    call_timeout_s: float | None = Field(
        None, gt=0, description="seconds of one call; default: the environment's own (30)"
    )
    compact: bool = Field(
        False,
        description="a rollout that fills the context continues from a compacted prompt, which begins a new segment, "
        "and all segments are trained on; max_new_tokens, which bounds them together, may then be more than the "
        "model's positions. false: the rollout ends there, unfinished",
    )


class Harness(Section):
    """A program of the user's own that makes each sample, unchanged, against a server over the
    policy (docs/agent.md).
    """

    command: list[str] = Field(
        min_length=1, description='the program and its arguments, such as ["python", "my_agent.py"]; it is started '
        "once a sample where the run was started, and reads the problem as JSON from standard input",
    )  # fmt: skip
    timeout_s: float = Field(600.0, gt=0, description="seconds of one start; then it is killed, and unfinished")
    max_calls: int = Field(
        64, ge=1, le=1024, description="model calls of one start; more are refused, and it is unfinished"
    )
    concurrency: Positive = Field(4, description="programs at once; 1 repeats a run bit for bit")
    answer: Literal["message", "stdout"] = Field(
        "message", description="what the verifier judges: the model's last message, or what the program printed"
    )
    on_crash: Literal["infra", "wrong"] = Field(
        "infra",
        description="what another exit status than 0 is: an infrastructure failure, which is no reward, or a wrong "
        "answer",
    )


class RlConfig(StageConfig):
    """Reinforcement learning with verifiable rewards, GRPO family (Shao et al. 2024, arXiv
    2402.03300).

    Defaults follow Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) and DAPO (Yu et al. 2025, arXiv
    2503.14476).
    """

    steps: Positive = Field(description="batches of rollouts")
    prompts: Positive = Field(32, description="prompts a step")
    samples: int = Field(8, ge=2, description="rollouts of each prompt: a group")
    max_new_tokens: Positive = Field(
        160, description="longest completion; a longer one is unfinished and never correct"
    )
    expected_tokens: Positive | None = Field(
        None, description="mean length of a completion that `qwq explain` expects; default: a quarter of max_new_tokens"
    )
    expected_zero_signal: Unit = Field(
        0.3, description="share of prompts whose verdicts all agree that `qwq explain` expects"
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
        description="from rewards to advantages: group_mean, group_std, rloo, batch_std, batch_norm "
        "(docs/training.md), or file.py:function",
    )
    scale_advantage: bool = Field(
        False,
        description='the same as advantage = "group_std": divide by the group\'s standard deviation (original GRPO)',
    )
    clip_low: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="lower clip of the ratio; acts only with several updates a batch; default: the loss's own "
        "(0.2; gspo 3e-4; cispo none)",
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
        description="leave completions that max_new_tokens cut off out of the loss (DAPO's overlong filtering); their "
        "rewards count",
    )
    importance_cap: float | None = Field(
        None,
        ge=0,
        description="cap of the weight that corrects for a sampler that differs from the trainer; 0: no correction; "
        "default: 2 where weights are in 16 bits, vLLM samples or rollout.max_lag is set; else 0, as both agree within "
        "rounding",
    )
    importance_level: Literal["token", "sequence"] = Field(
        "token", description="what has a weight: each token, or each completion (the product of its tokens' weights)"
    )
    importance_beyond: Literal["truncate", "mask"] = Field(
        "truncate",
        description="what becomes of a weight above importance_cap: the cap, or 0 (mask; then also below "
        "importance_floor)",
    )
    importance_floor: float = Field(
        0.0, ge=0, lt=1, description='weight below which importance_beyond = "mask" leaves tokens out'
    )
    updates: Positive = Field(1, description="optimiser updates a batch; 1 is strictly on-policy")
    kl: float = Field(0.0, ge=0, description="weight of the KL term against the reference model, the stage's start")
    kl_estimator: Literal["k2", "k3", "k3_ratio"] = Field(
        "k3_ratio",
        description="estimator; k3 is unbiased in value, k2 in gradient (Schulman 2020), k3_ratio in both "
        "(DeepSeek-V3.2)",
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
        description="last tokens before max_new_tokens over which a punishment grows from 0 to overlong_penalty "
        "(DAPO); 0: none",
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
        description="thinking budgets in tokens, one drawn for each prompt and enforced as when served; -1 stands "
        "for none",
    )
    environment: str = Field(
        "",
        description="environment of prompts that bring no tools of their own: its name, or file.py:Class "
        "(docs/tasks.md)",
    )
    tools: ToolLimits = Field(default_factory=ToolLimits, description="limits of tool calls")
    harness: Harness | None = Field(None, description="a program of the user's own that makes the rollouts")
    rewards: list[CustomReward] = Field(
        default_factory=list, description="reward functions whose values are added to what the verifiers pay"
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    validation: Validation = Field(default_factory=Validation, description="looks at validation problems")
    watch_kl: int = Field(
        0,
        ge=0,
        description="steps between measurements of the KL to the reference model where kl is 0; 0: none",
    )
    max_infra_error_rate: Unit = Field(
        0.05, description="share of infrastructure errors in a step at which the run stops"
    )

    def has_data(self) -> bool:
        return bool(self.mix.weights() or self.sources)

    def problem_sources(self) -> list[Source]:
        return self.sources

    @model_validator(mode="after")
    def _objective(self) -> RlConfig:
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
                f"dual_clip is {self.dual_clip:g}, and loss {self.loss!r} has none: leave it out, or take one of "
                f"{', '.join(DUAL_CLIPPED)}"
            )
        if self.importance_floor and self.importance_beyond != "mask":
            raise ValueError(
                f'importance_floor is {self.importance_floor:g} and importance_beyond "{self.importance_beyond}": only '
                '"mask" has a floor'
            )
        if self.scale_advantage and self.advantage not in ("group_mean", "group_std"):
            raise ValueError(
                f'scale_advantage is true and advantage {self.advantage!r}: the first means "group_std"; give one '
                "of the two"
            )
        return self

    @model_validator(mode="after")
    def _harness_decides(self) -> RlConfig:
        for key, used in (("environment", bool(self.environment)), ("tools", self.tools != ToolLimits())):
            if self.harness is not None and used:
                raise ValueError(
                    f"{key} is set, and with harness the program decides about its tools and their limits: leave "
                    f"{key} out"
                )
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> RlConfig:
        if self.overlong_buffer >= self.max_new_tokens:
            raise ValueError(
                f"overlong_buffer is {self.overlong_buffer}, max_new_tokens {self.max_new_tokens}: the buffer must "
                "be the smaller"
            )
        if any(b < -1 for b in self.thinking_budgets):
            raise ValueError(
                f"thinking_budgets holds {min(self.thinking_budgets)}: give numbers of tokens from 0 up, or -1 for "
                "no budget"
            )
        custom = [s.path for s in self.sources if s.kind == "prompts"]
        if custom and not self.rewards:
            raise ValueError(
                f"source {custom[0]!r} has prompts that no verifier judges: give rewards, a list of reward functions"
            )
        unverified = [s.path for s in self.sources if not s.verified]
        if unverified and self.validation.every:
            raise ValueError(
                f"validation grades by the verifiers, and none judges the prompts of {unverified[0]!r}: set "
                "validation.every to 0"
            )
        labels = [s.label for s in self.sources]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(
                f"sources name {twice[0]} {labels.count(twice[0])} times: name it once, with the weights added up"
            )
        return self


class Contract(Section):
    """Per-domain floors, watched on validation problems while stage 2 runs."""

    domains: list[str] | None = Field(
        None,
        description="what may not be lost, and so must be replayed: domains (math, code, ...: a family and every "
        "source of them), kinds of sources (gsm8k, mbpp, ...) or single ones (kind:path:split); "
        "default: what the RL stages before trained on; []: nothing is held",
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
