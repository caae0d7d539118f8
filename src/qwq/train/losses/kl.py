"""Estimates of KL(policy || reference), token by token, from tokens that the policy sampled.

With d = log p - log q (Schulman 2020, "Approximating KL divergence"):

- `k2`: d^2 / 2. Its gradient is right on average, its value is not;
- `k3`: e^-d - 1 + d. Its value is right on average and never negative; its gradient is that of the
  forward KL;
- `k3_ratio`: k3 times the ratio of the policy to the weights that sampled (DeepSeek-V3.2, arXiv
  2512.02556, section 3.1, equation 7). Both are right on average, also after a batch's first
  update. In the first the ratio is 1 and the value is k3's; the ratio's gradient is what makes the
  difference.
"""

from __future__ import annotations

from torch import Tensor


def kl_term(
    logprob_N: Tensor, reference_logprob_N: Tensor, estimator: str, old_logprob_N: Tensor | None = None
) -> Tensor:
    """The estimate of each token, in nats (N,).

    `old_logprob_N` of the weights that sampled (k3_ratio); None: `logprob_N` itself.
    """
    difference_N = logprob_N - reference_logprob_N
    if estimator == "k2":
        return 0.5 * difference_N.square()
    k3_N = (-difference_N).exp() - 1 + difference_N
    if estimator == "k3":
        return k3_N
    assert estimator == "k3_ratio", f"no KL estimator {estimator!r}"
    old_N = logprob_N.detach() if old_logprob_N is None else old_logprob_N
    return (logprob_N - old_N).exp() * k3_N
