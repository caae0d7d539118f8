"""The trainer's own tensors as a policy (design promise 1): the engine on dense slots, where many
steps are one call.

A sample's further turn continues in the slot of the turn before it, if no other sample has needed
that slot meanwhile. The order of rows, and so every bit, is a function of the requests and of when
they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qwq.engine.backends.dense import DenseBackend
from qwq.engine.scheduler import Engine
from qwq.model.packed import packed_weights
from qwq.model.transformer import Transformer
from qwq.rollout.policies.local import EnginePolicy
from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.text.template import ChatFormat
from qwq.types import Turn


@dataclass(frozen=True, slots=True)
class _Loaded:
    name: str
    engine: Engine
    chat: ChatFormat


class TrainerPolicy(EnginePolicy):
    """Turns from the model that is trained. `max_rows` bounds the slots of the KV cache, and so the
    memory.

    Every token is sampled from the model's plain distribution. Turns that are sampled alike decode
    many steps in one call; while there are others, every step is a call. `count_thinking`: turns
    say how many tokens of thought they hold.
    """

    keeps_all = False  # a slot that is kept has to be moved aside, and RL's prompts do not come back

    def __init__(
        self, model: Transformer, chat: ChatFormat, *, max_rows: int = 256, count_thinking: bool = False, name: str = ""
    ) -> None:
        name = name or "the model that is trained"
        engine = Engine(DenseBackend(model, max_slots=max_rows), chat.tokenizer, name=name, max_running=max_rows)
        loaded = _Loaded(name, engine, chat)
        self.model = model
        super().__init__(loaded, plain_sampling=True, count_thinking=count_thinking, note=lambda _: None)

    @contextmanager
    def lent(self) -> Iterator[Engine]:
        """The engine, for a server; its KV cache and the packed weights are freed at the end."""
        try:
            with packed_weights(self.model):
                yield self.engine
        finally:
            self.engine.forget()

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        """See `Policy.generate`. The KV cache and the packed weights are freed at its end: training
        needs the memory.
        """
        try:
            with packed_weights(self.model):
                yield from super().generate(next_request, concurrency)
        finally:
            if not self._running:
                self.engine.forget()
