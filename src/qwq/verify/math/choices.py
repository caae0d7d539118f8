"""Choice letters: `B` against `(B) 5`, `B. 5`, `option B`; several letters in any order."""

from __future__ import annotations

import re

_LETTER = re.compile(r" ?(?:\\(?:text|mathrm) ?\{ ?)?[(\[]? ?([A-Z]) ?[)\]]? ?\}? ?[.:)]? ?")
_CHOICE = re.compile(
    r" ?(?:\\(?:text|mathrm) ?\{ ?)?(?:\( ?([A-Z]) ?\)|([A-Z]) ?[.:)]"
    r"|([A-Z]) ?- ?(?=[a-z]{1,12} [a-z]|[A-Z]?[a-z]{3})) ?\}?[ .:]{0,3}(?:\\ )? ?(?P<rest>\S.*)",
    re.DOTALL,
)
_OPTION = re.compile(
    r"\A(?:(?:the )?(?:correct )?(?:options?|choices?|answers?) ?:? ?(?:is )?|故?选项?)(?=\(?[A-Z](?![A-Za-z]))"
    r"|(?<=[A-Z])(?: ?选?项)\Z",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"(?:\\text ?\{)?([A-H]{2,8})\}?")
_LISTED = re.compile(r"\(?([A-H])\)?(?: ?(?:,|;|and|\\text ?\{ ?and ?\}|&|\s) ?(?:and )?\(?[A-H]\)?){1,7}")
_WRAPPED = re.compile(r"\\(?:text|mathrm) ?\{([^{}]*)\}")
_AND = re.compile(r"\\text|and|[a-z]")
LETTERS = "ABCDEFGH"


def same(gold: str, answer: str) -> bool | None:
    r"""A letter against a letter with or without its text: `B` and `(B)\ 5`.

    None where neither is a choice.
    """
    if (wrapped := _WRAPPED.fullmatch(answer)) is not None:
        answer = wrapped[1].strip()
    if (
        (wanted := _letters(gold))
        and (found := _letters(answer))
        and not (_SEVERAL.fullmatch(gold) and _SEVERAL.fullmatch(answer))
    ):
        return wanted == found
    answer = _OPTION.sub("", answer)
    letter, other = _LETTER.fullmatch(gold), _LETTER.fullmatch(answer)
    if letter and letter[1] in LETTERS and re.fullmatch(r"\(?[a-h]\)?", answer):
        return letter[1].lower() == answer.strip("()")
    if letter and other:
        return letter[1] == other[1]
    labelled = _CHOICE.fullmatch(answer)
    if letter and labelled:
        return letter[1] == _name(labelled)
    labelled = _CHOICE.fullmatch(gold)
    if other and labelled:
        return other[1] == _name(labelled)
    return None


def _letters(text: str) -> list[str] | None:
    """The letters of several choices, `ABD` or `A, B and D`; None for anything else, and for
    letters that are no list of choices.
    """
    if several := _SEVERAL.fullmatch(text):
        letters = list(several[1])
        return letters if letters == sorted(set(letters)) else None
    return sorted(re.findall(r"[A-H]", _AND.sub(" ", text))) if _LISTED.fullmatch(text) else None


def text_of(gold: str) -> str | None:
    """The text of a gold that has its letter before it, where that may be given instead of the
    letter.
    """
    labelled = _CHOICE.fullmatch(gold)
    if labelled and _name(labelled) in LETTERS and not re.match(r"[-+*/^_=(]", labelled["rest"]):
        return labelled["rest"]
    return None


def _name(match: re.Match[str]) -> str:
    return match[1] or match[2] or match[3]
