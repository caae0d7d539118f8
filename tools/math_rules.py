"""Write the table of the math verifier's rules into docs/verify_math.md, out of
`qwq.verify.math.rule_examples`.

python tools/math_rules.py           # write it
python tools/math_rules.py --check   # status 1 where it differs from what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from qwq.verify.math.rule_examples import table

PAGE = Path(__file__).parents[1] / "docs" / "verify_math.md"
BEGIN, END = "<!-- rules: written by tools/math_rules.py -->\n", "<!-- end of rules -->"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    written = f"{head}{BEGIN}{table()}{END}{tail}"
    if "--check" in sys.argv[1:]:
        if written != page:
            print(f"{PAGE} is out of date: run python tools/math_rules.py", file=sys.stderr)
        return written != page
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
