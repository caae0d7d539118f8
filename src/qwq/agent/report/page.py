"""`report.html`: the text with every number linked to the call that gave it, and the calls.

One file without scripts; pictures are inside it. What a model, a tool or a file wrote is escaped,
and Markdown is rendered without HTML of its own. A number leads to the printed value in its call's
output, which the browser opens and marks; what is unsupported is red.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from qwq.agent.events import Event
from qwq.agent.folder import own_task
from qwq.agent.report.checked import Checked, listed_files
from qwq.agent.report.steps import CallRecord
from qwq.agent.report.trace import TASK
from qwq.report.document import document
from qwq.report.wording import duration, text

# Marks in the Markdown that survive its rendering: characters of Unicode's private area.
_OPEN, _MIDDLE, _CLOSE, _DEED = "\ue000", "\ue001", "\ue002", "\ue003"
MAX_PICTURE = 4 << 20  # bytes of one picture in the page
MAX_OUTPUT = 20_000  # characters of one output in the page
_TYPES = {
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
}


def page(checked: Checked, steps: Sequence[CallRecord], events: Sequence[Event], run: Path, answer: str) -> str:
    """`answer` is what the model said beside a report that it wrote as a file, else ""."""
    css = files("qwq.agent.report").joinpath("report.css").read_text(encoding="utf-8")
    pictures = _Pictures(run, steps)
    targets = _Targets(steps)
    body = _body(checked, targets, pictures)
    sections = (
        _header(checked, steps, events), _answer(answer), f'<article class="panel prose">{body}</article>',
        pictures.left(), _unsupported(checked), _deeds(checked), _calls(steps, targets), _files(steps, events),
    )  # fmt: skip
    title = _title(checked.text, events)
    return document(title, "\n".join(s for s in sections if s), css=css, images=True)


# -- sections --------------------------------------------------------------------------------------


def _title(body: str, events: Sequence[Event]) -> str:
    heading = re.search(r"^#{1,2}[ \t]+(.+)$", body, re.MULTILINE)
    title = re.sub(r"[*_`]|\s\*\*\[.*", "", heading[1]) if heading else own_task(events[0]["task"]).splitlines()[0]
    return title if len(title) <= 90 else f"{title[:88]} ..."


def _header(checked: Checked, steps: Sequence[CallRecord], events: Sequence[Event]) -> str:
    first, last = events[0], events[-1]
    traced = sum(check.source is not None for check in checked.numbers)
    wrong = len(checked.wrong_numbers)
    unproven = len(checked.wrong_deeds)
    chips = [f'<span class="chip good">{traced} {"number" if traced == 1 else "numbers"} traced</span>']
    if not checked.numbers:
        chips = ['<span class="chip">no numbers</span>']
    if wrong:
        chips.append(f'<a class="chip bad" href="#unsupported">{wrong} unsupported</a>')
    if unproven:
        chips.append(
            f'<a class="chip bad" href="#deeds">{unproven} {"claim" if unproven == 1 else "claims"} not proven</a>'
        )
    if checked.is_strict:
        chips.append('<span class="chip">strict</span>')
    facts = {
        "model": Path(str(first.get("model") or "")).name,
        "calls": len(steps),
        "tokens": f"{last.get('tokens', 0):,}",
        "time": duration(float(last.get("seconds", 0.0))),
        "ended": last.get("stop_reason", ""),
    }
    items = "".join(f"<li>{text(k)} <b>{text(v)}</b></li>" for k, v in facts.items() if v != "")
    task = own_task(first["task"])
    return (
        f'<header><p class="soft small" id="task">Task</p><p class="task">{text(task)}</p>'
        f'<p class="chips">{" ".join(chips)}</p><ul class="meta">{items}</ul></header>'
    )


def _answer(answer: str) -> str:
    if not answer.strip():
        return ""
    return (
        f'<section class="panel prose"><p class="soft small">Answer</p>{_markdown().render(_clean(answer))}</section>'
    )


def _unsupported(checked: Checked) -> str:
    if not checked.wrong_numbers:
        return ""
    rows = "".join(
        f'<tr><td><a class="bad" href="#n{i}">{text(check.text)}</a></td>'
        f'<td class="words">{text(check.reason)}</td></tr>'
        for i, check in enumerate(checked.numbers)
        if check.source is None
    )
    head = "<thead><tr><th>number</th><th class='words'>why</th></tr></thead>"
    return f'<h2 id="unsupported">Unsupported</h2><div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'


def _deeds(checked: Checked) -> str:
    if not checked.deeds:
        return ""
    rows = "".join(
        f'<tr><td class="words">{text(deed.text)}</td><td class="words">{_verdict(deed.is_proven)} '
        f"{text(deed.reason)}</td></tr>"
        for deed in checked.deeds
    )
    return f'<h2 id="deeds">Claims of deeds</h2><div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def _verdict(is_proven: bool) -> str:
    return '<span class="chip good">done</span>' if is_proven else '<span class="chip bad">not proven</span>'


def _calls(steps: Sequence[CallRecord], targets: _Targets) -> str:
    if not steps:
        return ""
    blocks = "".join(_call(step, targets) for step in steps)
    return f"<h2>How it was made</h2>{blocks}"


def _call(step: CallRecord, targets: _Targets) -> str:
    chip = "" if step.kind == "ok" else f' <span class="chip bad">{text(step.kind.replace("_", " "))}</span>'
    shown = step.code or "\n".join(f"{k}: {v}" for k, v in step.arguments.items())
    peek = step.code or str(next(iter(step.arguments.values()), ""))
    first = next((line for line in peek.splitlines() if line.strip() and not line.startswith("import ")), "")
    output = targets.marked(step)
    return (
        f'<details class="call"><summary><b>{text(step.label)}</b> <span class="soft">{text(step.tool)}</span>{chip}'
        f'<span class="peek soft">{text(first[:90])}</span></summary><div id="{step.id}">'
        f'<pre class="code">{text(shown)}</pre><pre>{output}</pre></div></details>'
    )


def _files(steps: Sequence[CallRecord], events: Sequence[Event]) -> str:
    rows = "".join(
        f'<tr><td><a href="{quote(name)}">{text(name)}</a></td><td>{size:,}</td>'
        f'<td class="hash">{text(digest)}</td></tr>'
        for name, size, digest in listed_files(steps, events)
    )
    if not rows:
        return ""
    head = "<thead><tr><th>file</th><th>bytes</th><th class='hash'>sha256</th></tr></thead>"
    return f'<h2>Files</h2><div class="scroll"><table class="files">{head}<tbody>{rows}</tbody></table></div>'


# -- the text --------------------------------------------------------------------------------------


def _body(checked: Checked, targets: _Targets, pictures: _Pictures) -> str:
    """The Markdown as HTML, its numbers and claims marked."""
    source = checked.text
    marks = [(deed.end, 1, f"{_DEED}{i}{_CLOSE}") for i, deed in enumerate(checked.deeds)]
    for i, check in enumerate(checked.numbers):
        marks += [(check.start, 2, f"{_OPEN}{i}{_MIDDLE}"), (check.end, 0, _CLOSE)]
    for at, _, mark in sorted(marks, reverse=True):
        source = source[:at] + mark + source[at:]
    rendered = pictures.renderer().render(source)
    rendered = re.sub(
        f"{_OPEN}(\\d+){_MIDDLE}(.*?){_CLOSE}",
        lambda m: targets.link(int(m[1]), checked.numbers[int(m[1])], m[2]),
        rendered,
        flags=re.DOTALL,
    )
    rendered = re.sub(f"{_DEED}(\\d+){_CLOSE}", lambda m: _deed_mark(checked.deeds[int(m[1])]), rendered)
    return rendered.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _deed_mark(deed: Any) -> str:
    sign, tone = ("\u2713", "good") if deed.is_proven else ("\u2717 not proven", "bad")
    return f' <a class="deed {tone}" href="#deeds" title="{text(deed.reason)}">{sign}</a>'


def _clean(source: str) -> str:
    return re.sub("[\ue000-\ue003]", "", source)


def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class _Targets:
    """Links from numbers to the values that calls printed."""

    def __init__(self, steps: Sequence[CallRecord]):
        self._ids = {step.label: step.id for step in steps}
        self._values: dict[str, dict[str, str]] = {}  # by call: printed value -> anchor

    def link(self, index: int, check: Any, shown: str) -> str:
        if check.source is None:
            return f'<mark class="num bad" id="n{index}" title="{text(check.reason)}">{shown}</mark>'
        if check.source == TASK:
            return f'<a class="num typed" href="#task" title="from the task">{shown}</a>'
        call = self._ids.get(check.source, "")
        anchor = call
        if check.given and check.kind not in ("code", "derived", "count"):
            values = self._values.setdefault(call, {})
            anchor = values.setdefault(check.given, f"{call}-v{len(values) + 1}")
        tone = " typed" if check.kind == "code" else ""
        words = f"{check.source}: {'a limit in its code' if check.kind == 'code' else check.given or 'its output'}"
        return f'<a class="num{tone}" href="#{anchor}" title="{text(words)}">{shown}</a>'

    def marked(self, step: CallRecord) -> str:
        """The output, with an anchor at the first place of each value that the text uses."""
        output = step.text
        cut = (
            "" if len(output) <= MAX_OUTPUT else f"\n[{len(output) - MAX_OUTPUT:,} characters more in the run's folder]"
        )
        output = _clean(output[:MAX_OUTPUT])
        places = []
        for value, anchor in self._values.get(step.id, {}).items():
            found = re.search(rf"(?<![\d.,]){re.escape(value)}(?![\d])", output)
            if found:
                places.append((found.start(), found.end(), anchor))
        out, last = [], 0
        for start, end, anchor in sorted(places):
            if start < last:
                continue
            out += [text(output[last:start]), f'<b class="value" id="{anchor}">{text(output[start:end])}</b>']
            last = end
        missing = [a for v, a in self._values.get(step.id, {}).items() if not any(a == p[2] for p in places)]
        anchors = "".join(f'<a id="{anchor}"></a>' for anchor in missing)
        return anchors + "".join(out) + text(output[last:] + cut)


class _Pictures:
    """The run's pictures by name, to be put into the page."""

    def __init__(self, run: Path, steps: Sequence[CallRecord]):
        self._run = run
        self._titles = {
            a["name"]: (step.label, a["title"])
            for step in steps
            for a in step.artefacts
            if a["media_type"] == "image/png"
        }
        self._used: set[str] = set()

    def renderer(self) -> MarkdownIt:
        markdown = _markdown()
        markdown.add_render_rule("image", lambda _self, tokens, index, _options, _env: self._image(tokens[index]))
        return markdown

    def _image(self, token: Token) -> str:
        name = Path(str(token.attrGet("src") or "")).name
        self._used.add(name)
        alt = _clean(token.content)
        data = self._data(name)
        return _img(data, alt) if data else f'<span class="soft">[no picture {text(name)}: {text(alt)}]</span>'

    def _data(self, name: str) -> str:
        for folder in ("artefacts", "workspace", "inputs"):
            path = self._run / folder / name
            kind = _TYPES.get(path.suffix.lower())
            if name and kind and path.is_file() and path.stat().st_size <= MAX_PICTURE:
                return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        return ""

    def left(self) -> str:
        """Figures that the text does not show, with the cell that drew them."""
        rest = [
            (n, t) for n, t in self._titles.items() if n not in self._used and (self._run / "artefacts" / n).is_file()
        ]
        figures = "".join(
            f'<figure class="panel">{_img(self._data(name), title)}<figcaption>{text(title or name)}'
            f"<span>{text(label)}</span></figcaption></figure>"
            for name, (label, title) in rest
        )
        return f'<h2>Figures</h2><div class="figures">{figures}</div>' if figures else ""


def _img(data: str, alt: str) -> str:
    return f'<img src="{data}" alt="{html.escape(alt, quote=True)}">'
