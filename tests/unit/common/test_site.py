"""The site of docs/: its pages are there, and names of pages become links."""

from __future__ import annotations

from pathlib import Path

import yaml
from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]


def pages(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_every_page_of_the_site_is_there_once():
    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(named) > 20 and len(named) == len(set(named))
    assert [name for name in named if not (ROOT / "docs" / name).is_file()] == []


def test_names_of_pages_become_links_and_code_stays():
    module = load_script("tools/site_links.py")
    text = "See `docs/tour.md`, `docs/none.md`, [`docs/tour.md`](x).\n```text\n`docs/tour.md`\n```\n`docs/data.md`"
    shown = module.on_page_markdown(text, config={"docs_dir": str(ROOT / "docs")})
    assert shown == (
        "See [`docs/tour.md`](tour.md), `docs/none.md`, [`docs/tour.md`](x).\n```text\n`docs/tour.md`\n```\n"
        "[`docs/data.md`](data.md)"
    )
