"""What leaves the context when it is full: a pure function of the conversation, and of what the
model has written down of turns that left it, so a run that resumes compacts the same.

In this order, until half of the context is free: results older than the last three turns become one
line each, their whole texts stay readable in the workspace; thoughts of those turns go; then whole
turns go, the oldest first, calls and results together. Never: the task, the tools, a call without
its result, the last three turns. The task's message names what went. A summary of the turns that
went (`summary.py`) follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qwq.envs.base import Environment
from qwq.rollout.sample import Episode
from qwq.text.response import parse
from qwq.types import Message

KEPT_TURNS = 3  # the last ones, as they were
FREE = 0.5  # of the context, after a compaction
SHORT = 160  # characters: a result of up to so many stays as it is
HEAD = 80  # characters of a longer one


@dataclass(frozen=True, slots=True)
class Step:
    """A turn with the answers to its calls. `calls` are their ids, one for each answer; none where
    the answer is a user's word.
    """

    number: int
    turn: Message
    answers: tuple[Message, ...]
    calls: tuple[str, ...]

    @property
    def messages(self) -> list[Message]:
        return [self.turn, *self.answers]


@dataclass(frozen=True, slots=True)
class Compaction:
    """`messages` are all of the next prompt. `shortened`: calls whose result is one line now.
    `dropped`: calls that are gone, of the first `dropped_turns` turns. `thoughts`: turns without
    their thoughts.
    """

    messages: list[Message]
    shortened: tuple[str, ...]
    dropped: tuple[str, ...]
    dropped_turns: int
    thoughts: int
    text: str
    tokens: int = 0  # of the messages, estimated


def keep_results(environment: Environment, episode: Episode, made: Compaction) -> None:
    """`environment` keeps the results that leave the context."""
    gone = {*made.dropped, *made.shortened}
    steps = steps_of_episode(episode)
    pairs = [(i, m.content) for s in steps for i, m in zip(s.calls, s.answers, strict=False) if i in gone]
    environment.keep_earlier(dict(pairs))


def steps_of_episode(episode: Episode, messages: Sequence[Message] = ()) -> list[Step]:
    """The turns of an episode; `messages` follow the last one."""
    return steps_of([*episode.messages, *messages], [len(turn.parts.calls_in_order) for turn in episode.turns])


def steps_of(messages: Sequence[Message], num_calls: Sequence[int]) -> list[Step]:
    """The turns of an episode's messages; `num_calls` are the calls of each turn."""
    groups: list[list[Message]] = []
    for message in messages:
        if message.role == "assistant":
            groups.append([message])
        else:
            groups[-1].append(message)
    steps: list[Step] = []
    number = 0
    for (turn, *answers), calls in zip(groups, num_calls, strict=True):
        ids = tuple(f"call-{n}" for n in range(number + 1, number + calls + 1))
        steps.append(Step(len(steps) + 1, turn, tuple(answers), ids))
        number += calls
    return steps


def compact(
    head: Sequence[Message], steps: Sequence[Step], count: Callable[[Sequence[Message]], int], context: int,
    place: Callable[[str], str], *, summary: Sequence[Message] = (), summarised: int = 0,
) -> Compaction | None:  # fmt: skip
    """What is left of `head`, which ends with the task, and `steps`; None where nothing can go.

    `count` gives the tokens of a prompt. `place` is where a call's whole result can be read, "" for
    nowhere. `summary` are the messages that sum up the first `summarised` turns, which go.
    """
    old, last = list(steps[:-KEPT_TURNS]), list(steps[-KEPT_TURNS:])
    if not old:
        return None
    shorter = [_shortened(step, place) for step in old]
    without = [replace(step, turn=replace(step.turn, content=without_thoughts(step.turn))) for step in shorter]
    room = (1 - FREE) * context

    def made(kept: Sequence[Step], num_dropped: int, thoughts: int) -> Compaction:
        one = _made(head, summary, old, kept, last, num_dropped, thoughts, place)
        return replace(one, tokens=count(one.messages))

    if not summarised:
        for kept, thoughts in ((shorter, 0), (without, len(without))):
            if (whole := made(kept, 0, thoughts)).tokens <= room:
                return whole
    low, high = max(1, summarised), len(without)  # how many of the oldest turns go: the fewest that leave enough room
    while low < high:
        middle = (low + high) // 2
        if made(without, middle, len(without)).tokens <= room:
            high = middle
        else:
            low = middle + 1
    return made(without, low, len(without))


def _made(
    head: Sequence[Message], summary: Sequence[Message], old: Sequence[Step], kept: Sequence[Step],
    last: Sequence[Step], num_dropped: int, thoughts: int, place: Callable[[str], str],
) -> Compaction:  # fmt: skip
    shortened = tuple(
        ident
        for before, after in zip(old[num_dropped:], kept[num_dropped:], strict=True)
        for ident, was, now in zip(before.calls, before.answers, after.answers, strict=False)
        if was != now
    )
    dropped = tuple(ident for step in old[:num_dropped] for ident in step.calls)
    text = _told(shortened, dropped, num_dropped, thoughts, place, bool(summary))
    task = replace(head[-1], content=f"{head[-1].content}\n\n[{text}]")
    messages = [*head[:-1], task, *summary, *(m for step in (*kept[num_dropped:], *last) for m in step.messages)]
    return Compaction(messages, shortened, dropped, num_dropped, thoughts - num_dropped if thoughts else 0, text)


def _told(
    shortened: Sequence[str], dropped: Sequence[str], num_dropped: int, thoughts: int, place: Callable[[str], str],
    summed_up: bool,
) -> str:  # fmt: skip
    """What went, for the model."""
    parts = ["To make room, parts of this conversation were left out."]
    if dropped:
        parts.append(f"Gone: your first {num_dropped} turns with {id_range(dropped)}.")
    if shortened:
        parts.append(f"Results cut to one line: {id_range(shortened)}.")
    if thoughts:
        parts.append("Your thoughts of those turns are gone.")
    where = place("call-N") if dropped or shortened else ""
    if where:
        parts.append(f"Whole results are in the workspace ({where}): read them again before you use their numbers.")
    if summed_up:
        parts.append("Your summary of the turns that are gone follows.")
    return " ".join(parts)


def id_range(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


def _shortened(step: Step, place: Callable[[str], str]) -> Step:
    if len(step.calls) != len(step.answers):
        return step
    return replace(step, answers=tuple(_line(i, m, place) for i, m in zip(step.calls, step.answers, strict=True)))


def _line(ident: str, message: Message, place: Callable[[str], str]) -> Message:
    if len(message.content) <= SHORT:
        return message
    head = " ".join(message.content.split())[:HEAD]
    where = place(ident)
    again = f", whole in {where}" if where else ""
    return replace(message, content=f"{ident}: {head} ... ({len(message.content):,} characters{again})")


def without_thoughts(turn: Message) -> str:
    return parse(turn.content, tools=()).answer if "<think>" in turn.content else turn.content
