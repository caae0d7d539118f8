"""The length of thought as something a user sets: a budget, an answer after it, and a detector for
loops.

A model thinks between `<think>` (written by itself or by its chat template) and `</think>`.
`ThinkingState` follows one sample token by token. When the budget is spent, or the thought runs in
a circle, it hands back a short closing phrase and `</think>`; the engine feeds these like any
token, and the model continues with its answer. Under a budget an end token is not allowed inside
the thinking (it closes it instead) nor before the answer's first word.

Where the thinking begins and ends is `text.response`'s rule. The markers are read in the text, so
they need not be single tokens. The budget counts tokens between the markers; the closing phrase is
not counted, as the model did not think it.

Sources: budget forcing (Muennighoff et al. 2025, arXiv 2501.19393); Qwen3's `thinking_budget`,
whose closing phrase says in the model's own voice that time is up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwq.text.response import THINK_CLOSE, ThinkingSplitter, ends_inside
from qwq.text.tokenizer import TextStream, Tokenizer

CLOSING_PHRASE = "\n\nThat is enough thinking; I will answer with what I have.\n"
ANSWER_RESERVE = 32  # tokens kept for the answer where max_new_tokens would end inside the thinking
LOOP_TOKENS = 192  # an exact repetition this long ends an answer, unless another length is asked for
LOOP_CHECK_EVERY = 16
LOOP_MAX_PERIOD = 96
LOOP_MIN_REPEATS = 4


class ThinkingState:
    """Where one sample is between thinking and answer.

    `budget` in tokens, None without a limit; `max_new_tokens` bounds thinking and answer together,
    so a budget is cut to leave room for the closing phrase and an answer.
    """

    def __init__(self, tokenizer: Tokenizer, *, opened: bool, budget: int | None, max_new_tokens: int) -> None:
        self.num_thinking = 0
        self.budget = budget
        self.closing_ids: list[int] = []
        if budget is not None:
            bare = f"{THINK_CLOSE}\n\n"
            self.closing_ids = tokenizer.encode_rendered(CLOSING_PHRASE + bare)
            if budget == 0 or len(self.closing_ids) > max_new_tokens // 4:
                self.closing_ids = tokenizer.encode_rendered(bare)  # nothing to conclude, or no room to say so
            reserve = min(ANSWER_RESERVE, max_new_tokens // 2)
            self.budget = max(0, min(budget, max_new_tokens - len(self.closing_ids) - reserve - (not opened)))
        self._stream = TextStream(tokenizer)
        self._splitter = ThinkingSplitter(thinking_open=opened)
        self._answer_begun = False
        self._marker_pieces = 0

    @property
    def inside(self) -> bool:
        return self._splitter.inside

    @property
    def closed(self) -> bool:
        """Whether there was a thought, and it has ended."""
        return self._splitter.has_thinking and not self._splitter.inside

    @property
    def limited(self) -> bool:
        return self.budget is not None

    @property
    def end_forbidden(self) -> bool:
        """Whether an end token would leave the caller without an answer."""
        return self.limited and (self.inside or (self.closed and not self._answer_begun))

    def due(self) -> bool:
        """Whether the thinking must close now, before another token is sampled."""
        return self.inside and self.budget is not None and self.num_thinking >= self.budget

    def push(self, id: int, *, forced: bool = False) -> None:
        """One token of the output, in order; `forced` where the engine wrote it."""
        text = self._stream.push(id)
        was_inside = self.inside
        _, answer = self._splitter.push(text)
        if self.closed:
            self._answer_begun = self._answer_begun or bool(answer.strip())
            if was_inside and THINK_CLOSE not in text:  # written in pieces, which are no thought
                self.num_thinking -= self._marker_pieces
        elif was_inside and not forced:
            self.num_thinking += 1
            begun = ends_inside(self._splitter.pending, THINK_CLOSE)
            self._marker_pieces = self._marker_pieces + 1 if begun > len(text) else bool(begun)


def in_a_loop(ids: Sequence[int], min_tokens: int) -> bool:
    """Whether the last tokens are one phrase over and over: at least 4 times and at least
    `min_tokens` tokens in all.

    Phrases up to 96 tokens are seen, repeated exactly; a loop that changes a word each time is not.
    """
    span = max(min_tokens, LOOP_MIN_REPEATS * LOOP_MAX_PERIOD)
    tail = np.asarray(ids[-span:], dtype=np.int64)
    for period in range(1, LOOP_MAX_PERIOD + 1):
        length = max(min_tokens, LOOP_MIN_REPEATS * period)
        if length > len(tail):
            return False
        # The cheap look first: most periods fail on the last token.
        if tail[-1] == tail[-1 - period] and np.array_equal(tail[-length + period :], tail[-length:-period]):
            return True
    return False
