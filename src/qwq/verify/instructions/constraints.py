"""Constraints to train instruction following on: each with an exact check, parameters to draw, and
its wording for a prompt.

In the manner of IFBench (Pyatkin et al. 2025, arXiv 2507.02833): precise, verifiable, beyond
IFEval's 25 types. The types are our own, and none is one of IFBench's 58 test types, so that a
model trained on these can still be tested on those. Each check gets the answer and the parameters,
as IFEval's do (`verify.ifeval`, which grades both kinds, `qwq verify instructions` too); none is
met by an empty text. Words, sentences, lines and paragraphs are those of `verify.text_units`.

`touches` names the sides of an answer that a constraint fixes. Two that fix the same side are not
asked for together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from qwq.errors import DataError
from qwq.verify.instructions.constraint_table import Constraint
from qwq.verify.instructions.content_constraints import CONTENT
from qwq.verify.instructions.layout_constraints import LAYOUT

CONSTRAINTS: dict[str, Constraint] = {**CONTENT, **LAYOUT}


def compatible(names: list[str], known: Mapping[str, Constraint]) -> bool:
    """Whether constraints can be asked for together: no two fix the same side of an answer."""
    sides = [side for name in names for side in known[name].touches]
    return len(sides) == len(set(sides))


def check_kwargs(constraint: Constraint, kwargs: Mapping[str, Any]) -> None:
    """DataError where a parameter that the wording names has not the kind of value that the
    constraint draws.
    """
    for key, drawn in constraint.draw(random.Random(0)).items():
        value = kwargs.get(key)
        whole = (
            isinstance(drawn, int)
            and isinstance(value, int | float)
            and not isinstance(value, bool)
            and value == int(value)
        )
        if key in kwargs and not whole and (type(value) is not type(drawn) or value in ("", [])):
            raise DataError(f"{constraint.name}: {key} is {value!r}, a value such as {drawn!r} is needed")
