"""The pages of `qwq look` and `qwq watch` in headless Chromium: hostile text, filters, keys,
widths, themes, axe.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_run import make_run

from qwq.look import page as look_page
from qwq.look import watch
from qwq.look.index import open_index
from qwq.look.server import address

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: make test-page")

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.toml").write_text('name = "tiny"\n[stages.rl1]\nkind = "rl1"\nsteps = 3\n')
    stage = folder / "rollouts" / "rl1"
    stage.mkdir(parents=True)
    rows = [
        {
            "problem_id": f"p{n // 4}",
            "domain": "math",
            "group": n // 4,
            "prompt": f"What is {n // 4}?",
            "expected": "7",
            "text": f"thought {n}</think>answer {n} {HOSTILE if n == 5 else ''}",
            "reward": float(n % 2),
            "rewards": {"accuracy": float(n % 2)},
            "verdicts": [
                {"outcome": "correct" if n % 2 else "wrong", "reason": HOSTILE, "verifier": "math", "answer": str(n)}
            ],
            "stop_reason": "end",
        }
        for n in range(260)
    ]
    (stage / "step-00000.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    metrics = [
        {"stage": "rl1", "step": s, "seconds": 1.0, "tokens": 50, "reward": s / 3, "loss": 0.1, "alarms": [HOSTILE]}
        for s in range(2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    (folder / "fleet" / "rl1").mkdir(parents=True)
    engine = {"event": "ready", "engine": "http://an-engine-with-a-long-name.example:8000", "version": 3}
    (folder / "fleet" / "rl1" / "events.jsonl").write_text(json.dumps(engine) + "\n")
    return folder


@pytest.fixture(params=["file", "served", "watch"])
def url(request: pytest.FixtureRequest, run: Path, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        look_page.write_page(open_index(run), range(260), tmp_path / "look.html")
        yield (tmp_path / "look.html").as_uri()
        return
    server = (
        look_page.serve(lambda: open_index(run), 0) if request.param == "served" else watch.serve(run, 0, poll_s=0.05)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield address(server)
    server.shutdown()
    server.server_close()
    thread.join()


def opened(browser: Any, url: str, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(url)
    return page, faults


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_overflows_or_fails_axe(browser: Any, url: str, width: int, scheme: str) -> None:
    page, faults = opened(browser, url + ("#6" if "8" in url or "look" in url else ""), width, scheme)
    page.wait_for_timeout(300)
    assert "owned" not in page.title() and faults == []
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if AXE.is_file():
        page.evaluate(AXE.read_text())
        violations = page.evaluate("async () => (await axe.run()).violations")
        assert [
            (v["id"], [n["html"][:120] for n in v["nodes"]][:3])
            for v in violations
            if v["impact"] in ("serious", "critical")
        ] == []
    page.close()


def test_the_stage_of_an_evaluation_is_not_cut(browser: Any, tmp_path: Path) -> None:
    """`eval pretrain` was `eval ...` in every row at 1280 pixels."""
    look_page.write_page(open_index(make_run(tmp_path / "fake")), range(900), tmp_path / "look.html")
    page, _ = opened(browser, (tmp_path / "look.html").as_uri())
    cell = page.locator("#rows tr").first.locator("td").nth(1)
    sync_api.expect(cell).to_have_text("eval pretrain")
    assert cell.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    page.close()


@pytest.mark.parametrize("url", ["watch"], indirect=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_shows_whole_tables(browser: Any, url: str, scheme: str) -> None:
    """At 390 pixels the state of stages and engines was behind the edge of its table."""
    page, faults = opened(browser, url, 390, scheme)
    sync_api.expect(page.locator("#engines tr")).to_contain_text("http://an-engine")
    for table in ("#stages", "#engines"):
        box = page.locator(f"{table} .chip").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 - 14
        scrolled = f"(e => e.scrollWidth - e.clientWidth)(document.querySelector('{table}').closest('.scroll'))"
        assert page.evaluate(scrolled) == 0
    column = "getComputedStyle(document.querySelector('#engines td:nth-child(3)'), '::before').content"
    assert page.evaluate(column) == '"weights of step"'
    assert faults == []
    page.close()


@pytest.mark.parametrize("url", ["file", "served"], indirect=True)
def test_filters_keys_and_groups(browser: Any, url: str) -> None:
    page, faults = opened(browser, url)
    expect = sync_api.expect
    count, heading = page.locator("#count"), page.locator("#answer h2")
    expect(count).to_contain_text("260 of 260 answers")
    page.keyboard.press("j")
    expect(heading).to_contain_text("#1 ")
    expect(page.locator("#answer")).to_contain_text("Group: 4 answers")
    page.keyboard.press("j")
    expect(heading).to_contain_text("#2 ")
    assert page.evaluate("location.hash") == "#2" and "thought 1" in page.locator("#answer .thought").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("ANSWER 25")
    expect(count).to_have_text("11 of 260 answers")  # 25 and 250 to 259
    page.select_option("#outcome", "correct")
    expect(count).to_have_text("6 of 260 answers")
    page.click("text=Clear")
    expect(count).to_contain_text("260 of 260")
    page.click("#next")
    expect(page.locator("#rows a").first).to_have_text("101")
    assert faults == []
    page.close()


@pytest.mark.parametrize("url", ["watch"], indirect=True)
def test_the_live_page_follows_the_run(browser: Any, url: str, run: Path) -> None:
    page, faults = opened(browser, url)
    line, before = page.locator("#line"), (run / "metrics.jsonl").read_text()
    sync_api.expect(line).to_have_text("rl1: step 2 of 3")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": "rl1", "step": 2, "seconds": 1.0, "reward": 0.875, "loss": 0.1}) + "\n")
    sync_api.expect(line).to_have_text("rl1: step 3 of 3")
    sync_api.expect(page.locator("#stats")).to_contain_text("0.875")
    (run / "metrics.jsonl").write_text(before)
    assert faults == []
    page.close()
