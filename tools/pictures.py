"""The pictures of the README: a report, the page, a terminal.

    make pictures [RUN=runs/tiny]

Each shows what the program does at this moment: the report is built from the records in
docs/reports/small, the page is `qwq serve RUN` answering a question, the terminal holds the output
of the commands above it. Needs Chromium, and RUN with a trained policy.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from qwq.pipeline.run_report import write_report

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"
MAX_BYTES = 300_000  # of a picture: a README loads quickly
QUESTION = "Dan has 14 shells. Dan finds 13 more. Dan loses 9. How many shells does Dan have now?"
COMMANDS = (
    "qwq explain recipes/tiny.toml | head -10",
    """echo '{"gold": "1/2", "pred": "So it is \\\\boxed{0.5}."}' | qwq verify math -""",
    "qwq look {run} --stage rl1 --task math --sort reward --reverse | head -9",
)
FRAME = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 18px 22px; background: #12151c; color: #e6e8ee; }}
body {{ font: 14px/1.45 "DejaVu Sans Mono", monospace; }}
pre {{ margin: 0 0 16px; font: inherit; white-space: pre; }} .typed {{ color: #6fce9f; font-weight: bold; }}
</style>{body}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=ROOT / "runs" / "tiny", help="a run with a trained policy, or a model"
    )
    parser.add_argument("--model", help="what the page talks to, if not the run: as for `qwq serve`")
    parser.add_argument("--question", default=QUESTION, help="what the page is asked")
    parser.add_argument("--only", choices=("report", "terminal", "page"), help="one of the three")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    if not given.run.exists():
        sys.exit(f"no run at {given.run}: `make demo` trains one, or name another by --run")
    from playwright.sync_api import sync_playwright

    OUT.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        if given.only in (None, "report"):
            picture_of_report(browser, Path(folder))
        if given.only in (None, "terminal"):
            picture_of_terminal(browser, Path(folder), given.run)
        if given.only in (None, "page"):
            picture_of_page(browser, given.model or str(given.run), given.question)
        browser.close()


def picture_of_report(browser: Any, folder: Path) -> None:
    """The top of the report of docs/reports/small, written again from its records."""
    source = ROOT / "docs" / "reports" / "small"
    run = folder / "small"
    (run / "stages").mkdir(parents=True)
    shutil.copy(source / "recipe.toml", run)
    for record in json.loads((source / "results.json").read_text(encoding="utf-8"))["stages"]:
        (run / "stages" / f"{record['name']}.json").write_text(json.dumps(record), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 1180})
    page.goto(write_report(run).as_uri())
    save("report", page.screenshot())


def picture_of_terminal(browser: Any, folder: Path, run: Path) -> None:
    blocks = []
    for command in COMMANDS:
        typed = command.replace("{run}", os.path.relpath(run, ROOT))
        blocks.append(f'<pre><span class="typed">$ {html.escape(typed)}</span>\n{coloured(output_of(typed))}</pre>')
    path = folder / "terminal.html"
    path.write_text(FRAME.format(body="".join(blocks)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1120, "height": 400})
    page.goto(path.as_uri())
    save("terminal", page.screenshot(full_page=True))


def output_of(command: str) -> str:
    """What a shell prints for `command`, colours included."""
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "125", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        starter = Path(folder) / "qwq"
        code = "import sys; from qwq.cli import main; sys.exit(main())"
        starter.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{code}' \"$@\"\n", encoding="utf-8")
        starter.chmod(0o755)
        environment["PATH"] = f"{folder}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-c", f"{command} 2>&1"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        sys.exit(f"{command}\n{done.stdout}\nended with status {done.returncode}: no picture is made of it")
    return done.stdout.rstrip("\n")


def coloured(output: str) -> str:
    """Terminal output as HTML."""
    console = Console(record=True, width=400, file=io.StringIO())
    console.print(Text.from_ansi(output), soft_wrap=True)
    return console.export_html(inline_styles=True, theme=MONOKAI, code_format="{code}").rstrip()


def picture_of_page(browser: Any, model: str, question: str) -> None:
    """A question, its thinking opened, and the answer."""
    with server(model) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark", locale="en-GB")
        page.goto(address)
        page.fill("#ask", question)
        page.keyboard.press("Enter")
        page.wait_for_selector(".message.assistant[aria-busy=false] .figures span", timeout=600_000)
        fold = page.locator(".message.assistant .thinking .fold")
        if fold.count():
            fold.first.click()
        page.wait_for_timeout(500)
        save("page", page.screenshot())


@contextmanager
def server(model: str) -> Iterator[str]:
    """`qwq serve MODEL` on a free port, with conversations that are kept nowhere."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from qwq.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "serve", model, f"--port={port}", "--conversations", ":memory:"]
    process = subprocess.Popen(words, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            if process.poll() is not None:
                sys.exit(f"{shlex.join(words[3:])} ended with status {process.returncode}")
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def save(name: str, png: bytes) -> None:
    """As a PNG of 256 colours, which a screen shows the same."""
    path = OUT / f"{name}.png"
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}  {size:,} bytes")
    if size > MAX_BYTES:
        sys.exit(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}: show less")


if __name__ == "__main__":
    main()
