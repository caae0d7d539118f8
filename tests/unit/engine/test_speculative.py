"""When to guess, and what: by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qwq.engine.speculative import NgramDraft, StepCosts


def costs(seconds: dict[int, float]) -> StepCosts:
    known = sorted(seconds)
    return StepCosts(lambda n: seconds[max(k for k in known if k <= n)])


FLAT = {1: 1.0}
STEEP = {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 6: 6.0, 8: 8.0, 12: 12.0, 16: 16.0}
SHELF = {1: 1.0, 2: 2.3, 3: 2.8, 4: 3.0, 6: 4.2, 8: 4.1, 12: 5.0, 16: 5.0}  # a 0.5B model in 4 bits on two cores


@pytest.mark.parametrize(
    ("table", "right", "others", "length"),
    [
        (FLAT, 0.9, 0, 15),  # tokens that cost nothing are all guessed
        (STEEP, 0.99, 0, 0),  # tokens that cost full price never are
        (STEEP, 0.99, 15, 0),
        (SHELF, 0.5, 0, 0),
        (SHELF, 0.95, 0, 15),  # 11.2 tokens expected for the price of 5
    ],
)
def test_the_length_that_promises_most(table, right, others, length) -> None:
    assert costs(table).best_length(right, others) == length


def test_costs_between_and_beyond_what_was_measured() -> None:
    c = costs(STEEP)
    assert c(1) == 1 and c(5) == pytest.approx(5) and c(10) == pytest.approx(10) and c(20) == pytest.approx(20)


class Always:
    """Costs that always ask for `length` tokens, and note the shares of right look-ups that they
    are told.
    """

    def __init__(self, length: int) -> None:
        self.length, self.seen = length, []

    def best_length(self, right: float, others: int) -> int:
        self.seen.append(right)
        return self.length


def look_up(tokens: list[int], room: int, length: int = 4) -> list[int]:
    return NgramDraft(Always(length)).propose(SimpleNamespace(tokens=tokens), room, 0)


def test_look_up_takes_the_longest_and_latest_match() -> None:
    tokens = [1, 2, 3, 7, 9, 1, 2, 3, 8, 8, 1, 2, 3]
    assert look_up(tokens, 10) == [8, 8, 1, 2]
    assert look_up(tokens, 2) == [8, 8]
    assert look_up([1, 2, 3, 4, 5], 9) == []


def test_unchecked_look_ups_are_learnt_from() -> None:
    costs = Always(0)
    draft, seen = NgramDraft(costs), costs.seen
    sequence = SimpleNamespace(tokens=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    tokens = sequence.tokens
    for t in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]:
        draft.propose(sequence, 5, 0)
        tokens.append(t)
    draft.follow(tokens)
    assert draft.right > 0.85 and seen[0] == 0.5 and seen == sorted(seen)
    for t in range(100, 130):  # text that never was there: nothing is looked up, so nothing is learnt
        tokens.append(t)
    draft.follow(tokens)
    after = draft.right
    costs.length = 5
    assert draft.propose(sequence, 5, 0) == [] and after > 0.7  # one look-up failed where the text parted
