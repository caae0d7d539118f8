"""Regions of a text whose digits are no figures: code, dates, list numbers, versions, references,
levels of significance, and what is numbered (a week, a room, a release).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_SKIPPED = [
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"^(`{3,}|~{3,})[^\n]*\n.*?(?:^\1[^\n]*$|\Z)", re.M | re.S),  # fenced code
        (r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S),
        (r"<!--.*?-->|</?[A-Za-z][^>\n]*>", re.S),
        (r"!\[[^\]\n]*\]\([^)\n]*\)|\]\([^)\n]*\)|\[\^?\d+\](?!\()", 0),  # pictures, targets of links, notes
        (r"https?://\S+|\b[\w./-]*[A-Za-z_][\w./-]*\.[A-Za-z][A-Za-z0-9]{0,5}\b|\b[\w-]+(?:/[\w.-]+){2,}", 0),
        (r"^[ \t]*(?:>[ \t]*)*(?:[-*+][ \t]+)?\(?\d{1,3}[.)、)](?=\s)", re.M),  # list numbers
        (r"^[ \t]*#{1,6}[ \t]+(?:[*_]{0,2})(?:\d+(?:\.\d+)*[.)]?|[A-Z]?\d+[.:)])(?=\s)", re.M),  # headings' numbers
        (r"\b\d{4}-\d{1,2}-\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?Z?)?\b", 0),
        (r"\b\d{4}-(?:0[1-9]|1[0-2])\b(?!-?\d)|\b\d{1,2}[/.]\d{1,2}[/.]\d{2,4}\b|\b\d{4}/\d{1,2}(?:/\d{1,2})?\b", 0),
        (r"\b\d{1,2}:\d{2}(?::\d{2})?(?:\s?[ap]\.?m\.?)?\b", re.I),
        (rf"\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{4}})?\b", 0),
        (rf"\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:\s?[-\u2013]\s?\d{{1,2}})?(?:,?\s+\d{{4}})?\b(?!,\d)", 0),
        (rf"\b{_MONTH}\s+\d{{4}}\b", 0),
        (r"\d{4}\s?年(?:\s?\d{1,2}\s?月(?:\s?\d{1,2}\s?[日号])?)?|(?<!\d)\d{1,2}\s?月\s?\d{1,2}\s?[日号]", 0),
        (r"\b[QH][1-4](?:[ '/-]?\s?(?:FY)?\d{2,4})?\b|\bFY\s?\d{2,4}\b|\b\d{4}\s?[QH][1-4]\b|\b\d{4}s\b", 0),
        (r"\b\d{4}/\d{2}\b|\b(?:19|20)\d{2}[-\u2013](?:19|20)?\d{2}\b", 0),
        (r"\bv?(?!\d{1,3}(?:\.\d{3}){2,}(?![\d.]))\d+\.\d+\.\d+(?:[.\w-]*\w)?\b|\bv\d+(?:\.\d+)*\b", 0),  # versions
        (r"\b(?:version|release|python|pandas|numpy|matplotlib|sqlite|duckdb|scipy)\s+v?\d+(?:\.\d+)+\b", re.I),
        (r"\b(?:cells?|calls?|table|tab\.|figures?|fig\.|sections?|steps?|chapter|appendix|page|pages|p\.|line|lines|"
         r"note|footnote|equation|eq\.|question|task|phase|part|item|option|scenario|hypothesis|exhibit|panel)\s*"
         r"(?:no\.?\s*)?\(?#?\d+(?:\.\d+)*\)?(?:\s?[-\u2013,&]\s?\d+)*(?:\s+(?:and|to|or)\s+\d+(?![\d.,]*%))?", re.I),
        (r"(?:图|表|第|步骤|单元格|附录)\s?\d+(?:\.\d+)*\s?(?:节|章|步|页|行|个单元格)?", 0),
        (r"\b(?:In|Out)\s?\[\d+\]|\bH\d\b|#\d+\b", 0),
        (r"\b(?:80|90|95|98|99|99\.9)\s?[%％]\s?-?(?:CIs?\b|confidence|credible|prediction|"
         r"(?:upper |lower )?(?:interval|limit|bound|band)|置信)", re.I),
        # What is numbered: a week, a room, a release; lists of the top so many; telephones.
        (r"\b(?:week|day|room|building|floor|gate|route|store|shop|branch|team|group|site|station|patient|participant|"
         r"customer|user|order|invoice|ticket|model|type|number|windows|ios|android|macos|ubuntu|zone|cluster|topic|"
         r"batch|lot|run|epoch|fold|round|trial|experiment|seed|version|release|level|grade|stage|wave|cohort|lesson)\s+"
         r"#?\d+\b(?![.,]\d|\s?[%％])", re.I),
        (r"\b(?:ext|pp|p|vol|nos?)\.\s?\d+(?:\s?[-\u2013]\s?\d+)?\b|"
         r"\b(?:doi|isbn|issn|arxiv):?\s?[\w./-]*\d[\w./-]*", re.I),
        (r"\b(?:out of|of every|in every|per)\s+(?:100|1,?000|10,?000|100,?000)\b(?![.,]\d)", re.I),
        (r"\bsignifican\w+[^.\n]{0,30}?\b(?:at|of|level)\s+(?:the\s+)?0?\.(?:1|10|05|01|001)\b", re.I),
        (r"\b(?:due in|within(?: the)?|next|coming|every|(?:over|in|for) the (?:next|coming))\s+\d{1,3}\s+"
         r"(?:days?|weeks?|months?|years?|hours?|minutes?)\b|"
         r"\b[48]K\b(?=\s+(?:quality|video|resolution|screen|tv|display))", re.I),
        (r"\btop[ -]\d+\b(?![.,]\d|\s?[%％])", re.I),
        (r"\b\d{1,3}/\d{1,3}\b(?=[ -](?:rule|split|principle|ratio))", re.I),
        (r"(?<![\w.])\+\d{1,3}[ -]\(?\d{1,4}\)?[ -]\d[\d -]{3,}\d\b|"
         r"\b(?:tel|phone|fax)\b[^\n\d]{0,12}[\d +()-]{6,}", re.I),
        (r"\b\d{1,2}(?:st|nd|rd|th)?[\s-]centur(?:y|ies)\b", re.I),
        # Levels of significance, ratios of formats, names of standards, round the clock.
        (r"\b(?:p|P|\u03b1|alpha)\s?[<\u2264>\u2265=]{1,2}\s?0?\.(?:1|10|05|01|001|0001)\b(?!\d)", 0),
        (r"\b(?:0\.)?(?:10|5|1|05|01)(?:\s?[%\uff05]|\s+percent)?\s+(?:significance\s+)?level\b|\bsignificance\s+level\s+of\s+"
         r"(?:0\.\d+|\d+\s?%)", re.I),
        (r"\b\d{1,2}:\d{1,2}\b(?![:\d])", 0),
        (r"\b(?:ISO|IEC|RFC|DIN|EN|IFRS|GAAP|UTF|IEEE|ECMA|GDPR|HTTP|PEP|CVE|ASCII|SHA|MD)[ -]?\d[\d-]*\b", 0),
        (r"\b24/7\b|\b9-to-5\b|\b50[/:]50\b|\b101\b(?=\s*$)", 0),
    )
]  # fmt: skip


def fenced_spans(text: str) -> list[tuple[int, int]]:
    """Where blocks of code are."""
    return [match.span() for match in _SKIPPED[0].finditer(text)]


def skipped_spans(text: str) -> list[tuple[int, int]]:
    """Where dates, code, list numbers, headings' numbers, versions and references are, in order."""
    return joined(match.span() for pattern in _SKIPPED for match in pattern.finditer(text))


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
