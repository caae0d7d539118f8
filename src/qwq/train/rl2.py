"""What stage 2 adds to the RL loop: the contract's checks, the canaries, and what a breach causes.

The checks read validation problems only. Between them nothing differs from `rl.RlTrainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwq.config import Rl2Stage
from qwq.model.transformer import Transformer
from qwq.problems.mixing import ProblemMix
from qwq.reward.canaries import Canaries
from qwq.train import contract
from qwq.train.checkpoint import StageRun, clone_weights, load_trained

# Per-problem outcomes (1 or 0) of validation problems, by domain.
Outcomes = Mapping[str, list[float]]


class ContractGuard:
    """Called after every step of stage 2; looks every `contract.every` steps and acts on what it finds."""

    def __init__(
        self,
        config: Rl2Stage,
        model: Transformer,
        mix: ProblemMix,
        run: StageRun,
        evaluate: Callable[[], Outcomes],
        canaries: Canaries | None,
    ) -> None:
        self.config, self.model, self.mix, self.run = config, model, mix, run
        self.evaluate, self.canaries = evaluate, canaries
        # Not mix.weights: a run that goes on finds them as an earlier breach has left them.
        self.base_weights = config.mix.weights()

    def begin(self) -> None:
        """Measure the start of the stage, unless a checkpoint has brought the figures along."""
        if "contract_before" not in self.run.state:
            self.run.state["contract_before"] = {d: list(v) for d, v in self.evaluate().items()}
            self.run.state["contract_log"] = []
        # The weights of the last good check are in run.tensors, so that a run that goes on has them too.
        if self._rolls_back and not self.run.tensors:
            self.run.tensors = clone_weights(self.model)

    @property
    def _rolls_back(self) -> bool:
        return self.config.contract.on_breach in ("rollback", "stop")

    def after_step(self, step: int, metrics: dict[str, Any]) -> None:
        terms = metrics.get("reward_terms", {})
        log = self.run.state["contract_log"]
        if (step + 1) % self.config.contract.every:
            return
        now = self.evaluate()
        findings = contract.check(self.config.contract, self.run.state["contract_before"], now)
        entry: dict[str, Any] = {
            "step": step,
            "validation": {d: sum(v) / len(v) for d, v in now.items()},
            "findings": [f.to_dict() for f in findings],
            "reward_model": terms.get("reward_model"),
        }
        alarms = []
        if self.canaries:
            entry["canaries"] = self.canaries.check()
            alarms += self.canaries.alarms(entry["canaries"])
        breached = [f.domain for f in findings if f.state == "breach"]
        if breached:
            entry["action"] = self._act(breached)
            alarms.append(f"contract: {', '.join(breached)} fell beyond {self.config.contract.max_drop:.0%}: {entry['action']}")
        else:
            if self.mix.weights.keys() == self.base_weights.keys() and any(w == 0 for w in self.mix.weights.values()):
                self.mix.weights = dict(self.base_weights)
                entry["action"] = "the held domains are back within the contract: the full mix again"
            if self._rolls_back:
                self.run.tensors = clone_weights(self.model)
        log.append(entry)
        scores = [e["reward_model"] for e in log if e["reward_model"] is not None]
        truths = [e["validation"]["preference"] for e in log if "preference" in e["validation"]]
        if len(scores) == len(truths) and contract.reward_hacking(scores, truths):
            alarms.append("the reward model's score rises while the rule's accuracy does not: lower its weight or stop the stage")
        metrics["contract"] = entry
        if alarms:
            metrics.setdefault("alarms", []).extend(alarms)
            for alarm in alarms:
                self.run.progress.note(f"{self.run.name}, step {step + 1}: {alarm}")

    def _act(self, breached: list[str]) -> str:
        c = self.config.contract
        if c.on_breach == "stop":
            load_trained(self.model, self.run.tensors)
            self.run.state["ended"] = f"{self.run.name} ends early by the contract ({', '.join(breached)}): weights of the last good check put back"
            return "the stage ends, weights of the last good check put back"
        if c.on_breach == "hold":
            self.mix.weights = contract.held(self.base_weights, c.domains)
            return f"training on {', '.join(c.domains)} only until the next check"
        self.mix.weights = contract.reweighted(self.mix.weights, breached, c.reweight)
        shares = ", ".join(f"{d} {w:.2f}" for d, w in self.mix.weights.items())
        if self._rolls_back:
            load_trained(self.model, self.run.tensors)
            return f"weights of the last good check put back, mix now {shares}"
        return f"mix now {shares}"
