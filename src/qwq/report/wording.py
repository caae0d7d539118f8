"""Numbers and foreign text as the report shows them."""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwq.report.palette import INK, OUTCOMES, swatch
from qwq.text.response import THINK_CLOSE, THINK_OPEN, ThinkingSplitter

RESULT_CHARS = 4000  # of a tool's result
_END = re.compile(r"(<\|(im_end|endoftext|eot_id|end_of_text)\|>|</s>)\s*\Z")
_TURN = re.compile(r"(?<=<\|im_start\|>assistant\n)")


def visible(value: Any) -> str:
    """Text with characters made visible that steer a terminal or the direction of text."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in str(value))


def text(value: Any) -> str:
    """Visible and escaped for HTML."""
    return html.escape(visible(value), quote=True)


def without_end(output: str) -> str:
    """A model's output without the token that ended it: how it ended is told apart."""
    return _END.sub("", output)


def outcome_bar(counts: Mapping[str, int], total: int) -> str:
    """The shares of outcomes as a bar of their colours."""
    parts = (
        f'<i style="--c:{swatch(OUTCOMES.get(k, INK))};width:{100 * v / total:.2f}%" title="{text(k)} {v:,}"></i>'
        for k, v in counts.items()
        if v
    )
    return f'<div class="bar">{"".join(parts)}</div>'


def grey_thinking(output: str, shorten: Callable[[str], str] = str) -> str:
    """A model's output, escaped, its thinking in grey.

    A later turn's thinking is grey too if the turn's head is in the text.
    """
    return "".join(_grey_turn(turn, shorten) for turn in _TURN.split(output))


def _grey_turn(turn: str, shorten: Callable[[str], str]) -> str:
    # Nothing says whether the template had opened the thinking: a closing mark is taken to close
    # it.
    splitter = ThinkingSplitter(thinking_open=THINK_CLOSE in turn)
    thinking, answer = splitter.push(turn, final=True)
    if not splitter.has_thinking:
        return text(shorten(answer))
    opened = THINK_OPEN if turn.lstrip().startswith(THINK_OPEN) else ""
    closed = "" if splitter.inside else THINK_CLOSE
    return f"<span class='thinking'>{text(shorten(opened + thinking + closed))}</span>{text(shorten(answer))}"


def points(fraction: float) -> str:
    """A difference in points with its sign, with a true minus."""
    return f"{100 * fraction:+.1f}".replace("-", "\u2212")


def interval(low: float, high: float) -> str:
    return f"[{points(low)}, {points(high)}]"


def tone(low: float, high: float) -> str:
    """good or bad where the whole interval lies on one side of zero."""
    return "good" if low > 0 else "bad" if high < 0 else ""


def number(value: float) -> str:
    """Three significant digits; very small ones as 3e-6."""
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def counted(num: int, word: str) -> str:
    """1 step, 2 steps."""
    return f"{num:,} {word}" if num == 1 else f"{num:,} {word}s"


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def duration(seconds: float) -> str:
    """40 s, 2 min 05 s, 3 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def figures(metrics: Mapping[str, Any], step_s: float) -> str:
    """One step: `reward 0.61 pass 0.58 len 33 1.3 s/step`, or `loss 0.842 9,800 tokens/s`."""
    words = []
    if "reward" in metrics:
        passed, length = metrics.get("pass_rate", 0.0), metrics.get("length", 0.0)
        words.append(f"reward {_number(metrics['reward'], 2)} pass {_number(passed, 2)} len {_number(length, 0)}")
    elif "loss" in metrics:
        words.append(f"loss {_number(metrics['loss'], 3)}")
    if "pair_accuracy" in metrics:
        words.append(f"pairs right {_number(metrics['pair_accuracy'], 2)}")
    if step_s >= 0.5:
        words.append(f"{step_s:.1f} s/step")
    tokens, seconds = metrics.get("tokens"), metrics.get("seconds")
    if tokens and seconds:
        words.append(f"{tokens / seconds:,.0f} tokens/s")
    return " ".join(words)


def _number(value: float | None, digits: int) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}"


def transcript(turns: Sequence[Mapping[str, Any]]) -> str:
    """The turns of a sample: what each said, its calls, and their results, indented.

    The last turn's words are the sample's output, which is shown apart.
    """
    lines: list[str] = []
    for number, turn in enumerate(turns, 1):
        said = str(turn.get("answer") or "").strip()
        if said and number < len(turns):
            lines.append(f"turn {number}: {said}")
        calls, results = (v if isinstance(v := turn.get(key), list) else [] for key in ("calls", "results"))
        for at, call in enumerate(calls):
            lines.append(json.dumps(call, ensure_ascii=False))
            if at < len(results):
                lines.append(textwrap.indent(both_ends(str(results[at]), RESULT_CHARS), "    "))
        if malformed := turn.get("malformed"):
            lines.append(f"({malformed} calls that cannot be read)")
    return "\n".join(lines)


def both_ends(value: str, limit: int) -> str:
    """A text of at most about `limit` characters: a long one's two ends, as an answer is at its
    end.
    """
    half = limit // 2
    if len(value) <= limit:
        return value
    return f"{value[:half]}\n[... {len(value) - limit:,} characters ...]\n{value[-half:]}"
