"""How many right numbers of reports are flagged, and how many wrong ones are caught.

    python benchmarks/agent_numbers.py                     # all sets: two minutes; needs pandas
    python benchmarks/agent_numbers.py --set held-out --show

Tables are drawn from seeds, cells are run on them in the sandbox, and the reports in
`agent_numbers/` are filled with the right values: `[[expression|format|other]]` is a right number,
and `other` the value of another row or label, which is put there for a swapped one. Each file says
whether the rules were tuned on it. Then one number at a time is made wrong:

- digit: one digit is another one
- sign: a minus is added, or taken away
- percent: a hundred times less or more (0.384% for 38.4%), or a percent sign behind a fraction
- swapped: the right value of another row, column or label

A wrong number is caught where the check gives it no source. Kinds weigh the same in the total.
Strict mode, in which texts hold placeholders, is tried on the same reports: each number is typed by
hand instead of its placeholder. The last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_numbers_tables import TABLES, Rows
from arguments import at_least

from qwq.agent.report import NumberSource, check_numbers
from qwq.agent.report.steps import CallRecord
from qwq.agent.report.strict import Registered, fill
from qwq.sandbox import Sandbox, Session

KINDS = ("digit", "sign", "percent", "swapped")
SLOT = re.compile(r"\[\[((?:(?!\]\](?!\])).)+)\]\]", re.S)
FILL = (
    "def _say(value, spec):\n"
    "    value = value.item() if hasattr(value, 'item') else value\n"
    "    return format(int(value) if spec.endswith('d') else value, spec)\n"
)


SETS = {path.stem: path for path in sorted((Path(__file__).parent / "agent_numbers").glob("*.toml"))}


@dataclass(frozen=True)
class Case:
    """One report before it is filled: `table` names the data, `task` is what the user typed."""

    table: str
    task: str
    cells: Sequence[str]
    text: str


def cases(name: str) -> list[Case]:
    return [Case(**row) for row in tomllib.loads(SETS[name].read_text(encoding="utf-8"))["report"]]


@dataclass(frozen=True)
class Slot:
    """A right number at [start, end) of a report, and the right number of something else."""

    start: int
    end: int
    other: str


@dataclass(frozen=True)
class Report:
    text: str
    slots: list[Slot]
    sources: list[NumberSource]


def as_csv(rows: Rows) -> bytes:
    return "\n".join(",".join(map(str, row)) for row in rows).encode()


def table_of(case: Case, seed: int, folder: Path | None) -> bytes:
    """A table that is drawn, or a real one of `folder`."""
    if case.table in TABLES:
        return as_csv(TABLES[case.table](random.Random(seed)))
    assert folder is not None, "main leaves these out"
    return (folder / f"{case.table}.csv").read_bytes()


def build(case: Case, session: Session, seed: int, folder: Path | None = None) -> Report:
    """Run the cells, fill the text."""
    session.put(f"{case.table}.csv", table_of(case, seed, folder))
    sources = [NumberSource("task", case.task)]
    for i, code in enumerate(case.cells, 1):
        code = code.replace("{table}", case.table)
        result = session.run(code)
        if result.error:
            sys.exit(f"error: a cell of {case.table} raised {result.error[1]}\n{code}")
        sources.append(NumberSource(f"cell {i}", result.text, code))
    wanted = [[part.strip() for part in _parts(match[1])] for match in SLOT.finditer(case.text)]
    pairs = [(expression, spec) for expression, spec, *_ in wanted]
    pairs += [(other[0], spec) for _, spec, *other in wanted if other]
    code = FILL + "print([" + ",\n".join(f"_say({e}, {spec!r})" for e, spec in pairs) + "])"
    result = session.run(code)
    if result.error:
        sys.exit(f"error: the report on {case.table}: {result.error[1]}")
    values = iter(json.loads(result.stdout.decode().replace("'", '"')))
    texts = [next(values) for _ in wanted]
    others = [next(values) if len(parts) > 2 else "" for parts in wanted]
    out, slots, last, length = [], [], 0, 0
    for match, text, other in zip(SLOT.finditer(case.text), texts, others, strict=True):
        piece = case.text[last : match.start()]
        out += [piece, text]
        slots.append(Slot(length + len(piece), length + len(piece) + len(text), other))
        length, last = length + len(piece) + len(text), match.end()
    return Report("".join([*out, case.text[last:]]), slots, sources)


def _parts(slot: str) -> list[str]:
    """expression|format|other; `|` inside brackets belongs to an expression."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(slot):
        depth += (c in "([") - (c in ")]")
        if c == "|" and not depth:
            parts.append(slot[begin:i])
            begin = i + 1
    return [*parts, slot[begin:]]


# -- wrong numbers ---------------------------------------------------------------------------------


def wrong(report: Report, slot: Slot, kind: str, rng: random.Random) -> str | None:
    """Another text for the slot, None where this kind makes no sense."""
    right, before = report.text[slot.start : slot.end], report.text[: slot.start]
    after = report.text[slot.end :]
    made = {"digit": digit, "sign": sign, "percent": percent}.get(kind, lambda *_: slot.other)(
        right, before, after, rng
    )
    return made if made and made != right else None


def digit(right: str, before: str, after: str, rng: random.Random) -> str | None:
    places = [i for i, c in enumerate(right) if c.isdigit()]
    if len(places) < 2:
        return None
    i = rng.choice(places)
    choices = [d for d in "123456789" if d != right[i]]
    return right[:i] + rng.choice(choices) + right[i + 1 :]


def sign(right: str, before: str, after: str, rng: random.Random) -> str | None:
    if right.startswith("-"):
        # "negatively correlated (r = 0.8)" is right without its sign
        return None if re.search(r"negativ|fell|declin|负", before[-80:]) else right[1:]
    return None if re.search(r"[-\u2013]$", before) or float(re.sub(r"[,%]", "", right)) == 0 else "-" + right


def percent(right: str, before: str, after: str, rng: random.Random) -> str | None:
    if right.endswith("%") or after.startswith(("%", " percent")):
        digits = right.removesuffix("%")
        decimals = len(digits.partition(".")[2])
        value = float(digits.replace(",", ""))
        moved = f"{value / 100:.{decimals + 2}f}" if rng.random() < 0.5 else f"{value * 100:.{max(0, decimals - 1)}f}"
        return moved + right[len(digits) :]
    return right + "%" if re.fullmatch(r"-?0\.\d+", right) else None


def is_caught(report: Report, slot: Slot, text: str) -> bool:
    changed = report.text[: slot.start] + text + report.text[slot.end :]
    end = slot.start + len(text)
    checks = [c for c in check_numbers(changed, report.sources) if c.start < end and slot.start < c.end]
    return bool(checks) and any(c.source is None for c in checks)


def is_caught_strictly(report: Report, index: int, text: str) -> bool:
    """Whether the number is caught where all others are placeholders and this one is typed."""
    call = CallRecord("call-1", "cell 1", "python", {}, "", "", "ok", "workspace", 0.0)
    values, out, last, start = {}, [], 0, 0
    for i, slot in enumerate(report.slots):
        out.append(report.text[last : slot.start])
        shown = report.text[slot.start : slot.end]
        if i == index:
            start = len("".join(out))
            shown = text
        else:
            values[f"v{i}"] = Registered(call, {"name": f"v{i}", "kind": "value", "text": shown})
            shown = f"{{{{v{i}}}}}"
        out.append(shown)
        last = slot.end
    before = fill("".join(out)[:start], values).text
    checks = fill("".join([*out, report.text[last:]]), values).checks
    return any(c.source is None and c.start < len(before) + len(text) and len(before) < c.end for c in checks)


# -- the run ---------------------------------------------------------------------------------------


def measure(name: str, seeds: int, show: bool, folder: Path | None) -> dict[str, object]:
    right = flagged = 0
    planted: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    strictly: Counter[str] = Counter()
    unread = 0
    with Sandbox() as box:
        for case in cases(name):
            for seed in range(seeds if case.table in TABLES else 1):
                with box.session() as session:
                    report = build(case, session, seed, folder)
                checks = check_numbers(report.text, report.sources)
                for slot in report.slots:
                    mine = [c for c in checks if c.start < slot.end and slot.start < c.end]
                    right += 1
                    unread += not mine
                    if any(c.source is None for c in mine):
                        flagged += 1
                        if show:
                            print("FLAGGED", case.table, seed, context(report.text, slot, ""), [c.reason for c in mine])
                stray = [c for c in checks if not any(c.start < s.end and s.start < c.end for s in report.slots)]
                for check in stray:
                    if check.source is None:
                        flagged += 1
                        if show:
                            print("FLAGGED (no slot)", case.table, check)
                    right += 1
                rng = random.Random(f"{case.table} {seed}")
                for index, slot in enumerate(report.slots):
                    for kind in KINDS:
                        text = wrong(report, slot, kind, rng)
                        if text is None:
                            continue
                        planted[kind] += 1
                        strictly[kind] += is_caught_strictly(report, index, text)
                        if is_caught(report, slot, text):
                            caught[kind] += 1
                        elif show:
                            print("MISSED", kind, case.table, seed, context(report.text, slot, text))
    rates = {kind: caught[kind] / planted[kind] for kind in KINDS if planted[kind]}
    return {
        "right": right,
        "flagged": flagged,
        "flagged_share": round(flagged / right, 4),
        "unread": unread,
        "planted": dict(planted),
        "caught": {kind: round(rate, 4) for kind, rate in rates.items()},
        "caught_share": round(sum(rates.values()) / len(rates), 4),
        "caught_strictly": {kind: f"{strictly[kind]} of {planted[kind]}" for kind in KINDS},
    }


def context(text: str, slot: Slot, instead: str) -> str:
    a, b = text.rfind("\n", 0, slot.start) + 1, text.find("\n", slot.end)
    a, b = max(a, slot.start - 110), min(b if b >= 0 else len(text), slot.end + 70)
    mark = f"<<{text[slot.start : slot.end]}{' -> ' + instead if instead else ''}>>"
    return f"{text[a : slot.start]}{mark}{text[slot.end : b]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=sorted(SETS), action="append", dest="sets")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="tables drawn for each report")
    parser.add_argument("--show", action="store_true", help="print what went wrong")
    parser.add_argument("--tables", type=Path, help="folder of DABench's tables, for the set `real`")
    options = parser.parse_args()
    lines = []
    for name in options.sets or sorted(SETS):
        if options.tables is None and any(case.table not in TABLES for case in cases(name)):
            print(f"{name}: left out, it needs --tables")
            continue
        started = time.perf_counter()
        row = measure(name, options.seeds, options.show, options.tables)
        seconds = time.perf_counter() - started
        print(f"{name}: {row['right']} right numbers, {row['flagged']} flagged ({row['flagged_share']:.2%}); caught "
              f"{row['caught_share']:.1%}: {row['caught']} of {row['planted']};\n  strict: {row['caught_strictly']}; "
              f"{seconds:.0f} s")  # fmt: skip
        lines.append({"name": f"agent_numbers/{name}", **row})
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
