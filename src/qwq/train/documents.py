"""Procedural documents for pretraining and SFT, as tokens and weights; those of files are made in
`data.examples`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural.base import digest
from qwq.text.response import THINK_CLOSE, THINK_OPEN
from qwq.text.template import ChatFormat
from qwq.types import Message

Document = tuple[Sequence[int], Sequence[float]]


def demonstration(
    mix: ProblemMix, chat: ChatFormat, index: int, noise: float, prompt_weight: float, *, twice: bool = False
) -> Document:
    """Document `index` of a mix: token ids, and the loss weight of each (1 for the assistant's
    own). `twice`: see `think_twice`.
    """
    problem, turns = mix.demonstration(index, noise)
    if twice:
        turns = tuple(think_twice(turn) for turn in turns)
    ids, mask = chat.training_example((*problem.messages, *turns), problem.tools)
    return ids, [1.0 if m else prompt_weight for m in mask]


def think_twice(turn: Message) -> Message:
    """The turn with its thought gone through once more before the answer."""
    head, opened, rest = turn.content.partition(f"{THINK_OPEN}\n")
    thought, closed, answer = rest.partition(f"\n{THINK_CLOSE}")
    if not opened or not closed or not thought.strip():
        return turn
    return replace(turn, content=f"{head}{opened}{thought}\nagain:\n{thought}{closed}{answer}")


def drill(mix: ProblemMix, chat: ChatFormat, index: int, prompt_weight: float) -> Document | None:
    """Document `index` as a page of exercises; None if its task has no such pages.

    Answers weigh 1.
    """
    rng = random.Random(digest(f"{mix.seed}/{mix.label}/drill/{index}"))
    page = mix.task(index).drill(rng)
    ids: list[int] = []
    weights: list[float] = []
    for question, answer in page:
        for text, weight in ((question, prompt_weight), (answer + "\n", 1.0)):
            tokens = chat.tokenizer.encode(text)
            ids += tokens
            weights += [weight] * len(tokens)
    return (ids, weights) if page else None


def batches(
    document: Callable[[int], Document], start: int, batch_tokens: int, stop: int | None = None
) -> Iterator[tuple[list[Document], int]]:
    """Documents from number `start` on, in batches of at least `batch_tokens` tokens, each with the
    number after its last.
    """
    index = start
    while stop is None or index < stop:
        batch: list[Document] = []
        total = 0
        while total < batch_tokens and (stop is None or index < stop):
            batch.append(document(index))
            total += len(batch[-1][0]) - 1
            index += 1
        yield batch, index
