"""Whether two results of queries are the same, as Spider's execution accuracy says (Zhong et al.
2020, arXiv 2010.02840, exec_eval.py of test-suite-sql-eval, with --keep_distinct).

Columns may stand in another order. Rows are compared as a bag, and in order where the expected
query has `ORDER BY`. Names of columns do not matter; values are equal as Python's are (1 == 1.0).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

Rows = Sequence[Sequence[Any]]

_ORDER_BY = re.compile(r"order\s+by", re.IGNORECASE)


def is_ordered(query: str) -> bool:
    """Whether the order of a query's rows is part of its result."""
    return _ORDER_BY.search(query) is not None


def same_result(answer: Rows, expected: Rows, *, ordered: bool) -> bool:
    """Whether `answer` is `expected` under some order of its columns; `ordered`: with its rows in
    order too.
    """
    if len(answer) != len(expected):
        return False
    if not expected:
        return True
    if len(answer[0]) != len(expected[0]):
        return False
    return any(_same_rows(answer, expected, order, ordered) for order in _column_orders(answer, expected))


def _same_rows(answer: Rows, expected: Rows, order: Sequence[int], ordered: bool) -> bool:
    permuted = [tuple(row[i] for i in order) for row in answer]
    needed = [tuple(row) for row in expected]
    return permuted == needed if ordered else Counter(permuted) == Counter(needed)


def _column_orders(answer: Rows, expected: Rows) -> Iterator[tuple[int, ...]]:
    """Orders of the answer's columns in which each holds the expected column's values; columns of
    equal content are tried in one order alone.
    """
    have = [Counter(row[i] for row in answer) for i in range(len(answer[0]))]
    need = [Counter(row[i] for row in expected) for i in range(len(expected[0]))]
    contents = [tuple(row[i] for row in answer) for i in range(len(answer[0]))]

    def complete(chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(chosen) == len(need):
            yield chosen
            return
        tried = set()
        for column in range(len(have)):
            if column in chosen or have[column] != need[len(chosen)] or contents[column] in tried:
                continue
            tried.add(contents[column])
            yield from complete((*chosen, column))

    return complete(())
