"""One recipe from start to end: stages in order, evaluation after each, everything in the run's folder.

This is the layer above `train` and `eval`: it hands the trainer callbacks, so neither imports the other.
What is finished is never done again: a stage leaves `stages/NAME.json` and its `final` folder behind, and
a run asked for again goes on after the last of them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from qwq.common.cpu import has_bfloat16
from qwq.common.files import atomic_folder, locked, read_record, write_atomic, writing_to
from qwq.common.stats import paired_difference
from qwq.config import (
    START,
    ControlStage,
    DpoStage,
    Lora,
    PretrainStage,
    Recipe,
    RewardModelStage,
    Rl2Stage,
    RlStage,
    SftStage,
    dump_recipe,
)
from qwq.engine.sampler import SamplingParams
from qwq.errors import ConfigError, Interrupted
from qwq.eval.runner import BenchmarkResult, evaluate, write_transcripts
from qwq.model import lora
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import (
    inherited_generation,
    load_model,
    load_reward_model,
    save_model,
    save_reward_model,
    stored_dtype,
)
from qwq.pipeline.folder import check_same_recipe, move_aside, size_of
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.plan import check_capacity
from qwq.pipeline.preflight import chat_format
from qwq.reward.canaries import Canaries
from qwq.reward.mixing import Rewarder, Scorer
from qwq.reward.model import CALIBRATION, Calibration, RewardModel
from qwq.reward.shaping import LengthShaping
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural import family
from qwq.text.template import ChatFormat
from qwq.train.best import Keeper
from qwq.train.checkpoint import Progress, StageRun, StopFlag
from qwq.train.dpo import dpo
from qwq.train.reward_model import train_reward_model
from qwq.train.rl import RlTrainer
from qwq.train.stage2 import ContractGuard
from qwq.train.supervised import control, pretrain, sft
from qwq.types import Problem

_log = logging.getLogger(__name__)

VALIDATION_SEED = 17


class RecipeRun:
    """One run of one recipe, in `runs/NAME` (seed 0) or `runs/NAME-sSEED`."""

    def __init__(
        self,
        recipe: Recipe,
        runs: Path,
        *,
        progress: Progress | None = None,
        stop: StopFlag | None = None,
        command: str = "",
    ):
        self.recipe, self.folder = recipe, runs / recipe.run_name
        self.progress, self.stop = progress or Progress(), stop or StopFlag()
        self.command = command or "run the same command again"
        self.inputs = RunInputs(recipe, self.folder)

    # -- the run's folder -------------------------------------------------------------------------------------------

    def run(self, *, until: str | None = None, fresh: bool = False) -> dict[str, Any]:
        """Run what is not done yet, up to and including stage `until`; returns what results.json holds."""
        if until is not None and until not in self.recipe.stages:
            raise ConfigError(f"--until {until}: the recipe's stages are {', '.join(self.recipe.stages)}")
        if (cluster := self.recipe.compute.cluster) and cluster.gpus > 1:
            raise ConfigError(
                f"{self.recipe.name} is planned for {cluster.gpus} GPUs and `qwq train` runs on one device: `qwq explain` prints the plan; "
                "without [compute.cluster] the recipe runs here, if it fits"
            )
        with writing_to(self.folder), ExitStack() as held:
            if self.folder.is_dir():
                held.enter_context(self._lock())
            if not fresh:
                check_same_recipe(self.folder, self.recipe)
                if (finished := self.results()) and finished["finished"]:
                    return finished
            self.check(until, fresh=fresh)  # from here on the run's folder is touched
            if fresh and (old := move_aside(self.folder)):
                self.progress.note(
                    f"the run before is kept in {old} ({size_of(old) / 2**20:,.0f} MiB): delete it when it is no longer needed"
                )
            if not self.folder.is_dir():
                held.enter_context(self._lock())
            write_atomic(self.folder / "recipe.toml", dump_recipe(self.recipe))
            compute = self.recipe.compute
            torch.set_num_threads(compute.threads or torch.get_num_threads())
            if compute.device == "cpu" and compute.dtype == "bfloat16" and not has_bfloat16():
                _log.warning(
                    "compute.dtype is bfloat16, and this CPU is not known to have instructions for it (avx512_bf16, amx_bf16): without them float32 is faster"
                )
            if self.recipe.eval.start and not self._record(START):
                self._read_start()
            for name in self.recipe.stages:
                if not self._record(name):
                    self._stage(name)
                if name == until:
                    break
            return self._write_results()

    def _lock(self) -> AbstractContextManager[None]:
        return locked(self.folder, f"{self.folder} is in use by another run: wait for it, or use another --seed")

    def results(self) -> dict[str, Any] | None:
        path = self.folder / "results.json"
        return read_record(path) if path.exists() else None

    def check(self, until: str | None = None, *, fresh: bool = False, machine: bool = True) -> None:
        """Read and check what the stages that are left need, up to and including `until`; with `fresh` none counts as done. Nothing is written.

        Without `machine` neither device nor memory is looked at: the plan may be for another one.
        """
        names = list(self.recipe.stages)
        left = [
            name
            for name in names[: None if until is None else names.index(until) + 1]
            if fresh or not self._record(name)
        ]
        for note in self.inputs.check(left, fresh=fresh, machine=machine):
            self.progress.note(note)

    def _record(self, name: str) -> dict[str, Any] | None:
        path = self.folder / "stages" / f"{name}.json"
        return read_record(path) if path.exists() else None

    def _final(self, name: str) -> Path:
        return self.folder / "checkpoints" / name / "final"

    def _adapter(self, name: str) -> Path:
        return self.folder / "checkpoints" / name / "adapter"

    def _write_results(self) -> dict[str, Any]:
        records = [r for name in self.recipe.stages if (r := self._record(name))]
        results = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "device": self.recipe.compute.device,
            "wall_s": round(sum(r["wall_s"] for r in records), 1),
            "finished": len(records) == len(self.recipe.stages),
            "stages": records,
        }
        if start := self._record(START):
            results |= {"start": start, "wall_s": round(results["wall_s"] + start["wall_s"], 1)}
        write_atomic(self.folder / "results.json", json.dumps(results, indent=1))
        return results

    # -- models -----------------------------------------------------------------------------------------------------

    def chat(self) -> ChatFormat:
        """The run's tokenizer and template: the checkpoint's own, or trained once for a preset."""
        folder = self.folder / "tokenizer"
        if self.recipe.model.preset and not folder.exists():
            with atomic_folder(folder) as partial:
                chat_format(self.recipe).save(partial)
        return chat_format(self.recipe, folder)

    def _load_result(self, name: str, chat: ChatFormat) -> Transformer:
        """What stage `name` left: its final folder, or its start with the stage's adapter merged where that alone was kept."""
        if (self._final(name) / "config.json").is_file():
            return load_model(self._final(name), device=self.recipe.compute.device, dtype=self.dtype)
        return lora.merge(lora.load_adapter(self._start_model(name, chat), self._adapter(name)))

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.recipe.compute.dtype)

    def _start_model(self, name: str, chat: ChatFormat) -> Transformer:
        device = self.recipe.compute.device
        before = self.recipe.start_of(name)
        if before is not None:
            return self._load_result(before, chat)
        if self.recipe.model.path:
            model = load_model(self.recipe.model.path, device=device, dtype=self.dtype)
            chat.tokenizer.check_fits(model.config)
            return model
        tokenizer = chat.tokenizer
        config = preset(
            self.recipe.model.preset or "", vocab_size=tokenizer.vocab_size, eos_token_id=chat.eos_ids[0],
            pad_token_id=tokenizer.token_id("<|endoftext|>"), bos_token_id=None,
        )  # fmt: skip
        return Transformer(config).init_weights(torch.Generator().manual_seed(self.recipe.seed)).to(device, self.dtype)

    # -- stages -----------------------------------------------------------------------------------------------------

    def _stage(self, name: str) -> None:
        stage = self.recipe.stages[name]
        chat = self.chat()
        check_capacity(self.recipe, name, self.folder, self.inputs.use_of(name))
        run = StageRun(
            self.folder, name, stage.kind, progress=self.progress, stop=self.stop, how_to_go_on=self.command,
            interval_s=self.recipe.compute.checkpoint_interval_s,
        )  # fmt: skip
        torch.manual_seed(self.recipe.seed)
        evals: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        final = self._final(name)
        if isinstance(stage, RewardModelStage):
            backbone = self._start_model(name, chat)
            backbone.recompute = self.recipe.compute.recompute
            model = RewardModel(backbone)
            calibration, evals = train_reward_model(
                model, chat, stage, run, seed=self.recipe.seed, made=self.inputs.own.get(name)
            )
            extra |= {"calibration": calibration.to_dict()} | (
                {"data": run.state["data"]} if "data" in run.state else {}
            )
            with atomic_folder(final) as partial:
                save_reward_model(model.backbone, model.score.weight, partial)
                (partial / CALIBRATION).write_text(json.dumps(calibration.to_dict()) + "\n")
                chat.save(partial)
        else:
            policy = self._train_policy(name, chat, run)
            kept = {
                "contract": "contract_log",
                "contract_outcome": "contract_outcome",
                "validation": "validation",
                "ended": "ended",
                "data": "data",
                "pairs": "pairs",
            }
            extra |= {key: run.state[where] for key, where in kept.items() if where in run.state}
            self._save_policy(name, policy, chat)
        record: dict[str, Any] = {"name": name, "kind": stage.kind, "train_s": round(run.state["seconds"], 2)}
        record |= {"steps": run.state["step"], "evals": evals, "evals_greedy": {}} | extra
        started = time.perf_counter()
        if stage.evaluate and not isinstance(stage, RewardModelStage):
            record |= self._evaluate(name, policy, chat)
        record["wall_s"] = round(run.state["seconds"] + time.perf_counter() - started, 2)
        self._keep_record(name, record)
        run.clear()
        if not any(isinstance(s, ControlStage) and s.of == name for s in self.recipe.stages.values()):
            self.inputs.own.pop(name, None)

    @cached_property
    def save_dtype(self) -> torch.dtype:
        """Type of a policy's weights on disk."""
        model = self.recipe.model
        if model.save_dtype:
            return getattr(torch, model.save_dtype)
        return (stored_dtype(model.path) or self.dtype) if model.path else torch.float32

    def _save_policy(self, name: str, policy: Transformer, chat: ChatFormat) -> None:
        """The stage's adapter, where it has one, and its final folder; the adapter is merged into `policy`, which is left as it reads back."""
        options = self._lora(name)
        if options:
            with atomic_folder(self._adapter(name)) as partial:
                lora.save_adapter(policy, partial, base=self.recipe.start_of(name) or self.recipe.model.path or "")
            # Rounded once, to what is written: a small change would vanish twice in the rounding of two 16-bit types.
            lora.merge(policy if self.save_dtype == self.dtype else policy.float())
        if not options or options.merged:
            if self.save_dtype.itemsize < self.dtype.itemsize and not self.recipe.model.save_dtype:
                kind = str(self.save_dtype).removeprefix("torch.")
                self.progress.note(
                    f'{name}: written in {kind}, as the checkpoint is; model.save_dtype = "float32" keeps changes that this rounds off'
                )
            with atomic_folder(self._final(name)) as partial:
                generation = inherited_generation(self.recipe.model.path, policy.config, chat.eos_ids)
                save_model(policy, partial, generation=generation, dtype=self.save_dtype)
                chat.save(partial)
            policy.to(self.save_dtype)
        policy.to(self.dtype)

    def _lora(self, name: str) -> Lora | None:
        """The adapters that a stage trains; a control has those of the stage it goes on with."""
        stage = self.recipe.stages[name]
        return getattr(self.recipe.stages[stage.of] if isinstance(stage, ControlStage) else stage, "lora", None)

    def _train_policy(self, name: str, chat: ChatFormat, run: StageRun) -> Transformer:
        """Train a stage that ends in a policy and return it."""
        stage, seed = self.recipe.stages[name], self.recipe.seed
        model = self._start_model(name, chat)
        if options := self._lora(name):
            lora.add(model, rank=options.rank, alpha=options.alpha, seed=seed)
        model.recompute = self.recipe.compute.recompute
        if isinstance(stage, PretrainStage):
            pretrain(model, chat, stage, run, seed=seed)
        elif isinstance(stage, SftStage):
            sft(model, chat, stage, run, seed=seed, made=self.inputs.own.get(name))
        elif isinstance(stage, ControlStage):
            source = self.recipe.stages[stage.of]
            assert isinstance(source, SftStage)
            control(
                model,
                chat,
                stage,
                source,
                run,
                seed=seed,
                steps=stage.steps or self._matched_steps(stage),
                made=self.inputs.own.get(stage.of),
            )
        elif isinstance(stage, DpoStage):
            dpo(model, chat, stage, run, seed=seed, made=self.inputs.own.get(name))
        elif isinstance(stage, RlStage):
            self._rl(name, stage, model, chat, run)
        return model

    def _matched_steps(self, stage: ControlStage) -> int:
        """Steps of SFT that take as long as the matched stage trained, by the speed the SFT stage itself had."""
        source, matched = self._record(stage.of), self._record(stage.match)
        assert source and matched
        return max(1, round(matched["train_s"] / (source["train_s"] / source["steps"])))

    def _rl(self, name: str, stage: RlStage, model: Transformer, chat: ChatFormat, run: StageRun) -> None:
        seed = self.recipe.seed
        pools, watched_sources = self.inputs.pools(stage, run.tell_data)
        mix = ProblemMix(seed, name, stage.mix.weights(), pools)
        scorer = self._scorer(stage) if isinstance(stage, Rl2Stage) and stage.mix.preference else None
        shaping = LengthShaping(
            stage.max_new_tokens, stage.overlong_buffer, stage.overlong_penalty, stage.length_weight
        )
        rewarder = Rewarder(
            partial_credit=stage.partial_credit,
            scorer=scorer,
            shaping=shaping if shaping.active else None,
            functions=self.inputs.functions(name),
        )
        trainer = RlTrainer(
            model, chat, stage, self.recipe.compute, run, mix, rewarder, seed=seed,
            load_start=lambda: self._start_model(name, chat).requires_grad_(False),
        )  # fmt: skip
        params = SamplingParams(max_new_tokens=stage.max_new_tokens)

        def look(problems: Mapping[str, list[Problem]]) -> dict[str, list[float]]:
            results = (
                evaluate(model, chat, problems, params, max_rows=self.recipe.compute.max_rows, seed=VALIDATION_SEED)
                if problems
                else {}
            )
            return {d: r.passed for d, r in results.items()}

        after: list[Callable[[int, dict[str, Any]], None]] = []
        guard = None
        if isinstance(stage, Rl2Stage):
            canaries = (
                Canaries(chat, scorer, stage.reward_model.canaries) if scorer and stage.reward_model.canaries else None
            )
            guarded = self.inputs.held(stage)
            guard = ContractGuard(stage, model, mix, run, lambda: look(guarded), canaries)
            guard.begin()
            after.append(guard.after_step)
        keeper = None
        if stage.validation.every:
            watched = {
                d: family(d).fixed("validation", stage.validation.problems) for d in stage.mix.weights()
            } | watched_sources
            keeper = Keeper(stage.validation, model, run, lambda: look(watched))
            keeper.begin()
            after.insert(0, keeper.after_step)  # before the guard, who has to know whether this was the last step

        def after_step(step: int, metrics: dict[str, Any]) -> None:
            for callback in after:
                callback(step, metrics)

        trainer.after_step = after_step
        trainer.train()
        changed = keeper.finish() if keeper else False
        if guard:
            guard.finish(changed=changed)

    def _scorer(self, stage: Rl2Stage) -> Scorer:
        name = stage.reward_model.model
        record = self._record(name)
        assert record
        backbone, score = load_reward_model(self._final(name), device=self.recipe.compute.device)
        model = RewardModel(backbone, score).requires_grad_(False).to(backbone.device)
        return Scorer(
            model, Calibration(**record["calibration"]), stage.reward_model.weight, stage.reward_model.debias_length
        )

    # -- evaluation -------------------------------------------------------------------------------------------------

    def _evaluate(self, name: str, model: Transformer, chat: ChatFormat) -> dict[str, Any]:
        """Both readings of all benchmarks, the transcripts on disk, and the paired change against the stage before."""
        problems, out = self.inputs.benchmarks(), {}
        if not problems:
            return {}
        for reading, temperature in (("evals", 1.0), ("evals_greedy", 0.0)):
            if reading == "evals_greedy" and not self.recipe.eval.greedy:
                continue
            self._check_stop(name)
            self.progress.note(
                f"{name}: evaluating {sum(map(len, problems.values()))} problems, {'sampled' if temperature else 'greedy'}"
            )
            params = SamplingParams(temperature=temperature, max_new_tokens=self.recipe.eval.max_new_tokens)
            results = evaluate(model, chat, problems, params, max_rows=self.recipe.compute.max_rows)
            path = self.folder / "evals" / name / f"{'sampled' if temperature else 'greedy'}.jsonl"
            write_transcripts(path, results, problems)
            out[reading] = {d: r.summary() | self._against_before(name, reading, d, r) for d, r in results.items()}
            passed = {d: r.passed for d, r in results.items()}
            write_atomic(path.with_suffix(".passed.json"), json.dumps(passed))
        if self.recipe.eval.budgets:
            out["budgets"] = self._budget_curve(name, model, chat, out["evals"])
        return out

    def _read_start(self) -> None:
        """The benchmarks of the checkpoint that the recipe starts from."""
        began, chat = time.perf_counter(), self.chat()
        evals = self._evaluate(START, self._start_model(next(iter(self.recipe.stages)), chat), chat)
        record = (
            {"name": START, "kind": START, "evals": {}, "evals_greedy": {}}
            | evals
            | {"wall_s": round(time.perf_counter() - began, 2)}
        )
        self._keep_record(START, record)

    def _keep_record(self, name: str, record: Mapping[str, Any]) -> None:
        (self.folder / "stages").mkdir(exist_ok=True)
        write_atomic(self.folder / "stages" / f"{name}.json", json.dumps(record))

    def _check_stop(self, name: str) -> None:
        if self.stop.raised:
            saved = "" if name == START else ", its training is saved"
            raise Interrupted(
                f"stopped before the evaluation of {'the start' if name == START else f'stage {name}'}{saved}: {self.command}"
            )

    def _budget_curve(
        self, name: str, model: Transformer, chat: ChatFormat, free: Mapping[str, Any]
    ) -> dict[str, list[dict[str, Any]]]:
        """Sampled scores under each thinking budget, and without one: accuracy against thinking tokens."""
        params = SamplingParams(max_new_tokens=self.recipe.eval.max_new_tokens)
        curves: dict[str, list[dict[str, Any]]] = {d: [] for d in free}
        for budget in sorted(self.recipe.eval.budgets):
            self._check_stop(name)
            self.progress.note(f"{name}: evaluating under a thinking budget of {budget} tokens")
            results = evaluate(
                model, chat, self.inputs.benchmarks(), params, max_rows=self.recipe.compute.max_rows, budget=budget
            )
            for d, r in results.items():
                curves[d].append({"budget": budget} | r.summary())
        for d, summary in free.items():
            curves[d].append(
                {"budget": None}
                | {k: summary[k] for k in ("score", "ci95", "n", "mean_tokens", "mean_thinking_tokens")}
            )
        return curves

    def _against_before(self, name: str, reading: str, benchmark: str, result: BenchmarkResult) -> dict[str, Any]:
        """Change against the stage this one started from, problem by problem, with its 95% interval."""
        before = None if name == START else self.recipe.start_of(name) or START
        file = "sampled" if reading == "evals" else "greedy"
        path = self.folder / "evals" / (before or "") / f"{file}.passed.json"
        if before is None or not path.exists():
            return {}
        change, low, high = paired_difference(read_record(path)[benchmark], result.passed)
        return {"change": change, "change_ci95": [low, high], "against": before}


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table by stage: sampled score with interval, greedy score in brackets, in percent."""
    names: list[str] = []
    stages = [*([results[START]] if START in results else []), *results["stages"]]
    for stage in stages:
        names += [b for b in stage["evals"] if b not in names]
    rows = []
    for stage in stages:
        cells = [stage["name"], f"{stage['wall_s']:.0f}"]
        for b in names:
            e = stage["evals"].get(b)
            g = stage.get("evals_greedy", {}).get(b)
            cells.append("" if e is None else f"{100 * e['score']:.1f}" + (f" ({100 * g['score']:.1f})" if g else ""))
        rows.append(cells)
    return ["stage", "seconds", *names], rows


def contract_lines(results: Mapping[str, Any]) -> list[str]:
    """What became of each stage's contract, one line a stage."""
    return [
        f"{stage['name']}: contract {stage['contract_outcome']['text']}"
        for stage in results["stages"]
        if "contract_outcome" in stage
    ]


def paired_columns(results: Mapping[str, Any]) -> Sequence[str]:
    """Lines such as `rl1 math +12.1 [9.0, 15.2] against sft`, in points, sampled."""
    lines = []
    for stage in results["stages"]:
        for benchmark, e in stage["evals"].items():
            if "change" in e:
                low, high = e["change_ci95"]
                lines.append(
                    f"{stage['name']} {benchmark} {100 * e['change']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] against {e['against']}"
                )
    return lines
