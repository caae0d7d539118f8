"""The models of a server: what lists say of each, and which one is loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwq.engine.load import Described, LoadedModel
from qwq.serve.errors import RequestRefused
from qwq.serve.infill import Infill
from qwq.text.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What lists say of a model, loaded or not.

    `names`: what requests may call it, the usual name first.
    """

    names: tuple[str, ...]
    source: str  # its folder, its file or its name on a hub
    config: Any  # the model's ModelConfig
    template: ChatTemplate
    sampling: dict[str, Any]
    max_len: int
    weights_bytes: int
    fills_in: bool

    @classmethod
    def of(
        cls, names: tuple[str, ...], model: Described | LoadedModel, template: ChatTemplate | None = None
    ) -> ModelCard:
        """`template` replaces the model's own."""
        if isinstance(model, LoadedModel):
            max_len, size = model.engine.max_len, model.memory.parts.get("weights", 0) if model.memory else 0
        else:
            max_len, size = model.max_len, model.weights_bytes
        fills_in = Infill.of(model.chat.tokenizer) is not None
        return cls(
            names, model.name, model.config, template or model.chat.template, model.sampling, max_len, size, fills_in
        )

    def answers_to(self, name: str) -> bool:
        return name in self.names or "*" in self.names


class Catalogue:
    """The models in the order of the command line.

    `loaded` is the one in memory, None while there is none.
    """

    def __init__(self, cards: Sequence[ModelCard], loaded: ModelCard | None = None) -> None:
        self.cards, self.loaded = list(cards), loaded
        self.started = int(time.time())

    def listed(self) -> list[tuple[str, ModelCard]]:
        """Each name with its model.

        The loaded model comes first: clients that take the first one load no other.
        """
        cards = sorted(self.cards, key=lambda card: card is not self.loaded)
        return [(name, card) for card in cards for name in card.names if name != "*"]

    def load(self, card: ModelCard) -> None:
        """`card` is in memory now, and takes the place of what was said of its model before."""
        self.cards = [card if c.names == card.names else c for c in self.cards]
        self.loaded = card

    def find(self, name: str) -> ModelCard:
        """The model of a name. RequestRefused (404) where no model has it."""
        card = next((c for c in self.cards if c.answers_to(name)), None)
        if card is None:
            served = ", ".join(repr(n) for n, _ in self.listed())
            raise RequestRefused(
                f"model: {name!r} is not served here, {served} is", "model", 404, code="model_not_found"
            )
        return card
