"""Shapes of models: presets, config.json in and out, and what is refused."""

import pytest
import torch

from qwq.errors import ModelError
from qwq.model.config import PRESETS, ModelConfig, preset
from qwq.model.model_folder import read_config
from qwq.model.transformer import Transformer

HF_QWEN = {
    "model_type": "qwen2", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip


def test_qwq_32b_preset_is_the_published_shape():
    c = preset("qwq-32b")
    assert (c.num_layers, c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim) == (64, 5120, 40, 8, 128)
    assert (c.intermediate_size, c.vocab_size, c.rope_theta, c.rms_norm_eps, c.tie_embeddings) == (
        27648,
        152064,
        1e6,
        1e-5,
        False,
    )
    # Worked out by hand: 2 x 152064 x 5120 + 64 x (5120 x 7168 + 7168 + 5120 x 5120 + 3 x 5120 x
    # 27648 + 2 x 5120) + 5120
    assert c.num_parameters == 32_763_876_352


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_number_of_parameters_is_what_the_module_holds(name):
    for tied in (True, False):
        config = preset(name, tie_embeddings=tied)
        with torch.device("meta"):
            model = Transformer(config)
        assert config.num_parameters == sum(p.numel() for p in model.parameters())


def test_flops_of_a_hand_sized_model():
    c = ModelConfig("llama", 10, 4, 6, 1, 2, 1, 2, tie_embeddings=False, qkv_bias=False)
    # One layer: q 4x4, k and v 4x2 each, o 4x4, three of 4x6, two norms of 4; then the last norm
    # and the head 4x10.
    weights = 16 + 8 + 8 + 16 + 72 + 8 + 4 + 40
    assert c.flops_per_token() == 2 * weights
    assert c.flops_per_token(context=5) == 2 * weights + 4 * 5 * 4


@pytest.mark.parametrize("name", PRESETS)
def test_config_json_round_trip(name):
    assert ModelConfig.from_hf(preset(name).to_hf()) == preset(name)


def test_defaults_of_older_config_files():
    c = ModelConfig.from_hf(HF_QWEN)
    assert (c.head_dim, c.qkv_bias, c.tie_embeddings, c.rope_theta) == (8, True, True, 1e6)
    llama = {k: v for k, v in HF_QWEN.items() if k not in ("num_key_value_heads", "rope_theta")}
    c = ModelConfig.from_hf(
        llama
        | {
            "model_type": "llama",
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
            "eos_token_id": [7, 8],
        }
    )
    assert (c.num_kv_heads, c.qkv_bias, c.rope_theta, c.eos_token_id) == (4, False, 5e5, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; supported: qwen2, qwen3, llama"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
            "rope type is 'dynamic', this model computes 'default' only",
        ),
        ({"rope_scaling": {"type": "yarn"}}, "YaRN's factor is None: it must be a number of at least 1"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0}}, "YaRN with mscale is not computed here"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias is True"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 key/value heads"),
    ],
)
def test_what_is_not_computed_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        ModelConfig.from_hf(HF_QWEN | change)


def test_missing_field_is_named():
    with pytest.raises(ModelError, match="x/config.json: no 'hidden_size'; a qwen2 config.json needs it"):
        ModelConfig.from_hf({k: v for k, v in HF_QWEN.items() if k != "hidden_size"}, "x/config.json")


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(ModelError, match="no model preset 'tinny': did you mean 'tiny'?"):
        preset("tinny")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: not JSON"),
        ("[1]", "config.json: holds a list, an object is needed"),
        ('{"model_type": "qwen2", "quantization_config": {"quant_method": "gptq"}}', "weights are quantised .gptq."),
        (
            '{"model_type": "qwen2", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, '
            '"num_hidden_layers": 1, "num_attention_heads": "4"}',
            "a field has the wrong type",
        ),
    ],
)
def test_broken_config_files_are_one_line_errors(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_qwen3_has_norms_on_heads_and_a_head_width_of_its_own():
    hf = {
        "model_type": "qwen3", "vocab_size": 10, "hidden_size": 64, "intermediate_size": 6, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
    }  # fmt: skip
    c = ModelConfig.from_hf(hf)
    assert (c.head_dim, c.qk_norm, c.qkv_bias) == (128, True, False)  # 128 is the family's own, not 64 / 2
    # by hand: embedding 10*64; q 64*256, k and v 64*128 each, o 256*64; gate, up, down 64*6 each; 2
    # norms of 64, 2 of 128; last norm 64
    assert c.num_parameters == 640 + 64 * 256 + 2 * 64 * 128 + 256 * 64 + 3 * 64 * 6 + 128 + 256 + 64
    assert ModelConfig.from_hf(c.to_hf()) == c
    with pytest.raises(ModelError, match="attention_bias is True, this model computes False only"):
        ModelConfig.from_hf(hf | {"attention_bias": True})


def test_a_family_is_refused_by_name_with_those_that_there_are():
    with pytest.raises(ModelError, match="model_type 'gemma3' is not supported; supported: qwen2, qwen3, llama"):
        ModelConfig.from_hf({"model_type": "gemma3"})
