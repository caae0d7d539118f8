"""The procedural families, one a domain."""

from __future__ import annotations

from qwq.errors import ConfigError, nearest
from qwq.tasks.procedural.base import Family
from qwq.tasks.procedural.code_functions import CodeFunctions
from qwq.tasks.procedural.instructions import Instructions
from qwq.tasks.procedural.math_words import MathWords
from qwq.tasks.procedural.preference import Preference
from qwq.tasks.procedural.tool_use import Calculator

FAMILIES: dict[str, type[Family]] = {
    f.domain: f for f in (MathWords, CodeFunctions, Instructions, Calculator, Preference)
}


def family(domain: str) -> Family:
    """The family of a domain. Raises ConfigError for an unknown name."""
    if domain not in FAMILIES:
        raise ConfigError(f"no problem family {domain!r}: {nearest(domain, FAMILIES)}")
    return FAMILIES[domain]()
