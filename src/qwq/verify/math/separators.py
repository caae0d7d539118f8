r"""Cut a text at its top level: at commas, conjunctions, relations, unions; never inside brackets
or environments.
"""

from __future__ import annotations

import re

SCAN = re.compile(
    r"\\text ?\{ ?,? ?(?P<conj>and|or) ?,? ?\}|\\(?P<logic>lor|land)(?![A-Za-z])"
    r"|(?<![A-Za-z\\])(?P<word>and|or|AND|OR)(?![A-Za-z])"
    r"|(?P<open>\\begin ?\{[^{}]{0,20}\}|\\\{|\\lfloor|\\lceil|[(\[{])"
    r"|(?P<close>\\end ?\{[^{}]{0,20}\}|\\\}|\\rfloor|\\rceil|[)\]}])"
    r"|(?P<rel>\\(?:le|ge|ne|lt|gt|in|notin|approx|equiv|sim|cong|to|Rightarrow|Leftrightarrow|propto|subset"
    r"|subseteq|supset|supseteq|perp|parallel)(?![A-Za-z])|!=|<=|>=|=<|=>|==?|<|>)"
    r"|(?P<cup>\\cup(?![A-Za-z]))|(?P<cap>\\cap(?![A-Za-z]))|(?P<minus>\\setminus(?![A-Za-z]))"
    r"|(?P<cmd>\\[A-Za-z]+|\\.)|(?P<sep>[,;:])",
    re.DOTALL,
)


def split(text: str, kinds: str) -> list[tuple[str, str]]:
    r"""The parts of `text` at depth 0, each with the separator before it ("" for the first).

    `kinds`: "," ";" ":" those characters; "c" conjunctions ("and", "or") and the logical signs
    ("land", "lor"); "r" relations; "u" unions, "n" intersections, "m" set differences.
    """
    parts: list[tuple[str, str]] = []
    depth = start = 0
    before = ""
    for match in SCAN.finditer(text):
        group = match.lastgroup
        if group == "open":
            depth += 1
        elif group == "close":
            depth -= 1
        elif depth == 0 and _is_cut(match, group, kinds):
            parts.append((before, text[start : match.start()].strip()))
            before = (
                (match["conj"] or match["logic"] or (match["word"] or "").lower())
                if group in ("conj", "logic", "word")
                else match.group()
            )
            start = match.end()
    parts.append((before, text[start:].strip()))
    return parts


def _is_cut(match: re.Match[str], group: str | None, kinds: str) -> bool:
    if group == "sep":
        return match.group() in kinds
    return {"conj": "c", "logic": "c", "word": "c", "rel": "r", "cup": "u", "cap": "n", "minus": "m"}.get(
        group or "", "\0"
    ) in kinds


def balanced(inner: str) -> bool:
    depth = 0
    for match in SCAN.finditer(inner):
        if match.lastgroup == "open":
            depth += 1
        elif match.lastgroup == "close":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def squeeze(text: str) -> str:
    """Without braces and spaces: a name to compare by."""
    return "".join(text.replace("{", "").replace("}", "").split())
