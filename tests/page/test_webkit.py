"""The pages in WebKit: the chat page, the report, `qwq look` and `qwq watch`.

WebKitGTK's own driver opens them (Debian's packages webkit2gtk-driver and xvfb), since Playwright's
build of WebKit runs on few systems. Selenium comes with the extra `page`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_server import PageServer
from report_run import make_run

from qwq.look import page as look_page
from qwq.look import watch
from qwq.look.index import open_index
from qwq.look.server import address
from qwq.pipeline.run_report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="no Selenium: make test-page")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

# Selenium's own class for WebKitGTK calls what Selenium has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:setting remote_server_addr:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
SHOTS = os.environ.get("QWQ_SHOTS")
PATIENCE_S = 30


def mini_browser() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"))), None)


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    if shutil.which("WebKitWebDriver") is None or shutil.which("Xvfb") is None or mini_browser() is None:
        pytest.skip("no WebKit on this machine: Debian's webkit2gtk-driver and xvfb")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"],
        pass_fds=(write,), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as told:
        number = told.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


@pytest.fixture(params=["light", "dark"])
def webkit(request: pytest.FixtureRequest, display: str) -> Iterator[Any]:
    environment = os.environ | {
        "DISPLAY": display,
        "GTK_THEME": "Adwaita" + (":dark" if request.param == "dark" else ""),
        "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",  # its jail needs user namespaces, which a container may lack
        "WEBKIT_DISABLE_COMPOSITING_MODE": "1",
        "LIBGL_ALWAYS_SOFTWARE": "1",
    }
    options = webdriver.WebKitGTKOptions()
    options.binary_location = str(mini_browser())
    options.add_argument("--automation")
    service = webdriver.webkitgtk.service.Service(shutil.which("WebKitWebDriver"), env=environment)
    driver = webdriver.WebKitGTK(options=options, service=service)
    driver.set_script_timeout(PATIENCE_S)
    driver.scheme = request.param
    yield driver
    driver.quit()


def eventually(driver: Any, holds: Any) -> Any:
    return WebDriverWait(driver, PATIENCE_S, poll_frequency=0.05).until(lambda _: holds())


def wide(driver: Any, width: int) -> int:
    """Make the page `width` pixels wide; its width then (MiniBrowser's bar keeps it above 440)."""
    frame = driver.get_window_size()["width"] - driver.execute_script("return innerWidth")
    driver.set_window_size(width + frame, 900)
    eventually(driver, lambda: width <= driver.execute_script("return innerWidth") <= max(width, 460))
    return int(driver.execute_script("return innerWidth"))


def sound(driver: Any, name: str) -> None:
    """Nothing beyond the edges, the theme of the system, no serious fault by axe."""
    if SHOTS:
        driver.save_screenshot(f"{SHOTS}/webkit-{name}-{driver.scheme}.png")
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert (max(driver.execute_script(colour)) < 60) == (driver.scheme == "dark")
    if AXE.is_file():
        driver.execute_script(AXE.read_text() + "\nwindow.axe = axe")
        run = "const done = arguments[0]; axe.run().then(r => done(JSON.stringify(r.violations)))"
        found = json.loads(driver.execute_async_script(run))
        assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_a_chat_with_formulas_and_code(webkit: Any, tmp_path: Path) -> None:
    server = PageServer("scripted_page.py", tmp_path / "c.sqlite")
    try:
        webkit.get(server.url)
        box = eventually(webkit, lambda: webkit.find_element(By.ID, "ask"))
        box.send_keys("some math please", Keys.ENTER)
        answer = "article.assistant[aria-busy=false]"
        eventually(webkit, lambda: webkit.find_elements(By.CSS_SELECTOR, f"{answer} .figures"))
        assert len(webkit.find_elements(By.CSS_SELECTOR, f"{answer} .katex")) == 3
        text = webkit.find_element(By.CSS_SELECTOR, answer).text
        assert "It costs $120 or $130 a piece" in text and "tokens/s" in text
        assert webkit.find_elements(By.CSS_SELECTOR, ".hljs-keyword")
        for width in (1280, 390):
            shown = wide(webkit, width)
            sound(webkit, f"chat-{shown}")
        webkit.refresh()  # the conversation is the server's
        eventually(webkit, lambda: len(webkit.find_elements(By.CSS_SELECTOR, f"{answer} .katex")) == 3)
    finally:
        server.stop()


def test_the_report_and_look(webkit: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "fake")
    look_page.write_page(open_index(run), range(900), tmp_path / "look.html")
    for url, name in ((write_report(run).as_uri(), "report"), ((tmp_path / "look.html").as_uri(), "look")):
        webkit.get(url)
        for width in (1280, 390):
            shown = wide(webkit, width)
            sound(webkit, f"{name}-{shown}")
    body = webkit.find_element(By.TAG_NAME, "body")
    body.send_keys("j")
    eventually(webkit, lambda: "#1 " in webkit.find_element(By.CSS_SELECTOR, "#answer h2").text)
    assert webkit.execute_script("return location.hash") == "#1"
    assert webkit.execute_script("return document.querySelectorAll('img').length") == 0  # hostile text stays text


def test_watch_follows_a_run(webkit: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "tiny"\n[stages.rl1]\nkind = "rl1"\nsteps = 3\n')
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps({"stage": "rl1", "step": 0, "seconds": 1.0, "reward": 0.25, "loss": 0.1}) + "\n")
    server = watch.serve(tmp_path, 0, poll_s=0.05)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        webkit.get(address(server))
        eventually(webkit, lambda: webkit.find_element(By.ID, "line").text == "rl1: step 1 of 3")
        with metrics.open("a") as file:
            file.write(json.dumps({"stage": "rl1", "step": 1, "seconds": 1.0, "reward": 0.875, "loss": 0.1}) + "\n")
        eventually(webkit, lambda: webkit.find_element(By.ID, "line").text == "rl1: step 2 of 3")
        assert "0.875" in webkit.find_element(By.ID, "stats").text
        sound(webkit, "watch")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
