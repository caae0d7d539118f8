"""The page in headless Chromium and Firefox over a scripted model.

`make test-page` brings Playwright and axe-core; the browsers are the system's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_server import PageServer

ROOT = Path(__file__).resolve().parents[2]
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: make test-page")
expect = sync_api.expect
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
SHOTS = os.environ.get("QWQ_SHOTS")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    server = PageServer("scripted_page.py", tmp_path_factory.mktemp("page") / "conversations.sqlite")
    yield server
    server.kill()


@pytest.fixture(params=["browser", "firefox"])
def page(request: pytest.FixtureRequest, server: PageServer) -> Iterator[Any]:
    rights = ["clipboard-read", "clipboard-write"] if request.param == "browser" else []
    browser = request.getfixturevalue(request.param)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US", permissions=rights)
    page = context.new_page()
    page.set_default_timeout(10_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: faults.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(server.url)
    yield page
    context.close()
    assert faults == []


def only_chromium(why: str) -> pytest.MarkDecorator:
    """For what Playwright cannot do to Firefox by BiDi."""
    assert why
    return pytest.mark.parametrize("page", ["browser"], indirect=True)


def ask(page: Any, text: str, *, wait: bool = True) -> None:
    page.get_by_label("Ask anything").fill(text)
    page.get_by_label("Ask anything").press("Enter")
    if wait:
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=30_000)
        expect(page.locator("article.assistant").last).to_have_attribute("aria-busy", "false")


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(300)
        page.screenshot(path=f"{SHOTS}/{name}.png")


@only_chromium("the reload ends an import, which Firefox calls an error of the page")
def test_first_paint_takes_less_than_a_second(page: Any) -> None:
    page.reload()
    page.wait_for_selector("#ask")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 1000


def test_thinking_is_folded_and_math_and_code_are_drawn(page: Any) -> None:
    ask(page, "some math please")
    fold = page.get_by_role("button", name="Thought for")
    expect(fold).to_have_attribute("aria-expanded", "false")
    expect(fold).to_contain_text("tokens")
    expect(page.locator(".figures")).to_contain_text("tokens/s")
    expect(page.locator(".figures")).to_contain_text("time to first token")
    expect(page.locator("article.assistant .katex")).to_have_count(3)
    expect(page.locator("article.assistant")).to_contain_text("It costs $120 or $130 a piece")
    expect(page.locator(".hljs-keyword").first).to_be_visible()
    page.get_by_role("button", name="Copy code").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("def area(r: float)")
    shot(page, "desktop-light")
    fold.click()
    expect(page.locator(".thoughts .katex")).to_have_count(1)
    page.emulate_media(color_scheme="dark")
    shot(page, "desktop-dark")
    for width, height, name in ((768, 1024, "tablet"), (390, 844, "phone")):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            shot(page, f"{name}-{scheme}")
            if page.locator(".layout").get_attribute("data-sidebar") == "open" and page.locator(".shade").is_visible():
                page.locator(".shade").click(position={"x": width - 10, "y": 400})
                shot(page, f"{name}-{scheme}-closed")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.scrollHeight") <= height


def test_edit_regenerate_and_switch_versions(page: Any) -> None:
    ask(page, "first wording")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("article.assistant .versions")).to_contain_text("2/2")
    expect(page.locator("article.assistant")).to_have_attribute("aria-busy", "false")
    page.locator("article.user").hover()
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(
        page.get_by_role("textbox", name="Edit")
    ).to_be_focused()  # the box is filled and focused a moment after it appears
    page.get_by_role("textbox", name="Edit").fill("second wording")
    page.get_by_role("textbox", name="Edit").press("Enter")
    expect(page.locator("article.user .versions")).to_contain_text("2/2")
    expect(page.locator("article.assistant")).to_contain_text("You said: second wording")
    page.get_by_role("button", name="Previous version").first.click()
    expect(page.locator("article.assistant")).to_contain_text("You said: first wording")
    page.reload()
    expect(page.locator("article.assistant")).to_contain_text("You said: first wording")


def test_stop_then_reload_then_continue(page: Any) -> None:
    ask(page, "slow one", wait=False)
    expect(page.locator("article.assistant .prose").last).to_contain_text("word word")
    page.reload()  # the answer goes on without the page, and the page finds it again
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".cut")).to_contain_text("Stopped")
    before = page.locator("article.assistant .prose").inner_text()
    page.wait_for_timeout(300)
    assert page.locator("article.assistant .prose").inner_text() == before
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".cut")).to_have_count(0)
    expect(page.locator("article.assistant")).to_have_attribute("aria-busy", "false", timeout=60_000)
    assert page.locator("article.assistant .prose").inner_text().split() == ["word"] * 400


def test_a_killed_server_loses_nothing_that_was_shown(page: Any, server: PageServer) -> None:
    ask(page, "slow again", wait=False)
    expect(page.locator("article.assistant .prose").last).to_contain_text("word word word")
    server.kill()
    shown = page.locator("article.assistant .prose").inner_text().strip()
    server.start()
    page.reload()
    expect(page.locator(".cut")).to_contain_text("Interrupted")
    assert page.locator("article.assistant .prose").inner_text().startswith(shown)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".cut")).to_have_count(0)
    expect(page.locator("article.assistant")).to_have_attribute("aria-busy", "false", timeout=60_000)
    assert page.locator("article.assistant .prose").inner_text().split() == ["word"] * 400


def test_hostile_output_harms_nothing(page: Any) -> None:
    outside: list[str] = []
    page.on(
        "request",
        lambda r: outside.append(r.url) if "127.0.0.1" not in r.url and not r.url.startswith("data:") else None,
    )
    ask(page, "something hostile")
    expect(page.locator("article.assistant .plain").first).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("article.assistant :is(script, style, iframe, [onerror], a[href^='javascript'])").count() == 0
    expect(page.locator("article.assistant")).to_contain_text("<script>window.hacked = 1</script>")
    assert outside == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_tool_calls_fold_in_one_block(page: Any) -> None:
    ask(page, "use the tool")
    page.get_by_label("Result of calculator").fill("42")
    page.get_by_role("button", name="Send results").click()
    expect(page.locator("article.assistant")).to_contain_text("The result is 42.")
    expect(page.locator("article.assistant")).to_have_count(1)
    fold = page.get_by_role("button", name="1 tool call: calculator")
    expect(fold).to_have_attribute("aria-expanded", "false")
    fold.click()
    expect(page.locator(".one-call")).to_contain_text('"expression": "6*7"')


@only_chromium("no downloads")
def test_conversations_are_searched_renamed_exported_imported_and_deleted(page: Any, tmp_path: Path) -> None:
    ask(page, "about zebras and lions")
    row = page.locator(".entry", has_text="about zebras")
    row.hover()
    row.get_by_role("button", name="Options").click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Rename").fill("Striped animals")
    page.get_by_label("Rename").press("Enter")
    expect(page.locator("header .title")).to_have_text("Striped animals")
    page.keyboard.press("Control+k")
    page.get_by_label("Search conversations").fill("ZEBRAS lions")
    expect(page.locator(".entry")).to_have_count(1)
    row = page.locator(".entry", has_text="Striped animals")
    for label, ending in (("Export as JSON", "json"), ("Export as Markdown", "md")):
        row.first.hover()
        row.first.get_by_role("button", name="Options").click()
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        assert download.value.suggested_filename == f"Striped animals.{ending}"
        download.value.save_as(tmp_path / f"c.{ending}")
        page.locator("nav input[type=file]").set_input_files(tmp_path / f"c.{ending}")
    expect(page.locator(".entry")).to_have_count(3)
    page.on("dialog", lambda d: d.accept())
    row.first.hover()
    row.first.get_by_role("button", name="Options").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".entry")).to_have_count(2)


def test_conversations_are_put_into_folders(page: Any) -> None:
    question = f"the taiga in {page.context.browser.browser_type.name}"  # one server for both browsers
    ask(page, question)
    answers = ["Biomes", ""]
    page.on("dialog", lambda d: d.accept(answers.pop(0)))
    row = page.locator(".entry", has_text=question)
    for inside in (1, 0):
        row.hover()
        row.get_by_role("button", name="Options").click()
        page.get_by_role("button", name="Move to folder").click()
        expect(page.locator("details.folder", has_text="Biomes").locator(".entry")).to_have_count(inside)
        page.reload()
        expect(row).to_have_count(1)
        expect(page.locator("details.folder", has_text="Biomes").locator(".entry")).to_have_count(inside)


def test_attachments_settings_and_budget_reach_the_request(page: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.bin").write_bytes(b"\xff\x00\x01")
    page.locator(".composer input[type=file]").set_input_files([tmp_path / "t.csv", tmp_path / "x.bin"])
    expect(page.get_by_role("alert")).to_contain_text("x.bin is not a text file")
    expect(page.locator(".composer .attached")).to_contain_text("2 rows")
    page.get_by_role("button", name="Thinking budget").click()
    page.locator(".popover input[type=number]").fill("300")
    page.locator(".popover input[type=number]").press("Tab")
    expect(page.locator(".chip")).to_contain_text("300")
    page.get_by_role("slider").press("ArrowRight")
    expect(page.locator(".chip")).not_to_have_text("300")
    page.keyboard.press("Control+,")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("System prompt").press("Tab")
    page.keyboard.press("Escape")
    ask(page, "look at it")
    expect(page.locator("article.assistant")).to_contain_text("a,b")
    found = page.evaluate("fetch('/api' + location.hash.replace('#', '/conversations')).then(r => r.json())")
    assert found["system"] == "Be brief." and found["settings"]["temperature"] == 0.5
    assert found["settings"]["thinking_token_budget"] > 300


def test_an_error_says_why_and_chinese_and_shortcuts_work(page: Any) -> None:
    ask(page, "please fail")
    expect(page.locator(".cut")).to_contain_text("the prompt has 40000 tokens, the context 32768")
    page.locator(".thread").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    shot(page, "help")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Control+,")
    shot(page, "settings")
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("dialog", name="设置")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("有什么想问的？")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh"
    shot(page, "chinese")
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("article")).to_have_count(0)


def test_two_thousand_messages_scroll(page: Any, server: PageServer) -> None:
    plain = [
        {"role": ("user", "assistant")[i % 2], "content": f"message {i} with \\(x^{{{i}}}\\) and **words**"}
        for i in range(2000)
    ]
    (id,) = page.evaluate(
        "async (m) => (await (await fetch('/api/import', {method: 'POST', body: JSON.stringify(m)})).json()).ids", plain
    )
    start = time.monotonic()
    page.goto(f"{server.url}#/{id}")
    expect(page.locator("article").last).to_contain_text("message 1999")
    assert time.monotonic() - start < 5
    assert page.locator("article").count() < 200
    for _ in range(5):
        page.locator(".thread").evaluate("(e) => e.scrollTo(0, 0)")
        page.wait_for_timeout(200)
    assert page.locator("article").count() > 80


PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj
4 0 obj<</Length 52>>stream
BT /F1 18 Tf 20 100 Td (The answer is forty-two) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
"""
GIVE = """async ([kind, target, name, type, data]) => {
  const transfer = new DataTransfer()
  transfer.items.add(new File([new Uint8Array(data)], name, { type }))
  const init = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer }
  const node = document.querySelector(target)
  if (kind === 'drop') node.dispatchEvent(new DragEvent('dragenter', init))
  node.dispatchEvent(kind === 'drop' ? new DragEvent('drop', init) : new ClipboardEvent('paste', init))
}"""


@only_chromium("a script's paste event carries no files in Firefox")
def test_files_are_dropped_anywhere_and_pasted(page: Any) -> None:
    page.evaluate(GIVE, ["drop", ".thread", "notes.txt", "text/plain", list(b"one two")])
    expect(page.locator(".composer .attached")).to_contain_text("notes.txt")
    expect(page.locator(".drop")).to_have_count(0)
    page.evaluate(GIVE, ["paste", "#ask", "paper.pdf", "application/pdf", list(PDF)])
    expect(page.locator(".composer .attached")).to_have_count(2)
    page.evaluate(GIVE, ["paste", "#ask", "image.png", "image/png", [137, 80, 78, 71]])
    expect(page.get_by_role("alert")).to_contain_text("image.png: this model reads text only, no images")
    page.evaluate(GIVE, ["drop", "header", "broken.pdf", "application/pdf", list(b"%PDF-1.4 nothing")])
    expect(page.get_by_role("alert")).to_contain_text("broken.pdf cannot be read as a PDF")
    expect(page.locator(".composer .attached")).to_have_count(2)
    ask(page, "look")
    expect(page.locator("article.assistant")).to_contain_text("The answer is forty-two")


def test_fork_edit_an_answer_and_copy_the_conversation(page: Any) -> None:
    ask(page, "one")
    ask(page, "two")
    expect(page.locator(".context")).to_contain_text("/ 32,768")
    page.locator("article.assistant").first.hover()
    page.get_by_role("button", name="Edit answer").first.click()
    page.get_by_role("textbox", name="Edit").fill("my own words")
    shot(page, "edit-answer")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("article.assistant")).to_have_count(1)
    expect(page.locator("article.assistant")).to_contain_text("my own words")
    expect(page.locator("article.assistant .versions")).to_contain_text("2/2")
    page.get_by_role("button", name="Copy conversation").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "**You**\n\none\n\n**Assistant**\n\nmy own words"
    before = page.evaluate("location.hash")
    page.locator("article.assistant").hover()
    page.locator("article.assistant").get_by_role("button", name="Fork from here").click()
    expect(page.locator("header .title")).to_contain_text("(fork)")
    assert page.evaluate("location.hash") != before
    expect(page.locator("article")).to_have_count(2)


def test_a_temporary_chat_is_gone_when_it_is_left(page: Any) -> None:
    page.get_by_role("button", name="Temporary chat").click()
    expect(page.locator(".hello")).to_contain_text("not kept")
    shot(page, "temporary")
    ask(page, "whisper")
    expect(page.locator("header .tag")).to_be_visible()
    expect(page.locator(".entry", has_text="whisper")).to_have_count(0)
    hash = page.evaluate("location.hash")
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("header .tag")).to_have_count(0)
    page.wait_for_timeout(300)
    status = "fetch('/api' + location.hash.replace('#', '/conversations')).then(r => r.status)"
    page.evaluate("(h) => history.replaceState(null, '', h)", hash)
    assert page.evaluate(status) == 404


def test_defaults_are_shown_and_presets_are_kept(page: Any) -> None:
    page.keyboard.press("Control+,")
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.6")
    expect(page.get_by_label("Top-p")).to_have_attribute("placeholder", "1")
    expect(page.get_by_label("Max tokens")).to_have_attribute("placeholder", "rest of the context")
    expect(page.get_by_label("Stop sequences")).to_be_visible()
    page.get_by_label("Temperature").fill("0.2")
    page.get_by_label("System prompt").fill("Answer in verse.")
    page.get_by_label("Preset name").fill("poet")
    page.get_by_role("button", name="Save").click()
    page.get_by_label("Presets").select_option("")
    expect(page.get_by_label("System prompt")).to_have_value("")
    expect(page.get_by_label("Temperature")).to_have_value("")
    page.get_by_label("Presets").select_option("poet")
    expect(page.get_by_label("System prompt")).to_have_value("Answer in verse.")
    expect(page.get_by_label("Temperature")).to_have_value("0.2")
    shot(page, "presets")


def test_a_model_is_picked_where_there_are_several(browser: Any, server: PageServer) -> None:
    page = browser.new_page()
    page.route(
        "**/v1/models",
        lambda route: route.fulfill(
            json={"data": [{"id": n, "root": n, "max_model_len": 1000} for n in ("small", "large")]}
        ),
    )
    page.goto(server.url)
    kept = "fetch('/api' + location.hash.replace('#', '/conversations')).then(r => r.json())"
    ask(page, "which model")
    assert page.evaluate(kept)["settings"]["model"] == "small"
    page.get_by_label("Model", exact=True).select_option("large")
    ask(page, "and now")
    assert page.evaluate(kept)["settings"]["model"] == "large"
    page.close()


def test_a_phone_has_large_targets_and_formulas_that_scroll(browser: Any, server: PageServer) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server.url)
    ask(page, "some math and a wide one")
    small = page.evaluate(
        "[...document.querySelectorAll('button, select, a[href]')].filter((e) => "
        "e.checkVisibility({visibilityProperty: true}) && !e.closest('[inert]') && !e.matches('.skip'))"
        ".map((e) => [e.title || e.textContent, e.getBoundingClientRect()]).filter(([, r]) => r.width < 44 || "
        "r.height < 44).map(([t]) => t)"
    )
    assert small == []
    wide = page.locator("article.assistant .math.display").last
    assert wide.evaluate("(e) => e.scrollWidth > e.clientWidth + 20 && getComputedStyle(e).overflowX === 'auto'")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, "phone-math")
    context.close()


def test_the_page_can_be_installed(page: Any) -> None:
    manifest = page.evaluate(
        "fetch(document.querySelector('link[rel=manifest]').href).then(async (r) => [r.headers.get('content-type'), "
        "await r.json()])"
    )
    assert manifest[0] == "application/manifest+json" and manifest[1]["start_url"] == "/"
    icon = manifest[1]["icons"][0]["src"]
    assert page.evaluate("(u) => fetch(u).then(r => r.headers.get('content-type'))", icon) == "image/svg+xml"


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: make test-page")
def test_axe_finds_no_serious_fault(page: Any) -> None:
    ask(page, "some math again")
    page.get_by_role("button", name="Thought for").click()
    source = AXE.read_text(encoding="utf-8")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate(source)  # over the debugger, which the page's policy does not bind
        for opened in (None, "Control+,"):
            if opened:
                page.keyboard.press(opened)
            violations = page.evaluate("async () => (await axe.run()).violations")
            bad = [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")]
            assert bad == []
        page.keyboard.press("Escape")
