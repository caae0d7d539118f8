"""Next-token prediction on documents, with a weight for each token: the step, and passes over a set
of documents.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from qwq.config import Optim
from qwq.model.transformer import Transformer
from qwq.tasks.procedural.base import digest
from qwq.train.checkpoint import StageRun
from qwq.train.documents import Document, batches
from qwq.train.losses import weighted_nll
from qwq.train.optim import Optimizer
from qwq.train.packing import batch_logprobs, pack


def supervised_step(model: Transformer, optimizer: Optimizer, documents: list[Document], step: int) -> dict[str, Any]:
    """One update on packed documents; returns loss (nats a weighted token), tokens, rate and
    gradient norm.

    `model` is what `optimizer` trains. Each process computes its own shards of the documents.
    """
    division = optimizer.division
    trained: Any = division.module
    total = total_weight(documents).to(model.device)

    def one(part: list[Document]) -> dict[str, float]:
        batch = pack([ids for ids, _ in part], [weights for _, weights in part], model.device)
        logprob_M, _ = batch_logprobs(trained, batch, context=division.context)
        loss = weighted_nll(logprob_M, batch.weights_M, total)
        loss.backward()
        return {"loss": loss.item(), "tokens": batch.num_tokens}

    shards = [[shard] for shard in division.shards(documents)]
    return division.gradient(shards, one, optimizer.masters) | optimizer.step(step)


def total_weight(documents: list[Document]) -> Tensor:
    """The sum of the loss weights of a batch."""
    return torch.tensor([w for _, weights in documents for w in weights[1:] if w], dtype=torch.float32).sum()


class EpochStream:
    """Step number -> batch, over as many passes as are asked for; each pass has an order of its
    own.
    """

    def __init__(self, documents: list[Document], batch_tokens: int, label: str) -> None:
        self.documents, self.batch_tokens, self.label = documents, batch_tokens, label
        self._batches: list[list[Document]] = []
        self.epochs = 0

    def _extend(self) -> None:
        order = list(range(len(self.documents)))
        random.Random(digest(f"{self.label}/{self.epochs}")).shuffle(order)
        self._batches += [
            batch for batch, _ in batches(lambda i: self.documents[order[i]], 0, self.batch_tokens, len(order))
        ]
        self.epochs += 1

    def batch(self, step: int) -> list[Document]:
        while step >= len(self._batches):
            self._extend()
        return self._batches[step]

    def num_steps(self, epochs: int) -> int:
        while self.epochs < epochs:
            self._extend()
        return len(self._batches)


def train_on_stream(model: Transformer, optim: Optim, stream: EpochStream, steps: int, run: StageRun) -> None:
    """`steps` updates on the stream's batches."""
    optimizer = Optimizer(model, optim, steps, division=run.divide(model, tokens=True))
    run.resume(model, optimizer)
    run.run(steps, model, optimizer, lambda index: supervised_step(model, optimizer, stream.batch(index), index))
