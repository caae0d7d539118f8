"""The reward model: the policy's own transformer with a scalar head on the last token (Ouyang et al. 2022).

Scores are calibrated once, on the pairs it trained on: shifted and scaled so that chosen and rejected
answers centre on zero with unit deviation, and with the part that length alone explains taken out. The
slope on length is fitted within the chosen and within the rejected answers, so that a true preference
for short or long answers between the two is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.train.packing import micro_batches


class RewardModel(nn.Module):
    """A transformer and a score vector (D,). `forward` scores flat packed sequences at their last tokens."""

    def __init__(self, backbone: Transformer, score: Tensor | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.hidden_size
        self.score = nn.Linear(width, 1, bias=False)
        with torch.no_grad():
            self.score.weight.copy_(torch.zeros(1, width) if score is None else score.view(1, width))

    def forward(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Raw scores (number of sequences,)."""
        device = self.backbone.device
        lengths = torch.tensor([len(s) for s in sequences])
        ids_N = torch.tensor([t for s in sequences for t in s], device=device)
        hidden_ND = self.backbone(ids_N, Packed(lengths.tolist(), device))
        return self.score(hidden_ND[(lengths.cumsum(0) - 1).to(device)])[:, 0]

    @torch.no_grad()
    def raw_scores(self, sequences: Sequence[Sequence[int]], max_tokens: int = 8192) -> list[float]:
        out = [0.0] * len(sequences)
        for lot in micro_batches([len(s) for s in sequences], max_tokens):
            for i, value in zip(lot, self([sequences[i] for i in lot]).tolist(), strict=True):
                out[i] = value
        return out


@dataclass(frozen=True, slots=True)
class Calibration:
    """score = (raw - mean - slope * (length - mean_length)) / deviation."""

    mean: float
    deviation: float
    slope: float
    mean_length: float

    def apply(self, raw: float, length: int, *, debias_length: bool = True) -> float:
        bias = self.slope * (length - self.mean_length) if debias_length else 0.0
        return (raw - self.mean - bias) / self.deviation

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def calibrate(chosen: Sequence[tuple[float, int]], rejected: Sequence[tuple[float, int]]) -> Calibration:
    """Fit mean, deviation and length slope to (raw score, length) of chosen and of rejected answers."""
    c, r = torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64)
    within = torch.cat((c - c.mean(0), r - r.mean(0)))
    variance = within[:, 1].square().sum()
    slope = float((within[:, 0] * within[:, 1]).sum() / variance) if variance > 0 else 0.0
    both = torch.cat((c, r))
    mean, mean_length = both.mean(0).tolist()
    residual = both[:, 0] - mean - slope * (both[:, 1] - mean_length)
    return Calibration(mean, float(residual.std().clamp(min=1e-6)), slope, mean_length)
