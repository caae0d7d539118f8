"""The evaluation after each stage: both readings of the recipe's benchmarks, the thinking budgets,
the change against the stage before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwq.common.run_folder import RunFolder
from qwq.common.stats import paired_difference
from qwq.config import START, Recipe
from qwq.engine.sampler import SamplingParams
from qwq.eval.run import Evaluated, evaluate, write_transcripts
from qwq.model.transformer import Transformer
from qwq.pipeline.inputs import RunInputs
from qwq.text.template import ChatFormat

READINGS = {
    "evals": ("sampled", 1.0),
    "evals_greedy": ("greedy", 0.0),
}  # key of a record: name of its files, temperature


class StageEvaluation:
    """Reads the benchmarks of the run in `folder`.

    `note` hears what is being done; `check_stop(name)` raises where the user has stopped the run.
    """

    def __init__(
        self, inputs: RunInputs, folder: RunFolder, note: Callable[[str], None], check_stop: Callable[[str], None]
    ) -> None:
        self.inputs, self.folder, self.note, self.check_stop = inputs, folder, note, check_stop

    @property
    def recipe(self) -> Recipe:
        return self.inputs.recipe

    def read(self, name: str, model: Transformer, chat: ChatFormat) -> dict[str, Any]:
        """Both readings of all benchmarks, the transcripts on disk, and the paired change against
        the stage before.
        """
        problems = self.inputs.benchmarks()
        out: dict[str, Any] = {}
        if not problems:
            return {}
        for reading, (file, temperature) in READINGS.items():
            if reading == "evals_greedy" and not self.recipe.eval.greedy:
                continue
            self.check_stop(name)
            self.note(f"{name}: evaluating {sum(map(len, problems.values()))} problems, {file}")
            params = SamplingParams(temperature=temperature, max_new_tokens=self.recipe.eval.max_new_tokens)
            results = evaluate(model, chat, problems, params, max_rows=self.recipe.compute.max_rows)
            write_transcripts(self.folder.answers(name, file), results)
            out[reading] = {d: r.summary() | self._against_before(name, file, d, r) for d, r in results.items()}
            self.folder.keep_outcomes(name, file, {d: r.passed for d, r in results.items()})
        if self.recipe.eval.budgets:
            out["budgets"] = self._budget_curve(name, model, chat, out["evals"])
        return out

    def _budget_curve(
        self, name: str, model: Transformer, chat: ChatFormat, free: Mapping[str, Any]
    ) -> dict[str, list[dict[str, Any]]]:
        """Sampled scores under each thinking budget, and without one: accuracy against thinking
        tokens.
        """
        params = SamplingParams(max_new_tokens=self.recipe.eval.max_new_tokens)
        curves: dict[str, list[dict[str, Any]]] = {d: [] for d in free}
        for budget in sorted(self.recipe.eval.budgets):
            self.check_stop(name)
            self.note(f"{name}: evaluating under a thinking budget of {budget} tokens")
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

    def _against_before(self, name: str, file: str, benchmark: str, result: Evaluated) -> dict[str, Any]:
        """Change against the stage this one started from, problem by problem, with its 95%
        interval.
        """
        before = None if name == START else self.recipe.start_of(name) or START
        if before is None or (earlier := self.folder.outcomes(before, file)) is None:
            return {}
        change, low, high = paired_difference(earlier[benchmark], result.passed)
        return {"change": change, "change_ci95": [low, high], "against": before}
