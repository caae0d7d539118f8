"""The OpenAPI document against the server that it describes: schemathesis makes requests, good and
bad, and checks each answer.

Short here, but for what follows from the document alone (each field missing, of another type, out
of its range), which is whole; `make fuzz-serve` looks longer (QWQ_FUZZ_EXAMPLES).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("llguidance")

import scripted

HOOKS = str(Path(__file__).with_name("schemathesis_hooks.py"))
SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))


def test_every_answer_is_what_the_document_says(tmp_path: Path) -> None:
    chat = scripted.chat_format()
    # A short context, so that what asks for no length ends soon; long enough for what is made up as
    # messages.
    model = scripted.opened(chat, scripted.Script(chat, lambda prompt: "so\n</think>\n\nyes"), max_len=1024)
    examples = os.environ.get("QWQ_FUZZ_EXAMPLES", "3")
    with scripted.served(model) as url:
        command = [
            SCHEMATHESIS,
            "run",
            f"{url}/openapi.json",
            "--max-examples",
            examples,
            "--no-color",
            "--seed",
            "1",
            "--workers",
            "1",
            "--request-timeout",
            "60",
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=3000,
            cwd=tmp_path,
            env=os.environ | {"PYTHONWARNINGS": "ignore", "SCHEMATHESIS_HOOKS": HOOKS},
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
