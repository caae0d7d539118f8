"""What counts as a word, a sentence, a line and a paragraph for the constraints of
`verify.constraints`; the optional libraries.
"""

from __future__ import annotations

import re
from typing import Any

from qwq.errors import ConfigError, install_hint

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def library(name: str) -> Any:
    """A module of the `eval` extra. ConfigError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"rules on text need {name.partition('.')[0]}: {install_hint('eval')}") from None


def words(text: str) -> list[str]:
    """Runs of letters and digits; an apostrophe or a hyphen between them belongs to the word."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Sentences by Punkt's English model, those without a word left out."""
    return [s.strip() for s in library("punkt").sent_tokenize(text) if words(s)]


def lines(text: str) -> list[str]:
    """Lines that are not blank, without the blanks at their ends."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def paragraphs(text: str) -> list[str]:
    """Parts between blank lines."""
    return [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]


def occurrences(word: str, text: str) -> int:
    """How often a word or phrase appears in a text, whole and in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))
