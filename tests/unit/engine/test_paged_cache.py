"""The block pool under random use: what a table reads is what was written for it, and every block
is accounted for.
"""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qwq.engine.backends.cuda.paged_cache import SCRATCH, BlockPool, PagedCache, Table
from qwq.errors import CapacityError
from qwq.model.config import ModelConfig

SIZE = 4
SHAPE = ModelConfig("qwen2", 40, 16, 32, 2, 2, 1, 8)


class WrittenPool(BlockPool):
    """A pool whose slots hold what a key and value depend on: all tokens up to there, the extra
    key, the weights' age.
    """

    def __init__(self, num_blocks: int) -> None:
        super().__init__(num_blocks, SIZE)
        self.content: list[object] = [None] * (num_blocks * SIZE)
        self.age = 0
        self.age_of: dict[Table, int] = {}

    def open(self, ids, extra="") -> Table:
        table = super().open(ids, extra)
        self.age_of[table] = self.age
        return table

    def fork(self, table: Table) -> Table:
        twin = super().fork(table)
        self.age_of[twin] = self.age_of[table]
        return twin

    def forget(self) -> None:
        super().forget()
        self.age += 1

    def meant(self, table: Table, end: int) -> object:
        return (tuple(table.ids[:end]), table.extra, self.age_of[table])

    def _copy(self, source: int, target: int) -> None:
        self.content[target * SIZE : (target + 1) * SIZE] = self.content[source * SIZE : (source + 1) * SIZE]

    def write(self, table: Table, ids: list[int]) -> None:
        start, slots = len(table.ids), self.slots(table, len(ids))
        self.commit(table, ids)
        for end, slot in enumerate(slots, start + 1):
            self.content[slot] = self.meant(table, end)

    def assert_reads_its_own(self, table: Table) -> None:
        for t in range(len(table.ids)):
            assert self.content[table.blocks[t // SIZE] * SIZE + t % SIZE] == self.meant(table, t + 1)


# Beginnings of two sequences that part after six tokens, so that they are found again often.
STEMS = [[0] * 14, [0] * 6 + [1] * 8]
prompts = st.builds(lambda stem, length: stem[:length], st.sampled_from(STEMS), st.integers(1, 14))
more = st.lists(st.integers(0, 1), min_size=1, max_size=9)


class RandomUse(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = WrittenPool(14)
        self.tables: list[Table] = []

    @rule(ids=prompts, extra=st.sampled_from(["", "yarn"]))
    def open(self, ids, extra):
        table = self.pool.open(ids, extra)
        self.tables.append(table)
        assert len(table.ids) < len(ids) and table.ids == ids[: len(table.ids)]
        self._extend(table, ids[len(table.ids) :])

    def _extend(self, table: Table, ids: list[int], spare: int = 0) -> None:
        before = (self.pool.num_available, list(table.blocks))
        fits = self.pool.blocks_needed(table, len(ids) + spare) <= self.pool.num_available
        if fits:
            self.pool.reserve(table, len(ids) + spare)
            self.pool.write(table, ids)
        else:
            with pytest.raises(CapacityError, match="key/value blocks"):
                self.pool.reserve(table, len(ids) + spare)
            assert before == (self.pool.num_available, list(table.blocks)), "a refused request changed something"

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), ids=more, spare=st.integers(0, 5))
    def extend(self, data, ids, spare):
        self._extend(data.draw(st.sampled_from(self.tables)), ids, spare)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def fork(self, data):
        self.tables.append(self.pool.fork(data.draw(st.sampled_from(self.tables))))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def truncate(self, data):
        table = data.draw(st.sampled_from(self.tables))
        self.pool.truncate(table, data.draw(st.integers(0, len(table.ids))))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def close(self, data):
        table = data.draw(st.sampled_from(self.tables))
        self.tables.remove(table)
        self.pool.close(table)

    @rule()
    def forget(self):
        self.pool.forget()
        assert not self.pool.cached and not self.pool.block_of

    @invariant()
    def everything_is_accounted_for(self):
        self.pool.check()

    @invariant()
    def tables_read_what_was_written_for_them(self):
        for table in self.tables:
            self.pool.assert_reads_its_own(table)


TestRandomUse = RandomUse.TestCase
TestRandomUse.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True)


def filled(pool: WrittenPool, ids: list[int], extra: str = "") -> Table:
    table = pool.open(ids, extra)
    rest = ids[len(table.ids) :]
    pool.reserve(table, len(rest))
    pool.write(table, rest)
    return table


def test_a_prefix_is_found_in_full_blocks_and_leaves_a_token_to_compute():
    pool = WrittenPool(20)
    ids = list(range(12))
    pool.close(filled(pool, ids))
    assert [pool.open(ids[:n]).num_cached for n in (3, 4, 5, 8, 9, 12)] == [0, 0, 4, 4, 8, 8]
    assert pool.open([*ids[:4], 99, *ids[5:]]).num_cached == 4, "a block is known by all tokens before it too"
    assert pool.open(ids, "yarn").num_cached == 0, "keys of another kind are another sequence"
    stats = pool.stats()
    assert (stats.asked, stats.hits) == (12 + 41 + 12 + 12, 24 + 4)


def test_a_fork_copies_only_the_partial_block_and_only_when_two_hold_it():
    pool = WrittenPool(20)
    first = filled(pool, [1, 2, 3, 4, 5, 6])
    second = pool.fork(first)
    assert first.blocks == second.blocks
    for table, token in ((first, 7), (second, 8)):
        pool.reserve(table, 1)
        pool.write(table, [token])
    assert first.blocks[0] == second.blocks[0] and first.blocks[1] != second.blocks[1]
    assert pool.copies == 1, "the last holder writes in place"
    assert first.ids[6:] == [7] and second.ids[6:] == [8]
    pool.assert_reads_its_own(first)
    pool.assert_reads_its_own(second)


def test_the_block_unused_longest_is_evicted_and_a_sequence_loses_its_end_first():
    pool = WrittenPool(6)  # five to use
    old, new = list(range(8)), list(range(100, 108))
    pool.close(filled(pool, old))
    pool.close(filled(pool, new))
    assert (pool.stats().free, pool.stats().cached) == (1, 4)
    pool.close(filled(pool, list(range(200, 208))))  # takes the free block and one of the old ones
    assert pool.evictions == 1
    assert pool.open([*old, 0]).num_cached == 4 and pool.open([*new, 0]).num_cached == 8


def test_forgetting_hides_even_what_open_tables_finish_later():
    pool = WrittenPool(10)
    table = filled(pool, [1, 2, 3, 4, 5])
    pool.forget()
    pool.reserve(table, 3)
    pool.write(table, [6, 7, 8])
    assert pool.open([1, 2, 3, 4, 5, 6, 7, 8, 9]).num_cached == 0
    pool.close(table)
    pool.check()
    assert filled(pool, [1, 2, 3, 4, 5]).num_cached == 0 and pool.open([1, 2, 3, 4, 5]).num_cached == 4


def test_a_truncated_block_is_no_longer_found_once_it_is_written_again():
    pool = WrittenPool(10)
    table = filled(pool, [1, 2, 3, 4, 5])
    pool.truncate(table, 2)
    assert pool.open([1, 2, 3, 4, 5]).num_cached == 4, "the block still holds what it held"
    pool = WrittenPool(10)
    table = filled(pool, [1, 2, 3, 4, 5])
    pool.truncate(table, 2)
    pool.reserve(table, 3)
    pool.write(table, [7, 8, 9])
    assert pool.open([1, 2, 3, 4, 5]).num_cached == 0 and pool.open([1, 2, 7, 8, 9]).num_cached == 4


def test_no_room_says_what_is_needed_and_what_there_is():
    pool = BlockPool(4, SIZE)
    table = pool.open(range(13))
    with pytest.raises(CapacityError, match="need 4 more key/value blocks of 4 tokens, 3 of 3 are free"):
        pool.reserve(table, 13)
    with pytest.raises(CapacityError, match="1 is scratch"):
        BlockPool(1)


def test_tensors_follow_their_blocks():
    cache = PagedCache(SHAPE, 8, SIZE)
    assert cache.k.shape == (2, 8, SIZE, 1, 8)
    assert cache.k[:, 0].nbytes + cache.v[:, 0].nbytes == PagedCache.block_bytes(SHAPE, SIZE, 4)
    table = cache.open(range(6))
    cache.reserve(table, 6)
    cache.k.copy_(torch.rand(cache.k.shape))
    cache.commit(table, range(6))
    twin = cache.fork(table)
    cache.reserve(twin, 4)
    for layer in range(2):
        assert torch.equal(cache.k[layer, table.blocks[1]], cache.k[layer, twin.blocks[1]])
    rows = cache.block_table([table, twin])
    assert rows.dtype == torch.int32 and rows.tolist() == [[*table.blocks, SCRATCH], [*twin.blocks]]
    assert SCRATCH not in [*table.blocks, *twin.blocks]
