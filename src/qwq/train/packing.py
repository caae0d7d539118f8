"""Token sequences in, flat tensors out: next-token targets, weights, the layout that keeps
sequences apart, and the log-probabilities of what was packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from qwq.cluster.ulysses import ContextGroup, DividedLayout
from qwq.model.layouts import Packed, micro_batches, shared_prefix
from qwq.model.transformer import Layout, Transformer
from qwq.train.losses import token_logprobs

__all__ = ["PackedBatch", "batch_logprobs", "micro_batches", "pack", "pack_groups"]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Packed sequences, ready for one forward pass.

    N flat tokens are fed; of the hidden states, those at `where_M` predict `targets_M`, weighted by
    `weights_M`. A sequence's last token predicts nothing and is not fed at all. `extra` holds
    further numbers per prediction (M,).
    """

    ids_N: Tensor
    layout: Layout
    where_M: Tensor
    targets_M: Tensor
    weights_M: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return len(self.ids_N)

    def divided(self, context: ContextGroup) -> tuple[PackedBatch, list[int]]:
        """This process's tokens and their predictions, without `extra`; and how many predictions
        each process of the group has.
        """
        own = context.own(self.num_tokens)
        inside, counts = context.share(self.where_M, self.num_tokens)
        batch = PackedBatch(
            self.ids_N[own],
            DividedLayout(self.layout, context),
            self.where_M[inside] - own.start,
            self.targets_M[inside],
            self.weights_M[inside],
        )
        return batch, counts


def batch_logprobs(
    model: Transformer, batch: PackedBatch, temperature: float = 1.0, context: ContextGroup | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the batch's M predicted tokens, and the entropies there: (M,) each.

    With `context` each process of the group computes its own tokens and has the values of all; the
    gradient of what is made of them goes through its own. Summed over the group it is the whole
    one.
    """
    own, counts = (batch, []) if context is None else batch.divided(context)
    hidden = model(own.ids_N, own.layout).index_select(0, own.where_M)
    found = token_logprobs(hidden, model.head_weight, own.targets_M, temperature=temperature)
    if context is None:
        return found
    logprob_M, entropy_M = context.joined(torch.stack(found), counts)
    return logprob_M, entropy_M.detach()


def pack(
    sequences: Sequence[Sequence[int]], weights: Sequence[Sequence[float]], device: torch.device | str = "cpu"
) -> PackedBatch:
    """Pack sequences of at least two tokens.

    `weights[s][i]` weighs token i of sequence s as a target; 0 leaves it out.
    """
    ids = torch.tensor(list(chain.from_iterable(s[:-1] for s in sequences)))
    targets = torch.tensor(list(chain.from_iterable(s[1:] for s in sequences)))
    flat = torch.tensor(list(chain.from_iterable(w[1:] for w in weights)), dtype=torch.float32)
    where = flat.nonzero()[:, 0]
    layout = Packed([len(s) - 1 for s in sequences], device)
    return PackedBatch(ids.to(device), layout, where.to(device), targets[where].to(device), flat[where].to(device))


def pack_groups(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    masks: Sequence[Sequence[Sequence[int]]],
    extra: Mapping[str, Sequence[Sequence[Sequence[float]]]],
    device: torch.device | str = "cpu",
) -> PackedBatch:
    """Pack groups of completions that share a prompt; the prompt is computed once a group.

    A prompt's last token opens each of its completions: it is fed once per completion, as the token
    that predicts the completion's first. None of them is empty. `masks` choose the predicted
    tokens, `extra` their further numbers.
    """
    ids: list[int] = []
    targets: list[int] = []
    chosen: list[int] = []
    numbers: dict[str, list[float]] = {name: [] for name in extra}
    for g, prompt in enumerate(prompts):
        ids.extend(prompt[:-1])
        targets.extend(prompt[1:])
        chosen.extend([0] * (len(prompt) - 1))
        for s, completion in enumerate(completions[g]):
            assert completion, "a completion without tokens predicts nothing"
            ids.append(prompt[-1])
            ids.extend(completion[:-1])
            targets.extend(completion)
            chosen.extend(masks[g][s])
        for name, values in extra.items():
            numbers[name].extend([0.0] * (len(prompt) - 1))
            numbers[name].extend(chain.from_iterable(values[g]))
    where = torch.tensor(chosen).nonzero()[:, 0]
    layout = shared_prefix([len(p) - 1 for p in prompts], [[len(c) for c in group] for group in completions], device)
    extras = {k: torch.tensor(v, dtype=torch.float32)[where].to(device) for k, v in numbers.items()}
    picked = torch.tensor(targets)[where].to(device)
    return PackedBatch(
        torch.tensor(ids, device=device),
        layout,
        where.to(device),
        picked,
        torch.ones(len(where), device=device),
        extras,
    )
