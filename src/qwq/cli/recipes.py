"""`qwq recipes`: the recipes that come with qwq."""

from __future__ import annotations

import re
from itertools import takewhile


def recipes() -> int:
    """List the recipes that come with qwq: `qwq train NAME` and `qwq explain NAME` take them by
    name.
    """
    from qwq.config import shipped_recipes

    shipped = shipped_recipes()
    width = max(map(len, shipped))
    for name, path in shipped.items():
        print(f"{name:{width}}  {first_sentence(path.read_text(encoding='utf-8'))}")
    return 0


def first_sentence(recipe: str) -> str:
    """The first sentence of the comment that a recipe begins with; it may take several lines."""
    head = takewhile(lambda line: line.startswith("#"), recipe.splitlines())
    paragraph = " ".join(takewhile(bool, (line.removeprefix("#").strip() for line in head)))
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0].rstrip(":")
