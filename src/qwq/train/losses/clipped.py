"""The clipped surrogate (PPO, Schulman et al. 2017, arXiv 1707.06347, section 3, equation 7) under
three ways to sum tokens.

- `dr_grpo`: constant normaliser, prompts x samples x max_new_tokens (Dr. GRPO, Liu et al. 2025,
  arXiv 2503.20783, section 3.2);
- `dapo`: mean over the tokens of the whole batch (DAPO, Yu et al. 2025, arXiv 2503.14476, section
  3.3, equation 12). The paper draws prompts until the batch is full; here the divisor counts the
  tokens of all groups, those without signal among them;
- `grpo`: mean over each completion's tokens, then over completions (GRPO, Shao et al. 2024, arXiv
  2402.03300, section 4.1.1, equation 3). A long completion's tokens weigh less, the bias that Dr.
  GRPO describes.

The clip is asymmetric (DAPO, section 3.1: clip-higher). `dual_clip` = c bounds the loss of a token
with a negative advantage by c |A|, however much likelier the token has become (Ye et al. 2020,
arXiv 1912.09729, "dual-clip PPO").
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwq.train.losses.base import LossInput, TokenLoss, register_loss


def clipped_surrogate(x: LossInput, ratio_N: Tensor) -> TokenLoss:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A); with `dual_clip` = c, not over c |A| where
    A is negative.
    """
    assert x.clip_low is not None and x.clip_high is not None, "the recipe sets them for losses that clip"
    clipped_ratio_N = ratio_N.clamp(1 - x.clip_low, 1 + x.clip_high)
    surrogate_N = torch.minimum(ratio_N * x.advantage_N, clipped_ratio_N * x.advantage_N)
    clipped_N = clipped_ratio_N * x.advantage_N < ratio_N * x.advantage_N
    if x.dual_clip is not None:
        floor_N = x.dual_clip * x.advantage_N
        bounded_N = (x.advantage_N < 0) & (surrogate_N < floor_N)
        surrogate_N = torch.where(bounded_N, floor_N, surrogate_N)
        clipped_N = clipped_N | bounded_N
    return TokenLoss(-surrogate_N, ratio_N.detach(), clipped_N.float())


@register_loss("dr_grpo", summed="constant")
def dr_grpo(x: LossInput) -> TokenLoss:
    return clipped_surrogate(x, x.ratio_N)


@register_loss("dapo", summed="tokens")
def dapo(x: LossInput) -> TokenLoss:
    return clipped_surrogate(x, x.ratio_N)


@register_loss("grpo", summed="completions")
def grpo(x: LossInput) -> TokenLoss:
    return clipped_surrogate(x, x.ratio_N)
