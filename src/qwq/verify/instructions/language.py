"""Is a text an answer at all? For rewards, so that rules about form alone are not met by nothing,
one word or gibberish.

An answer has two different words at least and reads as a language: in Latin and Greek letters most
of it is words that Punkt's model of one language has seen; in other scripts its commonest
characters are common. It covers random letters and keyboard runs. It does not cover words of a
language thrown together, nor scripts that are in neither list, where a language that langdetect
can tell is enough.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from qwq.verify.instructions.text_units import library

KNOWN_SHARE = 0.5  # of the letters of an answer that must be in known words of one language
WEB_LENGTH = 5
KNOWN_LENGTH = (
    4  # letters that one of them has at least, or all are English: short runs are words of some language by chance
)
LANGUAGES = {
    "latin": (
        "english",
        "french",
        "german",
        "spanish",
        "italian",
        "portuguese",
        "dutch",
        "polish",
        "turkish",
        "swedish",
        "finnish",
        "czech",
        "danish",
        "norwegian",
    ),
    "greek": ("greek",),
}
# Languages without a word list here: (their commonest words or letters, share of the words that are
# or hold one of them).
COMMON_WORDS = (
    ("na ya wa kwa ni la za cha katika hii kama yake pia au", 0.15),  # Swahili
    ("yang dan di ini itu dengan untuk tidak pada dari dalam adalah", 0.15),  # Indonesian
    ("không và của là có được cho một các những người trong này với để đã như cũng khi thì về", 0.1),  # Vietnamese
)
# (characters of a script, its commonest ones, share of the script's characters that they make up in
# a text)
SCRIPTS = (
    (r"[\u3040-\u30ff]", "のにはをたがでてとしれさいるもなかすっこくまりうあらきけ", 0.45),  # kana
    (
        r"[\u4e00-\u9fff]",
        "的一是不了人在有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长這個國說們為時會過對後麼沒於還發當無開經頭動兩長海水",
        0.12,
    ),
    (r"[\uac00-\ud7af]", "이다는에을의가고하지기로사한그들를은도있대서나리인어자시수아보해게", 0.25),  # Hangul
    (r"[\u0600-\u06ff]", "اليمونرتهبدک", 0.6),  # Arabic and Persian
    (r"[\u0590-\u05ff]", "יוהלאמרתבש", 0.5),  # Hebrew
    (r"[\u0400-\u052f]", "оеаинтсрвлк", 0.5),  # Cyrillic
    (r"[\u0900-\u097f]", "ाकेरिहनस्ीतमंलयपोवुबै", 0.45),  # Devanagari
    (r"[\u0e00-\u0e7f]", "านรอกเงมยลวด่้ทสตะ", 0.5),  # Thai
)


def language_of(text: str) -> str | None:
    """The most likely language's code, None where none can be told. Seeded, so that it repeats."""
    langdetect: Any = library("langdetect")
    langdetect.DetectorFactory.seed = 0
    try:
        return langdetect.detect(text)
    except langdetect.LangDetectException:
        return None


@cache
def vocabulary(language: str) -> frozenset[str]:
    """Words that Punkt's model of a language has seen in its training corpus, lower case.

    English has a second corpus, from the web; its short words are half of all short runs of
    letters, so only its long ones count.
    """
    known = frozenset(library("punkt").load_model(language).ortho_context)
    if language != "english":
        return known
    return known | {w for w in library("punkt").load_model("english_web").ortho_context if len(w) >= WEB_LENGTH}


def is_an_answer(text: str) -> bool:
    text = unicodedata.normalize("NFC", text.lower())
    words = re.findall(r"[^\W\d_]+(?:[\u0300-\u036f\u0900-\u0dff\u0e00-\u0eff]+[^\W\d_]*)*", text)
    by_script: dict[str, list[str]] = {"latin": [], "greek": [], "other": []}
    for word in words:
        by_script[_script(word)].append(word)
    script = max(by_script, key=lambda name: sum(map(len, by_script[name])))
    if script == "other":
        return _common_characters(text, "".join(by_script["other"]))
    longer = [w for w in by_script[script] if len(w) > 1]
    # Words that digits or underscores glue together are one: `a1b2` is no answer of two words.
    glued = {run for run in re.findall(r"\w+", text) if re.search(r"[^\W\d_]{2}", run)}
    if len(glued) < 2 or len(set(longer)) < 2:
        return False
    return any(_known(longer, vocabulary(name)) for name in LANGUAGES[script]) or (
        script == "latin" and _common_words(longer)
    )


def _script(word: str) -> str:
    if all(c < "\u0250" or "\u1e00" <= c <= "\u1eff" for c in word):
        return "latin"
    return "greek" if all("\u0370" <= c <= "\u03ff" or "\u1f00" <= c <= "\u1fff" for c in word) else "other"


def _known(words: list[str], known: frozenset[str]) -> bool:
    found = [w for w in words if w in known]
    if len(found) == len(words) and known is vocabulary("english"):
        return True
    return (
        sum(map(len, found)) >= KNOWN_SHARE * sum(map(len, words)) and max(map(len, found), default=0) >= KNOWN_LENGTH
    )


def _common_words(words: list[str]) -> bool:
    return any(
        len(set(words) & set(common.split())) >= 2 and sum(w in common.split() for w in words) >= share * len(words)
        for common, share in COMMON_WORDS
    )


def _common_characters(text: str, letters: str) -> bool:
    if len(set(letters)) < 3 or len(letters) < 4:
        return False
    covered = 0
    for pattern, common, share in SCRIPTS:
        here = re.findall(pattern, letters)
        covered += len(here)
        # A few characters beside another script's are too few to count.
        if len(here) > 0.3 * len(letters) and sum(c in common for c in here) < share * len(here):
            return False
    return covered > 0.5 * len(letters) or language_of(text) is not None
