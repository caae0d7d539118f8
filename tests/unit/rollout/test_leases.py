"""Leases, without engines: a group counts once, whatever happens to those that sample it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.rollout.leases import GroupKey, LeaseBook, Offer


def key(group: int, step: int = 0) -> GroupKey:
    return GroupKey("rl1", step, group, 4, 0)


def test_a_lost_group_waits_first_and_its_late_result_is_dropped():
    book = LeaseBook()
    for g in range(3):
        book.want(key(g))
    first = book.grant("a", 10.0)
    second = book.grant("b", 10.0)
    assert (first.key, second.key) == (key(0), key(1))
    assert [x.number for x in book.expired(9.9)] == []
    assert [x.number for x in book.expired(10.0)] == [first.number, second.number]
    assert book.lose(first.number).key == key(0) and book.lose(first.number) is None
    again = book.grant("b", 20.0)
    assert again.key == key(0)
    assert book.offer(first.number, 0, 9.0) == (Offer.LATE, None)
    assert book.offer(again.number, 0, 12.0) == (Offer.ACCEPTED, key(0))
    assert book.offer(again.number, 0, 12.0) == (Offer.LATE, None)
    assert book.offer(second.number, 0, 10.5) == (Offer.LATE, None), "after its deadline"
    assert book.waiting == [key(1), key(2)]


def test_an_engine_that_is_lost_loses_all_its_leases_in_order():
    book = LeaseBook()
    for g in range(4):
        book.want(key(g))
    for engine in ("a", "b", "a", "b"):
        book.grant(engine, 10.0)
    assert [x.key.group for x in reversed(book.lose_all("a"))] == [0, 2]
    assert book.waiting == [key(0), key(2)]
    book.want(key(0))
    book.want(key(1))
    assert book.waiting == [key(0), key(2)], "what is known is not asked for twice"


def test_stale_groups_are_sampled_again():
    book = LeaseBook(max_lag=1)
    book.want(key(0, step=5))
    for oldest, told in ((3, Offer.STALE), (6, Offer.STALE), (4, Offer.ACCEPTED)):
        lease = book.grant("a", 10.0)
        assert book.offer(lease.number, oldest, 1.0)[0] is told
    assert book.restore(key(1, step=5), 5) and not book.restore(key(2, step=5), 3)


def test_stragglers_are_cut_or_carried():
    book = LeaseBook(max_lag=1)
    book.want(key(0))
    book.want(key(1))
    cut, carried = book.grant("a", 10.0), book.grant("b", 10.0)
    assert book.cut(key(0)) == [cut]
    assert book.offer(cut.number, 0, 1.0)[0] is Offer.LATE
    book.carry(key(1), key(1, step=1))
    assert book.offer(carried.number, 0, 1.0) == (Offer.ACCEPTED, key(1, step=1))


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["grant", "finish", "lose", "engine", "time", "train"]), st.integers(0, 7)), max_size=120
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.integers(0, 3), st.integers(1, 4))
def test_random_schedules_keep_max_lag_and_count_each_group_once(actions, max_lag, prompts):
    """Engines sample with the weights of some moment, die, are slow, answer late; the trainer takes
    a step when the groups of it are there. What it trains on is never further back than max_lag,
    and each group comes once.
    """
    book, now, step = LeaseBook(max_lag=max_lag), 0.0, 0
    held: list[tuple[int, int]] = []  # lease, step of the weights that began it; kept after it is lost
    ready: dict[GroupKey, int] = {}
    trained: list[tuple[GroupKey, int]] = []

    def want() -> None:
        for later in range(max_lag + 1):
            for g in range(prompts):
                book.want(key((step + later) * prompts + g, step + later))

    want()
    for action, n in actions:
        if action == "grant" and (lease := book.grant(n % 3, now + 4)):
            held.append((lease.number, step))
        elif action == "finish" and held:
            number, began = held.pop(n % len(held))
            told, which = book.offer(number, began, now)
            if told is Offer.ACCEPTED:
                assert which not in ready and all(which != k for k, _ in trained)
                ready[which] = began
        elif action == "lose" and held:
            book.lose(held[n % len(held)][0])
        elif action == "engine":
            book.lose_all(n % 3)
        elif action == "time":
            now += n
            for lease in book.expired(now):
                book.lose(lease.number)
        elif action == "train":
            due = [k for k in ready if k.step == step]
            if len(due) == prompts:
                trained += [(k, step - ready.pop(k)) for k in due]
                step += 1
                want()
    assert all(0 <= lag <= max_lag for _, lag in trained)
    # Nothing is lost: every group is waiting, leased, ready or trained on, in one place.
    places = [*book.waiting, *(x.key for x in book.leases.values()), *ready, *(k for k, _ in trained)]
    assert len(places) == len(set(places))
    assert {k.group for k in places} == set(range((step + max_lag + 1) * prompts))
