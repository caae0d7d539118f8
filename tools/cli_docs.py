"""Write docs/cli.md from the help texts of the commands.

python tools/cli_docs.py           write it
python tools/cli_docs.py --check   status 1 where it differs from what would be written
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from qwq.cli.commands import app

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100
HEADER = """# Commands

Written by `python tools/cli_docs.py` from the help texts; a test compares the two.
"""


def help_text(words: list[str]) -> str:
    """`qwq WORDS --help` as plain text."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    app.help_print(words, console=console)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


def commands() -> list[list[str]]:
    """All commands and their sub-commands, the groups before their members."""
    found: list[list[str]] = []
    for name in sorted(n for n in app if not n.startswith("-")):
        found.append([name])
        found += [[name, sub] for sub in sorted(n for n in app[name] if not n.startswith("-"))]
    return found


def document() -> str:
    parts = [HEADER, f"```text\n{help_text([])}\n```\n"]
    parts += [f"## qwq {' '.join(words)}\n\n```text\n{help_text(words)}\n```\n" for words in commands()]
    return "\n".join(parts)


def main() -> int:
    text = document()
    if "--check" in sys.argv[1:]:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
            print(f"{TARGET} is out of date: run python tools/cli_docs.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
