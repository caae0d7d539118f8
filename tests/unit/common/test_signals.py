"""Signals that a block of code has, and gives back."""

from __future__ import annotations

import os
import signal

import pytest

from qwq.common.signals import ending_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_block_has_the_signals_and_gives_them_back_though_it_fails(number: int) -> None:
    before = signal.getsignal(number)
    seen: list[int] = []
    with pytest.raises(ZeroDivisionError), ending_signals(lambda got, _: seen.append(got)):
        os.kill(os.getpid(), number)
        1 / 0  # noqa: B018
    assert seen == [number] and signal.getsignal(number) is before
