"""The frame of a self-contained page: no scripts, nothing loaded, a content policy that says so."""

from __future__ import annotations

from importlib.resources import files

from qwq.report.wording import text


def document(title: str, body: str, *, css: str = "", images: bool = False, themed: bool = False) -> str:
    """A page of the reports' style, with `css` after it. `images` allows pictures inside the page,
    `themed` follows the reader's dark mode.
    """
    style = files("qwq.report").joinpath("style.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'" + ("; img-src data:" if images else "")
    themed_class = ' class="themed"' if themed else ""
    return (
        f'<!doctype html>\n<html lang="en"{themed_class}><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{text(title)}</title><style>\n{style}{css}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )
