"""What a stage gets to run with: its recipe, the run's models and inputs, and its own loop with
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.config import ComputeSection, Lora, Recipe
from qwq.engine.sampler import SamplingParams
from qwq.eval.run import evaluate
from qwq.model import lora
from qwq.model.transformer import Transformer
from qwq.pipeline.inputs import RunInputs
from qwq.pipeline.models import RunModels
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import StageRun
from qwq.types import Problem

VALIDATION_SEED = 17


@dataclass(slots=True)
class StageJob:
    """One stage of a run, about to be done.

    `run` takes its steps; `record_of` reads what a finished stage left in stages/NAME.json.
    """

    recipe: Recipe
    name: str
    chat: ChatFormat
    models: RunModels
    inputs: RunInputs
    run: StageRun
    record_of: Callable[[str], dict[str, Any] | None]

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def compute(self) -> ComputeSection:
        return self.recipe.compute

    def start_model(self) -> Transformer:
        """The weights that the stage starts from, loaded once more at every call."""
        return self.models.start_of(self.name, self.chat)

    def policy(self, adapters: Lora | None = None) -> Transformer:
        """The start with fresh adapters, ready to be trained."""
        model = self.start_model()
        if adapters:
            lora.add(model, rank=adapters.rank, alpha=adapters.alpha, seed=self.seed)
        model.recompute, model.offload = self.compute.recompute, self.compute.offload
        return model

    def data(self, owner: str | None = None) -> Any:
        """What `read_data` made of the stage's own file (of another's, `owner`); None if that was
        not read.
        """
        return self.inputs.own.get(owner or self.name)

    def outcomes(
        self, model: Transformer, problems: Mapping[str, Sequence[Problem]], max_new_tokens: int
    ) -> dict[str, list[float]]:
        """1 or 0 for each problem, by name: one sampled answer each, graded by the verifiers.

        The first process does it, the others wait.
        """
        if not problems:
            return {}
        params = SamplingParams(max_new_tokens=max_new_tokens)

        def outcomes() -> dict[str, list[float]]:
            results = evaluate(model, self.chat, problems, params, max_rows=self.compute.max_rows, seed=VALIDATION_SEED)
            return {name: result.passed for name, result in results.items()}

        return self.run.world.alone(outcomes)
