"""Python's garbage collector, kept from scanning what lives as long as a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_heap() -> Iterator[None]:
    """While the block runs, collections leave out all objects that existed before it.

    With torch, sympy and the data loaded these are some 400,000, and one full collection over them
    takes a sixth of a second, again and again, between two tokens. At the end they are collected
    like any others.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
