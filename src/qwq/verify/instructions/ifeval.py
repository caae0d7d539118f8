"""IFEval's 25 instruction types, strict and loose, as its authors check them; and a stricter
reading for rewards.

Source: Zhou et al. 2023 (arXiv 2311.07911) and the checker published with it
(google-research/instruction_following_eval), whose verdicts this reproduces, holes included: an
empty `less than` passes, JSON may be a bare number, keywords are regular expressions, a text in no
detectable language passes. `reward=True` closes them: an answer has to be an answer (two words at
least, most of them words of some language), keywords are literal, JSON is an object or a list that
holds something, and a language has to be found. Sentences by Punkt's English model, languages by
langdetect with a fixed seed; both work offline.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwq.errors import DataError, nearest
from qwq.verify.instructions.constraints import CONSTRAINTS, check_kwargs
from qwq.verify.instructions.language import is_an_answer, language_of
from qwq.verify.instructions.text_units import library as _library

Check = Callable[..., bool]
CHECKS: dict[str, Check] = {}
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _check(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return register


def _compare(count: int, relation: str, wanted: int) -> bool:
    if relation not in ("at least", "less than"):
        raise DataError(f"relation {relation!r}: it is 'at least' or 'less than'")
    return count >= wanted if relation == "at least" else count < wanted


def _is_language(text: str, code: str, reward: bool) -> bool:
    found = language_of(text)
    return found == code if found is not None else not reward


# -- the 25 types; each gets the text and its own keyword arguments --------------------------------


@_check("keywords:existence")
def _existence(text: str, *, keywords: Sequence[str], reward: bool, **_: Any) -> bool:
    return all(_found(k, text, reward) for k in keywords)


def _found(keyword: str, text: str, literal: bool) -> int:
    pattern = re.escape(keyword) if literal else keyword
    return len(re.findall(pattern, text, re.IGNORECASE))


@_check("keywords:frequency")
def _frequency(text: str, *, keyword: str, frequency: int, relation: str, reward: bool, **_: Any) -> bool:
    return _compare(_found(keyword, text, reward), relation, frequency)


@_check("keywords:forbidden_words")
def _forbidden(text: str, *, forbidden_words: Sequence[str], reward: bool, **_: Any) -> bool:
    return not any(re.search(rf"\b{re.escape(w) if reward else w}\b", text, re.IGNORECASE) for w in forbidden_words)


@_check("keywords:letter_frequency")
def _letters(text: str, *, letter: str, let_frequency: int, let_relation: str, **_: Any) -> bool:
    return _compare(Counter(text.lower())[letter.lower()], let_relation, let_frequency)


@_check("language:response_language")
def _response_language(text: str, *, language: str, reward: bool, **_: Any) -> bool:
    return _is_language(text, language, reward)


@_check("length_constraints:number_sentences")
def _sentences(text: str, *, num_sentences: int, relation: str, **_: Any) -> bool:
    return _compare(len(_library("punkt").sent_tokenize(text)), relation, num_sentences)


@_check("length_constraints:number_paragraphs")
def _paragraphs(text: str, *, num_paragraphs: int, **_: Any) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    if any(not p.strip() for p in parts[1:-1]):
        return False
    return (
        sum(bool(p.strip()) for p in parts) == num_paragraphs
        if len(parts) > 1
        else len(parts) - (not parts[0].strip()) == num_paragraphs
    )


@_check("length_constraints:number_words")
def _words(text: str, *, num_words: int, relation: str, **_: Any) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


@_check("length_constraints:nth_paragraph_first_word")
def _nth_paragraph(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str, **_: Any) -> bool:
    parts = re.split(r"\n\n", text)
    count = sum(bool(p.strip()) for p in parts)
    if nth_paragraph > count or not (paragraph := parts[nth_paragraph - 1].strip()):
        return False
    word = paragraph.split()[0].lstrip("'").lstrip('"').lower()
    return count == num_paragraphs and re.split(r"[.,?!'\"]", word)[0] == first_word.lower()


@_check("detectable_content:number_placeholders")
def _placeholders(text: str, *, num_placeholders: int, **_: Any) -> bool:
    return sum(_num_brackets(line) for line in text.split("\n")) >= num_placeholders


def _num_brackets(line: str) -> int:
    """How often `[...]` appears in a line, left to right without overlap; linear, as no regular
    expression is on `[[[[`.
    """
    count, start = 0, line.find("[")
    while start >= 0 and (end := line.find("]", start)) >= 0:
        count, start = count + 1, line.find("[", end)
    return count


@_check("detectable_content:postscript")
def _postscript(text: str, *, postscript_marker: str, reward: bool, **_: Any) -> bool:
    text, marker = text.lower(), postscript_marker.lower().strip()
    known = {"p.p.s": r"\s*p\.\s?p\.\s?s.*$", "p.s.": r"\s*p\.\s?s\..*$"}
    pattern = known.get(marker, rf"\s*{re.escape(marker) if reward else marker}.*$")
    return re.search(pattern, text, re.MULTILINE) is not None


@_check("detectable_format:number_bullet_lists")
def _bullets(text: str, *, num_bullets: int, **_: Any) -> bool:
    stars, dashes = (re.findall(p, text, re.MULTILINE) for p in (r"^\s*\*[^\*].*$", r"^\s*-.*$"))
    return len(stars) + len(dashes) == num_bullets


@_check("detectable_format:constrained_response")
def _constrained(text: str, **_: Any) -> bool:
    return any(option in text.strip() for option in CONSTRAINED)


@_check("detectable_format:number_highlighted_sections")
def _highlights(text: str, *, num_highlights: int, **_: Any) -> bool:
    single, double = re.findall(r"\*[^\n\*]*\*", text), re.findall(r"\*\*[^\n\*]*\*\*", text)
    count = sum(bool(h.strip("*").strip()) for h in single)
    return count + sum(bool(h.removeprefix("**").removesuffix("**").strip()) for h in double) >= num_highlights


@_check("detectable_format:multiple_sections")
def _sections(text: str, *, section_spliter: str, num_sections: int, reward: bool, **_: Any) -> bool:
    splitter = re.escape(section_spliter) if reward else section_spliter
    return len(re.split(rf"\s?{splitter}\s?\d+\s?", text)) - 1 >= num_sections


@_check("detectable_format:json_format")
def _json(text: str, *, reward: bool, **_: Any) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        value = json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return bool(value) and isinstance(value, dict | list) if reward else True


@_check("detectable_format:title")
def _title(text: str, **_: Any) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


@_check("combination:two_responses")
def _two_responses(text: str, **_: Any) -> bool:
    parts = text.split("******")
    if any(not p.strip() for p in parts[1:-1]):
        return False
    answers = [p.strip() for p in parts if p.strip()]
    return len(answers) == 2 and answers[0] != answers[1]


@_check("combination:repeat_prompt")
def _repeat_prompt(text: str, *, prompt_to_repeat: str, reward: bool, **_: Any) -> bool:
    text, asked = text.strip().lower(), prompt_to_repeat.strip().lower()
    # Asked to repeat and then to answer: for a reward the repetition alone is not enough.
    return text.startswith(asked) and not (reward and not text[len(asked) :].strip())


@_check("startend:end_checker")
def _end(text: str, *, end_phrase: str, **_: Any) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_check("change_case:capital_word_frequency")
def _capital_words(text: str, *, capital_frequency: int, capital_relation: str, **_: Any) -> bool:
    tokenizer = _library("nltk.tokenize.destructive").NLTKWordTokenizer()
    words = (w for s in _library("punkt").sent_tokenize(text) for w in tokenizer.tokenize(s))
    return _compare(sum(w.isupper() for w in words), capital_relation, capital_frequency)


@_check("change_case:english_capital")
def _capital(text: str, *, reward: bool, **_: Any) -> bool:
    return text.isupper() and _is_language(text, "en", reward)


@_check("change_case:english_lowercase")
def _lowercase(text: str, *, reward: bool, **_: Any) -> bool:
    return text.islower() and _is_language(text, "en", reward)


@_check("punctuation:no_comma")
def _no_comma(text: str, **_: Any) -> bool:
    return "," not in text


@_check("startend:quotation")
def _quotation(text: str, **_: Any) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


# -- whole responses -------------------------------------------------------------------------------


def _check_of(name: str) -> Check:
    if name in CONSTRAINTS:
        return CONSTRAINTS[name].check
    if name not in CHECKS:
        raise DataError(f"unknown instruction {name!r}: {nearest(name, [*CHECKS, *CONSTRAINTS])}")
    return CHECKS[name]


def follows(
    name: str, text: str, kwargs: Mapping[str, Any], prompt: str | None = None, *, reward: bool = False
) -> bool:
    """Whether `text` follows one instruction, IFEval's or one of `verify.constraints`.

    DataError for an unknown type or arguments that it lacks.
    """
    check = _check_of(name)
    given = {k: v for k, v in kwargs.items() if v is not None}
    if name in CONSTRAINTS:
        check_kwargs(CONSTRAINTS[name], given)
    if name == "combination:repeat_prompt" and "prompt_to_repeat" not in given and prompt is not None:
        given["prompt_to_repeat"] = prompt
    try:
        return check(text, **given, reward=reward)
    except TypeError as error:
        if "keyword-only argument" not in str(error):
            raise
        missing = re.findall(r"'(\w+)'", str(error))
        raise DataError(f"instruction {name} needs {', '.join(missing)} in kwargs") from None
    except re.error as error:
        raise DataError(f"instruction {name}: {error} in {given}") from None


def loose_variants(response: str) -> list[str]:
    """The eight texts that loose checking tries: without the first line, the last, both, and each
    of these without asterisks.
    """
    lines = response.split("\n")
    some = [response, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    return [*some, *(s.replace("*", "") for s in some)]


def grade(
    response: str,
    names: Sequence[str],
    kwargs: Sequence[Mapping[str, Any]],
    prompt: str | None = None,
    *,
    reward: bool = False,
) -> tuple[list[bool], list[bool]]:
    """Strict and loose verdicts, one for each instruction.

    DataError for an unknown one, whatever the response.
    """
    if len(names) != len(kwargs):
        raise DataError(f"{len(names)} instructions and {len(kwargs)} kwargs: give one for each")
    for name in names:
        _check_of(name)
    variants = loose_variants(response)
    if reward:
        # Without some of its lines what is no answer may look like one: the whole decides first.
        variants = [v for v in variants if is_an_answer(v)] if is_an_answer(response) else []
    strict, loose = [], []
    for name, arguments in zip(names, kwargs, strict=True):
        usable = bool(response.strip()) and (not reward or is_an_answer(response))
        strict.append(usable and follows(name, response, arguments, prompt, reward=reward))
        loose.append(any(v.strip() and follows(name, v, arguments, prompt, reward=reward) for v in variants))
    return strict, loose
