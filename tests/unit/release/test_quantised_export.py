"""`qwq export --format mlx|w8a8|w8a16|w4a16`, calibration, and what a quantisation costs."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qwq.cli import main
from qwq.errors import CapacityError, ConfigError, ModelError
from qwq.model.config import preset
from qwq.model.layouts import Packed
from qwq.model.model_folder import stored_tensors
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model
from qwq.release import quality
from qwq.release.activations import importance, task_windows
from qwq.release.affine import (
    affine,
    from_affine,
    from_symmetric,
    pack_words,
    symmetric_scales,
    symmetric_values,
    unpack_words,
)
from qwq.release.export import ExportOptions, export
from qwq.release.gptq import gptq, quantise_columns
from qwq.release.quality import HeldOut, Quality, QualityOptions, Reading, mean_loss
from qwq.release.read_back import read_back
from qwq.tasks import registry
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe

SMALL = QualityOptions(tokens=400)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe([p.messages[-1].content for p in registry.get("math").problems("test", 50)], 320)
    model = Transformer(preset("tiny", vocab_size=tokenizer.vocab_size)).init_weights(torch.Generator().manual_seed(0))
    save_model(model, folder, dtype=torch.bfloat16)
    ChatFormat(tokenizer, default_template()).save(folder)
    return folder


# -- integers --------------------------------------------------------------------------------------


def test_words_hold_the_first_value_in_the_lowest_bits():
    words = pack_words(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]]), 4)
    assert words.tolist() == [[-(1 << 32) + 0xF7654321]] and words.dtype == torch.int32
    assert unpack_words(words, 4).tolist() == [[1, 2, 3, 4, 5, 6, 7, 15]]
    assert pack_words(torch.tensor([[255, 0, 1, 2]]), 8).tolist() == [[0x020100FF]]


def test_affine_by_hand():
    """From -1 to 2 in 15 steps of 0.2: the far end 2 is met with a scale of -0.2 and a bias of 2;
    -1 is 15 steps below it, 0.5 is 7.5 (even: 8).
    """
    w = torch.full((1, 64), 0.5)
    w[0, 0], w[0, 1], w[0, 2] = 2.0, -1.0, 0.0
    q = affine(w, 4, 64)
    assert (q.scales.item(), q.biases.item()) == (pytest.approx(-0.2), 2.0)
    assert unpack_words(q.words, 4)[0, :4].tolist() == [0, 15, 10, 8]
    torch.testing.assert_close(from_affine(q, 4)[0, :4], torch.tensor([2.0, -1.0, 0.0, 0.4]))


def test_symmetric_by_hand():
    """The largest magnitude 3 over 7.5 levels is 0.4 a step: 3 is 7.5 steps, held to 7; -1 is -2.5
    (even: -2).
    """
    w = torch.tensor([[3.0, -1.0, 0.4, 0.0]])
    scales = symmetric_scales(w, 4, 4)
    values = symmetric_values(w, scales, 4)
    assert scales.item() == pytest.approx(0.4) and values.tolist() == [[7, -2, 1, 0]]
    torch.testing.assert_close(from_symmetric(values, scales), torch.tensor([[2.8, -0.8, 0.4, 0.0]]))


# -- folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        ("mlx", {}, {"weight": torch.uint32, "scales": torch.bfloat16, "biases": torch.bfloat16}),
        ("mlx", {"bits": 8}, {"weight": torch.uint32, "scales": torch.bfloat16, "biases": torch.bfloat16}),
        ("w8a8", {}, {"weight": torch.int8, "weight_scale": torch.bfloat16}),
        ("w8a16", {}, {"weight_packed": torch.int32, "weight_scale": torch.bfloat16, "weight_shape": torch.int64}),
        ("w4a16", {"gptq": True},
         {"weight_packed": torch.int32, "weight_scale": torch.bfloat16, "weight_shape": torch.int64}),
    ],
)  # fmt: skip
def test_a_folder_holds_the_weights_to_the_last_step(folder, tmp_path, kind, options, names):
    exported = export(str(folder), tmp_path / "out", ExportOptions(format=kind, quality=SMALL, **options))
    stem = "model.layers.1.mlp.down_proj."
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {n.removeprefix(stem): t.dtype for n, t in tensors.items() if n.startswith(stem)} == names
    before = load_model(folder)
    after = read_back(tmp_path / "out", kind, before.config, options.get("bits", 4))
    old, new = (model.blocks[1].down.weight.detach() for model in (before, after))
    levels = 127 if kind in ("w8a8", "w8a16") or options.get("bits") == 8 else 7
    error = float((old - new).abs().max() / old.abs().max())
    assert 0 < error < (3 if "gptq" in options else 1.1) / levels  # half a step, and scales in bfloat16
    assert exported.quality.after.perplexity == pytest.approx(exported.quality.before.perplexity, rel=0.05)
    assert ChatFormat.from_folder(tmp_path / "out").eos_ids and not list(tmp_path.glob(".*"))
    assert sum(f.num_bytes for f in exported.files) == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())


def test_what_config_json_says_to_the_programs(folder, tmp_path):
    export(str(folder), tmp_path / "m", ExportOptions(format="mlx", quality=QualityOptions(skip=True)))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["quantization"] == {"group_size": 64, "bits": 4} and config["model_type"] == "qwen2"
    export(str(folder), tmp_path / "c", ExportOptions(format="w4a16", quality=QualityOptions(skip=True)))
    config = json.loads((tmp_path / "c" / "config.json").read_text())["quantization_config"]
    group = config["config_groups"]["group_0"]
    assert (config["quant_method"], config["format"], config["ignore"]) == (
        "compressed-tensors", "pack-quantized", ["lm_head"],
    )  # fmt: skip
    # 192 and 512 columns: 64 divides both, 128 does not.
    assert (group["weights"]["num_bits"], group["weights"]["strategy"], group["weights"]["group_size"]) == (
        4,
        "group",
        64,
    )
    assert group["input_activations"] is None
    assert stored_tensors(tmp_path / "c")["model.embed_tokens.weight"].dtype == "BF16"


# -- calibration -----------------------------------------------------------------------------------


def test_importance_is_the_mean_square_of_a_column(folder):
    model = load_model(folder)
    windows = [[1, 2, 3], [4, 5]]
    with torch.no_grad():
        x = torch.cat([model.blocks[0].input_norm(model.embed(torch.tensor(ids))) for ids in windows])
        last = torch.cat([model(torch.tensor(ids), Packed([len(ids)])) for ids in windows])
    found = importance(model, windows)
    expected = x.square().mean(0).numpy()
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found[f"blk.0.{name}.weight"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["token_embd.weight"], last.square().mean(0).numpy(), rtol=1e-4)
    assert found["blk.1.ffn_down.weight"].shape == (512,) and len(found) == 15


def test_gptq_without_correlations_is_rounding_to_nearest():
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    values, scales = quantise_columns(w, torch.eye(64), 4, 32, torch.float32)
    assert torch.equal(scales, symmetric_scales(w, 4, 32)) and torch.equal(values, symmetric_values(w, scales, 4))


def test_gptq_makes_up_for_errors_where_inputs_go_together():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(32, 256, generator=generator)
    x = torch.randn(512, 16, generator=generator) @ torch.randn(16, 256, generator=generator)
    values, scales = quantise_columns(w, x.T @ x, 4, 64, torch.float32)
    plain = symmetric_scales(w, 4, 64)
    errors = [
        float((x @ (w - from_symmetric(v, s)).T).square().mean())
        for v, s in ((values, scales), (symmetric_values(w, plain, 4), plain))
    ]
    assert errors[0] < 0.2 * errors[1]


def test_gptq_names_every_linear_layer(folder):
    chosen = gptq(load_model(folder), [[1, 2, 3, 4]] * 3, 8, None, torch.bfloat16)
    assert len(chosen) == 2 * 7
    values, scales = chosen["model.layers.1.self_attn.v_proj.weight"]
    assert values.shape == (64, 192) and scales.shape == (64, 1) and scales.dtype == torch.bfloat16


# -- quality ---------------------------------------------------------------------------------------


def test_loss_by_hand(folder):
    model = load_model(folder)
    windows = [[5, 6, 7], [9], [8, 9]]
    with torch.no_grad():
        terms = []
        for ids in windows:
            logs = model.logits(model(torch.tensor(ids), Packed([len(ids)]))).log_softmax(-1)
            terms += [-float(logs[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    assert len(terms) == 3 and mean_loss(model, windows) == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_held_out_is_the_test_split_and_calibration_the_training_split(folder):
    chat = ChatFormat.from_folder(folder)
    test, train = (task_windows("math", split, chat, 500, 200) for split in ("test", "train"))
    texts = [chat.tokenizer.decode(ids) for ids in test]
    assert 500 <= sum(map(len, test)) < 700 and max(map(len, test)) <= 200
    problems = registry.get("math").problems("test", 50)
    assert all(p.messages[-1].content[:40] in text for p, text in zip(problems, texts, strict=False))
    assert not {tuple(ids) for ids in test} & {tuple(ids) for ids in train}


def test_what_is_lost_is_the_worse_of_perplexity_and_score():
    def lost(*after):
        return Quality("math", 1, 1, Reading(10.0, 0.5), Reading(*after)).loss

    assert lost(11.0, 0.5) == pytest.approx(0.1) and lost(10.1, 0.3) == pytest.approx(0.2)
    assert Quality("math", 1, 0, Reading(10.0, None), Reading(12.0, None)).loss == pytest.approx(0.2)


@pytest.mark.parametrize("out", ["m.gguf", "m"])
def test_more_lost_than_allowed_is_one_line_and_nothing_is_written(folder, tmp_path, monkeypatch, out):
    readings = iter([Reading(10.0, None), Reading(10.5, None)])
    monkeypatch.setattr(HeldOut, "read", lambda self, model: next(readings))
    options = ExportOptions(
        format=None if out == "m.gguf" else "w8a8",
        quant="Q8_0" if out == "m.gguf" else None,
        quality=QualityOptions(tokens=100, max_loss=0.03),
    )
    with pytest.raises(
        ModelError, match=r"perplexity 10.0000 before, 10.5000 after \(\+5.00%\), .* more than --max-loss 0.03"
    ):
        export(str(folder), tmp_path / out, options)
    assert not list(tmp_path.iterdir())


def test_the_command_says_perplexity_and_score(folder, tmp_path, capsys):
    words = ["export", str(folder), str(tmp_path / "m.gguf"), "--quant", "q8_0", "--task", "math", "--problems", "2"]
    assert main([*words, "--max-new-tokens", "8", "--max-loss", "0.1"]) == 0
    size, perplexity, score = capsys.readouterr().out.splitlines()
    assert size.split()[-1].endswith("m.gguf") and perplexity.startswith("perplexity ") and "test split" in perplexity
    assert score == "score of math 0.0% before, 0.0% after, 2 test problems, greedy"


def test_a_model_too_large_to_measure(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quality, "free_memory", lambda: 1000)
    assert main(["export", str(folder), str(tmp_path / "m.gguf"), "--quant", "Q8_0"]) == 0
    assert "quality: not measured" in capsys.readouterr().err
    with pytest.raises(CapacityError, match="--max-loss needs the model in float32, 0.0 GiB, and 0.0 GiB are free"):
        export(str(folder), tmp_path / "b.gguf", ExportOptions(quant="Q8_0", quality=QualityOptions(max_loss=0.1)))


def test_options_of_calibration_and_measure(folder, tmp_path):
    cases = {
        (
            "m.gguf",
            (("quant", "Q8_0"), ("imatrix", True)),
        ): "--imatrix goes with the K-quants of a GGUF file, this is gguf Q8_0",
        ("m", (("format", "mlx"), ("gptq", True))): "--gptq goes with --format w8a8, w8a16 and w4a16, this is mlx",
        ("m", (("format", "w8a8"), ("bits", 4))): "--bits goes with --format mlx, this is w8a8",
        ("m", (("format", "mlx"), ("bits", 3))): "--bits 3: give 4 or 8",
        ("m", (("quality", QualityOptions(max_loss=0.1)),)): "--max-loss goes with a quantised format, this is hf",
    }
    for (out, options), message in cases.items():
        with pytest.raises(ConfigError, match=message):
            export(str(folder), tmp_path / out, ExportOptions(**dict(options)))
    with pytest.raises(ConfigError, match="--max-loss is -1: give a share"):
        QualityOptions(max_loss=-1)
