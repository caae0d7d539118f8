"""The stage contract: what stage 1 learnt must not be lost in stage 2.

While stage 2 runs, the held domains are sampled on fixed validation problems of what the stage
replays, families and real sets alike, and compared, problem by problem, with the same model as it
was at the end of stage 1. A domain is in breach when the 95% paired interval of its drop lies
wholly beyond `max_drop`: noise alone does not trip it. A drop whose interval reaches beyond
`max_drop` while its mean does is a warning. What a breach causes is the recipe's choice:

- hold: until the next check prompts are drawn from the held domains alone;
- reweight: the shares of what replays the breached domains grow by a factor;
- rollback: the weights of the last check without a breach are put back, and the shares grow as
  well;
- stop: those weights are put back, and the stage ends.

Shares are those of the prompts: of families and of sources, each under its own name. `replays` says
which of them replay what is held. After the last step there is always a check. What it finds
decides which weights are handed on (rollback, stop) or is said (hold, reweight).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.common.stats import paired_difference
from qwq.config import Contract


@dataclass(frozen=True, slots=True)
class Finding:
    """One domain at one check: the mean change against the end of stage 1 and its 95% interval, as
    fractions.
    """

    domain: str
    change: float
    low: float
    high: float
    state: str  # ok, warning, breach

    def to_dict(self) -> dict[str, Any]:
        return {"domain": self.domain, "change": self.change, "ci95": [self.low, self.high], "state": self.state}


def check(
    contract: Contract,
    domains: Sequence[str],
    before: Mapping[str, Sequence[float]],
    now: Mapping[str, Sequence[float]],
) -> list[Finding]:
    """Compare per-problem outcomes (1 or 0) of the held domains with those at the end of stage
    1.
    """
    findings = []
    for domain in domains:
        change, low, high = paired_difference(before[domain], now[domain])
        state = "breach" if high < -contract.max_drop else "warning" if change < -contract.max_drop else "ok"
        findings.append(Finding(domain, change, low, high, state))
    return findings


def can_breach(contract: Contract, num_problems: int) -> bool:
    """Whether a domain watched on so many problems is in breach at least where all of them, right
    before, are wrong now.
    """
    return num_problems > 0 and paired_difference([1.0] * num_problems, [0.0] * num_problems)[2] < -contract.max_drop


def reweighted(
    shares: Mapping[str, float], replays: Mapping[str, Sequence[str]], breached: Sequence[str], factor: float
) -> dict[str, float]:
    """Shares of the prompts with those of what replays the breached domains grown by `factor`,
    summing to what they summed to.
    """
    total = sum(shares.values())
    growing = {name for domain in breached for name in replays[domain]}
    grown = {name: w * (factor if name in growing else 1.0) for name, w in shares.items()}
    scale = total / sum(grown.values())
    return {name: w * scale for name, w in grown.items()}


def held(shares: Mapping[str, float], replays: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Only what replays the held domains keeps its share."""
    replayed = {name for names in replays.values() for name in names}
    return {name: (w if name in replayed else 0.0) for name, w in shares.items()}


def outcome(log: Sequence[Mapping[str, Any]], on_breach: str, max_drop: float) -> dict[str, Any]:
    """What the whole stage's checks came to: `state` (kept, breached, restored), counts, the last
    change of each domain, and a sentence.

    `kept`: the last check found no breach. `breached`: it found one, and the weights are handed on
    all the same. `restored`: it found one, or an earlier one ended the stage, and the weights of
    the last good check are handed on.
    """
    breaches = [e for e in log if any(f["state"] == "breach" for f in e["findings"])]
    last = log[-1]
    broken = [f["domain"] for f in last["findings"] if f["state"] == "breach"]
    changes = {f["domain"]: f["change"] for f in last["findings"]}
    found = ", ".join(
        f"{f['domain']} {100 * f['change']:+.1f} [{100 * f['ci95'][0]:+.1f}, {100 * f['ci95'][1]:+.1f}]"
        for f in last["findings"]
    )
    count = f"{len(log)} checks, {len(breaches)} in breach" if len(log) != 1 else f"1 check, {len(breaches)} in breach"
    unsure = [f["domain"] for f in last["findings"] if f["state"] == "warning"]
    if not broken:
        state, said = "kept", f"kept at the last check ({found})"
        said += (
            f", though a drop of {', '.join(unsure)} beyond {100 * max_drop:g} points is more likely than not"
            if unsure
            else ""
        )
    elif on_breach in ("rollback", "stop"):
        state, said = (
            "restored",
            f"broken by {', '.join(broken)} at the last check ({found}): the weights of the last good check are "
            "handed on",
        )
    else:
        state = "breached"
        said = (
            f"BROKEN by {', '.join(broken)} at the last check ({found}), and these weights are handed on: on_breach "
            '= "rollback" would put the last good ones back'
        )
    acted = [e["action"] for e in breaches if "action" in e]
    return {
        "state": state,
        "checks": len(log),
        "breaches": len(breaches),
        "changes": changes,
        "max_drop": max_drop,
        "actions": acted,
        "text": f"{said}; {count}",
    }


def reward_hacking(scores: Sequence[float], accuracies: Sequence[float], *, rise: float = 0.1) -> bool:
    """True when the reward model's mean score rose by `rise` over the last two checks while rule
    accuracy did not.
    """
    if len(scores) < 3:
        return False
    return scores[-1] - scores[-3] > rise and accuracies[-1] <= accuracies[-3]
