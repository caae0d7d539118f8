"""What a stage writes: the checkpoint's own number type, about its size, and its sampling
defaults.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwq.cli import main
from qwq.config import Recipe
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model, stored_dtype
from qwq.pipeline.benchmarks import StageEvaluation
from qwq.pipeline.run import RecipeRun
from qwq.release.export import export
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

# As Qwen2.5-Instruct has it.
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint in bfloat16 with sampling defaults, a padding and a beginning token."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tokenizer = train_bpe(["some words to learn from, 1 2 3"] * 20, 300)
    chat = ChatFormat(tokenizer, default_template())
    shape = preset("tiny", vocab_size=tokenizer.vocab_size, eos_token_id=chat.eos_ids[0])
    model = Transformer(shape).init_weights(torch.Generator().manual_seed(0))
    generation = SAMPLING | {
        "bos_token_id": 3,
        "pad_token_id": 4,
        "eos_token_id": chat.eos_ids[0],
        "_from_model_config": True,
    }
    save_model(model, folder, dtype=torch.bfloat16, generation=generation)
    chat.save(folder)
    return folder


def train(base: Path, runs: Path, *, dtype: str = "float32", lora: bool = True, **model: str) -> Path:
    stage = {"kind": "sft", "mix": {"math": 1.0}, "documents": 4, "evaluate": False, "optim": {"lr": 1e-3}} | (
        {"lora": {"rank": 2}} if lora else {}
    )
    data = {
        "name": "x",
        "model": {"path": str(base)} | model,
        "compute": {"threads": 1, "dtype": dtype},
        "stages": {"sft": stage},
    }
    before = torch.get_num_threads()
    RecipeRun(Recipe.model_validate(data), runs).run()
    torch.set_num_threads(before)
    return runs / "x" / "checkpoints" / "sft" / "final"


def size(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_in_bfloat16_is_written_in_bfloat16(base, tmp_path, dtype, lora):
    final = train(base, tmp_path, dtype=dtype, lora=lora)
    assert size(final) == pytest.approx(size(base), rel=0.02)
    weights, config = load_file(final / "model.safetensors"), json.loads((final / "config.json").read_text())
    assert {t.dtype for t in weights.values()} == {torch.bfloat16} and config["dtype"] == "bfloat16"
    assert stored_dtype(final) is torch.bfloat16
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(weights[name], load_file(base / "model.safetensors")[name])


def test_a_merged_adapter_is_rounded_once(base, tmp_path):
    """In bfloat16 as in float32: base and change are added in float32, and the sum is rounded."""
    final = train(base, tmp_path, dtype="bfloat16")
    adapter = load_file(final.parent / "adapter" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.model.layers.0.mlp.down_proj.lora_{k}.weight"].float() for k in "AB")
    name = "model.layers.0.mlp.down_proj.weight"
    before, after = (load_file(f / "model.safetensors")[name] for f in (base, final))
    assert torch.equal(after, (before.float() + 2 * b @ a).to(torch.bfloat16))


def test_a_recipe_names_another_type(base, tmp_path):
    final = train(base, tmp_path, dtype="bfloat16", save_dtype="float32")
    assert {t.dtype for t in load_file(final / "model.safetensors").values()} == {torch.float32}
    assert json.loads((final / "config.json").read_text())["dtype"] == "float32"
    # Nothing of the adapter is rounded away.
    adapter = load_file(final.parent / "adapter" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.model.layers.0.mlp.down_proj.lora_{k}.weight"].float() for k in "AB")
    name = "model.layers.0.mlp.down_proj.weight"
    before, after = (load_file(f / "model.safetensors")[name].float() for f in (base, final))
    torch.testing.assert_close(after - before, 2 * b @ a, rtol=0, atol=1e-8)


def test_the_model_that_is_evaluated_is_the_one_that_is_written(base, tmp_path, monkeypatch):
    seen = {}

    def look(self, name, model, chat):
        seen["weights"] = {k: v.clone() for k, v in model.state_dict().items()}
        return {}

    monkeypatch.setattr(StageEvaluation, "read", look)
    stage = {"kind": "sft", "mix": {"math": 1.0}, "documents": 4, "optim": {"lr": 1e-3}}
    data = {
        "name": "x",
        "model": {"path": str(base)},
        "compute": {"threads": 1},
        "eval": {"math": 1},
        "stages": {"sft": stage},
    }
    before = torch.get_num_threads()
    RecipeRun(Recipe.model_validate(data), tmp_path).run()
    torch.set_num_threads(before)
    written = load_model(tmp_path / "x" / "checkpoints" / "sft" / "final").state_dict()
    assert all(torch.equal(v, written[k]) and v.dtype == torch.float32 for k, v in seen["weights"].items())


def test_sampling_defaults_and_special_tokens_stay(base, tmp_path):
    final = train(base, tmp_path / "runs")
    export(str(final), exported := tmp_path / "out")
    eos = list(ChatFormat.from_folder(base).eos_ids)
    for folder in (final, exported):
        assert json.loads((folder / "generation_config.json").read_text()) == SAMPLING | {
            "bos_token_id": 3,
            "pad_token_id": 4,
            "eos_token_id": eos,
        }
        assert stored_dtype(folder) is torch.bfloat16


def test_transformers_reads_them(base, tmp_path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers (pip install qwq[dev])")
    final = train(base, tmp_path)
    generation = transformers.GenerationConfig.from_pretrained(final)
    assert (generation.temperature, generation.top_k, generation.pad_token_id, generation.bos_token_id) == (
        0.7,
        20,
        4,
        3,
    )
    assert transformers.AutoModelForCausalLM.from_pretrained(final, dtype="auto").dtype == torch.bfloat16


def test_a_dpo_stage_on_a_file_of_pairs(base, tmp_path, capsys, keep_signals):
    """A recipe with a stage of kind dpo, by the command: checked first, trained, its held-out pairs
    in results.json, a policy as its result.
    """
    rows = [
        {"prompt": f"{a} + {b}?", "chosen": f"it is {a + b}", "rejected": f"no idea {b}"}
        for a in range(6)
        for b in range(5)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    stage = (
        f'kind = "dpo"\npath = "{tmp_path}/pairs.jsonl"\nbatch_pairs = 7\nbeta = 0.2\nlora = {{ rank = 2 }}\n'
        f"optim = {{ lr = 1e-2 }}\nevaluate = false\n"
    )
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'name = "d"\n[model]\npath = "{base}"\n[compute]\nthreads = 1\n[stages.dpo]\n{stage}')
    assert main(["explain", str(recipe)]) == 0 and "7 pairs a step, 21 pairs x 1 epoch" in capsys.readouterr().out
    assert main(["train", str(recipe), "--runs", str(tmp_path / "runs")]) == 0
    record = json.loads((tmp_path / "runs/d/results.json").read_text())["stages"][0]
    assert record["steps"] == 3 and record["pairs"]["n"] >= 5 and record["pairs"]["margin"] > 0 and record["data"]
    assert main(["export", str(tmp_path / "runs/d"), str(tmp_path / "out")]) == 0
    assert size(tmp_path / "out") == pytest.approx(size(base), rel=0.02)
