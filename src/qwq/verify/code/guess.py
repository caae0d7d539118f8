"""The language of a program that nobody named, told by its text."""

from __future__ import annotations

import re
import warnings

from qwq.errors import UsageError
from qwq.sandbox.languages import canonical

_SIGNS = (
    ("rust", r"\bfn\s+main\s*\(\s*\)|\blet\s+mut\s|\bprintln!\("),
    (
        "cpp",
        r"^\s*#\s*include\s*<(iostream|bits/|vector|string|algorithm|map|queue|set|cstdio)|\busing namespace\b"
        r"|\bstd::|\bcout\s*<<",
    ),
    ("c", r"^\s*#\s*include\s*[<\"]\w+\.h"),
    ("java", r"\bpublic\s+(static\s+void\s+main|class)\b|\bSystem\.out\.print"),
    ("go", r"^\s*package\s+main\b"),
    ("typescript", r"^\s*(import\s+\w+\s*=\s*require|(let|const|function)\s[^\n]*:\s*(number|string|boolean)\b)"),
    (
        "javascript",
        r"\brequire\(|\bconsole\.log\(|\bprocess\.std|^\s*(const|let|var)\s+\w+|=>\s*[{(\w]|^\s*function\s+\w+\s*\(",
    ),
    ("kotlin", r"^\s*fun\s+main\s*\("),
    ("php", r"^\s*<\?php"),
    ("sql", r"(?i)^\s*(select|with|insert\s+into|create\s+(table|view)|update)\b"),
    ("perl", r"^\s*use\s+strict\s*;|\bmy\s+[$@%]\w+"),
    (
        "bash",
        r"\$\(|\$\{?\w|^\s*(echo|read|cat|while\s+read|local|export|mapfile|declare|set -|awk|sed|grep|tr|sort|head"
        r"|wc)\b|\bdo\b[^:]*\bdone\b|^\s*if\s+\[",
    ),
)


def guess_language(source: str) -> str:
    """python for what Python's parser takes and for what shows no sign of another language."""
    first, _, _ = source.partition("\n")
    if first.startswith("#!"):
        try:
            return canonical(re.split(r"[/ ]", first.strip())[-1])
        except UsageError:
            pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source.removeprefix("\ufeff"), "program", "exec", dont_inherit=True)
        return "python"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    for language, sign in _SIGNS:
        if re.search(sign, source[:20_000], re.MULTILINE):
            return language
    return "python"
