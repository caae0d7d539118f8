"""A small model trained from nothing, and `qwq serve` on it in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx2
from commands import Command
from tiny import randomised

from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe

# Opens the thinking itself, as QwQ-32B's template does.
OPENING = (
    default_template().source.rstrip()
    if "<think>" in default_template().source.partition("add_generation_prompt")[2]
    else """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content.split('</think>')[-1] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""
)


def make_model(path: Path, template: str = OPENING) -> Path:
    """A model folder with a tokenizer of 400 tokens and random weights."""
    tokenizer = train_bpe(
        [f"question {a}: what is {a} and {b}? so it is {a + b}" for a in range(30) for b in range(9)], 400
    )
    config = preset("tiny", vocab_size=tokenizer.vocab_size, max_positions=512, eos_token_id=tokenizer.eos_ids[0])
    save_model(randomised(Transformer(config), 0.12), path)
    ChatFormat(tokenizer, ChatTemplate(template)).save(path)
    return path


class Served:
    """`certificate`: what the client trusts, where the server speaks HTTPS."""

    def __init__(self, folder: Path, *options: str, certificate: Path | None = None) -> None:
        self.process = Command(
            "serve", folder, "--port", "0", "--threads", "1", *options,
            stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if match := re.search(r"ready on (https?://[\d.:]+)/v1", line):
                break
        else:
            self.process.wait()
            self.process.stderr.close()
            raise AssertionError("".join(self.said))
        self._reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._reader.start()
        trusted: Any = True if certificate is None else ssl.create_default_context(cafile=certificate)
        self.client = httpx2.Client(base_url=match[1], timeout=60, verify=trusted)

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def kill(self) -> int:
        """SIGKILL: the server writes nothing more."""
        return self.stop(signal.SIGKILL)

    def stop(self, by: signal.Signals = signal.SIGINT) -> int:
        self.client.close()
        self.process.send_signal(by)
        status = self.process.wait(timeout=20)
        self._reader.join()
        self.process.stderr.close()
        return status
