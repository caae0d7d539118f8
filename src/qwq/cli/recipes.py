"""`qwq recipes`: the recipes that come with qwq."""

from __future__ import annotations


def recipes() -> int:
    """List the recipes that come with qwq: `qwq train NAME` and `qwq explain NAME` take them by
    name.
    """
    from qwq.config import shipped_recipes

    shipped = shipped_recipes()
    width = max(map(len, shipped))
    for name, path in shipped.items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:{width}}  {first.removeprefix('#').strip()}")
    return 0
