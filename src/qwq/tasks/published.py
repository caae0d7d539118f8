"""Where the sets that recipes name are published, so that a missing file's error says how to get
it.

Names are those of the recipes: a folder for each set, and the file in it. MATH's training problems
are those of the split of Lightman et al. 2023 (arXiv 2305.20050), which leaves MATH-500 out.
"""

from __future__ import annotations

import shlex
from pathlib import Path

_GITHUB = "https://raw.githubusercontent.com"
QWEN = f"{_GITHUB}/QwenLM/QwQ/main/eval/data/"
PLACES = {
    "gsm8k/train.jsonl": f"{_GITHUB}/openai/grade-school-math/master/grade_school_math/data/train.jsonl",
    "gsm8k/test.jsonl": f"{_GITHUB}/openai/grade-school-math/master/grade_school_math/data/test.jsonl",
    "math/train.jsonl": "https://media.githubusercontent.com/media/openai/prm800k/main/prm800k/math_splits/train.jsonl",
    "mbpp/mbpp.jsonl": f"{_GITHUB}/google-research/google-research/master/mbpp/mbpp.jsonl",
    "humaneval/HumanEval.jsonl": f"{_GITHUB}/openai/human-eval/master/data/HumanEval.jsonl.gz",
    "aime24/test.jsonl": QWEN + "aime24.jsonl",
}


def how_to_get(path: str) -> str | None:
    """The command that puts a set's file at `path`;

    None for a file that bears no published name.
    """
    url = PLACES.get("/".join(Path(path).parts[-2:]))
    if url is None:
        return None
    target = shlex.quote(path)
    if not url.endswith(".gz"):
        return f"curl -fL --create-dirs -o {target} {url}"
    return f"mkdir -p {shlex.quote(str(Path(path).parent))} && curl -fL {url} | gunzip > {target}"
