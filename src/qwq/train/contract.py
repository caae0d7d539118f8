"""The stage contract: what stage 1 learnt must not be lost in stage 2.

While stage 2 runs, the held domains are sampled on fixed validation problems and compared, problem by
problem, with the same model as it was at the end of stage 1. A domain is in breach when the 95% paired
interval of its drop lies wholly beyond `max_drop`: noise alone does not trip it. A drop whose interval
reaches beyond `max_drop` while its mean does is a warning. What a breach causes is the recipe's choice:

- hold: training goes on for the held domains only until the next check;
- reweight: the domain's share of the prompts grows by a factor;
- rollback: the weights of the last check without a breach are put back, and the share grows as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.config import Contract
from qwq.stats import paired_difference


@dataclass(frozen=True, slots=True)
class Finding:
    """One domain at one check: the mean change against the end of stage 1 and its 95% interval, as fractions."""

    domain: str
    change: float
    low: float
    high: float
    state: str  # ok, warning, breach

    def to_dict(self) -> dict[str, Any]:
        return {"domain": self.domain, "change": self.change, "ci95": [self.low, self.high], "state": self.state}


def check(contract: Contract, before: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> list[Finding]:
    """Compare per-problem outcomes (1 or 0) of the held domains with those at the end of stage 1."""
    findings = []
    for domain in contract.domains:
        change, low, high = paired_difference(before[domain], now[domain])
        state = "breach" if high < -contract.max_drop else "warning" if change < -contract.max_drop else "ok"
        findings.append(Finding(domain, change, low, high, state))
    return findings


def reweighted(weights: Mapping[str, float], breached: Sequence[str], factor: float) -> dict[str, float]:
    """Shares of the prompts with the breached domains' grown by `factor`, summing to what they summed to."""
    total = sum(weights.values())
    grown = {d: w * (factor if d in breached else 1.0) for d, w in weights.items()}
    scale = total / sum(grown.values())
    return {d: w * scale for d, w in grown.items()}


def held(weights: Mapping[str, float], domains: Sequence[str]) -> dict[str, float]:
    """Only the held domains keep their shares."""
    return {d: (w if d in domains else 0.0) for d, w in weights.items()}


def reward_hacking(scores: Sequence[float], accuracies: Sequence[float], *, rise: float = 0.1) -> bool:
    """True when the reward model's mean score rose by `rise` over the last two checks while rule accuracy did not."""
    if len(scores) < 3:
        return False
    return scores[-1] - scores[-3] > rise and accuracies[-1] <= accuracies[-3]
