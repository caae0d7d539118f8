"""GSPO: the ratio of a whole completion (Zheng et al. 2025, arXiv 2507.18071, section 4.1,
equations 5 to 7).

s_i = exp(mean over the completion's tokens of log(new / old)), the geometric mean of its tokens'
ratios. The clip acts on s_i, so a completion's tokens are clipped together; completions are
averaged. The clip range is that of section 5.1, 3e-4 and 4e-4: s_i varies far less than a token's
ratio. In a batch's first update s_i is exactly 1 and the gradient is that of `grpo`.
"""

from __future__ import annotations

from qwq.train.losses.base import LossInput, TokenLoss, register_loss
from qwq.train.losses.clipped import clipped_surrogate


@register_loss("gspo", summed="completions")
def gspo(x: LossInput) -> TokenLoss:
    return clipped_surrogate(x, x.mean_of_completion(x.logprob_N - x.old_logprob_N).exp())
