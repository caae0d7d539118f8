r"""The answer that a text announces in words: "The answer should be 12.", `### Answer`, 故选B,
`Ответ: 12`, `<answer>`.

The last announcement of an answer counts. One that only comments ("this answer is correct", "the
result agrees with ...") is passed over; one that takes the answer back, or a sentence behind the
answer that hedges it, leaves none. From the announced sentence the answer is cut out: leading
words, reasons, asides and closing words go only where they are known to say nothing about the
value; what is not understood stays in, and then the answer is not equal to anything.
"""

from __future__ import annotations

import re

from qwq.verify.math import words
from qwq.verify.math.separators import balanced

_NOUN = (
    r"(?:(?:final|correct|right|exact|required|desired)[*_\s]{1,3}){0,2}(?:answers?|results?|solutions?|options?"
    r"|choices?|ans\b\.?)"
)
_VERB = (
    r"(?:(?:is|are|was|were)(?: (?:given by|equal to|found to be|thus|therefore|then|hence|indeed))?"
    r"|(?:should|must|would|will|can only|has to|have to|ought to)(?: then| therefore)? be"
    r"|equals?|becomes|(?:turns?|comes?|works?|turned|came|worked) out(?: to be| to| as| at)?|comes to|amounts to"
    r"|reads)"
)
_GAP = r"[*_\s\"'`)\]]{0,6}"
_SPACED = r"[*_\s:：\"']{0,6}"
# By language: a noun that names an answer, then what says that it follows. Each alternative ends
# where the answer begins.
_WORDINGS = (
    (
        rf"(?<![A-Za-z\d]){_NOUN}(?: ?\([^()\n]{{1,20}}\))?{_GAP}(?:(?<=[\s*_\"'`)\]]){_VERB}(?![A-Za-z])|=|[:：]|->"
        rf"|→|⇒|-(?= )|–|—){_SPACED}"
    ),
    r"(?<![A-Za-z])ans\. {1,2}",
    (
        r"(?<![A-Za-z])(?:answers?|solutions?)(?: set| (?:to|for|that|we|i|you"
        rf"|of)\b[^.!?\n:=]{{0,60}}?) {_VERB}(?![A-Za-z]){_SPACED}"
    ),
    r"\bfinal[*_\s]{1,3}answer[*_:]{0,4}\s{1,4}",
    (
        r"\b(?:get|gets|obtain|obtains|have|find|gives?|giving|yields?|yielding|getting|leads? to|arrive at"
        r"|reach)(?: us)?(?: (?:the|an|our|a|as))? (?:final |correct )?(?:answer|result)(?: of)?(?: as"
        r"| to be)?[ :]{1,2}"
    ),
    # headings: `#### 12`, `### Answer`, **Answer**
    r"####[ \t]*",
    rf"^[ \t>]{{0,4}}#{{1,6}}[ \t]{{1,3}}(?:the )?{_NOUN}[*_:：]{{0,4}}\s{{0,4}}$",
    rf"^[ \t>]{{0,4}}(?:\*\*|__)(?:the )?{_NOUN}[:：.]?(?:\*\*|__)[:：]?[ \t]{{0,4}}$",
    # Chinese, Japanese, Korean
    (
        r"(?:最终|正确|最后)?(?:的)?(?:答案|结果|选项)[*_\s]{0,6}(?:应该是|应当是|应该为|应为|应是|就是|即为|等于"
        r"|应选|选|是|为|=|[:：])[*_\s:：]{0,6}"
    ),
    (
        r"(?:故|所以|因此|应|于是|即|综上(?:所述)?|此题|本题|这题)[，,]?(?:此题|本题|正确)?(?:应)?选(?:择|项)?(?:是"
        r"|为)?[*_\s:：]{0,4}"
    ),
    r"(?:^|(?<=[\s。]))(?:[【\[]?(?:答案?|解答)[】\]]?[:：]|【答案】)[*_\s]{0,4}",
    r"(?:答え|解答|正解|答)(?:は|：|:|＝|=)[*_\s、]{0,4}", r"(?:정답|답|답안)(?:은|는|이|:|：)[*_\s]{0,4}",
    # Spanish, Portuguese, French, German, Italian, Russian, Vietnamese, Arabic, Hindi, others
    (
        r"\b(?:respuesta|resultado|solución|solucion)(?: (?:final|correcta"
        r"|correcto))?[*_]{0,2}(?: es(?:tá)?(?: igual a)?(?![\w])| sería| son(?!\w)| ?[:=])[*_\s:]{0,4}"
    ),
    (
        r"\b(?:resposta|resultado|solução)(?: (?:final|correta|correto))?[*_]{0,2}(?: é(?!\w)| são(?!\w)"
        r"| ?[:=])[*_\s:]{0,4}"
    ),
    (
        r"\b(?:réponse|reponse|résultat)(?: (?:finale?|correcte?))?[*_]{0,2}(?: est(?: donc)?(?!\w)| vaut"
        r"| ?[:=])[*_\s:]{0,4}"
    ),
    r"\b(?:antwort|ergebnis|endergebnis|lösung)[*_]{0,2}(?: ist(?!\w)| lautet| beträgt| ?[:=])[*_\s:]{0,4}",
    r"\b(?:risposta|risultato|soluzione)(?: (?:finale|corretta))?[*_]{0,2}(?: è(?!\w)| ?[:=])[*_\s:]{0,4}",
    (
        r"\b(?:ответ|ответом|результат|решение)[*_]{0,2}(?: (?:равен|равна|является|составляет|будет)(?!\w)"
        r"| ?[:=—–-])[*_\s:]{0,4}"
    ),
    r"(?:đáp số|đáp án|câu trả lời|kết quả)(?: cuối cùng| đúng)?[*_]{0,2}(?: là(?!\w)| ?[:=])[*_\s:]{0,4}",
    (
        r"(?:الجواب|الإجابة|الاجابة|الناتج|النتيجة|الحل)(?: النهائية| النهائي| الصحيحة| الصحيح)?[*_]{0,2} ?(?:هو|هي"
        r"|تساوي|يساوي|[:=])[*_\s:]{0,4}"
    ),
    r"उत्तर(?: है| ?[:=])[*_\s:]{0,4}",
    (
        r"\b(?:odpowiedź|odpowiedz|cevap|jawaban|jawabannya|antwoord|svar"
        r"|vastaus)[*_]{0,2}(?: (?:to|adalah|is|är|on)(?!\w)| ?[:=])[*_\s:]{0,4}"
    ),
)  # fmt: skip
_ANNOUNCED = re.compile("|".join(_WORDINGS), re.IGNORECASE | re.MULTILINE)
# One of these is in every announcement: looked for first, as plain strings, since most texts have
# none near their end.
_TRIGGERS = (
    "answer", "result", "solution", "option", "choice", "ans", "#", "答", "选", "结果", "正解", "정답", "답",
    "respuesta", "solución", "solucion", "resposta", "solução", "réponse", "reponse", "résultat", "antwort", "ergebnis",
    "lösung", "risposta", "soluzione", "ответ", "результат", "решение", "đáp", "câu trả lời", "kết quả", "الجواب",
    "الإجابة", "الاجابة", "الناتج", "النتيجة", "الحل", "उत्तर", "odpowied", "cevap", "jawaban", "svar", "vastaus",
)  # fmt: skip
MAX_CHARS = 20_000  # of the end of a text that announcements are looked for in
_STARTS_WITH_NOUN = re.compile(_NOUN, re.IGNORECASE)
_NOT_MINE = re.compile(
    r"\b(?:this|that|these|such|each|any|every|another|which|whose|same|wrong|incorrect|other|previous|initial"
    r"|original|whether the|if the|check the|verify the|checking the|alternative|possible|"
    r"intermediate|student'?s|his|her|their|first|second|naive|partial)[*_ ]{1,3}(?:final |correct )?\Z",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|suppose|assume|assuming|imagine|(?:might|may|could|would) (?:think|guess|say|expect|believe|conclude)"
    r"|tempted|wrongly|mistakenly|falsely|doubt|unless)\b[^.!?\n]{0,60}\Z",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\b(?:not|never|no|cannot|if|whether|suppose|assume|think|thought|guess|doubt|wrong|unless|either|maybe"
    r"|perhaps)\b|n't)[^.!?\n]{0,90}\Z",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    r"(?:\b(?:option|choice|answer|statement)s? )?[*_(\[]{0,3}\b([A-H])\b[*_)\]]{0,3} is (?:therefore "
    r"|thus )?(?:the )?(?:only )?(?:correct|right)(?: (?:answer|option|choice|one))?\b|([A-H])(?:选项)?(?:是)?正确",
    re.IGNORECASE,
)
_IS_ANSWER = re.compile(
    r"(?<![\w$*\\.,/-])(\$[^$\n]{1,80}\$|\*\*[^*\n]{1,80}\*\*|[-+]?\$?\d[\d,]{0,20}(?:\.\d{1,20})?(?:/\d{1,20})?%?"
    r"|\(?[A-H]\)?) (?:is|as) (?:therefore |thus )?(?:the|our|my) (?:final |correct |right |required )?(?:answer"
    r"|result|solution)\b",
    re.IGNORECASE,
)
_TAG = re.compile(
    r"[<\[]((?:final[_ ]?)?answer)[>\]]((?:[^<\[]|[<\[](?!/?(?:final[_ ]?)?answer[>\]]))*+)[<\[]/\1[>\]]", re.IGNORECASE
)
_FENCE = re.compile(r"```[\w+#.-]{0,20}[ \t]*\n((?:[^`]|`(?!``))*+)```")
_DISPLAY = re.compile(
    r"\\begin ?\{(equation|align|displaymath|gather|math)\*?\}((?:[^\\]|\\(?!end ?\{\1))*+)\\end ?\{\1\*?\}"
)
MATH = re.compile(
    r"\$\$((?:[^$\\]|\\.){1,2000}+)\$\$|(?<!\\)\$((?:[^$\n\\]|\\[^\n]){1,2000}+)\$"
    r"|\\\[((?:[^\\]|\\(?![\[\]])){1,2000}+)\\\]|\\\(((?:[^\\]|\\(?![()])){1,2000}+)\\\)"
)
_STOP = re.compile(r"\n|。|！|．(?!\d)|(?<!\bsq)(?<!\bcu)(?<!\.)[.!?](?=\s|\Z)|<|；(?=[\u3040-\u9fff])")
_LEAD = re.compile(
    r"(?:(?:therefore|thus|hence|then|so|simply|just|clearly|indeed|exactly|precisely|obviously|of course|finally"
    r"|given by|equal to|going to be|found to be|option|choice|letter|statement|答案|选项|选|"
    r"共有|一共有|总共有|共|即|就|也就是)(?![A-Za-z])|:|：|=(?!=)|是|为)[*_\s,，:：]{0,3}",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"[,;]? ?\b(?:since|because|as (?:desired|required|claimed|expected|requested|stated|needed|before|above|we|the"
    r"|can|was|it|there|shown|wanted|given)|which|where|whereas|so that|so|thus|hence|therefore|"
    r"for (?:the|a|an|this|all|any|each|reasons)|due to|given that|by the|by symmetry|after|when|while"
    r"|and (?:we|this|that|the|so|thus|hence|therefore|it|is|not)|but not|rather than|instead of|not)\b"
    r"|[,，;；]? ?(?:因为|所以|理由|其中|由于|故|即)",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r" ?[(（](?:not|i\.?e\.?|that is|since|because|as|approximately|approx|about|≈|\\approx|option|choice|see"
    r"|rounded|in|with|where|which|the)\b[^()]{0,200}[)）](?= ?[,;，；]|\Z)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:or (?:maybe|perhaps|possibly|else|it|some|something)|maybe|perhaps|possibly|probably|might"
    r"|could (?:also )?be|not sure|unsure|uncertain|not certain|alternatively|on second thought|either|depending"
    r"|unless|"
    r"hard to say|I guess|guessing|a guess|if i'?m wrong|then again|would (?:follow|only|have|give)"
    r"|but(?! (?:not|rather|instead)\b)|however|although|though)\b|也许|或许|可能|不确定|大概",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:or (?:maybe|perhaps|possibly)|maybe|perhaps|on second thought|not sure|unsure|uncertain|could also be"
    r"|might also be|might be wrong|may be wrong|alternatively|(?:no|wait|hmm),? |actually|scratch that|"
    r"(?:this|that|my|the|which)(?: answer| result)? (?:is|was|seems|looks|may be|might be"
    r"|could be) (?:not (?:correct|right)|wrong|incorrect|a mistake|mistaken))\b|也许是|不对",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    r"(?:(?:also|indeed|then|therefore|thus|again|clearly|now|both|very|quite|fully|definitely) )*(?:correct|right"
    r"|consistent|verified|confirmed|checked|reasonable|valid|the same|same|obtained|as follows|follows|derived"
    r"|found by|found in|"
    r"shown|below|above|clear|obvious|complete|independent|known|expected|unique|sensible|plausible|in agreement"
    r"|in line|in accordance|supported|justified|accurate|exact|true for|easy|simple|straightforward|"
    r"what|how|why|that we|based on|based|boxed|written|presented|stated|given|required|needed|in the|to be"
    r"|therefore correct|reached|good|fine|close|satisfactory|as expected|as desired)\b",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(
    r"(?:(?:therefore|thus|then|also|probably) )*(?:not(?! (?:defined|exist|possible))|wrong|incorrect|unclear"
    r"|unknown|uncertain|unsure|undetermined|invalid|mistaken|questionable|n't)\b",
    re.IGNORECASE,
)
_RATHER = re.compile(r"not [^,.;]{1,40}?,? ?but(?: rather| instead)? ", re.IGNORECASE)
_CLAUSE = re.compile(
    r"\b(?:is|are|equals|be|was|were|=)(?: equal to| exactly| therefore| thus)?\b[\s:]*", re.IGNORECASE
)
_POLITE = re.compile(r" ?(?:です|である|だ|になります|となります|입니다|이다|이에요|है|是正确的?)[。.]?\Z")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_JOINS = re.compile(r"[*_\s]{0,3}(,|，|and|or|&|和|或|与|、|, and|, or|,\s?and|,\s?or)[*_\s]{0,3}")
_LABEL_BEFORE = re.compile(r"[A-Za-z]\w{0,3} ?= ?\Z")
_NUMBER_LEAD = re.compile(r"([-+−]?(?:\\?[$€£¥])?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?)(?=\s)")
_SPELLED = re.compile(r"([A-Za-z]{3,12}(?:[ -][A-Za-z]{3,12}){0,6}) ?\((\$?\d[\d,.]{0,20}\$?)\)")
_CHINESE_CLAUSE = re.compile(r"[^\d$\\]{1,40}(?:是|为|有|等于|得|共)(?!不|没)[^\d$\\A-Za-z-]{0,4}([-\d$\\].*)")
_BLOCK_QUOTE = re.compile(r"\n[ \t]{0,3}>[ \t]?")
# "I choose C.", "It must be C, not B.": a letter that is chosen.
_CHOSEN = re.compile(
    r"(?:\b(?:I|we)(?: would| will|'ll)? (?:choose|pick|select|go with)"
    r"|\b(?:[Ii]t|[Tt]his|[Tt]hat) (?:must|has to|can only) be"
    r"|(?<![A-Za-z])[Ss]o,? (?:it is |it's |the |choose |pick )?|(?<![不别])选)"
    r" ?(?:option |choice |answer )?[*_(\[]{0,3}([A-H])[)\]*_]{0,3}"
    r"(?:,? (?:not|and not|rather than|instead of) [*_(]{0,3}[A-H][*_)]{0,3})?"
    r"[.。!！]?\Z"
)
# A conclusion without a noun that names an answer: "Thus, x turns out to be 20.", 所以共有15种。
_TURNS_OUT = re.compile(
    r"(?:\A|(?<=[.!]\s))(?:(?:so|thus|hence|therefore|consequently|finally),? (?:[^\d.,;:!?\n=<>]{1,40} "
    r"(?:turns|comes|works|turned|came|worked) out (?:to be|to|as)|\$?[A-Za-z]\$? equals)|it (?:turns|comes"
    r"|works) out to be|(?:(?:so|thus|hence|therefore|finally),? )?(?:I|we) (?:get|obtain|arrive at)) "
    r"(?P<value>[^\s!?;,](?:[^\n!?;,]|,(?=\d{3})){0,60})\Z",
    re.IGNORECASE,
)
_IN_ALL = re.compile(
    r"(?:\A|(?<=[。.！]))\s?(?:所以|因此|故|于是|从而|综上(?:所述)?|由此可知|可知)[，,]?(?:一共|总共|共计|合计"
    r"|共)(?:有|是|为)?\s?"
    r"(?P<value>\$?\d[\d,]{0,20}(?:\.\d{1,9})?\$?\s?(?:种|个|条|项|对|组|次|人|名|位|张|只|件|天|元)?)"
    r"(?:不同的?)?(?:方法|方案|情况|选法|排法|可能|解|结果)?[。.！]?\Z"
)
_OPEN = re.compile(
    r"\b(?:if|unless|when|where|or|not|no|never|but|mod|modulo|about|roughly|nearly|almost)\b", re.IGNORECASE
)
MAX_TAIL_CHARS = 300


def tagged(text: str) -> str | None:
    """The content of the last closed `<answer>` tag, its own announcement or markup taken off; None
    without one.
    """
    found = list(_TAG.finditer(text))
    if not found:
        return None
    inner = found[-1][2].strip()
    if (math := MATH.fullmatch(inner)) is not None:
        return _inside(math)
    if (said := announced(inner)) is not None:
        return said
    return inner if len(inner) <= 400 and len(_WORDS.findall(inner)) <= 12 else None


def announcements(text: str) -> list[re.Match[str]]:
    """Where a text of at most `MAX_CHARS` announces something, in order."""
    lowered = text.lower()
    if not any(trigger in lowered for trigger in _TRIGGERS):
        return []
    return [m for m in _ANNOUNCED.finditer(text) if m.group().strip()]


def announced(text: str) -> str | None:
    """What the last announcement of the text says; None without one, or where it is taken back."""
    text = _BLOCK_QUOTE.sub("\n", text[-MAX_CHARS:])
    matches = announcements(text)
    fences = [(m.start(), m.end()) for m in _FENCE.finditer(text)]
    for index in range(len(matches) - 1, max(-1, len(matches) - 200), -1):
        match = matches[index]
        if any(start <= match.start() < end for start, end in fences):
            continue  # a line of a program
        if _SUPPOSED.search(text, max(0, match.start() - 100), match.start()):
            continue
        if _STARTS_WITH_NOUN.match(match.group()) and _NOT_MINE.search(text, max(0, match.start() - 40), match.start()):
            if _NEGATIVE.match(text[match.end() : match.end() + 60].lstrip("*_ :")):
                return None
            continue
        rest = text[match.end() :]
        segment, tail = cut_out(rest)
        if tail.startswith("?"):
            return None
        if segment is None or (_COMMENT.match(segment) and not _starts_as_value(segment)):
            continue
        if _NEGATIVE.match(segment):
            rather = _RATHER.match(segment)
            return segment[rather.end() :].strip() or None if rather else None
        if _TAKEN_BACK.search(tail[:MAX_TAIL_CHARS]):
            return None
        return segment
    return None


def called_right(text: str) -> str | None:
    """The value of "12 is the final answer", the last; or the letter of "Option B is correct",
    where no other is called so.
    """
    text = text[-MAX_CHARS:]
    said = [m for m in _IS_ANSWER.finditer(text) if not _DENIED.search(text, max(0, m.start() - 100), m.start())]
    if said:
        return said[-1][1].strip("*$ ")
    if (chosen := _CHOSEN.search(text.rstrip()[-200:])) is not None and not _DENIED.search(
        text.rstrip()[-200:], 0, chosen.start()
    ):
        return chosen[1]
    letters = {(m[1] or m[2]) for m in _IS_RIGHT.finditer(text)}
    return letters.pop() if len(letters) == 1 else None


def concluded(line: str) -> str | None:
    """The value with which the last sentence of a line concludes; None where a condition or doubt
    is in it.
    """
    line = line.strip().strip("*_ ")
    if in_all := _IN_ALL.search(line):
        return in_all["value"].strip()
    turns_out = _TURNS_OUT.search(line)
    if turns_out is None or _OPEN.search(turns_out.group()):
        return None
    value, tail = cut_out(turns_out["value"])
    return value if value and _starts_as_value(value) and not tail.strip(" .*") else None


def _starts_as_value(segment: str) -> bool:
    return segment[0].isdigit() or segment[0] in "$\\+-−"


def cut_out(rest: str, depth: int = 0) -> tuple[str | None, str]:
    """(the answer at the start of a text, what follows it in the text)."""
    rest = rest.lstrip("*_ \t\n:：>}")
    if fence := _FENCE.match(rest):
        return fence[1].strip() or None, rest[fence.end() :]
    if display := _DISPLAY.match(rest):
        return " ".join(display[2].replace("&", " ").split()) or None, rest[display.end() :]
    while (lead := _LEAD.match(rest)) and lead.end() < len(rest):
        rest = rest[lead.end() :].lstrip("*_ \n")
    if math := MATH.match(rest):
        return _behind_math(rest, math)
    stop = _STOP.search(rest)
    while stop and stop.group() == "\n" and _goes_on(rest[: stop.start()]):
        stop = _STOP.search(rest, _next_line(rest, stop.end()))
    end = stop.start() if stop else len(rest)
    line, tail = rest[:end], rest[end:]
    if display_line := _display_after(rest, line):
        return display_line, tail
    return _plain(line, depth), tail


def _goes_on(line: str) -> bool:
    return bool(re.search(r"(?:\b(?:is|are|be|equals)|[:=：])[*_ ]{0,3}\Z", line))


def _next_line(text: str, position: int) -> int:
    while position < len(text) and text[position] in "\n \t":
        position += 1
    return position


def _display_after(rest: str, line: str) -> str | None:
    """Display math right behind a line that ends in "is": its inside."""
    inner = re.search(r"(?:\b(?:is|are|be|equals)|[:=：])[*_ ]{0,3}\n\s{0,4}(?=\\\[|\$|\\\()", line)
    if inner and (math := MATH.match(rest, inner.end())):
        return _inside(math)
    return None


def _inside(math: re.Match[str]) -> str:
    return next(g for g in math.groups() if g is not None).strip()


def _behind_math(rest: str, math: re.Match[str]) -> tuple[str | None, str]:
    """Math, or several pieces that commas and conjunctions join, with a unit behind; prose behind
    it goes where it is harmless.
    """
    pieces, end = [_inside(math)], math.end()
    while join := _JOINS.match(rest, end):
        following = MATH.match(rest, join.end())
        if following is None:
            break
        pieces.append((" \\text{ or } " if join[1].strip(", ").lower() in ("or", "或") else ", ") + _inside(following))
        end = following.end()
    stop = _STOP.search(rest, end)
    behind = rest[end : stop.start() if stop else len(rest)].strip("*_ ")
    tail = rest[stop.start() :] if stop else ""
    value = "".join(pieces)
    if not behind:
        return value, tail
    kept = _without_reason(behind)
    if _HEDGE.search(behind):
        return f"{value} \\text{{ {behind} }}", tail
    if not kept or (kept.startswith((",", "，")) and not re.search(r"[\d$\\]", kept)):
        return value, tail
    if len(pieces) == 1 and not re.search(r"[\d$\\=<>]", kept):
        return (f"{value} \\text{{ {kept} }}" if len(kept) <= 30 and kept[0].isalpha() else value), tail
    return f"{value} {kept}", tail


def _without_reason(line: str) -> str:
    """A line without a reason or an aside at its end."""
    previous = None
    while previous != line:
        previous = line
        line = _ASIDE.sub("", line).rstrip(" ,，;；")
        reason = next(
            (m for m in _REASON.finditer(line) if line.count("(", 0, m.start()) <= line.count(")", 0, m.start())), None
        )
        if reason is not None:
            line = line[: reason.start()].rstrip(" ,，;；")
    return line.strip()


def _plain(line: str, depth: int) -> str | None:
    """The answer in a line of prose: what says nothing about the value goes, all else stays in."""
    line = _without_marks(line)
    if yes_or_no := re.match(r"(yes|no)\b[,;:] ", line, re.IGNORECASE):
        return yes_or_no[1]
    if not line or _HEDGE.search(line) or _NEGATIVE.match(line):
        return line or None
    start = _REASON.search(line)
    if start is None or start.start() > 0:
        line = _without_reason(line)
    if line.count("$") == 1 and not re.search(r"\$\d", line):
        line = line.replace("$", "")
    line = _without_closing_words(line)
    if depth < 2 and (clause := _last_clause(line)) is not None:
        return cut_out(clause, depth + 1)[0]
    if (chinese := _CHINESE_CLAUSE.fullmatch(line)) is not None:
        return chinese[1].strip()
    return _number_of_things(line) or line.strip("*_` ").rstrip(",;:") or None


def _without_marks(line: str) -> str:
    """Without the marks and polite words around an answer, and without brackets that open or close
    nothing.
    """
    line = line.strip().strip("*_`\"'“”").strip()
    while line.endswith((")", "]")) and not balanced(line) and balanced(line[:-1]):
        line = line[:-1].rstrip()
    if (spelled := _SPELLED.fullmatch(line)) and words.number(spelled[1]) is not None:
        line = spelled[2]
    if line.endswith("!") and not line.endswith("!!") and re.search(r"[A-Za-z\d)]!\Z", line):
        line = line[:-1]
    line = _POLITE.sub("", line).strip()
    if line.endswith(("\\]", "\\)", "$$")) and not MATH.search(line):
        line = line[:-2].strip()
    return line.rstrip("}\"' ") if line.count("{") < line.count("}") else line


def _last_clause(line: str) -> str | None:
    """What follows the last `so`, `is` or the like of a sentence that does not begin with its
    number.
    """
    if len(_WORDS.findall(MATH.sub(" ", line))) < 2 or _NUMBER_LEAD.match(line):
        return None
    clauses = [c for c in _CLAUSE.finditer(line) if not _in_math(line, c.start())]
    rest = line[clauses[-1].end() :] if clauses else ""
    return rest if rest.strip() and not _COMMENT.match(line) else None


def _number_of_things(line: str) -> str | None:
    """The number of `73 apples that she gave away`."""
    lead = _NUMBER_LEAD.match(line)
    if lead is None or len(_WORDS.findall(line)) <= 3 or "\\" in line:
        return None
    more = re.search(r"\b(?:or|and|to|times|plus|minus|over|out of|divided)\b|\d", line[lead.end() :])
    return None if more else lead[1]


def _in_math(line: str, position: int) -> bool:
    return any(m.start() < position < m.end() for m in MATH.finditer(line))


def _without_closing_words(line: str) -> str:
    """`72 clips, altogether`: without words behind the last comma that hold neither number, formula
    nor conjunction.
    """
    head, semicolon, closing = line.partition(";")
    if (
        semicolon
        and re.match(r"[-+\d$\\(]|[A-Z]\b", head.strip())
        and re.match(r" ?[A-Za-z]{2,}", closing)
        and not re.match(r" ?(?:or|and|x|y)\b", closing)
    ):
        return head.rstrip()
    head, comma, closing = line.rpartition(",")
    said = closing.split()
    if (
        comma
        and said
        and len(said) <= 6
        and re.match(r"[-+\d$\\(]|[A-Z]\b", head.strip())
        and not re.search(r"[\d$\\=<>(){}]|\b(?:or|and)\b|\b[A-Za-z]\b", closing)
    ):
        return head.rstrip()
    return line
