r"""WikiTableQuestions: questions about a table of Wikipedia (Pasupat and Liang 2015, arXiv
1508.00305), by denotation.

A folder holds the set's .tsv files and its tables, in `csv/` or packed as `tables*.tar.xz`. Test is
`pristine-unseen-tables.tsv`, or, where that is absent, the development split, as a note says;
validation is `random-split-1-dev.tsv`, and train is `training.tsv` without it. The tables' CSV
escapes quotation marks with backslashes; the workspace gets them in the usual form.

    id, utterance, context (csv/204-csv/590.csv)
    targetValue: values joined by |, with \p, \n, \\ for |, line feed, \
    targetCanon, where there: the values as numbers and dates
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from qwq.common.files import write_atomic
from qwq.data.examples import FileUse
from qwq.errors import DataError
from qwq.tasks.agent.base import AgentTask
from qwq.tasks.downloads import DataFiles, Published, cache_folder, sha256_of
from qwq.types import Problem, Response, Verdict
from qwq.verify.answers.denotation import read_expected, read_value, same_denotation

TEST, VALIDATION, TRAIN = "pristine-unseen-tables.tsv", "random-split-1-dev.tsv", "training.tsv"
TABLE = "table.csv"
SHOWN_CHARS = 6000
COLUMNS = ("id", "utterance", "context", "targetValue")


class Wtq(AgentTask):
    name = "wtq"
    trains = True
    patterns = ("*.tsv",)
    published = Published(TEST, "https://github.com/ppasupat/WikiTableQuestions (release 1.0.2, data/)")

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        by_name = {path.name: path for path in data.files(split, self.patterns)}
        if len(by_name) == 1 and data.folder is not None and Path(data.place or "").is_file():
            chosen = next(iter(by_name.values()))
        else:
            chosen = self._chosen(by_name, split, data)
        folder = chosen.parent
        data.note(chosen)
        held = set()
        if split == "train" and VALIDATION in by_name:
            held = {row["id"] for _, row in read_tsv(by_name[VALIDATION])}
        tables = _Tables(folder, data)
        problems: list[Problem] = []
        for where, row in read_tsv(chosen):
            use.rows += 1
            use.shapes[self.name] += 1
            table = tables.path(row["context"])
            if row["id"] in held:
                use.leave_out("of the validation split", where)
            elif table is None:
                use.leave_out("without their table", where)
            else:
                problems.append(self._asked(row, table))
        return self.loaded(problems, data, use)

    def _chosen(self, by_name: dict[str, Path], split: str, data: DataFiles) -> Path:
        if split == "test" and TEST not in by_name and VALIDATION in by_name:
            data.say(f"no {TEST}: the development split, {VALIDATION}, is evaluated in its place")
            return by_name[VALIDATION]
        name = {"test": TEST, "validation": VALIDATION, "train": TRAIN}[split]
        if name not in by_name:
            raise DataError(f"no {name} in {data.name}, only {', '.join(sorted(by_name))}: the set's data/ has it")
        return by_name[name]

    def _asked(self, row: dict[str, str], table: Path) -> Problem:
        text = table.read_text(encoding="utf-8")
        if len(text) > SHOWN_CHARS and self.has_tools:
            shown = f"Its first lines:\n\n{text[:SHOWN_CHARS].rpartition(chr(10))[0]}"
        else:
            shown = f"It is:\n\n{text.rstrip()}"
        where = f"The file {TABLE} in the working folder of your tools holds it. " if self.has_tools else ""
        # The table comes first: the prompts of its questions share it, and so its KV cache.
        prompt = (
            f"A table from Wikipedia. {where}{shown}\n\nQuestion: {row['utterance']}\n\nEnd with one line `Answer: ` "
            "and the answer as it stands in the table, or a number; join several values by ` | `."
        )
        canons = row.get("targetCanon", "").split("|")
        values = [_unescaped(v) for v in row["targetValue"].split("|")]
        pairs = [
            [v, _unescaped(c) if len(canons) == len(values) else ""]
            for v, c in zip(values, _padded(canons, len(values)), strict=True)
        ]
        truth = {"gold": " | ".join(values), "values": pairs}
        return self.problem(row["id"], prompt, row["utterance"], truth, scope=row["context"], files={TABLE: table})

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        line = answer_line(self.answer(response))
        if line is None:
            return self.verdict(None, "no line `Answer: ...`")
        found = [read_value(value.strip()) for value in line.split("|")]
        expected = [read_expected(value, canon) for value, canon in problem.truth["values"]]
        right = same_denotation(found, expected)
        return self.verdict(right, f"expected {problem.truth['gold']}" if not right else "", answer=line)


def answer_line(text: str) -> str | None:
    """What follows the last `Answer:` of a text, on its line."""
    for line in reversed(text.splitlines()):
        head, mark, answer = line.replace("**", "").partition("nswer:")
        if mark and head.strip("#*- \t").lower() in ("a", "final a", "the a") and answer.strip():
            return answer.strip().strip("`").strip()
    return None


class _Tables:
    """The set's tables as files in the usual CSV: read from `csv/`, or unpacked once into the
    cache.
    """

    def __init__(self, folder: Path, data: DataFiles) -> None:
        self._folder, self._data = folder, data
        archives = sorted(folder.glob("tables*.tar.*")) if not (folder / "csv").is_dir() else []
        self._packed = [self._unpacked(path) for path in archives]
        if not self._packed and not (folder / "csv").is_dir():
            raise DataError(f"{folder} has neither csv/ nor tables*.tar.xz: the set's tables are needed")

    def path(self, context: str) -> Path | None:
        """A table by its `context`; None where there is none."""
        name = context.replace("/", "-")
        for folder in self._packed:
            if (folder / name).is_file():
                return folder / name
        source = self._folder / context
        if not source.is_file() or not source.resolve().is_relative_to(self._folder.resolve()):
            return None
        place = cache_folder() / "wtq" / sha256_of(source)[:16] / name
        if not place.is_file():
            write_atomic(place, usual_csv(source.read_text(encoding="utf-8")))
        return place

    def _unpacked(self, archive: Path) -> Path:
        self._data.note(archive)
        folder = cache_folder() / "wtq" / sha256_of(archive)[:16]
        if (folder / "done").is_file():
            return folder
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() and member.name.endswith(".csv") else None
                if file is not None:
                    name = member.name[member.name.find("csv/") :].replace("/", "-")
                    write_atomic(folder / name, usual_csv(file.read().decode("utf-8")))
        write_atomic(folder / "done", "")
        return folder


def usual_csv(text: str) -> str:
    r"""The set's CSV, which writes \" for a quotation mark, as everybody else's."""
    out = io.StringIO()
    rows = csv.reader(io.StringIO(text, newline=""), doublequote=False, escapechar="\\")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def read_tsv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a .tsv file with their place. DataError for one of another form."""
    with path.open(encoding="utf-8", newline="\n") as file:
        head = file.readline().rstrip("\r\n").split("\t")
        if missing := [name for name in COLUMNS if name not in head]:
            raise DataError(f"{path}, line 1: no column {missing[0]!r}, the file has {', '.join(head)[:100]}")
        for number, line in enumerate(file, 2):
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) != len(head):
                raise DataError(f"{path}, line {number}: {len(cells)} columns, the first line names {len(head)}")
            yield f"{path}, line {number}", dict(zip(head, cells, strict=True))


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\p", "|").replace("\\\\", "\\")


def _padded(values: list[str], length: int) -> list[str]:
    return values if len(values) == length else [""] * length
