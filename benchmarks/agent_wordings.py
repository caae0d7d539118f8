"""How numbers are worded in reports: which right ones are flagged, which wrong ones are caught.

    python benchmarks/agent_wordings.py                    # half a minute; needs pandas
    python benchmarks/agent_wordings.py --bank held-out --show

A table is drawn from a seed, pandas prints what cells would have printed, and sentences of a bank
are filled from it: `«right»` or `«right|other»`, where `other` is the right number of something
else. The banks are by the kind of wording. `tuning` is what the rules were written on; each of
`held-out`, `last` and `unseen` was written when the rules covered the banks before it, scored at
first sight (docs/lab_log.md), and then the rules were extended by the kinds that it showed.
Sentences of the kind `no claim` have numbers that are none: dates, list numbers, versions, names.
What is flagged there counts as flagged too.

Wrong numbers: `digit` has another digit, `other` is the other number, `word` another word of number
above ten (smaller ones are not read).
The last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from agent_wordings_banks import BANKS
from arguments import at_least

from qwq.agent.report import NumberSource, check_numbers

SLOT = re.compile(r"«([^»|]*)(?:\|([^»]*))?»")
WORDS = "eleven twelve thirteen fourteen fifteen sixteen twenty".split()
KINDS = {
    "region": ["North", "South", "East", "West", "Centre"],
    "product": ["Desk", "Chair", "Lamp", "Shelf", "Sofa", "Rug"],
    "city": ["Lyon", "Porto", "Ghent", "Turin"],
    "team": ["Platform", "Billing", "Search"],
}


@dataclass(frozen=True)
class Drawn:
    """Names and values that sentences take; `cells` is what was printed."""

    names: dict[str, Any]
    cells: Sequence[tuple[str, str]]


def draw(rng: random.Random) -> Drawn:
    """A table of sales, and what was computed of it."""
    axis = rng.choice(list(KINDS))
    labels = rng.sample(KINDS[axis], len(KINDS[axis]))
    rows = []
    for label in labels:
        level = rng.uniform(40, 900)
        for year in (2021, 2022, 2023, 2024):
            for _ in range(rng.randrange(11, 30)):
                revenue = round(rng.gauss(level, level / 6) * (1 + 0.07 * (year - 2021)), 2)
                rows.append((label, year, rng.randrange(3, 60), revenue, int(rng.random() < 0.2)))
    df = pd.DataFrame(rows, columns=[axis, "year", "units", "revenue", "returned"])
    total = df.groupby(axis)["revenue"].sum().round(2)
    stats = df.groupby(axis)["revenue"].agg(["count", "mean", "median", "std"]).round(2)
    share = (total / total.sum()).round(4)
    years = df.groupby("year")[["revenue", "units"]].sum()
    years["growth"] = years["revenue"].pct_change().round(4)
    rate = df.groupby(axis)["returned"].mean().round(4)
    corr = round(float(df["units"].corr(df["revenue"])), 4)
    p = float(f"{10 ** rng.uniform(-5, -2):.3g}")
    order = list(total.sort_values(ascending=False).index)
    cells = [
        ("df.shape", str(df.shape)),
        (f"total = df.groupby('{axis}')['revenue'].sum().round(2)\ntotal", str(total)),
        (f"df.groupby('{axis}')['revenue'].agg(['count', 'mean', 'median', 'std']).round(2)", str(stats)),
        ("(total / total.sum()).round(4).to_dict()", str(share.to_dict())),
        ("years", str(years)),
        ("for k, v in rate.items(): print(f'{k}: {v:.2%} returned')",
         "\n".join(f"{k}: {v:.2%} returned" for k, v in rate.items())),
        ("print('total revenue', total.sum())", f"total revenue {total.sum():.2f}"),
        ("print(f'r = {r:.4f}, p = {p:.3g}')", f"r = {corr:.4f}, p = {p:.3g}"),
        ("df['revenue'].describe()", str(df["revenue"].describe())),
    ]  # fmt: skip
    a, b = order[0], order[-1]
    names = {
        "axis": axis, "A": a, "B": b, "C": order[1], "n": len(df), "k": len(labels), "cols": df.shape[1],
        "total": total, "stats": stats, "share": share, "rate": rate, "years": years, "corr": corr, "p": p,
        "all": float(total.sum()), "mean": float(df["revenue"].mean()), "sd": float(df["revenue"].std()),
        "low": float(df["revenue"].min()), "high": float(df["revenue"].max()), "df": df,
        "returned": int(df["returned"].sum()), "word": word,
    }  # fmt: skip
    return Drawn(names, cells)


def word(value: int) -> str:
    """A whole number up to twenty in words."""
    ones = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty").split()  # fmt: skip
    return ones[value]


def fill(sentence: str, names: dict[str, Any]) -> str:
    """The sentence with its `{expressions}` evaluated."""
    return str(eval(f"f{sentence!r}", dict(names)))  # the banks are ours


@dataclass(frozen=True)
class Filled:
    text: str
    slots: list[tuple[int, int, str]]


def cut(filled: str) -> Filled:
    """The text without marks, and where its right numbers are."""
    out, slots, last = "", [], 0
    for match in SLOT.finditer(filled):
        out += filled[last : match.start()]
        slots.append((len(out), len(out) + len(match[1]), match[2] or ""))
        out, last = out + match[1], match.end()
    return Filled(out + filled[last:], slots)


def wrong(right: str, other: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, text) of wrong numbers."""
    digits = [i for i, c in enumerate(right) if c.isdigit()]
    if len(digits) > 1:
        i = rng.choice(digits[:4])  # the last ones may be rounded away by "about"
        yield "digit", right[:i] + rng.choice([d for d in "123456789" if d != right[i]]) + right[i + 1 :]
    elif not digits and right.lower() in WORDS:
        yield "word", rng.choice([w for w in WORDS if w != right.lower()])
    if other and other != right:
        yield "other", other


def measure(bank: str, seeds: int, show: bool) -> dict[str, Any]:
    right: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    planted: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    missed_in: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(seeds):
        drawn = draw(random.Random(f"{bank} {seed}"))
        rng = random.Random(seed)
        sources = [NumberSource("task", "Analyse sales.csv."), *(
            NumberSource(f"cell {i}", text, code) for i, (code, text) in enumerate(drawn.cells, 1)
        )]  # fmt: skip
        for kind, sentences in BANKS[bank].items():
            for sentence in sentences:
                made = cut(fill(sentence, drawn.names))
                checks = check_numbers(made.text, sources)
                bad = [c for c in checks if c.source is None]
                free = [c for c in bad if not any(c.start < e and s < c.end for s, e, _ in made.slots)]
                hit = [s for s in made.slots if any(c.start < s[1] and s[0] < c.end for c in bad)]
                right[kind] += max(1, len(made.slots))
                flagged[kind] += len(hit) + len(free)
                if show and bad:
                    print("FLAGGED", kind, repr(made.text[:300]), [(c.text, c.reason) for c in bad])
                for start, end, other in made.slots:
                    for way, text in wrong(made.text[start:end], other, rng):
                        changed = made.text[:start] + text + made.text[end:]
                        planted[way] += 1
                        found = [c for c in check_numbers(changed, sources) if c.source is None]
                        if any(c.start < start + len(text) + 3 and start - 3 < c.end for c in found):
                            caught[way] += 1
                        else:
                            missed_in[way][kind] += 1
                            if show:
                                print("MISSED", way, kind, repr(changed[:300]), f"{made.text[start:end]} -> {text}")
    total = sum(right.values())
    rates = {way: caught[way] / planted[way] for way in planted}
    return {
        "right": total,
        "flagged": sum(flagged.values()),
        "flagged_share": round(sum(flagged.values()) / total, 4),
        "flagged_by_kind": {k: f"{flagged[k]} of {right[k]}" for k in right if flagged[k]},
        "planted": dict(planted),
        "caught": {way: round(rate, 4) for way, rate in rates.items()},
        "caught_share": round(sum(rates.values()) / len(rates), 4),
        "missed_by_kind": {way: dict(counts) for way, counts in missed_in.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", choices=sorted(BANKS), action="append")
    parser.add_argument("--seeds", type=at_least(1), default=6)
    parser.add_argument("--show", action="store_true", help="print what went wrong")
    options = parser.parse_args()
    for bank in options.bank or BANKS:
        print(json.dumps({"name": f"agent_wordings/{bank}", **measure(bank, options.seeds, options.show)}))


if __name__ == "__main__":
    main()
