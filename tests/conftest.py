"""For all tests: nothing is written to the user's own data folder, also not by processes that tests
start.
"""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="qwq-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_DATA_HOME"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Python's collector rests while tests are collected, a sixth of that time, and leaves out what
    was collected from then on.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
