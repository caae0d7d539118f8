"""HTML pages with the report's style: one file, nothing loaded, only this page's own script runs.

The script builds everything with text nodes, and data travel as JSON in which no tag can begin, so
what a model wrote stays text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from qwq.report.wording import text


def page(title: str, name: str, body: str, data: Mapping[str, Any], *, served: bool) -> tuple[str, str]:
    """(HTML, its content policy) of a page whose script is `name`.js.

    `data` is what the script reads. A served page may ask its own server, no page anything else.
    """
    style = _asset("report", "style.css") + _asset("look", "look.css")
    script = _asset("look", f"{name}.js")
    connect = "'self'" if served else "'none'"
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )
    html = (
        '<!doctype html>\n<html lang="en" class="themed"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">'
        f"<title>{text(title)}</title><style>{style}</style></head>\n<body>{body}\n"
        f'<script type="application/json" id="data">{embedded(data)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )
    return html, policy


def embedded(value: Any) -> str:
    """JSON that can be inside a script element: no `<` that would begin a tag or a comment."""
    return (
        json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )


def _asset(package: str, name: str) -> str:
    return files(f"qwq.{package}").joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
