"""The chat page in headless Chromium: first paint, opening a conversation of 2,000 messages, and
frames while it scrolls.

    python benchmarks/page.py --rounds 5          # needs Playwright (pip install -e '.[page]') and Debian's chromium

The server is the scripted one of the page's tests. The last lines are JSON: {"name", "ours",
"theirs", "ratio"}, where `theirs` is the aim: a second to the first paint, and 60 frames a second.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from arguments import at_least
from page_server import PageServer

FRAMES = """async (frames) => {
  const thread = document.querySelector('.thread'), times = [];
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < frames; i++) {
    thread.scrollBy(0, -120);
    const now = await new Promise(requestAnimationFrame);
    times.push(now - last);
    last = now;
  }
  return [times, document.querySelectorAll('article').length];
}"""


def measure(browser: Any, url: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds by name, one value a round; frames all together."""
    words = (
        "Some **words**, a formula \\(x^{%d}\\), and `code`; then a second sentence that is somewhat longer than "
        "the first one. "
    )
    plain = [
        {"role": ("user", "assistant")[i % 2], "content": f"message {i}: " + (words % i) * (1 + i % 4)}
        for i in range(2000)
    ]
    out: dict[str, list[float]] = {"first paint": [], "2,000 messages shown": [], "frame while scrolling": []}
    page = browser.new_page()
    page.goto(url)
    (conversation,) = page.evaluate(
        "async (m) => (await (await fetch('/api/import', {method: 'POST', body: JSON.stringify(m)})).json()).ids", plain
    )
    page.close()
    for _ in range(rounds):
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.goto(url)
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
        out["first paint"].append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        began = time.perf_counter()
        page.goto(f"{url}#/{conversation}")
        page.get_by_text("message 1999").wait_for()
        out["2,000 messages shown"].append(1000 * (time.perf_counter() - began))
        page.wait_for_timeout(500)
        times, shown = page.evaluate(FRAMES, 300)
        print(f"scrolled up 36,000 pixels in 300 frames, {shown} messages in the page then", flush=True)
        out["frame while scrolling"] += times
        page.context.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    rounds = parser.parse_args().rounds
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("no Chromium on this machine")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        server = PageServer("scripted_page.py", Path(folder) / "c.sqlite")
        try:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
            found = measure(browser, server.url, rounds)
            browser.close()
        finally:
            server.stop()
    lines = []
    for (name, values), aim in zip(found.items(), (1000.0, 1000.0, 1000 / 60), strict=True):
        values.sort()
        middle, late = statistics.median(values), values[min(len(values) - 1, int(0.99 * len(values)))]
        print(f"{name:24} median {middle:7.1f} ms   99% {late:7.1f} ms   most {values[-1]:7.1f} ms   aim {aim:6.1f} ms")
        lines.append(
            {"name": f"{name} (ms)", "ours": round(middle, 2), "theirs": round(aim, 2), "ratio": round(middle / aim, 3)}
        )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
