"""How a model is sampled where a request says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.model.config import stated_sampling
from qwq.text.template import ChatFormat

# QwQ-32B's own (its model card); greedy decoding makes it repeat itself.
QWQ_SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 40, "min_p": 0.0}


def default_sampling(chat: ChatFormat, generation: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature, top-p, top-k and min-p of a model: those of its generation_config.json, else by
    kind of model.
    """
    stated = {k: v for k, v in stated_sampling(generation).items() if k in QWQ_SAMPLING}
    # A model that thinks repeats itself under greedy decoding, so its defaults are QwQ's where it
    # states none of its own.
    sampling = stated or (QWQ_SAMPLING if chat.thinking_open else {"temperature": 1.0})
    if generation.get("do_sample") is False and "temperature" not in stated:
        sampling = sampling | {"temperature": 0.0}
    return dict(sampling)
