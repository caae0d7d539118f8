"""The address of the server that `run.py` has started; in the project's own test run these files
are left out.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if "QWQ_TEST_URL" in os.environ else ["clients_*.py", "test_*.py"]


@pytest.fixture
def base_url() -> str:
    return os.environ["QWQ_TEST_URL"]
