"""Runs the client libraries' tests in their own environment against a scripted server of ours:
python run.py THEIR_PYTHON.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import scripted

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call>'


def reply(prompt: str) -> str:
    last = prompt.rpartition("<|im_start|>user\n")[2]
    if "tool_response" in last:
        return "it said 7\n</think>\n\nThe sum is 7."
    if "add" in last:
        return f"a sum\n</think>\n\n{CALL}"
    if "dspy" in last:  # its two adapters: fields under headings, or JSON
        answer = '{"answer": 4}' if "JSON object" in prompt else "[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]"
        return f"so\n</think>\n\n{answer}"
    if "json" in last and "<tools>" in prompt:
        name = re.findall(r'"name": "(\w+)"', prompt)[0]
        call = f'{{"name": "{name}", "arguments": {{"city": "Paris", "size": 3}}}}'
        return f"so\n</think>\n\n<tool_call>\n{call}\n</tool_call>"
    if "json" in last:
        return 'so\n</think>\n\n{"city": "Paris", "size": 3}'
    return "so it is\n</think>\n\nHello, wörld!"


def main() -> int:
    chat = scripted.chat_format()
    with scripted.served(scripted.opened(chat, scripted.Script(chat, reply), max_len=2048)) as url:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"QWQ_TEST_URL": f"{url}/v1"}
        return subprocess.run(
            [
                sys.argv[1],
                "-m",
                "pytest",
                "-q",
                "-ra",
                "-c",
                os.devnull,
                "--rootdir",
                str(HERE),
                "-p",
                "no:cacheprovider",
                str(HERE),
            ],
            env=environment,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
