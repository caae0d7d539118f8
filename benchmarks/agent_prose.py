"""Reports over outputs of many kinds: which right numbers are flagged, which wrong ones are caught.

    python benchmarks/agent_prose.py                       # all sets, half a minute; needs pandas
    python benchmarks/agent_prose.py --set first --show

A set is a file of `agent_prose/`, a list of scenes. A scene has `cells`, and a report `text` on
what they showed. A cell is code that runs in this process in an empty folder, in which `setup` has
written files, or a `code` with the output that it `shows` (SQL, shell, tools). In a text

- `{expression:format}` is computed from the variables of the cells and of `names`
- `«right|kind:wrong|kind:wrong»` is a right number and what is put in its place, one at a time;
  without a right part the wrong one is a claim that nothing computed

Kinds of wrong numbers: digit, swap (the right number of another row or column), unit (k for m,
percent for a fraction), sign, direction (fell for rose), total (a sum that is off), invented (never
computed). A wrong number is caught where the check gives it no source. Any other number of the text
is no claim, or right: where one is flagged, it counts as a right one that was flagged.
The last lines are JSON.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwq.agent.report import NumberSource
from qwq.agent.report.trace import Trace

SETS = {path.stem: path for path in sorted((Path(__file__).parent / "agent_prose").glob("*.toml"))}
EXPRESSION = re.compile(r"\{([^{}]+)\}")
SPEC = re.compile(r":([^\]\)\"':]*)$")
SLOT = re.compile(r"«([^»|]*)((?:\|\w+:[^»|]*)*)»")
NEAR = 3  # characters beside a slot that belong to its number, as a sign or a unit


@dataclass(frozen=True)
class Slot:
    """A right number at [start, end) of a text, and (kind, text) of the wrong ones."""

    start: int
    end: int
    wrong: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    text: str
    slots: Sequence[Slot]
    sources: Sequence[NumberSource]


def european(value: float, decimals: int = 0) -> str:
    """1.234,5"""
    return f"{value:,.{decimals}f}".replace(",", "_").replace(".", ",").replace("_", ".")


def build(scene: dict[str, Any]) -> Report:
    """Run the cells, fill the text."""
    names: dict[str, Any] = {"eu": european}
    sources = [NumberSource("task", scene["task"])]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(scene.get("setup", ""), names)  # the sets are ours
        for i, cell in enumerate(scene["cells"], 1):
            code, shown = (cell, shows(cell, names)) if isinstance(cell, str) else (cell["code"], cell["shows"])
            sources.append(NumberSource(f"cell {i}", shown.strip("\n"), code))
        exec(scene.get("names", ""), names)
        text = EXPRESSION.sub(lambda match: filled(match[1], names), scene["text"])
    out, slots, last = "", [], 0
    for match in SLOT.finditer(text):
        out += text[last : match.start()]
        wrong = [part.partition(":")[::2] for part in match[2].split("|")[1:]]
        slots.append(Slot(len(out), len(out) + len(match[1]), wrong))
        out, last = out + match[1], match.end()
    return Report(out + text[last:], slots, sources)


def shows(code: str, names: dict[str, Any]) -> str:
    """What a cell prints, with the value of its last expression."""
    body = ast.parse(code).body
    last = body[-1] if isinstance(body[-1], ast.Expr) else None
    body = body[:-1] if last else body
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
        if value is not None:
            print(repr(value))
    return out.getvalue()


def filled(expression: str, names: dict[str, Any]) -> str:
    spec = SPEC.search(expression)
    value = eval(expression[: spec.start()] if spec else expression, names)
    return format(value, spec[1] if spec else "")


def flagged_in(trace: Trace, text: str, start: int, end: int) -> bool:
    checks = trace.check(text)
    return any(c.source is None and c.start < end + NEAR and start - NEAR < c.end for c in checks)


def planted(report: Report, trace: Trace) -> Iterator[tuple[str, str, bool]]:
    """(kind, the line with the wrong number, whether it was caught)."""
    for slot in report.slots:
        for kind, wrong in slot.wrong:
            text = report.text[: slot.start] + wrong + report.text[slot.end :]
            line = text[text.rfind("\n", 0, slot.start) + 1 : slot.start] + f">>{wrong}<<"
            line += text[slot.start + len(wrong) :].partition("\n")[0]
            yield kind, line, flagged_in(trace, text, slot.start, slot.start + len(wrong))


def measure(name: str, show: bool) -> dict[str, Any]:
    right = flagged = 0
    wrong: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    for scene in tomllib.loads(SETS[name].read_text(encoding="utf-8"))["scene"]:
        report = build(scene)
        trace = Trace(report.sources)
        bad = [c for c in trace.check(report.text) if c.source is None]
        slots = [s for s in report.slots if s.end > s.start]
        hit = [s for s in slots if any(c.start < s.end and s.start < c.end for c in bad)]
        stray = [c for c in bad if not any(c.start < s.end and s.start < c.end for s in slots)]
        right += len(slots) + len(stray)
        flagged += len(hit) + len(stray)
        if show:
            for check in bad:
                a, b = max(0, check.start - 90), check.end + 60
                print("FLAGGED", scene["name"], repr(report.text[a:b]), check.text, "|", check.reason)
        for kind, line, is_caught in planted(report, trace):
            wrong[kind] += 1
            caught[kind] += is_caught
            if show and not is_caught:
                print("MISSED", scene["name"], kind, line[-300:])
    return {
        "right": right,
        "flagged": flagged,
        "flagged_share": round(flagged / right, 4),
        "wrong": sum(wrong.values()),
        "caught_share": round(sum(caught.values()) / sum(wrong.values()), 4),
        "caught": {kind: f"{caught[kind]} of {n}" for kind, n in sorted(wrong.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=sorted(SETS), action="append", dest="sets")
    parser.add_argument("--show", action="store_true", help="print what went wrong")
    options = parser.parse_args()
    for name in options.sets or SETS:
        print(
            json.dumps({"name": f"agent_prose/{name}", **measure(name, options.show)}, ensure_ascii=False), flush=True
        )


if __name__ == "__main__":
    main()
