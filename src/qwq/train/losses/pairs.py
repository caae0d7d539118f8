"""Losses on pairs of answers; P pairs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def preference_loss(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """Bradley-Terry (Bradley and Terry 1952, as in Ouyang et al. 2022, arXiv 2203.02155, section
    3.5): mean of -log sigmoid(chosen - rejected).
    """
    return -F.logsigmoid(chosen_P - rejected_P).mean()
