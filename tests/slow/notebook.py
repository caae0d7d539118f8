"""The cells of docs/first_run.ipynb in order at a small scale: `make notebook`.

Without Jupyter: they are one program, and a cell's last expression is printed, as a notebook shows
it.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "first_run.ipynb"
SHOWN = (
    "Which is larger, 80 or 73?", "(<Outcome.CORRECT: 'correct'>", "rl1       larger", "expected:", "ended by:",
)  # fmt: skip


def program() -> str:
    out = []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "the notebook is kept without outputs"
        tree = ast.parse("".join(cell["source"]))
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            tree.body[-1] = ast.parse(f"if (shown := {ast.unparse(last.value)}) is not None: print(shown)").body[0]
        out.append(ast.unparse(tree))
    return "\n".join(out)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first_run.py"
        path.write_text(program(), encoding="utf-8")
        environment = os.environ | {"QWQ_SCALE": "0.02", "QWQ_RUNS": f"{folder}/runs", "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(path)],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        missing = [words for words in SHOWN if words not in done.stdout]
        if done.returncode or missing or not (Path(folder) / "runs" / "first" / "report.html").is_file():
            sys.exit(f"{done.stdout}\n{done.stderr}\nstatus {done.returncode}; not printed: {missing}")
    print(f"{NOTEBOOK.relative_to(ROOT)}: every cell ran")


if __name__ == "__main__":
    main()
