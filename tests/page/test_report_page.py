"""The report of a run in headless Chromium: nothing cut, values under the pointer, contents, both
themes, axe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_run import make_run

from qwq.pipeline.run_report import write_report

pytest.importorskip("playwright.sync_api", reason="no Playwright: make test-page")

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
CUT = """[...document.querySelectorAll(".scroll, details > div, pre, .panel")]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("runs") / "fake")
    for path in (run / "stages").glob("*.json"):  # as wide as a run of all five families
        record = json.loads(path.read_text())
        for evals in (record["evals"], record["evals_greedy"]):
            evals |= {name: evals["math"] for name in ("instructions", "tools") if "math" in evals}
        path.write_text(json.dumps(record))
    for path in (run / "rollouts").rglob("*.jsonl"):  # names as long as those of procedural families
        named = path.read_text().replace('"problem_id": "', '"problem_id": "code/list/keep_even>square_each>largest#')
        path.write_text(named)
    return write_report(run).as_uri()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_and_axe_finds_no_serious_fault(browser: Any, url: str, width: int, theme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme, bypass_csp=True)
    page.goto(url)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(brightness) < 60) == (theme == "dark")
    if not AXE.is_file():
        pytest.skip("no axe-core: npm ci in web/")
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []
    page.close()


def test_a_value_is_shown_under_the_pointer_and_the_contents_lead_there(browser: Any, url: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(url)
    page.click("nav.contents >> text=rl2")
    heading = page.locator("h3.sticky", has_text="rl2").first
    assert heading.bounding_box()["y"] < 100
    page.mouse.wheel(0, 300)
    page.wait_for_timeout(100)
    assert 0 <= heading.bounding_box()["y"] < 10  # the stage's name stays in view
    spot = page.locator("svg[aria-label='share correct'] .spot").nth(20)
    assert not spot.locator("text").is_visible()
    spot.locator("path").hover(force=True)
    assert spot.locator("text").is_visible() and spot.locator("text").text_content().startswith("step ")
    page.close()
