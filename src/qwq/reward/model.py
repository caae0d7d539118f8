"""The reward model: the policy's own transformer with a scalar head on the last token (Ouyang et
al. 2022).

Scores are calibrated once, on validation pairs: shifted and scaled so that chosen and rejected
answers centre on zero with unit deviation, and with the length bias taken out. The bias is what the
labels do not bear out: where a logistic regression of the labels on the differences in score and in
length gives length a weight of its own, the model over- or underrates length by that much. A true
preference for short answers stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from qwq.cluster.ulysses import ContextGroup, DividedLayout
from qwq.model.layouts import Packed, micro_batches
from qwq.model.transformer import Transformer


class RewardModel(nn.Module):
    """A transformer and a score vector (D,).

    `forward` scores flat packed sequences at their last tokens.
    """

    def __init__(self, backbone: Transformer, score: Tensor | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.hidden_size
        # In float32 whatever the backbone has: in 16 bits the scores of like answers would be
        # equal.
        self.score = nn.Linear(width, 1, bias=False, device=backbone.device, dtype=torch.float32)
        with torch.no_grad():
            self.score.weight.copy_(torch.zeros(1, width) if score is None else score.view(1, width))

    def forward(self, sequences: Sequence[Sequence[int]], context: ContextGroup | None = None) -> Tensor:
        """Raw scores (S,) of S sequences of at least one token.

        With `context` each process of the group computes its own tokens and has the scores of all;
        the gradient goes through its own, as in `train.packing.batch_logprobs`.
        """
        device = self.backbone.device
        lengths = torch.tensor([len(s) for s in sequences])
        ids_N = torch.tensor([t for s in sequences for t in s], device=device)
        last_S = (lengths.cumsum(0) - 1).to(device)
        layout = Packed(lengths.tolist(), device)
        if context is None:
            return self._scored(self.backbone(ids_N, layout), last_S)
        own = context.own(len(ids_N))
        inside, counts = context.share(last_S, len(ids_N))
        hidden_nD = self.backbone(ids_N[own], DividedLayout(layout, context))
        return context.joined(self._scored(hidden_nD, last_S[inside] - own.start)[None], counts)[0]

    def _scored(self, hidden_ND: Tensor, where_S: Tensor) -> Tensor:
        """Scores (S,) of the hidden states at `where_S`."""
        return self.score(hidden_ND.index_select(0, where_S).float())[:, 0]

    @torch.no_grad()
    def raw_scores(self, sequences: Sequence[Sequence[int]], max_tokens: int = 8192) -> list[float]:
        out = [0.0] * len(sequences)
        for lot in micro_batches([len(s) for s in sequences], max_tokens):
            for i, value in zip(lot, self([sequences[i] for i in lot]).tolist(), strict=True):
                out[i] = value
        return out


CALIBRATION = "calibration.json"  # beside the weights of a reward model


@dataclass(frozen=True, slots=True)
class Calibration:
    """score = (raw + length_weight * (length - mean_length) - mean) / deviation; lengths in
    completion tokens.
    """

    mean: float
    deviation: float
    length_weight: float
    mean_length: float

    def apply(self, raw: float, length: int, *, debias_length: bool = True) -> float:
        correction = self.length_weight * (length - self.mean_length) if debias_length else 0.0
        return (raw + correction - self.mean) / self.deviation

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def calibrate(
    chosen: Sequence[tuple[float, int]], rejected: Sequence[tuple[float, int]], *, ridge: float = 1e-3
) -> Calibration:
    """Fit a calibration to (raw score, length) of the chosen and rejected answers of held-out
    pairs.

    `length_weight` is b/a of the logistic regression P(chosen wins) = sigmoid(a * score difference
    + b * length difference), by Newton's method with a small ridge on standardised differences.
    """
    c, r = torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64)
    scale = (c - r).square().mean(0).sqrt().clamp(min=1e-9)
    x_P2 = (c - r) / scale
    w_2 = torch.zeros(2, dtype=torch.float64)
    for _ in range(50):
        p_P = torch.sigmoid(x_P2 @ w_2)
        gradient = x_P2.T @ (1 - p_P) / len(x_P2) - ridge * w_2
        hessian = (x_P2 * (p_P * (1 - p_P))[:, None]).T @ x_P2 / len(x_P2) + ridge * torch.eye(2, dtype=torch.float64)
        w_2 = w_2 + torch.linalg.solve(hessian, gradient)
    a, b = (w_2 / scale).tolist()
    # A model that ranks pairs no better than chance has no scale to correct length on.
    length_weight = b / a if a > 1e-6 else 0.0
    both = torch.cat((c, r))
    mean_length = float(both[:, 1].mean())
    corrected = both[:, 0] + length_weight * (both[:, 1] - mean_length)
    return Calibration(float(corrected.mean()), float(corrected.std().clamp(min=1e-6)), length_weight, mean_length)
