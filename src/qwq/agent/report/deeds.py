"""Claims of deeds in a report, checked against what happened: files written and deleted, commands
run, tests passed, things done outside.

    check_deeds("I saved the plot to sales.png, and all tests pass.", events)

A claim is a sentence that says a thing was done. Plans, conditions and advice (will, if, you can)
are none. A passing test run is the last one: its status was 0, or its output says that all passed,
and no file was written after it. Files are also read of in German, French and Spanish, all of it in
English and Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwq.agent.events import Event, EventKind
from qwq.agent.report.skipped import fenced_spans
from qwq.agent.report.steps import CallRecord, read_steps

_FILE = re.compile(
    r"(?<![\w/.:-])(/?(?:[\w.-]+/)*[\w-][\w.-]*\.(?:csv|tsv|json|jsonl|md|txt|html?|png|svg|jpe?g|gif|pdf|py|ipynb|js|ts|"
    r"xlsx?|parquet|db|sqlite3?|toml|ya?ml|xml|sql|sh|log|zip|tex|docx?|c|cpp|h|rs|go|java))(?![\w/])",
    re.IGNORECASE,
)
_WROTE = re.compile(
    r"\b(?:wrote|written|saved|stored|created|generated|produced|exported|updated|modified|edited|fixed|patched|"
    r"rewrote|rewritten|added|dumped|plotted|gespeichert|geschrieben|erstellt|erzeugt|exportiert|aktualisiert|"
    r"abgelegt|guardad[oa]s?|escrit[oa]s?|cread[oa]s?|generad[oa]s?|exportad[oa]s?|actualizad[oa]s?)\b|"
    r"\b(?:(?:enregistr|sauvegard|cré|génér|export)(?:é|ée|és|ées)|écrite?s?|mise?s? à jour)(?!\w)|"
    r"已?(?:写入|写到|保存|存为|生成|创建|导出|更新|修改|修复)",
    re.IGNORECASE,
)
# The word has to be right before the file: "removed 3 rows of data.csv" is another deed.
_REMOVED = re.compile(
    r"\b(?P<verb>deleted|removed|erased|renamed|moved)\s+(?:(?:the|old|original|temporary|empty|input|file)\s+)*[`*'\"]*$|"
    r"(?P<chinese>删除|移除|重命名)了?\s*(?:文件)?\s*[`*'\"]*$",
    re.IGNORECASE,
)
_WAS_REMOVED = re.compile(
    r"[`*'\"]*\s*(?:was|were|has been|have been|is)\s+(?:now\s+)?(?:deleted|removed|erased|renamed)\b", re.I
)
_NEW_NAME = re.compile(r"[`*'\"]*\s+(?:to|as|into)\s+[`*'\"]*$", re.I)
_RAN = re.compile(
    r"(?:(?:^\W*|\b(?:I|we)\b[^.;]{0,80}?)\b(?:ran|re-?ran|executed|re-?executed)\s+(?:(?:the|a|this|my|script|command|query|program|file|code)\s+)*|"
    r"(?:运行|执行)了\s*(?:脚本|命令|查询)?\s*)(?:`(?P<code>[^`\n]+)`|(?P<file>[\w./-]+\.(?:py|sh|sql|js|ipynb)\b))",
    re.IGNORECASE,
)
# Deeds that a command does.
_COMMANDS = {"installed": re.compile(r"\binstall\b"), "committed": re.compile(r"\bcommit\b")}
_COMMANDED = re.compile(
    r"\b(?:I|we)(?:'ve| have)?(?: \w+ly| also| then| now)? (installed|committed)\b|"
    r"\b(?:changes?|fix|files?|work) (?:was|were|has been|have been) (committed)\b",
    re.IGNORECASE,
)
# A file that is made of another: "converted a.csv to a.json".
_TURNED = re.compile(
    r"\b(?:converted|compressed|zipped|copied|duplicated|backed up|split|merged|concatenated)\b[^;\n]*"
    r"\b(?:to|into|as)\s+[`*'\"]*$",
    re.IGNORECASE,
)
_BY_OTHERS = re.compile(r"\bby (?:the|our|an?|someone|his|her|their)\b", re.IGNORECASE)
_MINE = re.compile(r"\b(?:I|we)\b", re.IGNORECASE)
_OF = re.compile(r"\b(?:of|from|de|des|du|von|aus)\s+[`*'\"]*$", re.IGNORECASE)
_PART_OF_IT = re.compile("['\u2019]s\\b")
_IF = re.compile(r"\b(?:if|once|unless|whether|provided that|as soon as)\b[^,;:]*$", re.IGNORECASE)
_PASSED = re.compile(
    r"\btests?\b[^.!?\n]{0,40}?\b(?:pass(?:es|ed|ing)?|succeed(?:s|ed)?|(?:are|is|were) (?:all )?green)\b|"
    r"\bpass(?:es|ed|ing)?\b[^.!?\n]{0,20}\btests?\b|\btest suite\b[^.!?\n]{0,20}\b(?:passes|passed|is green)\b|"
    r"测试[^。!?\n]{0,12}(?:通过|成功)|通过了?[^。!?\n]{0,8}测试",
    re.IGNORECASE,
)
_ACTED = "sent|emailed|e-mailed|mailed|posted|published|uploaded|pushed|deployed|merged"
# "We posted it", "the summary was sent", "Posted to the channel": not "sales that customers sent
# back".
_OUTSIDE = re.compile(
    rf"(?:\b(?:I|we)(?:'ve| have)?(?: \w+ly| also| then| now| just)?|^\W*|\band) (?:{_ACTED})\b(?! back)|"
    rf"^\W*(?:{_ACTED})\b(?! (?:by|back))|"
    r"\b(?:reports?|e-?mails?|messages?|summar(?:y|ies)|files?|results?|findings|issue|pull request|PR|ticket|"
    r"notifications?|"
    r"announcement|changes?|fix(?:es)?|commits?|branch|page|site|newsletter|invoice|it)\b[^.,;]{0,20}\b(?:was|were|is|are|been)"
    rf"(?: \w+ly| also| now)? (?:{_ACTED})\b|"
    r"\b(?:opened|created|filed|closed)\s+(?:an?|the)\s+(?:pull request|issue|ticket)\b|"
    r"(?:已|我|我们)经?(?:将[^。]{0,20})?(?:发送|发布|上传|推送|部署)",
    re.IGNORECASE,
)
# What is between a word of writing and a file that was read: "plotted the revenue of sales.csv".
_SOURCE_OF = re.compile(
    r"\b(?:from|of|using|based on|reading|read|loaded|loading|with|via|against|about)\b(?!.*\b(?:to|into|"
    r"as)\b)|\b(?:aus|von|mit|anhand|des?|du|depuis|avec|desde|con)\b(?!.*\b(?:in|als|nach|dans|vers|en|sous|como|a)\b)|"
    r"从|基于|根据|读取",
    re.I,
)
_WAS = re.compile(
    r"[`*'\")\]\s]*(?:(?:was|were|is|are|has been|have been)\s+(?:\w+\s+)?|,?\s*which (?:I|we)(?:'ve|"
    r" have)?\s+|(?:wurden?|ist|sind|a été|ont été|est|sont|fue|fueron|ha sido|han sido)\s+|已?被?)",
    re.I,
)
_PEOPLE = re.compile(
    r"\b(?:students?|pupils?|candidates?|applicants?|participants?|people|persons?|women|men|drivers?|learners?|children|"
    r"boys|girls|samples?|units|products?|cars|vehicles)\b|学生|考生",
    re.I,
)
_NO_CLAIM = re.compile(
    r"\b(?:will|would|should|could|can|may|might|must|to be|please|let'?s|going to|next step|if you|not|never|"
    r"n't|cannot|unable|fail(?:s|ed)?|failing|before|until|whether|expected to|needs? to|"
    r"nicht|kein\w*|werden|wird|sollten?|soll|können|kann|könnten?|wenn|falls|bitte|pas|aucune?|vais|peut|peuvent|"
    r"pouvez|pourr\w+|nunca|voy a|puedes?|pueden|podría|debe|no (?:he|se|hay|pude|fue))\b|"
    r"将|应该|可以|如果|没有|未能|未|无法|请|失败|不",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?。！？\n]*(?:\.(?=\w)[^.!?。！？\n]*)*[.!?。！？\n]?")
_RUNS_TESTS = re.compile(
    r"\bpytest\b|\bunittest\b|\brun_tests\b|\bdoctest\b|\b(?:make|npm|yarn|go|cargo|mvn|gradle|tox|nox|ctest)\s+(?:run\s+)?test|"
    r"\btest_\w+\.py\b|\bnosetests\b|\btox\b",
    re.IGNORECASE,
)
_FAILS = re.compile(
    r"\b[1-9]\d* (?:failed|errors?)\b|\bFAILED\b|\bERRORS?\b|\bAssertionError\b|Traceback|exit (?:status|code):? [1-9]"
)
_PASSES = re.compile(r"\b\d+ passed\b|^OK\b|\bPASS\b|\ball\b[^\n]{0,20}\bpass|^ok\s", re.IGNORECASE | re.MULTILINE)
_WRITES = ("write", "edit", "write_file", "edit_file")


@dataclass(frozen=True, slots=True)
class DeedCheck:
    """A claim of the text at [start, end), whether events prove it, and how."""

    text: str
    start: int
    end: int
    is_proven: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _WrittenFile:
    size: int
    sha256: str = ""


def check_deeds(text: str, events: Sequence[Event]) -> list[DeedCheck]:
    """All claims of a text, in order."""
    world = _World(events)
    code = fenced_spans(text)
    found: list[DeedCheck] = []
    for match in _SENTENCE.finditer(text):
        sentence = match[0]
        if not sentence.strip() or any(a <= match.start() < b for a, b in code) or _NO_CLAIM.search(_words(sentence)):
            continue
        found += [
            DeedCheck(text[a + match.start() : b + match.start()], a + match.start(), b + match.start(), good, reason)
            for a, b, (good, reason) in _claims(sentence, world)
        ]
    return found


def _words(sentence: str) -> str:
    """A sentence without the names of files, which may hold any word."""
    return _FILE.sub(" ", sentence)


_Claim = tuple[int, int, tuple[bool, str]]  # where it is, whether it is proven, and how


def _claims(sentence: str, world: _World) -> list[_Claim]:
    claims = [*_writes(sentence, world), *_removals(sentence, world), *_runs(sentence, world)]
    if (passed := _PASSED.search(sentence)) and not _PEOPLE.search(sentence):
        counts = [int(n) for n in re.findall(r"\d+", sentence)]
        claims.append((*passed.span(), world.tests_passed(counts)))
    if done := _OUTSIDE.search(sentence):
        claims.append((*done.span(), world.acted_outside()))
    return sorted(claim for claim in claims if not _IF.search(sentence, 0, claim[0]))


def _writes(sentence: str, world: _World) -> Iterator[_Claim]:
    """Files that were written, or made of others; not what somebody else did."""
    if _BY_OTHERS.search(sentence) and not _MINE.search(sentence):
        return
    wrote = bool(_WROTE.search(_words(sentence)))
    for m in _FILE.finditer(sentence):
        if (wrote and _is_object(sentence, m)) or _TURNED.search(sentence, 0, m.start()):
            yield m.start(1), m.end(1), world.file_was_written(m[1])


def _removals(sentence: str, world: _World) -> Iterator[_Claim]:
    for m in _FILE.finditer(sentence):
        gone = None if _PART_OF_IT.match(sentence, m.end()) else _REMOVED.search(sentence, 0, m.start())
        if gone or _WAS_REMOVED.match(sentence, m.end()):
            yield m.start(1), m.end(1), world.file_is_gone(m[1])
            yield from _new_name(sentence, m, gone, world)


def _runs(sentence: str, world: _World) -> Iterator[_Claim]:
    for ran in _RAN.finditer(sentence):
        what = ran["code"] or ran["file"]
        words = re.findall(r"\w+", what) if ran["code"] else [what.rpartition("/")[2]]
        yield *ran.span("code" if ran["code"] else "file"), world.was_run(what, words)
    if acted := _COMMANDED.search(sentence):
        yield *acted.span(), world.was_commanded((acted[1] or acted[2]).lower())


def _new_name(sentence: str, file: re.Match[str], gone: re.Match[str] | None, world: _World) -> list[_Claim]:
    """The claim of the file that another was renamed to."""
    if gone is None or (gone["verb"] or "").lower() not in ("renamed", "moved"):
        return []
    new = _FILE.search(sentence, file.end())
    if new is None or not _NEW_NAME.fullmatch(sentence, file.end(), new.start()):
        return []
    return [(new.start(1), new.end(1), world.file_was_written(new[1]))]


def _is_object(sentence: str, file: re.Match[str]) -> bool:
    """Whether a sentence says that the file was written, not that something was made of it."""
    names = [m.span() for m in _FILE.finditer(sentence)]
    verbs = [v for v in _WROTE.finditer(sentence) if not any(a <= v.start() < b for a, b in names)]
    before = [v for v in verbs if v.end() <= file.start()]
    if before:
        begin = max([before[-1].end(), *(b for _, b in names if b <= file.start())])
        return not _SOURCE_OF.search(sentence, begin, file.start())
    return any(_WAS.fullmatch(sentence, file.end(), v.start()) for v in verbs) and not _OF.search(
        sentence, 0, file.start()
    )


class _World:
    """What happened, as events tell it."""

    def __init__(self, events: Sequence[Event]):
        self.steps = read_steps(events)
        first = events[0] if events else {}
        self.given: Mapping[str, int] = first.get("files") or {}
        self.end = next((e for e in reversed(events) if e["event"] == EventKind.FINISH), None)

    def file_was_written(self, name: str) -> tuple[bool, str]:
        written = self._written()
        known = [path for path in written if _is_same(path, name)]
        if known:
            file = written[known[0]]
            digest = f", sha256 {file.sha256[:12]}" if file.sha256 else ""
            return True, f"{known[0]}, {file.size:,} bytes{digest}"
        if any(path == name or path.endswith(f"/{name}") for path in self.given):
            return False, f"{name} was given and is unchanged"
        return False, f"no call wrote {name}"

    def file_is_gone(self, name: str) -> tuple[bool, str]:
        """Whether a file that was given, or that a call had made, is no longer there."""
        there = self._there()
        known = {p for p in (*there, *self.given, *(p for s in self.steps for p in s.files)) if _is_same(p, name)}
        if known and known <= there:
            return False, f"{name} is still there"
        if known or any(step.was_executed and name.rpartition("/")[2] in _program(step) for step in self.steps):
            return True, f"{name} is no longer there"
        return False, f"no call touched {name}"

    def _there(self) -> set[str]:
        """The files at the end, or after the last call."""
        if self.end is not None:
            files = self.end.get("files") or {}
            return ({*self.given} - {*(files.get("removed") or {})}) | {*(files.get("added") or {})}
        return {*next((step.files for step in reversed(self.steps) if step.files), self.given)}

    def was_run(self, what: str, words: Sequence[str]) -> tuple[bool, str]:
        """Whether one call's program has all `words`: a command is seldom told as it was typed."""
        for step in self.steps:
            if step.was_executed and all(word in _program(step) for word in words):
                return True, step.label
        return False, f"no call ran {what}"

    def was_commanded(self, deed: str) -> tuple[bool, str]:
        done = [s for s in self.steps if s.kind == "ok" and _COMMANDS[deed].search(_program(s))]
        return (True, done[-1].label) if done else (False, f"no call {deed} anything")

    def _written(self) -> dict[str, _WrittenFile]:
        """Files that the run added or changed, and what calls left as artefacts."""
        written = {
            a["name"]: _WrittenFile(a["bytes"], a["sha256"]) for step in self.steps for a in step.artefacts
        }  # fmt: skip
        if self.end is not None:
            files = self.end.get("files") or {}
            written |= {n: _WrittenFile(s["bytes"], s["sha256"]) for n, s in (files.get("added") or {}).items()}
            written |= {n: _WrittenFile(s[1]["bytes"], s[1]["sha256"]) for n, s in (files.get("changed") or {}).items()}
            return written
        listing = next((step.files for step in reversed(self.steps) if step.files), {})
        edited = {str(s.arguments.get("path") or "") for s in self.steps if s.tool in _WRITES and s.kind == "ok"}
        changed = {n: size for n, size in listing.items() if self.given.get(n) != size or n in edited}
        return written | {n: _WrittenFile(size) for n, size in changed.items()}

    def tests_passed(self, counts: Sequence[int] = ()) -> tuple[bool, str]:
        """Whether the last run of tests passed, or says itself that as many did as the text
        says.
        """
        runs = [i for i, step in enumerate(self.steps) if _runs_tests(step)]
        if not runs:
            return False, "no call ran tests"
        last = self.steps[runs[-1]]
        if not _passed(last) and not any(re.search(rf"\b{n} passed\b", last.text) for n in counts):
            return False, f"the last test run, {last.label}, did not pass"
        if any(step.tool in _WRITES and step.kind == "ok" for step in self.steps[runs[-1] + 1 :]):
            return False, f"files were written after the last test run, {last.label}"
        return True, f"{last.label} ran them"

    def acted_outside(self) -> tuple[bool, str]:
        outside = [step for step in self.steps if step.effect == "external"]
        done = [step for step in outside if step.kind == "ok"]
        if done:
            return True, f"{done[-1].label}, {done[-1].tool}"
        return False, "no call acted outside" if not outside else f"{outside[-1].label} did not succeed"


def _is_same(path: str, name: str) -> bool:
    """Whether a text that names a file so means the file of this path; it may add or leave out
    folders.
    """
    return path == name or path.endswith(f"/{name}") or name.endswith(f"/{path}")


def _runs_tests(step: CallRecord) -> bool:
    return (
        step.was_executed
        and step.tool not in (*_WRITES, "read", "grep", "list")
        and bool(_RUNS_TESTS.search(_program(step)))
    )


def _program(step: CallRecord) -> str:
    """What a call ran: its tool's name and its program."""
    return " ".join((step.tool, step.code, *(str(v) for v in _command(step))))


def _command(step: CallRecord) -> Sequence[Any]:
    return [step.arguments[name] for name in ("command", "code", "args") if name in step.arguments]


def _passed(step: CallRecord) -> bool:
    if step.kind != "ok" or step.exit_status not in (None, 0) or _FAILS.search(step.text):
        return False
    return step.exit_status == 0 or bool(_PASSES.search(step.text))
