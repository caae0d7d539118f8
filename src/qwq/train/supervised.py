"""Pretraining, SFT and the control: next-token prediction on documents, with a weight for each token."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import Any

from qwq.config import ControlStage, PretrainStage, SftStage
from qwq.data.examples import FileUse, conversation_examples
from qwq.errors import UsageError
from qwq.model.transformer import Transformer
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural import arithmetic
from qwq.tasks.procedural.base import digest
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import StageRun
from qwq.train.data import Document, batches, demonstration, drill
from qwq.train.losses import token_logprobs, weighted_nll
from qwq.train.optim import Optimizer
from qwq.train.packing import pack

_log = logging.getLogger(__name__)


def supervised_step(model: Transformer, optimizer: Optimizer, documents: list[Document], step: int) -> dict[str, Any]:
    """One update on packed documents; returns loss (nats a weighted token), tokens, rate and gradient norm."""
    batch = pack([ids for ids, _ in documents], [weights for _, weights in documents], model.device)
    hidden = model(batch.ids_N, batch.layout).index_select(0, batch.where_M)
    logprob_M, _ = token_logprobs(hidden, model.head_weight, batch.targets_M)
    loss = weighted_nll(logprob_M, batch.weights_M)
    loss.backward()
    return {"loss": loss.item(), "tokens": batch.num_tokens} | optimizer.step(step)


def pretrain(model: Transformer, chat: ChatFormat, config: PretrainStage, run: StageRun, *, seed: int) -> None:
    """`config.tokens` tokens of the endless stream. The number of steps is fixed before the first."""
    mix = ProblemMix(seed, run.name, config.mix.weights())

    def document(index: int) -> Document:
        # Every index has one number in 0..1 of its own, which decides whether it is a page of exercises.
        if digest(f"{seed}/{run.name}/kind/{index}") / 2**64 < config.drills and (
            page := drill(mix, chat, index, config.prompt_weight)
        ):
            return page
        return demonstration(mix, chat, index, config.noise, config.prompt_weight)

    # A step closes with the document that fills it, so it holds half a document more than batch_tokens on average.
    sample = [len(document(i)[0]) for i in range(200)]
    steps = max(1, round(config.tokens / (config.batch_tokens + 0.5 * sum(sample) / len(sample))))
    optimizer = Optimizer(model, config.optim, steps)
    run.state |= {"next_document": 0}
    run.resume(model, optimizer)
    stream = batches(document, run.state["next_document"], config.batch_tokens)

    def step(index: int) -> dict[str, Any]:
        documents, run.state["next_document"] = next(stream)
        return supervised_step(model, optimizer, documents, index)

    run.run(steps, model, optimizer, step)


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """The documents of an SFT stage; `use` says what became of a file's rows, where they come from one."""

    documents: list[Document]
    use: FileUse | None = None


def sft_documents(
    chat: ChatFormat, config: SftStage, name: str, seed: int, *, max_positions: int | None = None
) -> Demonstrations:
    """The stage's demonstrations, clean, as tokens; only the assistant's tokens weigh. None is longer than the model has positions."""
    if config.path:
        examples, use = conversation_examples(
            chat, config.path, documents=config.documents, max_tokens=config.max_tokens, max_positions=max_positions
        )
        return Demonstrations([(e.ids, e.weights) for e in examples], use)
    assert config.documents is not None, "the recipe sets it where there is no file"
    if config.source:
        problems = arithmetic.problems(config.source.level, "train")
        random.Random(digest(f"{seed}/{name}/sums")).shuffle(problems)
        made = [chat.training_example((*p.messages, arithmetic.demonstrate(p))) for p in problems[: config.documents]]
        documents: list[Document] = [(ids, [float(m) for m in mask]) for ids, mask in made]
    else:
        mix = ProblemMix(seed, name, config.mix.weights())
        recheck = [digest(f"{seed}/{name}/recheck/{i}") / 2**64 < config.recheck for i in range(config.documents)]
        documents = [demonstration(mix, chat, i, 0.0, 0.0, twice=recheck[i]) for i in range(config.documents)]
    short = [d for d in documents if max_positions is None or len(d[0]) <= max_positions]
    if not short:
        raise UsageError(
            f"stage {name}: all {len(documents):,} demonstrations are longer than the model's {max_positions:,} positions: take easier ones or another model"
        )
    if len(short) < len(documents):
        _log.warning(
            "%s: %d of %d demonstrations are over %d tokens, the model's positions, and left out",
            name,
            len(documents) - len(short),
            len(documents),
            max_positions,
        )
    return Demonstrations(short)


class EpochStream:
    """Step number -> batch, over as many passes as are asked for; each pass has an order of its own."""

    def __init__(self, documents: list[Document], batch_tokens: int, label: str) -> None:
        self.documents, self.batch_tokens, self.label = documents, batch_tokens, label
        self.lots: list[list[Document]] = []
        self.epochs = 0

    def _extend(self) -> None:
        order = list(range(len(self.documents)))
        random.Random(digest(f"{self.label}/{self.epochs}")).shuffle(order)
        self.lots += [lot for lot, _ in batches(lambda i: self.documents[order[i]], 0, self.batch_tokens, len(order))]
        self.epochs += 1

    def batch(self, step: int) -> list[Document]:
        while step >= len(self.lots):
            self._extend()
        return self.lots[step]

    def num_steps(self, epochs: int) -> int:
        while self.epochs < epochs:
            self._extend()
        return len(self.lots)


def _demonstrations(
    model: Transformer,
    chat: ChatFormat,
    config: SftStage,
    name: str,
    run: StageRun,
    seed: int,
    made: Demonstrations | None,
) -> list[Document]:
    """The documents of the SFT stage `name`, `made` before or now; what is taken of a file is told, and kept for the stage's record."""
    made = made or sft_documents(chat, config, name, seed, max_positions=model.config.max_positions)
    if made.use:
        run.tell_data(made.use)
    return made.documents


def sft(
    model: Transformer,
    chat: ChatFormat,
    config: SftStage,
    run: StageRun,
    *,
    seed: int,
    made: Demonstrations | None = None,
) -> None:
    """`config.epochs` passes over the demonstrations, those that `sft_documents` has `made` before, where it has."""
    stream = EpochStream(
        _demonstrations(model, chat, config, run.name, run, seed, made), config.batch_tokens, f"{seed}/{run.name}"
    )
    _epochs(model, config, stream, stream.num_steps(config.epochs), run)


def control(
    model: Transformer, chat: ChatFormat, config: ControlStage, source: SftStage, run: StageRun, *, seed: int, steps: int,
    made: Demonstrations | None = None,
) -> None:  # fmt: skip
    """The SFT stage `source` continued for `steps` steps on the same demonstrations; `made` as for `sft`."""
    documents = _demonstrations(model, chat, source, config.of, run, seed, made)
    stream = EpochStream(documents, source.batch_tokens, f"{seed}/{config.of}/control")
    _epochs(model, config, stream, steps, run)


def _epochs(
    model: Transformer, config: SftStage | ControlStage, stream: EpochStream, steps: int, run: StageRun
) -> None:
    optimizer = Optimizer(model, config.optim, steps)
    run.resume(model, optimizer)
    run.run(steps, model, optimizer, lambda index: supervised_step(model, optimizer, stream.batch(index), index))
