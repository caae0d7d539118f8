"""CISPO: clip the importance weight, not the update (MiniMax 2025, arXiv 2506.13585, section 3.1,
equations 4 and 5).

The loss of a token is -sg(min(r, 1 + clip_high)) A log p: the weight carries no gradient, so every
token keeps one, also those that the clipped surrogate would drop. As in the paper there is no lower
bound on the weight. Departures:

1. the mean is over the tokens of the batch, not of each group, as in `dapo`;
2. the paper gives no value for clip_high: the default of 4 cuts the weight at 5 (ScaleRL, Khatri et
   al. 2025, arXiv 2510.13786).
"""

from __future__ import annotations

from qwq.train.losses.base import LossInput, TokenLoss, register_loss


@register_loss("cispo", summed="tokens")
def cispo(x: LossInput) -> TokenLoss:
    assert x.clip_high is not None, "the recipe sets it"
    ratio_N = x.ratio_N.detach()
    weight_N = ratio_N.clamp(max=1 + x.clip_high)
    return TokenLoss(-weight_N * x.advantage_N * x.logprob_N, ratio_N, (weight_N < ratio_N).float())
