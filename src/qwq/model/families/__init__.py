"""Model families: what tells one decoder from the next, one file each, listed here.

A family says what its config.json and its GGUF files are called and which parts of a block it has.
The block itself (`model/transformer.py`) reads the config's fields and never a family's name. To
add a family: one file with a `ModelFamily`, and its line in `FAMILIES`. What a family has that no
field can say is refused by its `refused` keys.
"""

from __future__ import annotations

from qwq.model.families.base import ModelFamily
from qwq.model.families.llama import LLAMA
from qwq.model.families.qwen2 import QWEN2
from qwq.model.families.qwen3 import QWEN3

__all__ = ["FAMILIES", "ModelFamily"]

FAMILIES: dict[str, ModelFamily] = {family.name: family for family in (QWEN2, QWEN3, LLAMA)}
