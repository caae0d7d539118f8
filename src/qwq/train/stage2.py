"""What stage 2 adds to the RL loop: the contract's checks, the canaries, and what a breach causes.

The checks read validation problems only. Between them nothing differs from `rl.RlTrainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwq.config import Contract
from qwq.model.transformer import Transformer
from qwq.reward.canaries import Canaries
from qwq.tasks.mix import ProblemMix
from qwq.train import contract
from qwq.train.checkpoint import StageRun, restore, snapshot
from qwq.train.optim import Optimizer

# Per-problem outcomes (1 or 0) of validation problems, by domain.
Outcomes = Mapping[str, list[float]]


@dataclass
class ContractState:
    """The outcomes at the start, by domain, and an entry for each check; part of the stage's state."""

    contract_before: dict[str, list[float]] | None = None
    contract_log: list[dict[str, Any]] = field(default_factory=list)


class ContractGuard:
    """Called after every step of stage 2; looks every `contract.every` steps and after the last
    one, and acts on what it finds.

    `replays` says for each held domain which families and sources of the mix replay it.
    """

    def __init__(
        self,
        config: Contract,
        replays: Mapping[str, list[str]],
        model: Transformer,
        optimizer: Optimizer,
        mix: ProblemMix,
        run: StageRun,
        *,
        steps: int,
        evaluate: Callable[[], Outcomes],
        canaries: Canaries | None = None,
    ) -> None:
        self.config, self.replays, self.mix, self.run = config, dict(replays), mix, run
        self.model, self.optimizer = model, optimizer
        self.steps, self.evaluate, self.canaries = steps, evaluate, canaries
        self.state = run.state.part(ContractState)
        # Not mix.shares: a resumed run finds them as an earlier breach has left them.
        self.base_shares = mix.base_shares

    def begin(self) -> None:
        """Measure the start of the stage, unless a checkpoint has brought the figures along."""
        if self.state.contract_before is None:
            self.state.contract_before = {d: list(v) for d, v in self.evaluate().items()}
        # The weights and moments of the last good check are in run.tensors, so that a resumed run has them
        # too.
        if self._rolls_back and not self.run.tensors:
            self.run.tensors = snapshot(self.model, self.optimizer)

    @property
    def _rolls_back(self) -> bool:
        return self.config.on_breach in ("rollback", "stop")

    def after_step(self, step: int, metrics: dict[str, Any]) -> None:
        last = step + 1 == self.steps or self.run.state.ended is not None
        if not last and (step + 1) % self.config.every:
            return
        self._look(step, metrics, last=last)

    def finish(self, *, changed: bool) -> dict[str, Any]:
        """After the last step; gives what the stage's record keeps.

        `changed`: the weights are no longer those that the last check saw, so they are looked at
        too.
        """
        log = self.state.contract_log
        if log and changed:
            self._look(log[-1]["step"], {}, last=True)
        if not log or not self.replays:
            return {"contract": log}
        outcome = contract.outcome(log, self.config.on_breach, self.config.max_drop)
        self.run.progress.note(f"{self.run.name}: contract {outcome['text']}")
        return {"contract": log, "contract_outcome": outcome}

    def _look(self, step: int, metrics: dict[str, Any], *, last: bool) -> None:
        """One check: findings, canaries, what a breach causes, alarms."""
        now = self.evaluate()
        assert self.state.contract_before is not None, "begin() comes first"
        findings = contract.check(self.config, list(self.replays), self.state.contract_before, now)
        entry: dict[str, Any] = {
            "step": step,
            "validation": {d: sum(v) / len(v) for d, v in now.items()},
            "findings": [f.to_dict() for f in findings],
            "reward_model": metrics.get("reward_terms", {}).get("reward_model"),
        }
        alarms = []
        if self.canaries:
            entry["canaries"] = self.run.world.alone(self.canaries.check)
            alarms += self.canaries.alarms(entry["canaries"])
        breached = [f.domain for f in findings if f.state == "breach"]
        if breached:
            entry["action"] = self._act_last(breached) if last else self._act(breached)
            entry["shares"] = dict(self.mix.shares)
            alarms.append(f"contract: {', '.join(breached)} fell beyond {self.config.max_drop:.0%}: {entry['action']}")
        else:
            if self.config.on_breach == "hold" and self.mix.shares != self.base_shares:
                self.mix.shares = dict(self.base_shares)
                entry["action"] = "the held domains are back within the contract: the full mix again"
            if self._rolls_back:
                self.run.tensors = snapshot(self.model, self.optimizer)
        self._record(entry, metrics, alarms, step)

    def _record(self, entry: dict[str, Any], metrics: dict[str, Any], alarms: list[str], step: int) -> None:
        log = self.state.contract_log
        log.append(entry)
        scores = [e["reward_model"] for e in log if e["reward_model"] is not None]
        truths = [e["validation"]["preference"] for e in log if "preference" in e["validation"]]
        if len(scores) == len(truths) and contract.reward_hacking(scores, truths):
            alarms.append(
                "the reward model's score rises while the rule's accuracy does not: lower its weight or stop the stage"
            )
        metrics["contract"] = entry
        if alarms:
            metrics.setdefault("alarms", []).extend(alarms)
            for alarm in alarms:
                self.run.progress.note(f"{self.run.name}, step {step + 1}: {alarm}")

    def _act_last(self, breached: list[str]) -> str:
        """No step follows: either the last good weights are handed on, or the breach is."""
        if self._rolls_back:
            restore(self.model, self.optimizer, self.run.tensors)
            return "the stage is over, weights of the last good check put back"
        return "the stage is over in breach, its last weights are handed on"

    def _act(self, breached: list[str]) -> str:
        c = self.config
        if c.on_breach == "stop":
            restore(self.model, self.optimizer, self.run.tensors)
            self.run.state.ended = (
                f"{self.run.name} ends early by the contract ({', '.join(breached)}): weights of the last good "
                "check put back"
            )
            return "the stage ends, weights of the last good check put back"
        if c.on_breach == "hold":
            self.mix.shares = contract.held(self.base_shares, self.replays)
            return f"training on {', '.join(n for n, w in self.mix.shares.items() if w)} only until the next check"
        others = self.mix.shares.keys() - {name for domain in breached for name in self.replays[domain]}
        self.mix.shares = contract.reweighted(self.mix.shares, self.replays, breached, c.reweight)
        drawn = "mix now " + ", ".join(f"{name} {w:.2f}" for name, w in self.mix.shares.items())
        drawn = drawn if others else "the mix stays, as there is nothing else in it"
        if self._rolls_back:
            restore(self.model, self.optimizer, self.run.tensors)
            return f"weights of the last good check put back, {drawn}"
        return drawn
