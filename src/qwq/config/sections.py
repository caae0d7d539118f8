"""The tables of a recipe beside its stages: the model, what to run on, the benchmarks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from qwq.common.cpu import has_bfloat16
from qwq.config.base import DEVICES, MAX_THREADS, Positive, Section
from qwq.config.problem_sets import Source, TaskTable
from qwq.errors import nearest


class ModelSection(Section):
    """Where the weights come from: a preset starts from nothing, a path continues a checkpoint."""

    preset: str | None = Field(
        None,
        description="named shape (tiny, small, 3m, 9m, 18m, smollm2-135m, qwen2.5-0.5b, qwen3-0.6b, qwen2.5-7b, "
        "qwq-32b) with fresh weights",
    )
    path: str | None = Field(None, description="Hugging Face folder or hub id to start from")
    shape: str | None = Field(
        None, description="named shape that the checkpoint at path has, so that `qwq explain` needs no download"
    )
    chat_template: str | None = Field(
        None,
        description='Jinja file in place of the checkpoint\'s own template, or "qwq": ours, which opens the '
        "thinking as "
        "QwQ's does",
    )
    vocab_size: Positive | None = Field(
        None, description="tokens of the tokenizer trained for a preset; default: the preset's"
    )
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="of the weights of policies on disk; default: the checkpoint's own (of a quantised one: "
        "compute.dtype), float32 for a preset",
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
    """The machines that a recipe is planned for: `qwq explain` says what each GPU holds and how
    long a step takes there.

    `qwq train` runs on one device and refuses a recipe whose cluster has more.
    """

    gpus: Positive = Field(description="GPUs, all alike; trainer and sampler take turns on them")
    gpu_gib: float = Field(80.0, gt=0, description="memory of each, in GiB")
    tflops: float = Field(990.0, gt=0, description="dense bfloat16 rate of each, in TFLOP/s, as its maker states it")
    mfu: float = Field(0.4, gt=0, le=1, description="share of it that training reaches")
    sample_tokens_s: float | None = Field(
        None, gt=0, description="tokens a second that one GPU samples, measured; default: from hbm_gb_s and the lengths"
    )
    tensor_parallel: Positive = Field(1, description="GPUs that share one copy of the weights when sampling")
    gpus_per_node: Positive = Field(8, description="GPUs of one node: what one more would give")
    hbm_gb_s: float = Field(3350.0, gt=0, description="memory bandwidth of each GPU, in GB/s, as its maker states it")
    hbm_share: float = Field(0.6, gt=0, le=1, description="share of it that decoding reaches")
    net_gb_s: float = Field(50.0, gt=0, description="network bandwidth of each GPU, in GB/s: the weights go over it")
    sync_latency_s: float = Field(2.0, ge=0, description="of a weight sync beside the bytes: pause, resume and probe")
    disk_gb_s: float = Field(5.0, gt=0, description="rate at which all GPUs together write a checkpoint, in GB/s")
    verdicts_s: float = Field(50.0, gt=0, description="verdicts a second of all verifiers and sandboxes together")
    slowest_verdict_s: float = Field(10.0, ge=0, description="seconds that the last verdict of a step is waited for")
    mtbf_hours: float = Field(
        50_000.0,
        gt=0,
        description="hours of one GPU between failures; Llama 3's training had 419 unexpected interruptions in 54 days "
        "on 16,384 GPUs (arXiv 2407.21783)",
    )
    restart_s: float = Field(600.0, ge=0, description="seconds from a failure to the first step behind it")
    price_gpu_hour: float | None = Field(None, ge=0, description="of one GPU, in your currency: explain prints money")


class RolloutSection(Section):
    """Where RL stages sample: in this process, or on engines over HTTP (docs/fleet.md)."""

    policy: Literal["local", "qwq", "vllm"] = Field(
        "local",
        description="local: the trainer's own tensors; qwq: servers started with --rollout-engine; vllm: vLLM's HTTP "
        "API",
    )
    endpoints: list[str] = Field(
        default_factory=list,
        description="URLs of the engines, on the command line separated by commas; or cluster/state.json of the run's "
        "processes, which is read again as engines come and go",
    )
    folder: str | None = Field(
        None,
        description="folder for the weights that engines load, which they see under the same path; default: in the "
        "run's folder",
    )
    concurrency: Positive = Field(32, description="samples that one engine draws at once")
    lease_s: float = Field(
        600.0, gt=0, description="seconds in which an engine has to sample a group; then another one gets it"
    )
    sync_timeout_s: float = Field(120.0, gt=0, description="seconds of each call that gives an engine new weights")
    rejoin_s: float = Field(
        2.0, gt=0, description="seconds until an engine that failed is asked again; doubled each time"
    )
    give_up_s: float = Field(600.0, gt=0, description="seconds without any engine after which the run stops")
    max_lag: int = Field(
        0,
        ge=0,
        le=64,
        description="steps that the weights of a token may be behind the step that trains on it; 0: on-policy; more: "
        "the next steps are sampled while this one trains",
    )
    stragglers: Literal["wait", "cut", "carry"] = Field(
        "wait",
        description="groups that are late: wait for them, cut them out of the step, or carry them into the next "
        "(max_lag from 1)",
    )
    enough: float = Field(0.9, gt=0, le=1, description="share of a step's groups after which the others are late")
    straggler_s: float = Field(30.0, ge=0, description="seconds that late groups still get")
    probe_limit: float | None = Field(
        None,
        gt=0,
        description="largest difference of log-probabilities, in nats, of an engine's probe against the trainer; "
        "default: 1e-3 in float32, 0.3 in 16 bits",
    )
    mismatch_alarm: float | None = Field(
        None,
        gt=0,
        description="mean difference of log-probabilities, in nats, of tokens of the current weights that raises an "
        "alarm; default: 5e-5 in float32, 0.02 in 16 bits",
    )

    @field_validator("endpoints", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """`--rollout.endpoints=URL,URL` is one text."""
        return [url.strip() for url in value.split(",") if url.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> RolloutSection:
        if (self.policy == "local") != (not self.endpoints):
            raise ValueError(
                f"policy {self.policy!r} with {len(self.endpoints)} endpoints: local has none, qwq and vllm need one "
                "or more"
            )
        if twice := next((url for url in self.endpoints if self.endpoints.count(url) > 1), None):
            raise ValueError(f"endpoints name {twice} twice: name each engine once")
        if self.policy == "local" and (self.max_lag or self.stragglers != "wait"):
            raise ValueError(
                f"max_lag {self.max_lag} and stragglers {self.stragglers!r} are for engines over HTTP, and policy is "
                "local: leave them out"
            )
        if self.stragglers == "carry" and not self.max_lag:
            raise ValueError("stragglers 'carry' trains on weights of the step before: set max_lag to 1 or more")
        return self


class ClusterSection(Section):
    """Training on several processes, each of which holds a part of what is trained.

    The number of processes and the time-outs are no part of a run: it may be resumed with others.
    """

    processes: Positive = Field(
        1, description="processes; `qwq train` starts them on this machine, torchrun and Slurm on several"
    )
    reduction: Literal["scatter", "fixed"] = Field(
        "scatter",
        description="how gradients are put together: FSDP2's reduce-scatter, or added in a fixed order, bit for bit "
        "the same on any number of processes (whole copies: a checking mode for small models)",
    )
    shards: Positive = Field(
        8,
        description="logical shards of a step's batch, which the processes take in turn: what is computed depends on "
        "their number and not on that of the processes",
    )
    context: Positive = Field(
        1,
        description="processes that divide the tokens of each pass, for sequences that one of them cannot hold: "
        "`processes` and the model's heads and key/value heads have to divide by it (pretraining, SFT, DPO, RL)",
    )
    timeout_s: float = Field(
        120.0, gt=0, description="seconds that a process waits for another one that does the same work"
    )
    work_timeout_s: float = Field(
        3600.0,
        gt=0,
        description="seconds that processes wait for work of unequal length: sampling, and the evaluation and files of "
        "the first one",
    )

    restarts: int = Field(
        0,
        ge=0,
        description="times that the launcher starts all processes again after one was lost; they resume from the last "
        "checkpoint",
    )

    @model_validator(mode="after")
    def _each_has_a_shard(self) -> ClusterSection:
        if self.processes % self.context:
            raise ValueError(
                f"context is {self.context} and processes is {self.processes}: give a multiple of context as processes"
            )
        if self.processes // self.context > self.shards:
            raise ValueError(
                f"shards is {self.shards} and processes is {self.processes}: give at least as many shards, so that no "
                "process is without work"
            )
        return self


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
    offload: bool = Field(
        False,
        description="with recompute on a GPU: the layers' inputs wait in host memory for the backward pass",
    )
    cluster: Cluster | None = Field(None, description="machines to plan for")
    checkpoint_interval_s: float = Field(
        5.0,
        ge=0,
        description="seconds between checkpoints, more where saving would take over 4% of the time; 0: after every "
        "step",
    )
    background_checkpoints: bool = Field(
        False,
        description="write a checkpoint from a copy in host memory while the next steps are taken; the next one waits "
        "for it",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        kind, colon, number = value.partition(":")
        if kind not in DEVICES or (colon and not number.isdecimal()):
            raise ValueError(
                f"device {value!r} is none of {', '.join(DEVICES)} or one of these with a number, such as cuda:1: "
                f"{nearest(kind, DEVICES)}"
            )
        return value

    @model_validator(mode="after")
    def _has_somewhere_to_offload(self) -> ComputeSection:
        if self.offload and (self.device == "cpu" or not self.recompute):
            raise ValueError(
                f"offload moves the inputs that recompute keeps from a GPU to host memory, and device is "
                f"{self.device!r} and recompute {str(self.recompute).lower()}: set recompute to true and device to a "
                "GPU, or leave offload out"
            )
        return self

    @model_validator(mode="after")
    def _settle_dtype(self) -> ComputeSection:
        if self.dtype == "auto":
            self.dtype = "bfloat16" if self.device != "cpu" or has_bfloat16() else "float32"
        return self


class EvalSection(TaskTable):
    """Benchmarks after every stage: sampled at T=1 and greedily, on the fixed test splits.

    Problems of any task can be asked for by its name or as `"file.py:Name"`.
    """

    __pydantic_extra__: dict[str, Annotated[int, Field(ge=0)]] = Field(init=False)

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

    @field_validator("sources")
    @classmethod
    def _judged(cls, sources: list[Source]) -> list[Source]:
        for source in sources:
            if not source.verified:
                raise ValueError(
                    f"no verifier judges the prompts of {source.path!r} (kind {source.kind}): leave it out of eval"
                )
        return sources

    def counts(self) -> dict[str, int]:
        """Problems asked for, by task."""
        return self.by_task()
