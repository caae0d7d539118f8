"""One packed, prefix-shared, chunked update has the gradient of the plain padded step, written here
with transformers.
"""

import itertools
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="parity needs transformers (pip install qwq[dev])")

from qwq.cluster.division import WholeBatch
from qwq.config import ComputeSection, Optim
from qwq.model.config import ModelConfig
from qwq.model.names import state_to_hf
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.pipeline.stages.rl2 import Rl2Stage
from qwq.train import losses, policy_update
from qwq.train.groups import Group
from qwq.train.losses import logprobs
from qwq.train.policy_update import PolicyUpdater
from qwq.train.reference import ReferenceModel
from qwq.types import Rollout, StopReason

CONFIG = ModelConfig("qwen2", 61, 32, 48, 2, 4, 2, 8, rope_theta=1e5, tie_embeddings=True, max_positions=128)
PROMPTS, SAMPLES, NEW = 8, 8, 10


def make(seed: int) -> Transformer:
    model = Transformer(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.15, generator=generator)
    return model


def groups() -> list[Group]:
    """Ragged groups, some tokens written by an environment."""
    g = torch.Generator().manual_seed(5)

    def ints(n: int) -> list[int]:
        return torch.randint(1, 60, (n,), generator=g).tolist()

    out = []
    for p in range(PROMPTS):
        prompt, members = ints(2 + 3 * (p % 4)), []
        for s in range(SAMPLES):
            n = 1 + (3 * p + 5 * s) % NEW
            mask = [1 if (i + s) % 4 else 0 for i in range(n)]
            mask[-1] = 1
            members.append(Rollout(f"p{p}", "math", p, prompt, ints(n), mask, [0.0] * n, [0] * n, StopReason.END))
        rewards = torch.rand(SAMPLES, generator=g, dtype=torch.float64)
        out.append(Group(members, losses.group_advantages(rewards).tolist()))
    return out


def padded(
    folder, reference_folder, batch: list[Group], loss: str, kl: float, estimator: str
) -> dict[str, torch.Tensor]:
    """Right-padded rows through transformers, full logits, one backward pass; gradients by Hugging
    Face's names.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reference = transformers.AutoModelForCausalLM.from_pretrained(reference_folder, dtype=torch.float32)
    rows = [(r, a) for g in batch for r, a in zip(g.rollouts, g.advantages, strict=True)]
    width = max(len(r.prompt_ids) + len(r.completion_ids) for r, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention, weight, advantage = torch.zeros_like(ids), torch.zeros(len(rows), width), torch.zeros(len(rows), 1)
    for i, (r, a) in enumerate(rows):
        whole = r.prompt_ids + r.completion_ids
        ids[i, : len(whole)], attention[i, : len(whole)], advantage[i] = torch.tensor(whole), 1, a
        weight[i, len(r.prompt_ids) : len(whole)] = torch.tensor(r.sampled_mask, dtype=torch.float32)

    def logprobs(m):
        logp = m(ids, attention_mask=attention).logits[:, :-1].log_softmax(-1)
        return logp.gather(-1, ids[:, 1:, None])[..., 0]

    logp = logprobs(model)
    terms = -(logp - logp.detach()).exp() * advantage
    if kl:
        with torch.no_grad():
            other = logprobs(reference)
        d = logp - other
        terms = terms + kl * (0.5 * d.square() if estimator == "k2" else (-d).exp() - 1 + d)
    mask = weight[:, 1:]
    normaliser = PROMPTS * SAMPLES * NEW if loss == "dr_grpo" else mask.sum()
    ((terms * mask).sum() / normaliser).backward()
    return {n: p.grad for n, p in model.named_parameters()}


def updater(
    model: Transformer, start: Transformer, config: Rl2Stage, compute: ComputeSection, optimizer: Any
) -> PolicyUpdater:
    reference = ReferenceModel(model)
    reference.copy = start
    made = PolicyUpdater(model, config, compute, optimizer, reference)
    # These rollouts were not sampled.
    made._check_mismatch = lambda *a: {"mismatch_max": 0.0, "mismatch_sum": 0.0, "compared": 0}
    made._check_mean_mismatch = lambda *a: None
    return made


def update(
    model: Transformer, reference: Transformer, batch: list[Group], config: Rl2Stage, micro: int
) -> dict[str, torch.Tensor]:
    """The gradient that the trainer gives its optimiser."""
    found: dict[str, torch.Tensor] = {}

    class Keep:
        division, masters = WholeBatch(model), ()

        def step(self, index: int) -> dict[str, float]:
            found.update({n: p.grad.clone() for n, p in model.named_parameters()})
            model.zero_grad()
            return {}

    metrics = updater(model, reference, config, ComputeSection(micro_batch_tokens=micro), Keep()).update(0, batch)
    assert metrics["trained_tokens"] == sum(r.num_sampled for g in batch for r in g.rollouts)
    return found


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    difference = sum(float((a[n] - b[n]).double().square().sum()) for n in b) ** 0.5
    return difference / sum(float(b[n].double().square().sum()) for n in b) ** 0.5


def settings(loss: str, kl: float, estimator: str) -> Rl2Stage:
    return Rl2Stage(
        kind="rl2", steps=1, prompts=PROMPTS, samples=SAMPLES, max_new_tokens=NEW, loss=loss, kl=kl,
        kl_estimator=estimator, optim=Optim(), mix={"math": 1.0},
    )  # fmt: skip


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "loss, kl, estimator",
    [(a, *b) for a, b in itertools.product(("dr_grpo", "dapo"), ((0.0, "k3"), (0.1, "k3"), (0.1, "k2")))],
)
def test_the_update_equals_the_padded_step(tmp_path, monkeypatch, loss, kl, estimator, recompute):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 61 * 7)  # several chunks of logits
    batch, model, reference = groups(), make(0), make(1)
    save_model(model, tmp_path / "a")
    save_model(reference, tmp_path / "b")
    model.recompute = recompute
    ours = update(model, reference, batch, settings(loss, kl, estimator), micro=10**6)
    theirs = padded(tmp_path / "a", tmp_path / "b", batch, loss, kl, estimator)
    assert relative(state_to_hf(CONFIG, ours), {n: g for n, g in theirs.items() if n != "lm_head.weight"}) < 1e-5


def test_one_lot_of_eight_and_eight_lots_of_one_agree():
    batch, model = groups(), make(0)
    config = settings("dr_grpo", 0.0, "k3")
    together = update(model, model, batch, config, micro=10**6)
    apart = update(model, model, batch, config, micro=1)
    assert relative(apart, together) < 1e-5


def test_kl_of_the_first_update_against_the_start_itself_is_exactly_zero():
    batch, model = groups(), make(0)
    nothing = type("Nothing", (), {"step": lambda self, index: {}, "division": WholeBatch(model), "masters": ()})()
    trainer = updater(model, make(0), settings("dr_grpo", 0.1, "k3"), ComputeSection(), nothing)
    assert trainer.update(0, batch)["kl"] == 0.0
    assert policy_update.MISMATCH_MAX == 1e-3 and policy_update.MISMATCH_MEAN == 1e-5
