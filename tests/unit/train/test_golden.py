"""Golden losses: the first steps of pretraining and of RL on fixed tokens.

A refactor leaves them as they are. A change of the numerics is shown by a curve first and then
written:

    python tests/unit/train/test_golden.py --write

The tokens come from a seeded generator, not from the problem families, and no recipe is read, so
tuning either does not touch the numbers.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from qwq.config import ComputeSection, Optim, RlConfig
from qwq.model.config import ModelConfig
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.tasks.mix import ProblemMix
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer
from qwq.train.rl import RlTrainer, form_groups
from qwq.train.supervised import supervised_step
from qwq.types import Rollout, StopReason

GOLDEN = Path(__file__).parents[2] / "golden" / "losses.json"
VOCAB, STEPS = 48, 5
OPTIM = Optim(
    lr=3e-3, warmup=0.2, decay="linear", final_lr=0.1, weight_decay=0.01, beta1=0.9, beta2=0.95, eps=1e-8, grad_clip=1.0
)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fresh() -> Transformer:
    config = ModelConfig("qwen2", VOCAB, 32, 48, 2, 4, 2, 8, rope_theta=1e4, tie_embeddings=True, max_positions=128)
    return Transformer(config).init_weights(torch.Generator().manual_seed(11))


def tokens(generator: torch.Generator, length: int) -> list[int]:
    """Not uniform: token t is drawn about in proportion to 1 / (t + 1), so there is something to
    learn.
    """
    weights = 1.0 / torch.arange(1, VOCAB + 1, dtype=torch.float64)
    return torch.multinomial(weights, length, replacement=True, generator=generator).tolist()


def pretrain_losses() -> list[float]:
    generator = torch.Generator().manual_seed(21)
    model = fresh()
    optimizer = Optimizer(model, OPTIM, STEPS)
    losses = []
    for step in range(STEPS):
        documents = []
        for i in range(6):
            ids = tokens(generator, 8 + 5 * i)
            documents.append((ids, [0.2 if t < 4 else 1.0 for t in range(len(ids))]))
        losses.append(supervised_step(model, optimizer, documents, step)["loss"])
    return losses


def fixed_rollouts(model: Transformer, generator: torch.Generator, temperature: float) -> list[Rollout]:
    """Four prompts, four completions each, rewards 1 0 0 1 and the like; one without a reward.

    Nothing is sampled.
    """
    rollouts = []
    for group in range(4):
        prompt = tokens(generator, 3 + 4 * group)
        for s in range(4):
            completion = tokens(generator, 4 + 3 * s + group)
            mask = [0 if 2 <= i < 4 and s == 3 else 1 for i in range(len(completion))]
            ids = prompt + completion
            with torch.no_grad():
                logits = model.logits(model(torch.tensor(ids[:-1]), Packed([len(ids) - 1]))) / temperature
            each = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][len(prompt) - 1 :]
            logprobs = [x if m else 0.0 for x, m in zip(each.tolist(), mask, strict=True)]
            reward = None if (group, s) == (2, 1) else float((s + group) % 3 == 0)
            rollouts.append(
                Rollout(
                    "p",
                    "math",
                    group,
                    prompt,
                    completion,
                    mask,
                    logprobs,
                    [0] * len(completion),
                    StopReason.END,
                    reward=reward,
                )
            )
    return rollouts


def trainer(folder: Path, *, micro_batch_tokens: int = 40, **options) -> RlTrainer:
    settings = {"steps": STEPS, "prompts": 4, "samples": 4, "max_new_tokens": 20, "temperature": 0.9, "optim": OPTIM}
    config = RlConfig(
        **(
            settings
            | {"updates": 2, "kl": 0.01, "kl_estimator": "k3", "clip_low": 0.2, "clip_high": 0.28, "loss": "dr_grpo"}
            | options
        )
    )
    compute = ComputeSection(micro_batch_tokens=micro_batch_tokens)
    chat = ChatFormat(train_bpe(["one two three"], 275), default_template())  # nothing is sampled here
    rl = RlTrainer(fresh(), chat, config, compute, StageRun(folder, "rl", "rl1"), ProblemMix(0, "rl", {}), None, seed=0)
    rl.prepare()
    return rl


def rl_steps(folder: Path, **options) -> list[dict[str, float]]:
    generator = torch.Generator().manual_seed(31)
    rl = trainer(folder, **options)
    reports = []
    for step in range(STEPS):
        groups = form_groups(fixed_rollouts(rl.model, generator, rl.config.temperature), scale=False)
        report = rl.updater.update(step, groups)
        assert report["mismatch_max"] < 1e-4
        reports.append({name: report[name] for name in ("loss", "grad_norm", "entropy", "kl")})
    return reports


def measure() -> dict[str, list[float]]:
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        reports = rl_steps(Path(folder))
        return {"pretrain_loss": pretrain_losses()} | {f"rl_{name}": [r[name] for r in reports] for name in reports[0]}


@pytest.fixture(scope="module")
def measured() -> dict[str, list[float]]:
    return measure()


@pytest.mark.parametrize("name", ["pretrain_loss", "rl_loss", "rl_grad_norm", "rl_entropy", "rl_kl"])
def test_losses_are_those_in_the_tree(measured, name):
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == measured.keys()
    assert measured[name] == pytest.approx(golden[name], rel=1e-4, abs=1e-7)


def test_pretraining_starts_at_a_uniform_guess_and_falls(measured):
    losses = measured["pretrain_loss"]
    # ln 48 is 3.871; tied embeddings favour a token's repetition from the start, and common tokens
    # do repeat.
    assert losses[0] == pytest.approx(3.871, abs=0.12)
    assert losses[-1] < losses[0] - 0.05


def test_the_first_rl_loss_by_hand(tmp_path):
    """One update, no KL: the ratio is 1, so the loss is minus the sum of advantages over sampled
    tokens / (4 * 4 * 20).
    """
    with one_thread():
        rl = trainer(tmp_path, updates=1, kl=0.0)
        rollouts = fixed_rollouts(rl.model, torch.Generator().manual_seed(31), 0.9)
        total = 0.0
        for group in range(4):
            members = [r for r in rollouts if r.group == group and r.reward is not None]
            mean = sum(r.reward for r in members) / len(members)
            total += sum((r.reward - mean) * r.num_sampled for r in members)
        report = rl.updater.update(0, form_groups(rollouts, scale=False))
    assert report["loss"] == pytest.approx(-total / 320, abs=1e-6)
    assert report["clip_fraction"] == 0.0 and report["kl"] == 0.0


def test_micro_batches_do_not_change_an_rl_run(tmp_path):
    with one_thread():
        small, large = (
            rl_steps(tmp_path / "a", micro_batch_tokens=1),
            rl_steps(tmp_path / "b", micro_batch_tokens=10_000),
        )
    for a, b in zip(small, large, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/unit/train/test_golden.py --write")
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(measure(), indent=2) + "\n")
    print(f"written: {GOLDEN}")
