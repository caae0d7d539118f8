"""The maths of training: functions of tensors, no models, no data, no state. Each module names its
sources.

    logprobs.py     log-probabilities and entropies of tokens in chunks of logits; the supervised loss
    base.py         what a policy loss is, the registry, the normaliser of a batch
    clipped.py      dr_grpo, dapo, grpo: the clipped surrogate, summed in three ways; dual clip
    gspo.py         the ratio of whole completions
    cispo.py        the clipped importance weight
    objective.py    a loss with the correction for the sampler and a KL term
    kl.py           the KL estimators
    advantages.py   from rewards to advantages
    pairs.py        losses on pairs of answers

Losses, advantage forms and their options are a table in docs/training.md.
"""

import qwq.train.losses.cispo
import qwq.train.losses.gspo  # noqa: F401  # importing a family registers its losses
from qwq.train.losses.advantages import (
    ADVANTAGES,
    AdvantageForm,
    GroupRewards,
    differ,
    group_advantages,
    load_advantage,
    register_advantage,
)
from qwq.train.losses.base import LOSSES, BatchSize, Loss, LossInput, TokenLoss, load_loss, register_loss
from qwq.train.losses.clipped import clipped_surrogate
from qwq.train.losses.kl import kl_term
from qwq.train.losses.logprobs import CHUNK_LOGITS, token_logprobs, weighted_nll
from qwq.train.losses.objective import ImportanceRule, PolicyTerms, policy_terms
from qwq.train.losses.pairs import preference_loss

__all__ = [
    "ADVANTAGES", "CHUNK_LOGITS", "LOSSES", "AdvantageForm", "BatchSize", "GroupRewards",
    "ImportanceRule", "Loss", "LossInput", "PolicyTerms", "TokenLoss", "clipped_surrogate", "differ",
    "group_advantages", "kl_term", "load_advantage", "load_loss", "policy_terms", "preference_loss",
    "register_advantage", "register_loss", "token_logprobs", "weighted_nll",
]  # fmt: skip
