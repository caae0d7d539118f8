"""A model that is right now and then: it was shown answers to small sums of which less than half
are right, so that it knows both, and a reward alone can tell it which are the right ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from qwq.config import Optim
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.tasks.procedural.base import answer_turn
from qwq.tasks.questions import MATH_INSTRUCTION
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.train.optim import Optimizer
from qwq.train.supervised import supervised_step
from qwq.types import Message, Problem

SHOWN, RIGHT = 120, 0.4
PROBLEMS = [
    Problem(f"{word}-{a}", "math", (Message("user", f"{word} {a}"),), {"gold": str(factor * a)}, f"{word}-{a}")
    for word, factor in (("Double", 2), ("Triple", 3))
    for a in range(1, 9)
]


def chat_of(problems: Sequence[Problem]) -> ChatFormat:
    """A tokenizer of the problems and their right answers."""
    texts = [
        default_template().render((*p.messages, answer_turn("so", f"\\boxed{{{p.truth['gold']}}}"))) for p in problems
    ]
    return ChatFormat(train_bpe(texts, 280), default_template())


def cold_start(chat: ChatFormat, problems: Sequence[Problem], *, heads: int = 4) -> Transformer:
    """A model that has seen each problem answered rightly in a share RIGHT of the cases, and
    wrongly in the others.
    """
    rng = random.Random(0)

    def document() -> tuple[list[int], list[float]]:
        problem = rng.choice(problems)
        gold = int(problem.truth["gold"])
        said = gold if rng.random() < RIGHT else gold + rng.choice((-1, 1))
        ids, mask = chat.training_example((*problem.messages, answer_turn("so", f"\\boxed{{{said}}}")))
        return ids, [float(m) for m in mask]

    config = preset(
        "tiny", vocab_size=chat.tokenizer.vocab_size, hidden_size=64, intermediate_size=128, num_heads=heads,
        num_kv_heads=heads // 2, head_dim=64 // heads, eos_token_id=chat.eos_ids[0],
    )  # fmt: skip
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, Optim(lr=5e-3, warmup=0.1), SHOWN)
    for step in range(SHOWN):
        supervised_step(model, optimizer, [document() for _ in range(32)], step)
    return model


def sums_folder(place: Path) -> Path:
    """`place` with `model`, whose heads of 32 other engines have kernels for, and `train.jsonl`."""
    asked = [
        Problem(p.id, "math", (Message("user", p.messages[0].content + MATH_INSTRUCTION),), p.truth, p.canonical)
        for p in PROBLEMS
    ]
    chat = chat_of(asked)
    chat.save(place / "model")
    save_model(cold_start(chat, asked, heads=2), place / "model")
    rows = [{"problem": p.messages[0].content, "answer": p.truth["gold"], "id": p.id} for p in PROBLEMS]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place
