"""The browsers of all page tests: Playwright can be opened once in a process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def play() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: make test-page")
    with sync_api.sync_playwright() as play:
        yield play


@pytest.fixture(scope="session")
def browser(play: Any) -> Iterator[Any]:
    """The system's Chromium."""
    browser = play.chromium.launch(
        executable_path=_installed("chromium", "google-chrome"), args=["--no-sandbox", "--disable-dev-shm-usage"]
    )
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def firefox(play: Any) -> Iterator[Any]:
    """The system's Firefox, by WebDriver BiDi: Playwright's own build is on no index."""
    browser = play.firefox.launch(executable_path=_installed("firefox", "firefox-esr"), channel="moz-firefox")
    yield browser
    browser.close()


def _installed(*names: str) -> str:
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no {names[0]} on this machine")
    return path
