"""When to guess, and what: by hand."""

from __future__ import annotations

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


def test_look_up_takes_the_longest_and_latest_match() -> None:
    draft = NgramDraft()
    tokens = [1, 2, 3, 7, 9, 1, 2, 3, 8, 8, 1, 2, 3]
    assert draft.propose(tokens, 10, lambda right: 4) == [8, 8, 1, 2]
    assert NgramDraft().propose(tokens, 2, lambda right: 4) == [8, 8]
    assert NgramDraft().propose([1, 2, 3, 4, 5], 9, lambda right: 4) == []


def test_unchecked_look_ups_are_learnt_from() -> None:
    draft, seen = NgramDraft(), []
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    for t in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]:
        draft.propose(tokens, 5, lambda right: seen.append(right) or 0)
        tokens.append(t)
    draft.follow(tokens)
    assert draft.right > 0.85 and seen[0] == 0.5 and seen == sorted(seen)
    for t in range(100, 130):  # text that never was there: nothing is looked up, so nothing is learnt
        tokens.append(t)
    draft.follow(tokens)
    after = draft.right
    assert draft.propose(tokens, 5, lambda right: 5) == [] and after > 0.7  # one look-up failed where the text parted
