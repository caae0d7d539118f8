"""Files that a user shows a model, as text in a message."""

from __future__ import annotations

import re


def fence_for(text: str) -> str:
    """A code fence that nothing in `text` closes."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    return "`" * (longest + 1)


def file_block(name: str, text: str) -> str:
    """A file's name and text, fenced."""
    fence, kind = fence_for(text), re.search(r"\.(\w{1,8})$", name)
    end = "" if text.endswith("\n") else "\n"
    return f"File `{name}`:\n{fence}{kind[1].lower() if kind else ''}\n{text}{end}{fence}\n"
