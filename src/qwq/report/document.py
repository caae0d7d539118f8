"""The frame of a self-contained page: no scripts, nothing loaded, a content policy that says so."""

from __future__ import annotations

import re
from importlib.resources import files

from qwq.report.palette import dark_css
from qwq.report.wording import text

# Headings that this package writes; what others wrote is escaped and holds no tags.
_HEADING = re.compile(r"<h(2)>(.*?)</h2>|<h(3) class=\"sticky\">(.*?)</h3>")
_TAGS = re.compile(r"<span.*?</span>|<[^>]+>")


def document(title: str, body: str, *, css: str = "", images: bool = False, contents: bool = False) -> str:
    """A page of the reports' style, with `css` after it, in the reader's light or dark mode.

    `images` allows pictures inside the page, `contents` lists its headings beside it.
    """
    style = files("qwq.report").joinpath("style.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'" + ("; img-src data:" if images else "")
    nav, body = _listed(body) if contents else ("", body)
    listed = ' class="listed"' if nav else ""
    return (
        '<!doctype html>\n<html lang="en" class="themed"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{text(title)}</title><style>\n{style}{dark_css()}{css}</style></head>\n"
        f"<body{listed}>{nav}<main>\n{body}\n</main></body></html>\n"
    )


def _listed(body: str) -> tuple[str, str]:
    """(links to the headings, the page with their targets); no list of fewer than three."""
    items: list[str] = []

    def with_target(found: re.Match[str]) -> str:
        level, words = found[1] or found[3], found[2] or found[4]
        items.append(f'<li class="level{level}"><a href="#s{len(items)}">{_TAGS.sub("", words).strip()}</a></li>')
        return found[0].replace(f"<h{level}", f'<h{level} id="s{len(items) - 1}"', 1)

    body = _HEADING.sub(with_target, body)
    if len(items) < 3:
        return "", body
    return f'<nav class="contents" aria-label="Contents"><ul>{"".join(items)}</ul></nav>', body
