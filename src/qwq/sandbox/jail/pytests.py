"""Test functions that need pytest itself (fixtures, parametrize), run beside the program where
pytest is a package.
"""

from __future__ import annotations

import os
from typing import Any


class _FirstFailure:
    """A plugin of pytest that keeps what failed first."""

    def __init__(self) -> None:
        self.reason = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.reason:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.reason = str(crash.message if crash else report.longrepr)[:500]


def run_pytest(source: str, name: str) -> None:
    """Run one test function or class of `source`, which sees the program's names.

    Raises AssertionError where it fails.
    """
    import shutil
    import tempfile

    import pytest  # not of the standard library: only there where it was added

    folder = tempfile.mkdtemp(dir=os.getcwd())
    file = os.path.join(folder, f"test_{os.path.basename(folder)}.py")  # pytest knows a module by its name
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(
                "import sys as _sys\nglobals().update({k: v for k, v in vars(_sys.modules['program']).items() if "
                "k[:2] != '__'})\n"
            )
            out.write(source)
        first = _FirstFailure()
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            "--noconftest",
            "--import-mode=importlib",
            "-c",
            os.devnull,
            f"--rootdir={folder}",
        ]
        status = int(pytest.main([f"{file}::{name}", *options], plugins=[first]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if status:
        raise AssertionError(first.reason or f"pytest ended with status {status}")
