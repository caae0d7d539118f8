"""Rows of data files as tokens, and an account of every row: used, beyond a limit, or left out and
why.

Nothing is lost in silence: `FileUse` counts what a stage takes of a file, and a row that cannot be
read stops with its line.
"""

from __future__ import annotations

import statistics
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwq.data.row_files import data_files
from qwq.data.shapes import conversation, preference, read_shaped
from qwq.errors import DataError, UsageError
from qwq.text.template import ChatFormat
from qwq.types import Message

Tokens = Sequence[int]
LEAST_PROMPTS = 10  # of a file of pairs: it is divided into training, validation and test


@dataclass(slots=True)
class FileUse:
    """What became of a file's rows. `limit` is the option that leaves rows behind, such as
    `documents = 1,000`.

    `left_out` counts rows by reason, `first_left_out` says where the first of each is. Lengths
    are in tokens of what is used.
    """

    path: str
    rows: int = 0
    used: int = 0
    noun: str = "conversations"
    shapes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    first_left_out: dict[str, str] = field(default_factory=dict)
    beyond: int = 0
    limit: str = ""
    lengths: list[int] = field(default_factory=list)
    learnt_tokens: int = 0
    splits: dict[str, int] = field(default_factory=dict)

    def leave_out(self, reason: str, where: str) -> None:
        self.left_out[reason] += 1
        self.first_left_out.setdefault(reason, where)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def to_dict(self) -> dict[str, Any]:
        """For results.json."""
        out: dict[str, Any] = {
            "path": self.path,
            "rows": self.rows,
            "used": self.used,
            "shapes": dict(self.shapes),
            "tokens": self.tokens,
        }
        if self.learnt_tokens:
            out["learnt_tokens"] = self.learnt_tokens
        if self.lengths:
            out["longest"] = max(self.lengths)
        if self.left_out:
            out["left_out"] = dict(self.left_out)
        if self.beyond:
            out["beyond_limit"] = self.beyond
        if self.splits:
            out["splits"] = self.splits
        return out | {"note": self.note()}

    def note(self) -> str:
        """One line: `sft.jsonl: 1,000 of 3,000 rows, left out: 2,000 beyond documents = 1,000 (the
        first are taken); shape messages; ...`.
        """
        taken = f"{self.used:,} of {self.rows:,} rows"
        if self.used == self.rows:
            taken = f"all {self.rows:,} rows" if self.rows > 1 else "the one row"
        why = [f"{self.beyond:,} beyond {self.limit} (the first are taken)"] if self.beyond else []
        why += [f"{count:,} {reason} (first: {self.first_left_out[reason]})" for reason, count in self.left_out.items()]
        parts = [taken + (f", left out: {'; '.join(why)}" if why else "")]
        if self.shapes:
            parts.append("shape " + ", ".join(self.shapes))
        if self.lengths:
            parts.append(
                f"{self.tokens:,} tokens" + (f", {self.learnt_tokens:,} of them learnt" if self.learnt_tokens else "")
            )
            parts.append(
                f"lengths {min(self.lengths):,} to {max(self.lengths):,}, median {statistics.median(self.lengths):,.0f}"
            )
        if self.splits:
            parts.append(", ".join(f"{count:,} {split}" for split, count in self.splits.items()) + f" {self.noun}")
        return f"{self.path}: {'; '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation in tokens; `weights` are 1 where the loss counts.

    `where` is its file and line.
    """

    ids: Tokens
    weights: Sequence[float]
    where: str


@dataclass(frozen=True, slots=True)
class PairExample:
    """Two whole sequences (prompt and answer) and their completion lengths in tokens."""

    chosen: Tokens
    rejected: Tokens
    chosen_length: int
    rejected_length: int
    where: str = ""


def too_long(max_tokens: int, max_positions: int | None) -> tuple[int, str]:
    """The longest sequence that is taken, and the reason for which a longer one is left out."""
    if max_positions is not None and max_positions < max_tokens:
        return max_positions, f"over {max_positions:,} tokens, the model's positions"
    return max_tokens, f"over {max_tokens:,} tokens"


# -- conversations ---------------------------------------------------------------------------------


def conversation_examples(
    chat: ChatFormat, path: str, *, documents: int | None = None, max_tokens: int, max_positions: int | None = None,
    refused: list[str] | None = None,
) -> tuple[list[Example], FileUse]:  # fmt: skip
    """Examples of the first `documents` rows (None: all) of a file, folder or hub data set.

    Longer ones than `max_tokens`, or than the model has positions, are left out and counted.
    DataError for a row that cannot be read, or of which the chat template makes no example, with
    file and line; where `refused` is given, it goes there instead.
    """
    longest, reason = too_long(max_tokens, max_positions)
    use = FileUse(path, limit=f"documents = {documents:,}" if documents else "")
    examples: list[Example] = []
    for where, row in _rows(path, conversation, use, documents, refused):
        try:
            ids, mask = chat.training_example(row.messages, row.tools, unlearnt=row.unlearnt)
        except UsageError as error:
            _refuse(f"{where}: {error}; `qwq data convert --check MODEL` leaves such rows out", refused)
            continue
        if len(ids) > longest:
            use.leave_out(reason, where)
            continue
        # Arrays: a file of a million rows fits in memory.
        examples.append(Example(array("i", ids), array("f", mask), where))
        use.lengths.append(len(ids))
        use.learnt_tokens += sum(mask)
    use.used = len(examples)
    if not examples and not refused:
        repair = (
            "raise max_tokens or give shorter ones"
            if longest == max_tokens
            else "give shorter ones, or take a model with more positions"
        )
        _refuse(f"{path}: no conversation of at most {longest:,} tokens: {repair}", refused)
    return examples, use


def _rows(
    path: str, shape: Any, use: FileUse, limit: int | None, refused: list[str] | None
) -> Iterator[tuple[str, Any]]:
    """The shaped rows up to `limit`; those beyond it are counted, and read as JSON only."""
    unread: list[str] | None = None if refused is None else []
    for file in data_files(path):
        rows = read_shaped(file, shape, unread, wanted=lambda: limit is None or use.rows < limit)
        for where, made in rows:
            _count_unread(unread, refused, use)
            use.rows += 1
            if made is None:
                use.beyond += 1
                continue
            use.shapes[made.shape] += 1
            yield where, made
        _count_unread(unread, refused, use)


def _count_unread(unread: list[str] | None, refused: list[str] | None, use: FileUse) -> None:
    """Move the errors of unreadable lines to `refused`: they are rows of the file all the same."""
    if unread and refused is not None:
        refused += unread
        use.rows += len(unread)
        unread.clear()


def _refuse(text: str, refused: list[str] | None) -> None:
    if refused is None:
        raise DataError(text)
    refused.append(text)


# -- pairs -----------------------------------------------------------------------------------------


def pair_of(
    chat: ChatFormat,
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> PairExample:
    """A pair in tokens, each answer up to its end-of-turn token."""
    start = len(chat.prompt_ids(prompt, tools))
    c, r = (answer_ids(chat, prompt, answer, tools) for answer in (chosen, rejected))
    return PairExample(array("i", c), array("i", r), len(c) - start, len(r) - start)


def answer_ids(
    chat: ChatFormat, prompt: Sequence[Message], answer: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
    """Ids of prompt and answer up to the answer's end token: what the template writes behind it (a
    line break) a rollout does not have.
    """
    ids, _ = chat.training_example((*prompt, *answer), tools)
    return ids[: max(i for i, t in enumerate(ids) if t in chat.eos_ids) + 1]


def pair_splits(
    chat: ChatFormat,
    path: str,
    *,
    pairs: int | None = None,
    test_pairs: int | None = None,
    validation_pairs: int | None = None,
    max_tokens: int,
    max_positions: int | None = None,
    refused: list[str] | None = None,
) -> tuple[dict[str, list[PairExample]], FileUse]:
    """The pairs of a file in three parts: 70% train, 10% validation, 20% test, by whole prompts;
    the first `pairs`, `validation_pairs` and `test_pairs` of them.

    Pairs with an answer too long, and pairs of equal answers, which teach nothing, are left out and
    counted. Errors as for conversations.
    """
    longest, reason = too_long(max_tokens, max_positions)
    use = FileUse(path, noun="pairs")
    # Rows with one prompt stay together, so that the test has no prompt of the training.
    prompts: dict[str, list[PairExample]] = {}
    for where, row in _rows(path, preference, use, None, refused):
        if row.chosen == row.rejected:
            use.leave_out("with equal answers", where)
            continue
        try:
            pair = replace(pair_of(chat, row.prompt, row.chosen, row.rejected, row.tools), where=where)
        except UsageError as error:
            _refuse(f"{where}: {error}", refused)
            continue
        if max(len(pair.chosen), len(pair.rejected)) > longest:
            use.leave_out(reason, where)
            continue
        prompts.setdefault(repr((row.prompt, row.tools)), []).append(pair)
    if len(prompts) < LEAST_PROMPTS:
        gone = "".join(f", {count:,} {why}" for why, count in use.left_out.items())
        _refuse(
            f"{path} holds pairs of {len(prompts)} prompts within {longest:,} tokens, {LEAST_PROMPTS} at least are "
            "needed: raise max_tokens or give more; they are divided into training, validation and test "
            f"({use.rows:,} rows{gone})",
            refused,
        )
    splits = _split(list(prompts.values()))
    limits = (
        ("train", pairs, "pairs"),
        ("validation", validation_pairs, "validation_pairs"),
        ("test", test_pairs, "test_pairs"),
    )
    for name, limit, option in limits:
        if limit is not None and len(splits[name]) > limit:
            use.beyond += len(splits[name]) - limit
            use.limit += f"{', ' if use.limit else ''}{option} = {limit:,} of {len(splits[name]):,}"
            splits[name] = splits[name][:limit]
    use.splits = {name: len(found) for name, found in splits.items()}
    use.used = sum(use.splits.values())
    use.lengths = [len(ids) for found in splits.values() for p in found for ids in (p.chosen, p.rejected)]
    return splits, use


def _split(prompts: Sequence[Sequence[PairExample]]) -> dict[str, list[PairExample]]:
    """The last fifth is for test, the tenth before it for validation, by whole prompts."""
    splits: dict[str, list[PairExample]] = {"train": [], "validation": [], "test": []}
    kept, done = sum(map(len, prompts)), 0
    for number, pairs in enumerate(prompts):
        last = len(prompts) - number  # prompts from here on: the ends get one each, however few there are
        if done < 0.7 * kept and last > 2:
            split = "train"
        else:
            split = "validation" if not splits["validation"] or (done < 0.8 * kept and last > 1) else "test"
        splits[split] += pairs
        done += len(pairs)
    return splits
