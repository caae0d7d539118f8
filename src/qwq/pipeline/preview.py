"""What a stage would take of a data file, before anything is trained: every row counted, some
rendered with the part that is learnt marked.

`Stage.preview` is for a recipe's stage, `preview_file` for a file alone (`qwq data show`). Both
read rows as training does, and stop at a row that training would stop at; `preview_file` with
`refused` continues and says what is wrong with each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from qwq.config import Source, stage_class
from qwq.data.examples import Example, FileUse, PairExample, conversation_examples, pair_splits
from qwq.data.messages import Malformed
from qwq.data.row_files import data_files, keys_of, read_rows
from qwq.data.shapes import NoShape, conversation, problem_kind
from qwq.errors import ConfigError, DataError
from qwq.model.model_folder import read_config, resolve_folder
from qwq.report.wording import counted
from qwq.tasks.sources import load_source
from qwq.text.template import ChatFormat
from qwq.types import Problem

MOST_REFUSED = 20  # rows that `lines` names one by one
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
LEARNT, PLAIN, END = "\033[32m", "\033[2m", "\033[0m"  # green, dim, as before


@dataclass(frozen=True, slots=True)
class Segment:
    """Text that is learnt (weighs in the loss; of a pair: is scored), or is not."""

    text: str
    learnt: bool


def _visible(text: str) -> str:
    """Control characters as escapes: a row of a file shall not steer the terminal."""
    return CONTROL.sub(lambda m: repr(m.group())[1:-1], text)


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A row as the model reads it.

    `label` says which part of the row it is, or what judges an answer to it.
    """

    where: str
    tokens: int
    segments: tuple[Segment, ...]
    label: str = ""

    def text(self, *, colour: bool = False) -> str:
        """One text: learnt parts in green and the rest dim, or learnt parts in double brackets."""
        if colour:
            return "".join(f"{LEARNT if s.learnt else PLAIN}{_visible(s.text)}{END}" for s in self.segments)
        return "".join(f"[[{_visible(s.text)}]]" if s.learnt else _visible(s.text) for s in self.segments)


@dataclass(slots=True)
class DataSummary:
    """What a stage of kind `stage` (sft, reward or rl) takes of a file: `use` counts its rows,
    `rows` shows some, `refused` says which cannot be read.
    """

    stage: str
    use: FileUse
    rows: list[RenderedRow] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    hint: str = ""  # what else the rows could be

    def to_dict(self) -> dict[str, Any]:
        out = {"stage": self.stage, **self.use.to_dict(), "refused": self.refused}
        return out | {
            "shown": [{"where": r.where, "label": r.label, "tokens": r.tokens, "text": r.text()} for r in self.rows]
        }

    def lines(self, *, colour: bool = False) -> Iterator[str]:
        """For a terminal: the rendered rows, then the account of all rows."""
        for row in self.rows:
            yield f"--- {row.where}{f', {row.label}' if row.label else ''} ({row.tokens:,} tokens)"
            yield row.text(colour=colour).rstrip("\n")
        yield f"{self.stage}: {self.use.note()}"
        yield from (f"refused: {text}" for text in self.refused[:MOST_REFUSED])
        if len(self.refused) > MOST_REFUSED:
            yield f"refused: {len(self.refused) - MOST_REFUSED:,} more"
        if self.hint:
            yield self.hint


def reader_of(model: str) -> tuple[ChatFormat, int]:
    """Chat format and positions of a model folder, GGUF file or hub name.

    No weights are read or downloaded.
    """
    if Path(model).suffix == ".gguf":
        from qwq.model.gguf import gguf_config
        from qwq.model.gguf_file import GGUFFile
        from qwq.text.gguf_tokenizer import chat_format_from_gguf

        file = GGUFFile.open(Path(model).expanduser())
        return chat_format_from_gguf(file), gguf_config(file).max_positions
    folder = resolve_folder(model, weights=False)
    return ChatFormat.from_folder(folder), read_config(folder).max_positions


def preview_file(
    path: str, chat: ChatFormat, *, stage: str | None = None, kind: str | None = None, max_tokens: int | None = None,
    max_positions: int | None = None, rows: int = 3,
) -> DataSummary:  # fmt: skip
    """What a stage takes of one file; rows that cannot be read are listed.

    `stage` and `kind` (of an RL source) are recognised where they are not given.
    """
    recognised = stage is None
    stage = stage or _stage_of(path)
    if kind is not None and stage != "rl":
        raise ConfigError(f"--kind {kind} goes with --stage rl, this is {stage}: leave it out")
    refused: list[str] = []
    if stage == "sft":
        limit = max_tokens or _max_tokens("sft")
        examples, use = conversation_examples(
            chat, path, max_tokens=limit, max_positions=max_positions, refused=refused
        )
        return DataSummary(stage, use, rendered(chat, examples[:rows]), refused, _hint(path) if recognised else "")
    if stage == "reward":
        limit = max_tokens or _max_tokens("reward_model")
        splits, use = pair_splits(chat, path, max_tokens=limit, max_positions=max_positions, refused=refused)
        return DataSummary(stage, use, rendered_pairs(chat, splits, rows), refused)
    if max_tokens is not None:
        raise ConfigError(f"--max-tokens {max_tokens} goes with --stage sft or reward: leave it out")
    return preview_source(chat, Source.model_validate({"kind": kind or _kind_of(path), "path": path}), rows)


def _max_tokens(kind: str) -> int:
    """The longest row that a stage of this kind takes by default."""
    return stage_class(kind).model_fields["max_tokens"].default


def _first_row(path: str) -> dict[str, Any]:
    return next(iter(read_rows(data_files(path)[0]))).fields


def _stage_of(path: str) -> str:
    """The stage whose rows the first row is."""
    row = _first_row(path)
    if "chosen" in row and "rejected" in row:
        return "reward"
    try:
        conversation(row)
    except NoShape:
        return "rl" if problem_kind(row) else "sft"
    except Malformed:  # a set with markup of its own can be problems all the same
        return "rl" if problem_kind(row) == "math" else "sft"
    return "sft"


def _hint(path: str) -> str:
    """That rows taken as conversations are problems of RL too, where the first is one."""
    kind = problem_kind(_first_row(path))
    return f"problems of kind {kind} too: --stage rl shows them as RL reads them" if kind in ("math", "code") else ""


def _kind_of(path: str) -> str:
    row = _first_row(path)
    kind = problem_kind(row)
    if kind is None:
        raise DataError(
            f"{path}: no kind of source fits its first row (it has {keys_of(row)}): give --kind, or mend the rows "
            "(docs/data.md)"
        )
    return kind


# -- rendered rows ---------------------------------------------------------------------------------


def _segments(chat: ChatFormat, ids: Sequence[int], mask: Sequence[float]) -> tuple[Segment, ...]:
    runs = groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1]))
    return tuple(Segment(chat.tokenizer.decode([i for i, _ in run]), learnt) for learnt, run in runs)


def rendered(chat: ChatFormat, examples: Sequence[Example]) -> list[RenderedRow]:
    """Conversations with the part that is learnt."""
    return [RenderedRow(e.where, len(e.ids), _segments(chat, e.ids, e.weights)) for e in examples]


def rendered_pairs(chat: ChatFormat, splits: Mapping[str, list[PairExample]], rows: int) -> list[RenderedRow]:
    """The first `rows` pairs, with the answer of each side as the part that is scored."""
    out = []
    for pair in [p for pairs in splits.values() for p in pairs][:rows]:
        for label, ids, length in (
            ("chosen", pair.chosen, pair.chosen_length),
            ("rejected", pair.rejected, pair.rejected_length),
        ):
            mask = [0] * (len(ids) - length) + [1] * length
            out.append(RenderedRow(pair.where, len(ids), _segments(chat, ids, mask), label))
    return out


def preview_source(chat: ChatFormat, source: Source, rows: int) -> DataSummary:
    """A source of RL: its prompts, which are not learnt, and what judges an answer to them."""
    use = FileUse(source.path, noun="prompts")
    shown: list[RenderedRow] = []
    for problem in load_source(source, use):
        ids = chat.prompt_ids(problem.messages, problem.tools)
        use.lengths.append(len(ids))
        if len(shown) < rows:
            shown.append(
                RenderedRow(problem.id, len(ids), (Segment(chat.tokenizer.decode(ids), False),), _judge(problem))
            )
    return DataSummary("rl", use, shown)


def _judge(problem: Problem) -> str:
    """What judges an answer to a problem, in short."""
    if "gold" in problem.truth:
        return f"right answer {problem.truth['gold'][-60:]!r}"
    if "tests" in problem.truth:
        tests = problem.truth["tests"]
        return f"{counted(len(tests.get('asserts', tests.get('cases', ()))), 'test')} of kind {tests['kind']}"
    return (
        f"columns {json.dumps(dict(problem.truth), ensure_ascii=False, default=str)[:100]}"
        if problem.truth
        else "no columns"
    )
