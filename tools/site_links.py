"""A hook of mkdocs: names of pages (`docs/tour.md`) become links on the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_PAGE = re.compile(r"(?<!\[)`docs/(\w+\.md)`")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, *, config: dict[str, Any], **_: Any) -> str:
    """The page with its links; a name that is no page stays text, and so does code."""
    folder = Path(config["docs_dir"])
    return "".join(part if part.startswith("```") else _linked(part, folder) for part in _FENCED.split(markdown))


def _linked(text: str, folder: Path) -> str:
    def link(found: re.Match[str]) -> str:
        return f"[`docs/{found[1]}`]({found[1]})" if (folder / found[1]).is_file() else found[0]

    return _PAGE.sub(link, text)
