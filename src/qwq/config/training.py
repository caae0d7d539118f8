"""What training of any kind is set by: the optimiser and adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwq.config.base import Positive, Section, Unit


class Optim(Section):
    """AdamW with warm-up and decay (Loshchilov and Hutter 2019)."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: Unit = Field(0.02, description="share of the steps over which the rate rises")
    decay: Literal["constant", "linear", "cosine"] = Field("linear", description="course after the warm-up")
    final_lr: Unit = Field(0.05, description="rate at the end, as a share of the peak")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of matrices")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class Lora(Section):
    """Low-rank adapters on every matrix of the blocks; all else is frozen (Hu et al. 2021, arXiv
    2106.09685).
    """

    rank: Positive = Field(8, description="rank of each projection's change")
    alpha: float | None = Field(None, gt=0, description="the change is scaled by alpha / rank; default: 2 x rank")
    merged: bool = Field(
        True, description="write the merged model as the stage's final folder; false: the adapter alone"
    )
