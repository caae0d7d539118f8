r"""LiveBench's scorers: one function a task, answer and question in, a score from 0 to 1 out.

Facts of the rules: LiveBench/LiveBench, livebench/process_results (Apache-2.0; White et al. 2024,
arXiv 2406.19314), for the tasks of the release of 2024-11-25. Departures: 1. AMPS_Hard compares by
`verify.math` instead of sympy's LaTeX grammar and a language model as the last judge. 2.
tablereformat reads tables itself instead of through pandas: cells that read as numbers are compared
as numbers, others as text.
"""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from qwq.common.source import literal

Scorer = Callable[[str, Mapping[str, Any]], float]
NUMBER_WORDS = dict(
    zip("zero one two three four five six seven eight nine ten eleven twelve".split(), map(str, range(13)), strict=True)
)


def boxed(text: str) -> str | None:
    r"""What the last \boxed or \fbox holds; None without one that closes."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    brace = text.find("{", start)
    if start < 0 or brace < 0:
        return None
    depth = 0
    for i in range(brace, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[brace + 1 : i].replace("$", "")
    return None


def plain(latex: str) -> str:
    return re.sub(r"\\(text|textbf|mathbf|mathrm)\{|[\\}]", "", latex)


def solutions(text: str) -> list[str]:
    """What is in <solution> tags; a first tag that was closed by mistake still opens."""
    return re.findall(r"<solution>(.*?)</solution>", text) or re.findall(r"</solution>(.*?)</solution>", text)


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


# -- maths -----------------------------------------------------------------------------------------


def amps_hard(answer: str, row: Mapping[str, Any]) -> float:
    from qwq.verify import math

    gold = row["ground_truth"][-1] if isinstance(row["ground_truth"], list) else str(row["ground_truth"])
    answer = re.sub(r"\+\s?[Cc]\b", "", answer.replace("\\fbox", "\\boxed"))
    return float(math.verify(answer, gold.replace("\\ ", "*")).correct)


def math_comp(answer: str, row: Mapping[str, Any]) -> float:
    """AMC and SMC by a letter, which is asked for five times over; AIME by its number."""
    gold = str(row["ground_truth"])
    kind = str(row.get("subtask") or row["task"])
    said = solutions(answer)
    if said and said[-1] and set(said[-1].lower()) == {gold.lower()}:
        return 1.0
    if kind.startswith("aime"):
        return float(gold in answer[-50:])
    if gold * 4 in answer or plain(boxed(answer) or "").lower() == gold.lower():
        return 1.0
    choices = dict(re.findall(r"\\textbf{\(([A-E])\)\s?}(.*?)(?:\\qquad|\$)", row["turns"][0]))
    value = choices.get(gold, "").strip().strip("$~")
    if value and value in answer[-20 - len(value) :]:
        return 1.0
    last = answer.strip().split("\n")[-1]
    inside = re.search(r"\(([^()]*)\)", last)
    return float(
        last.strip().replace("*", "").lower() == gold.lower()
        or (inside is not None and inside[1].lower() == gold.lower())
    )


def olympiad(answer: str, row: Mapping[str, Any]) -> float:
    """The order of a proof's formulas: one minus the edit distance over the longer list."""
    gold = [int(n) for n in str(row["ground_truth"]).split(",")]
    said = _numbers(answer)
    return 1 - edit_distance(said, gold) / max(len(said), len(gold))


def _numbers(answer: str) -> list[int | None]:
    lines = answer.lower().strip().split("\n")
    marked = [i for i, line in enumerate(lines) if "answer:" in line]
    candidates = []
    if marked:
        text = lines[marked[-1]].split("answer:")[1]
        if not text.strip(" *.") and marked[-1] + 1 < len(lines):
            text = lines[marked[-1] + 1]
        candidates.append([part.strip().split(" ")[-1] for part in re.sub(r"\*\*|\.", "", text).split(",")])
    if (box := boxed(answer)) is not None:
        candidates.append(plain(box).split(","))
    candidates.append([m[0] for part in lines[-1].split(",") if (m := re.search(r"\d+", part))])
    for parts in candidates:
        numbers = [int(n) if (n := re.sub(r"boxed|[${}\\<>\s]", "", p)).isdigit() else None for p in parts]
        if any(n is not None for n in numbers):
            return numbers
    return []


# -- reasoning -------------------------------------------------------------------------------------


def spatial(answer: str, row: Mapping[str, Any]) -> float:
    gold = str(row["ground_truth"]).strip().lower()
    for word in [w.strip().lower() for w in re.findall(r"\*\*([^*]+)\*\*", answer)[-3:]]:
        if gold in (word, NUMBER_WORDS.get(word)):
            return 1.0
        if (
            gold in ("tetrahedra", "tetrahedron", "triangle", "square")
            and gold in word
            and len(word) < 2 * len(gold) + 5
        ):
            return 1.0
    return float(answer.strip().lower() == gold or plain(boxed(answer) or "").strip().lower() == gold)


def web_of_lies(answer: str, row: Mapping[str, Any]) -> float:
    """Three of yes, no and unknown: in the tag, else the last three bold ones, else in a box, else
    the last plain three.
    """
    gold = str(row["ground_truth"]).lower()
    said = solutions(answer)[-1:]
    if not said:
        words = [w.lower().strip(",. ") for bold in re.findall(r"\*\*(.*?)\*\*", answer) for w in bold.split()]
        said = [", ".join([w for w in words if w in ("yes", "no", "unknown")][-3:])]
    if not said[0].strip():
        said = [boxed(answer.replace("\\textbf{", "\\boxed{")) or ""]
    if not said[0]:
        triples = [", ".join(t) for t in itertools.product(("yes", "no", "unknown"), repeat=3)]
        said = [max(triples, key=answer.lower().rfind)] if any(t in answer.lower() for t in triples) else [""]
    text = said[0].lower()
    return float(
        text == gold
        or (len(re.findall(r"yes|no(?!w)|unknown", text.replace("unknown", "unknow"))) == 3 and gold in text)
    )


def zebra_puzzle(answer: str, row: Mapping[str, Any]) -> float:
    """The mean of "all right" and the share of right ones; before 2024-11-25 one word in
    ***bold***, or the last.
    """
    gold = [g.strip().lower().replace("-", " ") for g in str(row["ground_truth"]).split(",")]
    if str(row.get("livebench_release_date", "9"))[:10] < "2024-11-25":
        words = re.findall(r"\*\*\*(\w+)\*\*\*", answer) or re.findall(r"\b\w+\b", answer) or [""]
        word = words[-1].lower()
        numbers = {v: k for k, v in NUMBER_WORDS.items()}
        return float(gold[0] in (word, numbers.get(word), f"{word} movies"))
    found = solutions(answer) or ([plain(box)] if (box := boxed(answer)) else [])
    last = answer.strip().split("\n")[-1]
    if not found and last.count(",") == len(gold) - 1:
        found = [last]
    said = [w.strip().lower().replace("-", " ").replace("position", "") for text in found for w in text.split(",")]
    said = said[-len(gold) :] if len(found) > 1 else said
    right = sum(g in s for g, s in zip(gold, said, strict=False))
    return ((right == len(gold)) + right / len(gold)) / 2


# -- language --------------------------------------------------------------------------------------


def connections(answer: str, row: Mapping[str, Any]) -> float:
    """The share of groups of four that are right; before 2024-11-25 in bold, the best bold list
    counts.
    """
    gold = _fours(str(row["ground_truth"]).split(","))
    joined = answer.replace("\n", "")
    if str(row.get("livebench_release_date", "9"))[:10] < "2024-11-25":
        lists = [_fours(b.split(",")) for b in re.findall(r"\*\*(.*?)\*\*", joined)]
        return max((sum(any(g <= s for s in said) for g in gold) / len(gold) for said in lists), default=0.0)
    found = solutions(answer) or solutions(joined) or ([plain(box)] if (box := boxed(answer)) else [])
    words = [w for text in found for w in text.replace("\n", "").split(",")]
    words = words[-sum(map(len, gold)) :] if len(found) > 1 else words
    return sum(g in gold for g in _fours(words)) / len(gold) if words else 0.0


def _fours(words: Sequence[str]) -> list[set[str]]:
    clean = [w.strip().lower() for w in words]
    return [set(clean[i : i + 4]) for i in range(0, len(clean), 4)]


def plot_unscrambling(answer: str, row: Mapping[str, Any]) -> float:
    match = re.search(r"<PLOT_SUMMARY>(.*)</PLOT_SUMMARY>", answer, re.DOTALL) or re.search(
        r"<PLOT_SUMMARY>(.*)", answer, re.DOTALL
    )
    gold = [s.strip() for s in str(row["ground_truth"]).split(".") if s.strip()]
    said = [s.strip() for s in (match[1] if match else answer).split(".")]
    said = [s for s in said if s and s not in ("</PLOT_SUMMARY>", "**End of Plot Summary**")]
    order = [said.index(best[0]) for s in gold if (best := difflib.get_close_matches(s, said, n=1, cutoff=0.0))]
    return max(0.0, 1 - edit_distance(range(len(gold)), order) / len(gold))


def typos(answer: str, row: Mapping[str, Any]) -> float:
    said = re.findall(r"<solution>(.*?)</solution>", answer)
    text = said[-1] if said else re.sub(r"</?solution>", "", answer)
    if not said and (match := re.search(r".* --- (.*?) --- .*", text)):
        text = match[1]
    return float(str(row["ground_truth"]) in " ".join(line for line in text.strip().split("\n") if line))


# -- data analysis ---------------------------------------------------------------------------------


def cta(answer: str, row: Mapping[str, Any]) -> float:
    """A column's type, at the answer's end."""
    said = plain(boxed(answer) or "") if "\\boxed{" in answer else answer
    clean = [re.sub(r"\W", "", t.lower()) for t in (str(row["ground_truth"]), said)]
    return float(clean[1].endswith(clean[0]))


def tablejoin(answer: str, row: Mapping[str, Any]) -> float:
    """F1 of a mapping of column names."""
    gold = row["ground_truth"] if isinstance(row["ground_truth"], dict) else literal(row["ground_truth"])
    said = _mapping(answer)
    right = sum(bool(gold.get(k)) and gold[k] == v for k, v in said.items())
    false, missed = len(said) - right, sum(not said.get(k) or said[k] != v for k, v in gold.items())
    return round(2 * right / (2 * right + false + missed), 2) if said else 0.0


def _mapping(text: str) -> dict[Any, Any]:
    tagged = re.findall(r"<solution>(.*?)</solution>", text, re.DOTALL)
    text = tagged[-1].strip() if tagged else text
    joined = text.replace("\n", "")
    found = next((f for tag in ("python", "json", "") if (f := re.findall(f"```{tag}(.*?)```", joined))), None)
    for candidate in (text, (found or [boxed(joined) or text])[-1].replace("null", "None")):
        try:
            value = literal(candidate.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
    return {}


def tablereformat(answer: str, row: Mapping[str, Any]) -> float:
    """A table in another form: the same cells under the same names, in the same order of rows."""
    command = str(row["turns"][0])
    asked = re.search(
        r"Please convert the Input Table from .*?format to (.*?) format", command, re.DOTALL
    ) or re.search(r"Target Format:\s*(\w+)", command)
    if asked is None:
        return 0.0
    form = asked[1].strip().lower()
    gold, said = read_table(form, str(row["ground_truth"])), read_table(form, _table_text(answer))
    return float(bool(gold) and _same_tables(gold, said))


def _table_text(text: str) -> str:
    tagged = re.findall(r"<solution>(.*?)</solution>", text, re.DOTALL)
    text = tagged[-1].strip() if tagged else text
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    text = fenced[-1] if fenced else text.replace("```", "")
    return re.sub(
        r"^\s*(Here|Input)\b.*?\b(format|table)\s*[:)]\s*", "", text.replace("&amp;", "&"), flags=re.IGNORECASE
    ).strip()


def read_table(form: str, text: str) -> list[dict[str, Any]]:
    """Rows by column name; empty where the text is no such table."""
    try:
        rows = _TABLES[form](text) if form in _TABLES else []
    except (ValueError, IndexError, TypeError, AttributeError, csv.Error, RecursionError):
        return []
    return rows if isinstance(rows, list) and all(isinstance(r, dict) for r in rows) else []


def _json_table(text: str) -> Any:
    value = json.loads(text)
    value = value.get("data", value) if isinstance(value, dict) and "schema" in value else value
    return list(value.values()) if isinstance(value, dict) else value


def _separated(text: str, delimiter: str) -> Any:
    lines = list(csv.reader(io.StringIO(text.strip()), delimiter=delimiter))
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:] if line]


def _markdown_table(text: str) -> Any:
    lines = [line.strip() for line in text.strip().splitlines() if "|" in line]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    cells = [c for c in cells if not all(re.fullmatch(r":?-+:?", x) for x in c)]
    return [dict(zip(cells[0], c, strict=True)) for c in cells[1:]]


def _html_table(text: str) -> Any:
    reader = _HtmlTable()
    reader.feed(text)
    return [dict(zip(reader.rows[0], r, strict=True)) for r in reader.rows[1:]]


_TABLES: dict[str, Callable[[str], Any]] = {
    "json": _json_table,
    "jsonl": lambda text: [json.loads(line) for line in text.splitlines() if line.strip().startswith("{")],
    "csv": lambda text: _separated(text, ","),
    "tsv": lambda text: _separated(text, "\t"),
    "markdown": _markdown_table,
    "html": _html_table,
}


class _HtmlTable(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data.strip()


def _same_tables(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> bool:
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        left, right = ({str(k).strip(): v for k, v in r.items() if str(k).strip() != "index"} for r in (x, y))
        if left.keys() != right.keys() or not all(_same_cell(left[k], right[k]) for k in left):
            return False
    return True


def _same_cell(a: Any, b: Any) -> bool:
    left, right = ("" if v is None else str(v).strip() for v in (a, b))
    empty = ("", "nan", "null", "none")
    if left == right or (left.lower() in empty and right.lower() in empty):
        return True
    try:
        return abs(float(left) - float(right)) < 1e-6
    except ValueError:
        return False


# -- instruction following -------------------------------------------------------------------------


def instructions(answer: str, row: Mapping[str, Any]) -> float:
    """The mean of "all followed" and the share that is followed, IFEval's types read strictly."""
    from qwq.verify.instructions import ifeval

    strict, _ = ifeval.grade(answer, row["instruction_id_list"], row["kwargs"], row["turns"][0])
    return (all(strict) + sum(strict) / len(strict)) / 2


SCORERS: dict[str, Scorer] = {
    "AMPS_Hard": amps_hard, "math_comp": math_comp, "olympiad": olympiad, "spatial": spatial,
    "web_of_lies_v2": web_of_lies, "zebra_puzzle": zebra_puzzle, "connections": connections,
    "plot_unscrambling": plot_unscrambling, "typos": typos, "cta": cta, "tablejoin": tablejoin,
    "tablereformat": tablereformat, "summarize": instructions, "paraphrase": instructions, "simplify": instructions,
    "story_generation": instructions,
}  # fmt: skip
