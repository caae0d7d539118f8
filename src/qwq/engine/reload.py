"""New weights for an engine that runs: read in place, and nothing of the old ones left."""

from __future__ import annotations

from pathlib import Path

from qwq.engine.backends.torch import TorchBackend
from qwq.engine.scheduler import Engine
from qwq.errors import ConfigError
from qwq.model.weights import refill


def check_reloadable(engine: Engine) -> None:
    """ConfigError where the engine's weights cannot be replaced while it runs."""
    if not isinstance(engine.backend, TorchBackend):
        kind = type(engine.backend).__name__
        raise ConfigError(
            f"weights of a {kind} cannot be replaced while it runs: serve a folder of safetensors on a CPU, or let "
            "vLLM sample on GPUs"
        )
    if engine.draft is not None:
        raise ConfigError("a draft model keeps its own weights when the model's change: leave --draft-model out")


def reload_weights(engine: Engine, folder: str | Path) -> None:
    """Overwrite the engine's weights with those of a model folder. ModelError where they do not
    fit.

    Call it between two steps. Running sequences continue with the new weights: their tokens stay,
    their keys and values are computed again.
    """
    check_reloadable(engine)
    backend = engine.backend
    assert isinstance(backend, TorchBackend)
    try:
        refill(backend.model, folder)
    finally:
        engine.weights_changed()
