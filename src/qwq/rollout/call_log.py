"""Model calls of any program, kept as tokens, and what training reads of them.

A program that speaks to an OpenAI-compatible server holds messages, no tokens; the server that
answers it knows both. A call whose prompt begins with all tokens of an earlier one of its episode
continues that one's segment; any other (the program rewrote its history, or asked something else)
begins a segment. Only tokens that the model sampled from its own distribution are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwq.common.files import GrowingFile, whole_lines
from qwq.common.jsonl import parse_line, to_json
from qwq.errors import ConfigError, DataError
from qwq.types import Problem, Rollout, StopReason, TokenSegment

CALLS = "calls.jsonl"
SERVER = "server"  # the key of a line that says which weights the calls behind it come from
Decode = Callable[[Sequence[int]], str]


@dataclass(slots=True)
class RecordedSample:
    """One answer to a call, token for token. `sampled_mask` and `logprobs` run parallel to
    `completion_ids`: 1 where the model chose the token, and the log-probability that it was drawn
    with (0.0 elsewhere).

    `weight_versions` are spans {"version", "start", "end"}. `stop_reason` is a `StopReason`; None
    where the call ended before the answer did. `untrainable` says why its tokens are no draws from
    the model's own distribution, or nobody saw them.
    """

    completion_ids: list[int]
    sampled_mask: list[int]
    logprobs: list[float]
    weight_versions: list[dict[str, Any]]
    stop_reason: str | None
    text: str = ""
    untrainable: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RecordedCall:
    """One call. `number` counts the calls of one start of the server in the order in which they
    began. `episode` is "" where the program named none. `spliced`: so many of the prompt's first
    tokens are those of earlier answers, in place of other tokens of the same text. `started` is in
    seconds since 1970. `failure` says what ended the call before its answers.
    """

    number: int
    server: str
    episode: str
    path: str
    prompt_ids: list[int]
    samples: list[RecordedSample]
    sampling: dict[str, Any]
    seed: int
    thinking_open: bool = False
    spliced: int = 0
    started: float = 0.0
    seconds: float = 0.0
    failure: str = ""


class CallLog:
    """Calls in the growing file of a folder, a line each, behind a line that says which weights
    answer (`server`: `id`, `model` and more).

    ConfigError where another process records there or nothing can be written.
    """

    def __init__(self, folder: Path, server: Mapping[str, Any]) -> None:
        busy = f"another server records into {folder}: stop it, or give another --record"
        self.path, self.server = folder / CALLS, str(server["id"])
        self._file = GrowingFile(self.path, busy, at="--record")
        try:
            self._file.append(to_json({SERVER: dict(server)}) + b"\n")
        except BaseException:
            self._file.close()
            raise

    def append(self, call: RecordedCall) -> None:
        """CapacityError where the disk is full; the file is as before then."""
        self._file.append(to_json(asdict(call)) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_calls(folder: Path) -> list[RecordedCall]:
    """The calls of a folder in the order in which they began, without a torn last line.

    ConfigError where there is no file of calls, DataError for a damaged line.
    """
    path = folder / CALLS if folder.is_dir() else folder
    if not path.is_file():
        raise ConfigError(f"no {CALLS} in {folder}: `qwq serve MODEL --record {folder}` writes it")
    order: dict[str, int] = {}
    calls: list[RecordedCall] = []
    for number, line in enumerate(whole_lines(path), 1):
        where = f"{path}, line {number}"
        record = parse_line(line, where, surrogates=True)
        try:
            if SERVER in record and "number" not in record:
                order.setdefault(record[SERVER]["id"], len(order))
                continue
            samples = [RecordedSample(**s) for s in record["samples"]]
            calls.append(RecordedCall(**{**record, "samples": samples}))
            _check(calls[-1])
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(f"{where}: no recorded call ({error}): remove the line") from None
    for call in calls:
        order.setdefault(call.server, len(order))
    return sorted(calls, key=lambda call: (order[call.server], call.number))


def _check(call: RecordedCall) -> None:
    for s in call.samples:
        if not len(s.completion_ids) == len(s.sampled_mask) == len(s.logprobs):
            raise ValueError("columns of different lengths")


@dataclass(slots=True)
class Trajectory:
    """An episode as training reads it: segments in the order in which they began, and the calls.

    `starts` says of each segment why it is one of its own: "first", or the number of tokens that
    its prompt shares with what came before.
    """

    episode: str
    segments: list[TokenSegment] = field(default_factory=list)
    calls: list[RecordedCall] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)

    @property
    def num_sampled(self) -> int:
        """Tokens that are trained on."""
        return sum(sum(s.sampled_mask) for s in self.segments)

    @property
    def untrainable(self) -> dict[str, int]:
        """Answers that are not trained on, by reason."""
        counts: dict[str, int] = {}
        for call in self.calls:
            for reason in (r for s in call.samples for r in s.untrainable):
                counts[reason] = counts.get(reason, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """For a line of JSON: the segments with their columns, and what is known of the calls."""
        failures = [c.failure for c in self.calls if c.failure]
        return {
            "episode": self.episode, "calls": len(self.calls), "sampled_tokens": self.num_sampled,
            "spliced_calls": sum(c.spliced > 0 for c in self.calls), "untrainable": self.untrainable,
            "failures": failures,
            "segments": [{"starts": s, **asdict(t)} for s, t in zip(self.starts, self.segments, strict=True)],
        }  # fmt: skip

    @property
    def last(self) -> RecordedSample | None:
        """The first answer to the last call that has one."""
        return next((c.samples[0] for c in reversed(self.calls) if c.samples and not c.failure), None)

    def rollout(
        self, problem: Problem, group: int, *, stop_reason: StopReason, prompt_ids: Sequence[int] = (),
        decode: Decode | None = None, budget: int | None = None,
    ) -> Rollout:  # fmt: skip
        """The rollout of an episode that tried `problem`. Segments without a token to train on are
        left out; where none is left, `prompt_ids` has an empty completion.
        """
        learnt = [s for s in self.segments if any(s.sampled_mask)]
        first, *later = learnt or [TokenSegment(list(prompt_ids), [], [], [], [])]
        shown = "".join(
            (decode(s.prompt_ids) if n else "") + decode(s.completion_ids) for n, s in enumerate((first, *later))
        ) if decode else ""  # fmt: skip
        return Rollout(
            problem.id, problem.domain, group, first.prompt_ids, first.completion_ids, first.sampled_mask,
            first.sampler_logprobs, first.weight_versions, stop_reason, text=shown, budget=budget,
            prompt=decode(first.prompt_ids) if decode else "", expected=problem.expected, segments=later,
        )  # fmt: skip


def trajectories(calls: Sequence[RecordedCall]) -> list[Trajectory]:
    """The episodes of `calls`, which are in the order in which they began.

    Calls without an episode's name are one episode where one continues another, else one each.
    """
    versions = _VersionNumbers()
    named: dict[str, _EpisodeBuilder] = {}
    nameless: list[_EpisodeBuilder] = []
    order: list[_EpisodeBuilder] = []
    for call in calls:
        if call.episode:
            builder = named.get(call.episode)
        else:
            builder = next((b for b in reversed(nameless) if b.continues(call.prompt_ids)), None)
        if builder is None:
            builder = _EpisodeBuilder(Trajectory(call.episode), versions)
            order.append(builder)
            if call.episode:
                named[call.episode] = builder
            else:
                nameless.append(builder)
        builder.add(call)
    return [b.trajectory for b in order]


class _VersionNumbers:
    """Whole numbers for the weights that sampled: a version that is a number is that number, others
    count from 0 in the order in which they appear.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], int] = {}

    def of(self, server: str, sample: RecordedSample) -> list[int]:
        out = [0] * len(sample.completion_ids)
        for span in sample.weight_versions:
            name = str(span["version"])
            number = int(name) if name.isdecimal() else self._known.setdefault((server, name), len(self._known))
            out[span["start"] : span["end"]] = [number] * (span["end"] - span["start"])
        return out


class _EpisodeBuilder:
    """One episode while its calls are put together. A segment's tokens are its `_tokens`."""

    def __init__(self, trajectory: Trajectory, versions: _VersionNumbers) -> None:
        self.trajectory, self._versions = trajectory, versions
        self._tokens: list[list[int]] = []

    def continues(self, prompt: Sequence[int]) -> bool:
        return self._extended(prompt) is not None

    def _extended(self, prompt: Sequence[int]) -> int | None:
        """The number of the segment that a prompt continues: the longest whose tokens begin it."""
        fits = [n for n, t in enumerate(self._tokens) if len(t) <= len(prompt) and list(prompt[: len(t)]) == t]
        return max(fits, key=lambda n: len(self._tokens[n]), default=None)

    def add(self, call: RecordedCall) -> None:
        self.trajectory.calls.append(call)
        at = self._extended(call.prompt_ids)
        for number, sample in enumerate(call.samples):
            if not sample.completion_ids:
                continue
            if at is None or number:
                self._begin(call.prompt_ids)
                self._append(len(self._tokens) - 1, call, sample)
            else:
                between = call.prompt_ids[len(self._tokens[at]) :]
                segment = self.trajectory.segments[at]
                version = segment.weight_versions[-1] if segment.weight_versions else 0
                _extend(segment, between, [0] * len(between), [0.0] * len(between), [version] * len(between))
                self._tokens[at] += between
                self._append(at, call, sample)

    def _begin(self, prompt: Sequence[int]) -> None:
        shared = max((_shared(t, prompt) for t in self._tokens), default=-1)
        self.trajectory.starts.append("first" if shared < 0 else f"{shared} of {len(prompt)} prompt tokens as before")
        self.trajectory.segments.append(TokenSegment(list(prompt), [], [], [], []))
        self._tokens.append(list(prompt))

    def _append(self, at: int, call: RecordedCall, sample: RecordedSample) -> None:
        learnt = [0 if sample.untrainable else m for m in sample.sampled_mask]
        logprobs = [p if m else 0.0 for p, m in zip(sample.logprobs, learnt, strict=True)]
        versions = self._versions.of(call.server, sample)
        _extend(self.trajectory.segments[at], sample.completion_ids, learnt, logprobs, versions)
        self._tokens[at] += sample.completion_ids


def _extend(
    segment: TokenSegment, ids: Sequence[int], mask: Sequence[int], logprobs: Sequence[float], versions: Sequence[int]
) -> None:
    segment.completion_ids += ids
    segment.sampled_mask += mask
    segment.sampler_logprobs += logprobs
    segment.weight_versions += versions


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens two sequences have in common."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
