"""DPO: log-probabilities against a plain softmax, the first step by hand, and pairs that are
learnt.
"""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path

import pytest
import torch
from support.stages import stage_job, stage_memory

from qwq.config import ComputeSection, Recipe
from qwq.data.examples import PairExample
from qwq.model import lora
from qwq.model.config import preset
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.pipeline.pairs_stage import MadePairs
from qwq.pipeline.plan.explain import explain
from qwq.pipeline.stages.dpo import DpoStage, all_logprobs, answer_logprobs
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.train.checkpoint import StageRun


def fresh(vocab: int = 64) -> Transformer:
    return Transformer(preset("tiny", vocab_size=vocab)).init_weights(torch.Generator().manual_seed(3))


def pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> PairExample:
    return PairExample(array("i", prompt + chosen), array("i", prompt + rejected), len(chosen), len(rejected))


PAIRS = [pair([1, 2, 3], [4, 5], [6, 7, 8]), pair([9], [10, 11, 12, 13], [14]), pair([15, 16], [17], [18])]


def plain(model: Transformer, ids: list[int], answer: int) -> torch.Tensor:
    """Log-probability of the last `answer` tokens, from all logits of the sequence alone."""
    logits = model.logits(model(torch.tensor(ids[:-1]), Packed([len(ids) - 1])))
    each = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return each[-answer:].sum()


def test_log_probabilities_of_answers_are_those_of_a_plain_softmax():
    model = fresh()
    wanted = torch.stack(
        [
            torch.stack(
                [plain(model, list(p.chosen), p.chosen_length), plain(model, list(p.rejected), p.rejected_length)]
            )
            for p in PAIRS
        ]
    )
    torch.testing.assert_close(answer_logprobs(model, PAIRS), wanted, rtol=1e-5, atol=1e-5)
    for max_tokens in (1, 12, 1000):
        torch.testing.assert_close(all_logprobs(model, PAIRS, max_tokens), wanted.detach(), rtol=1e-5, atol=1e-5)


def train(folder: Path, model: Transformer, made: MadePairs, **options) -> tuple[StageRun, dict]:
    config = DpoStage(kind="dpo", path="given", **options)
    run = StageRun(folder, "dpo", "dpo")
    return run, config.train(model, stage_job(run, config, made=made))["pairs"]


def rows(run: StageRun) -> list[dict]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


@pytest.mark.parametrize("micro_batch_tokens", [1, 1000])
def test_the_first_step_by_hand(tmp_path, micro_batch_tokens):
    """No margin yet: the loss is ln 2 and the gradient beta/2 times the mean of (rejected - chosen)
    log-probabilities' gradients.
    """
    reference = fresh()
    total = sum(
        plain(reference, list(p.rejected), p.rejected_length) - plain(reference, list(p.chosen), p.chosen_length)
        for p in PAIRS
    )
    (0.3 / 2 * total / 3).backward()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in reference.parameters()))
    made = MadePairs({"train": PAIRS, "test": PAIRS})
    run, _ = train(tmp_path, fresh(), made, beta=0.3, micro_batch_tokens=micro_batch_tokens)
    (row,) = rows(run)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-5) and row["margin"] == pytest.approx(0, abs=1e-5)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("adapters", [False, True])
def test_pairs_are_learnt_and_a_run_goes_on(tmp_path, adapters):
    """In one piece and in two, the same weights bit for bit: the start is read before the
    checkpoint is put back.
    """
    made, options = (
        MadePairs({"train": PAIRS, "test": PAIRS}),
        {"epochs": 12, "batch_pairs": 3, "optim": {"lr": 3e-3, "warmup": 0.0}},
    )

    def model() -> Transformer:
        return lora.add(fresh(), rank=4) if adapters else fresh()

    whole = model()
    run, held_out = train(tmp_path / "a", whole, made, **options)
    assert held_out["score"] == 1.0 and held_out["margin"] > 0.5
    assert rows(run)[-1]["margin"] > rows(run)[0]["margin"] + 0.5

    class Stop(Exception):
        pass

    def stop(stage: str, step: int, metrics: dict) -> None:
        if step == 7:
            raise Stop

    config = DpoStage(kind="dpo", path="given", **options)
    first = StageRun(tmp_path / "b", "dpo", "dpo", interval_s=0)
    first.progress.update = stop
    with pytest.raises(Stop):
        config.train(model(), stage_job(first, config, made=made))
    second = model()
    run = StageRun(tmp_path / "b", "dpo", "dpo", interval_s=0)
    config.train(second, stage_job(run, config, made=made))
    assert run.state.step == 12 and all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_procedural_pairs_of_the_preference_family(tmp_path):
    chat = ChatFormat(
        train_bpe(["which of these answers is the better one? the short one, the long one"] * 20, 300),
        default_template(),
    )
    model = fresh(chat.tokenizer.vocab_size)
    run = StageRun(tmp_path, "dpo", "dpo")
    stage = DpoStage(kind="dpo", pairs=48, test_pairs=24, batch_pairs=8, optim={"lr": 2e-3})
    held_out = stage.train(model, stage_job(run, stage, chat))["pairs"]
    assert run.state.step == 6 and held_out["n"] == 24 and held_out["margin"] > 0


def test_a_recipe_is_planned(tmp_path):
    stages = {
        "pretrain": {"kind": "pretrain", "tokens": 1000, "mix": {"math": 1.0}},
        "dpo": {"kind": "dpo", "pairs": 64, "epochs": 2, "lora": {"rank": 2}},
    }
    recipe = Recipe.model_validate({"name": "x", "model": {"preset": "tiny"}, "stages": stages})
    assert "16 pairs a step, 64 pairs x 2 epochs" in explain(recipe, tmp_path)
    whole = recipe.model_copy(
        update={"stages": recipe.stages | {"dpo": recipe.stages["dpo"].model_copy(update={"lora": None})}}
    )
    config = preset("tiny")
    assert (
        stage_memory(recipe, "dpo", config).parts["AdamW"]
        < stage_memory(whole, "dpo", config).parts["AdamW"]
        == 8 * config.num_parameters
    )
    assert recipe.start_of("dpo") == "pretrain" and isinstance(recipe.compute, ComputeSection)
