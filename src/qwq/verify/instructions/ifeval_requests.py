"""IFEval's 25 types as requests for training prompts: parameters to draw and our own wording; with
the further ones in `REQUESTS`.

The wording is ours, and so are the ranges: what a model learns here are the types, not the
benchmark's sentences.
"""

from __future__ import annotations

import random
from typing import Any

from qwq.verify.instructions.constraint_table import KEYWORDS, WHOLE, Constraint, Draw, Kwargs
from qwq.verify.instructions.constraints import CONSTRAINTS
from qwq.verify.instructions.ifeval import CHECKS

LANGUAGES = {
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "ru": "Russian",
    "pl": "Polish",
}
ENDINGS = ("Is there anything else?", "That is all for now.", "Let me know what you think.", "And so it goes.")


def _relation(key: str, most: range, least: range, relation: str = "relation") -> Draw:
    """`key` with a relation: 'less than' a number of `most`, or 'at least' one of `least`."""

    def draw(rng: random.Random) -> Kwargs:
        chosen = rng.choice(("less than", "at least"))
        return {key: rng.choice(most if chosen == "less than" else least), relation: chosen}

    return draw


def _draw(**choices: Any) -> Draw:
    return lambda rng: {key: rng.choice(list(values)) for key, values in choices.items()}


def _keywords(key: str, num: tuple[int, int]) -> Draw:
    return lambda rng: {key: rng.sample(KEYWORDS, rng.randint(*num))}


def _letter(rng: random.Random) -> Kwargs:
    drawn = _relation("let_frequency", range(4, 9), range(3, 12), "let_relation")(rng)
    return {"letter": rng.choice("bcdfghkmpwy" if drawn["let_relation"] == "at least" else "jkqvwxyz"), **drawn}


def _nth_paragraph(rng: random.Random) -> Kwargs:
    num = rng.randint(2, 4)
    return {"num_paragraphs": num, "nth_paragraph": rng.randint(1, num), "first_word": rng.choice(KEYWORDS)}


def _language(rng: random.Random) -> Kwargs:
    return {"language": rng.choice(list(LANGUAGES))}


def _repeat(rng: random.Random) -> Kwargs:
    return {}  # prompt_to_repeat is the prompt itself, filled in where the prompt is made


_TABLE: tuple[tuple[str, str, str, Draw], ...] = (
    ("keywords:existence", "Use all of these words: {keywords}.", "wording", _keywords("keywords", (2, 3))),
    (
        "keywords:frequency",
        "Use the word '{keyword}' {relation} {frequency} times.",
        "wording",
        lambda rng: {"keyword": rng.choice(KEYWORDS), **_relation("frequency", range(2, 4), range(2, 5))(rng)},
    ),
    (
        "keywords:forbidden_words",
        "Do not use any of these words: {forbidden_words}.",
        "avoiding",
        _keywords("forbidden_words", (2, 4)),
    ),
    (
        "keywords:letter_frequency",
        "Let the letter '{letter}' appear {let_relation} {let_frequency} times.",
        "letters",
        _letter,
    ),
    (
        "language:response_language",
        "Write the whole answer in the language with the code '{language}', and in no other.",
        "letters wording start end case phrase",
        _language,
    ),
    (
        "length_constraints:number_sentences",
        "Let your answer have {relation} {num_sentences} sentences.",
        "sentences",
        _relation("num_sentences", range(4, 10), range(3, 10)),
    ),
    (
        "length_constraints:number_paragraphs",
        "Write {num_paragraphs} paragraphs and put the divider *** between them.",
        "layout paragraphs lines marks",
        _draw(num_paragraphs=range(2, 6)),
    ),
    (
        "length_constraints:number_words",
        "Answer in {relation} {num_words} words.",
        "length",
        _relation("num_words", range(60, 300, 10), range(50, 250, 10)),
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        "Write {num_paragraphs} paragraphs with two line breaks between them, and begin paragraph {nth_paragraph} "
        "with the word {first_word}.",
        "layout paragraphs lines start",
        _nth_paragraph,
    ),
    (
        "detectable_content:number_placeholders",
        "Leave at least {num_placeholders} blanks to fill in, written in square brackets such as [name].",
        "blanks",
        _draw(num_placeholders=range(2, 5)),
    ),
    (
        "detectable_content:postscript",
        "Add a postscript at the end that begins with {postscript_marker}",
        "end",
        _draw(postscript_marker=("P.S.", "P.P.S")),
    ),
    (
        "detectable_format:number_bullet_lists",
        "Give exactly {num_bullets} bullet points, each on a line that begins with '* '.",
        "layout lines",
        _draw(num_bullets=range(3, 8)),
    ),
    (
        "detectable_format:number_highlighted_sections",
        "Highlight at least {num_highlights} parts of your answer with single asterisks, *like this*.",
        "marks",
        _draw(num_highlights=range(2, 5)),
    ),
    (
        "detectable_format:multiple_sections",
        "Divide your answer into {num_sections} sections, and mark the beginning of each with {section_spliter} and "
        "its number, such as {section_spliter} 1.",
        "layout paragraphs start digits",
        _draw(section_spliter=("Section", "Part", "SECTION"), num_sections=range(2, 5)),
    ),
    (
        "detectable_format:json_format",
        "Give the whole answer as JSON; a Markdown code block around it is fine.",
        "whole",
        _draw(),
    ),
    (
        "detectable_format:title",
        "Give your answer a title in double angle brackets, such as <<a day at sea>>.",
        "start",
        _draw(),
    ),
    (
        "combination:two_responses",
        "Give two different answers with ****** (six asterisks) between them, and nothing else around them.",
        "whole",
        _draw(),
    ),
    (
        "combination:repeat_prompt",
        "First repeat everything above word for word, then answer it. Write nothing before the repetition.",
        "start case letters digits avoiding wording phrase sentences paragraphs layout lines length marks",
        _repeat,
    ),
    (
        "startend:end_checker",
        "Let your answer end with exactly these words, and nothing after them: {end_phrase}",
        "end",
        _draw(end_phrase=ENDINGS),
    ),
    (
        "change_case:capital_word_frequency",
        "Write {capital_relation} {capital_frequency} words in capital letters throughout.",
        "case",
        _relation("capital_frequency", range(4, 9), range(2, 9), "capital_relation"),
    ),
    (
        "change_case:english_capital",
        "Write your whole answer in English and in capital letters only.",
        "case avoiding start phrase",
        _draw(),
    ),
    (
        "change_case:english_lowercase",
        "Write your whole answer in English and in lower case only, without any capital letter.",
        "case end start phrase",
        _draw(),
    ),
    ("punctuation:no_comma", "Do not use any commas.", "marks", _draw()),
    ("startend:quotation", "Put your whole answer between double quotation marks.", "start end", _draw()),
)

IFEVAL: dict[str, Constraint] = {
    name: Constraint(name, wording, draw, frozenset(WHOLE if touches == "whole" else touches.split()), CHECKS[name])
    for name, wording, touches, draw in _TABLE
}
CHOICE = "detectable_format:constrained_response"
IFEVAL[CHOICE] = Constraint(
    CHOICE, "Answer with one of these: 'My answer is yes.', 'My answer is no.', 'My answer is maybe.'", lambda rng: {},
    frozenset((*WHOLE, "wording", "letters", "variety", "phrase", "digits", "blanks", "avoiding")), CHECKS[CHOICE],
)  # fmt: skip
REQUESTS: dict[str, Constraint] = IFEVAL | CONSTRAINTS


def describe(name: str, kwargs: Kwargs) -> str:
    """The request for one constraint in words."""
    shown = dict(kwargs)
    if name == "language:response_language":
        return f"Write the whole answer in {LANGUAGES[shown['language']]}, and in no other language."
    return REQUESTS[name].describe(shown)
