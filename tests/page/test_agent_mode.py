"""Agent mode of the page in headless Chromium: steps as they come, approval, stop, files, numbers.

`make test-page` brings Playwright and axe-core; Chromium is the system's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_tools import OutsideTools
from page_server import PageServer
from scripted_policy import ScriptedPolicy

from qwq.agent.run import run_agent
from qwq.envs.toolbox import Toolbox
from qwq.rollout.policy import TurnRequest

ROOT = Path(__file__).resolve().parents[2]
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: make test-page")
pytest.importorskip("mcp", reason="the extra agent is not installed")
expect = sync_api.expect
expect.set_options(timeout=30_000)  # the machine may be busy
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
SHOTS = os.environ.get("QWQ_SHOTS")
SALES = "month,amount\n" + "\n".join(["Jan,4000", "Jan,100", "Feb,3900", "Mar,5000", "Mar,200"]) + "\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    long_run(folder / "runs" / "20260101-000000-0a0b0c0d")
    server = PageServer("scripted_agent.py", folder)
    yield server.url
    server.stop()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(20_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: faults.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(url)
    page.get_by_role("button", name="Agent", exact=True).click()
    yield page
    context.close()
    assert faults == []


def long_run(out: Path) -> None:
    """A run that has ended, whose context was full; the first summary could not be used."""
    tries = iter(["I will look on."])

    def say(request: TurnRequest) -> str:
        if request.schema is not None:
            facts = {"facts": [{"call": "call-1", "fact": "<b>place 1</b> holds 7"}], "open": ["look at the last"]}
            return next(tries, json.dumps(facts))
        if len(request.key.episode.turns) == 12:
            return "It is done."
        arguments = {"text": str(len(request.key.episode.turns))}
        return "I look. " * 350 + f"<tool_call>\n{json.dumps({'name': 'look', 'arguments': arguments})}\n</tool_call>"

    box = Toolbox([OutsideTools(out.parent.parent / "sent.txt")])
    run_agent(ScriptedPolicy(say, context=8192), "Look at many places.", toolbox=box, out=out)


def give(page: Any, task: str, *, tools: tuple[str, ...] = (), files: dict[str, str] | None = None) -> None:
    for name in tools:
        page.get_by_role("button", name=name, exact=True).click()
    if files:
        page.locator(".composer input[type=file]").set_input_files(
            [{"name": n, "mimeType": "text/csv", "buffer": text.encode()} for n, text in files.items()]
        )
        expect(page.locator(".composer .attached")).to_have_count(len(files))
    page.get_by_label("Ask anything").fill(task)
    page.get_by_label("Ask anything").press("Enter")


def ended(page: Any, state: str = "Finished") -> None:
    expect(page.locator(".agent-bar .state")).to_have_text(state, timeout=90_000)


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(400)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def test_a_report_whose_numbers_jump_to_their_call(page: Any) -> None:
    give(page, "Make a sales report.", files={"sales.csv": SALES})
    ended(page)
    expect(page.locator(".step")).to_have_count(3)
    expect(page.locator(".step table").first).to_contain_text("4100")
    expect(page.locator(".picture img")).to_have_count(1)
    assert page.locator(".picture img").evaluate("i => i.naturalWidth") > 100
    expect(page.locator(".agent-bar b").first).to_have_text("5/20")
    expect(page.locator(".number.bad")).to_have_text(["9999 · unsupported"])
    assert page.locator(".step .scroll style, .step [style]").count() == 0
    jump = page.locator("button.number").filter(has_text="5,200")
    jump.click()
    expect(page.locator(".step:focus")).to_have_count(1)
    expect(page.get_by_text("by_month.csv").last).to_be_visible()
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        page.locator(".thread").evaluate("t => (t.scrollTop = 0)")
        shot(page, f"agent-desktop-{theme}")
        page.locator(".thread").evaluate("t => (t.scrollTop = t.scrollHeight)")
        shot(page, f"agent-desktop-{theme}-end")
    page.get_by_role("button", name="Conversations").click()  # the list is closed on a phone
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        page.locator(".thread").evaluate("t => (t.scrollTop = 0)")
        shot(page, f"agent-phone-{theme}")
        page.locator(".thread").evaluate("t => (t.scrollTop = t.scrollHeight)")
        shot(page, f"agent-phone-{theme}-end")


def test_a_call_waits_for_a_person_also_after_a_reload(page: Any) -> None:
    give(page, "Please note it.", tools=("mcp",))
    ended(page, "Waits for you")
    expect(page.locator(".approval")).to_contain_text("May this call run?")
    shot(page, "agent-approval")
    page.reload()
    expect(page.locator(".approval")).to_be_visible()
    page.get_by_role("button", name="Approve").click()
    ended(page)
    expect(page.locator(".step pre").last).to_have_text("noted")


def test_a_denial_has_its_reason(page: Any) -> None:
    give(page, "Please note it.", tools=("mcp",))
    ended(page, "Waits for you")
    page.get_by_label("Reason (for a denial)").fill("not today")
    page.get_by_role("button", name="Deny").click()
    ended(page)
    expect(page.locator(".step .state")).to_have_text("refused")
    expect(page.locator(".step pre").last).to_contain_text("not today")


def test_stop_and_go_on(page: Any) -> None:
    give(page, "Something slow.")
    expect(page.locator(".step .state")).to_have_text("running", timeout=60_000)
    shot(page, "agent-running")
    page.get_by_role("button", name="Stop").click()
    ended(page, "Stopped")
    page.get_by_role("button", name="Continue").click()
    ended(page)
    expect(page.locator(".prose").last).to_contain_text("I waited.")


def test_what_fails_is_shown_in_its_place(page: Any) -> None:
    give(page, "Let it fail.")
    ended(page)
    expect(page.locator(".step .state")).to_have_text(["error", "error"])
    expect(page.locator(".step").first).to_contain_text("FileNotFoundError")
    shot(page, "agent-errors")
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_label("Ask anything")).to_be_visible()
    expect(page.locator(".sidebar")).to_contain_text("Let it fail.")


def test_a_summary_of_what_left_the_context(page: Any) -> None:
    page.locator(".sidebar").get_by_text("Look at many places.").click()
    ended(page)
    expect(page.get_by_text("The summary could not be used:")).to_have_count(1)
    folds = page.get_by_role("button", name="Summary of the first turns")
    expect(folds.first).to_have_attribute("aria-expanded", "false")
    folds.first.click()
    expect(page.locator(".thoughts li")).to_have_text(
        ["call-1: <b>place 1</b> holds 7", "Still open: look at the last"]
    )
    shot(page, "agent-summary")
    assert int(page.locator(".agent-bar b").first.inner_text().split("/")[0]) > 13  # summaries are model calls


def test_nothing_that_axe_objects_to(page: Any) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core: make test-page")
    give(page, "Please note it.", tools=("mcp",))
    ended(page, "Waits for you")
    for name, script in (("light", AXE), ("dark", AXE)):
        page.evaluate(f"document.documentElement.dataset.theme = '{name}'")
        page.evaluate(script.read_text())
        violations = page.evaluate("async () => (await axe.run()).violations")
        grave = [v for v in violations if v["impact"] in ("serious", "critical")]
        assert [(v["id"], v["nodes"][0]["html"]) for v in grave] == []
