"""A server around a model that says what a test wants, in this process: the real engine, scheduler
and HTTP, no weights.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import httpx2
import torch
import uvicorn
from fake_slots import FakeSlots
from fastapi import FastAPI

from qwq.engine.backends.base import Chunk
from qwq.engine.load import LoadedModel
from qwq.engine.scheduler import Engine
from qwq.model.config import preset
from qwq.serve.app import create_app
from qwq.serve.options import ServeOptions
from qwq.text.template import ChatFormat, ChatTemplate
from qwq.text.tokenizer import train_bpe

# Opens the thinking and drops earlier thoughts, as QwQ-32B's template does; writes tools and calls
# as Qwen's do.
OPENING = """{% if tools %}<|im_start|>system
{{ messages[0].content if messages[0].role == 'system' }}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% elif m.role != 'system' %}<|im_start|>{{ m.role }}
{{ m.content.split('</think>')[-1].lstrip('\n') }}{% for c in m.tool_calls or [] %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""
PLAIN = OPENING.replace("<think>\n", "")


def chat_format(template: str = OPENING) -> ChatFormat:
    texts = [
        f'what is {a} and {b}? {{"name": "add", "arguments": {{"a": {a}, "b": "x"}}}} so it is {a + b}'
        for a in range(30)
        for b in range(9)
    ]
    return ChatFormat(train_bpe(texts, 420), ChatTemplate(template))


class Script(FakeSlots):
    """A backend whose next token is what `reply` says after the prompt's text; noise below it, so
    that masks have a choice.
    """

    def __init__(self, chat: ChatFormat, reply: Callable[[str], str], step_s: float = 0.0) -> None:
        super().__init__(chat.tokenizer.vocab_size)
        self.chat, self.reply, self.step_s = chat, reply, step_s
        self.steps = 0
        middle = chat.tokenizer.token_id("<|fim_middle|>")
        self.openings = [] if middle is None else [[middle]]
        opening = chat.template.render([{"role": "user", "content": "x"}], add_generation_prompt=True)
        self.openings.append(chat.tokenizer.encode_rendered(opening[opening.rindex("<|im_start|>") :]))
        self._encoded: dict[str, tuple[list[int], list[int]]] = {}
        self._prompts: dict[bytes, str] = {}
        self.noise = torch.rand(self.vocab_size, generator=torch.Generator().manual_seed(0))

    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        self.steps += 1
        time.sleep(self.step_s)
        out = []
        for c in chunks:
            self.held[c.slot] += c.ids
            for i in range(c.num_logits):
                out.append(self._logits(self.held[c.slot][: c.start + len(c.ids) - c.num_logits + i + 1]))
        return torch.stack(out) if out else torch.empty(0, self.vocab_size)

    def encode(self, text: str) -> list[int]:
        """Ids of a reply, which is the model's own text."""
        return self.chat.own_ids(text)

    def _ids(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a reply, and the bytes of its text up to the end of each."""
        if text not in self._encoded:
            ids = self.encode(text)
            self._encoded[text] = ids, list(accumulate(len(self.chat.tokenizer.token_bytes[i]) for i in ids))
        return self._encoded[text]

    def _prompt_of(self, tokens: list[int]) -> tuple[int, str]:
        """Where the prompt ends, and its text: behind the last opening of an answer."""
        packed = array("i", tokens).tobytes()
        end = max((_end_of_last(array("i", o).tobytes(), packed) for o in self.openings), default=0)
        end = end or len(tokens)
        prompt = packed[: 4 * end]
        if prompt not in self._prompts:
            self._prompts[prompt] = self.chat.tokenizer.decode(tokens[:end])
        return end, self._prompts[prompt]

    def _logits(self, tokens: list[int]) -> torch.Tensor:
        prompt_end, prompt = self._prompt_of(tokens)
        written = b"".join(self.chat.tokenizer.token_bytes[i] for i in tokens[prompt_end:])
        reply = self.reply(prompt)
        rest: list[int] = []
        if reply.encode().startswith(written):
            ids, ends = self._ids(reply)
            rest = ids[bisect_right(ends, len(written)) :]
        logits = self.noise.clone()
        logits[rest[0] if rest else self.chat.eos_ids[0]] += 20
        return logits


def _end_of_last(opening: bytes, tokens: bytes) -> int:
    """The number of tokens up to the end of the last `opening`, 0 without one; ids of 4 bytes."""
    at = tokens.rfind(opening)
    while at > 0 and at % 4:  # across the bytes of two ids
        at = tokens.rfind(opening, 0, at + len(opening) - 1)
    return 0 if at < 0 else (at + len(opening)) // 4


def opened(chat: ChatFormat, backend: Script, *, max_running: int = 8, max_len: int = 1024) -> LoadedModel:
    engine = Engine(backend, chat.tokenizer, max_running=max_running, max_model_len=max_len)
    config = preset("tiny", vocab_size=backend.vocab_size)
    return LoadedModel(engine, chat, "scripted", {"temperature": 0.0}, config, None)  # type: ignore[arg-type]


class Served(str):
    app: FastAPI


@contextmanager
def served(model: LoadedModel, **options: object) -> Iterator[Served]:
    """The base address of a server on loopback; `Served.app` is its application."""
    app = create_app(model, ServeOptions(**{"served_model_name": ("scripted", "alias")} | options))  # type: ignore[arg-type]
    with serving(app) as address:
        address.app = app
        yield address


def last_message(prompt: str) -> str:
    """The user's last message in a rendered prompt."""
    return prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def repeat_or_reverse(prompt: str) -> str:
    """A reply: what follows `repeat:` in the last message as it is, else a thought and the message
    backwards.
    """
    last = last_message(prompt)
    return last.partition("repeat:")[2] if "repeat:" in last else f"hm\n</think>\n\n{last[::-1]}"


@contextmanager
def client_of(reply: Callable[[str], str]) -> Iterator[httpx2.Client]:
    """A client of a server whose model replies so."""
    chat = chat_format()
    with served(opened(chat, Script(chat, reply))) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


@contextmanager
def serving(app: object) -> Iterator[Served]:
    """The base address of a server with any application on loopback."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        address = Served(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        yield address
    finally:
        server.should_exit = True
        thread.join(30)
