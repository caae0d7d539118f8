"""Parity with Hugging Face transformers: same logits both ways, same tokens, same rendered text."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="parity needs transformers (pip install qwq[dev])")

from qwq.model.config import ModelConfig
from qwq.model.layouts import Packed
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, load_reward_model, save_model, save_reward_model
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, ToolCall

QWEN = ModelConfig(
    "qwen2", 97, 32, 48, 2, 4, 2, 8, rope_theta=1e6, rms_norm_eps=1e-6, tie_embeddings=True, max_positions=128
)
SHAPES = {
    "qwen2-tied": QWEN,
    "qwen2-untied-eps-theta": replace(QWEN, tie_embeddings=False, rms_norm_eps=1e-5, rope_theta=1e4),
    "qwen2-wide-heads": replace(QWEN, head_dim=24, num_kv_heads=1),
    "qwen3-tied": replace(QWEN, family="qwen3", qkv_bias=False, qk_norm=True),
    "qwen3-untied-own-head-dim": replace(
        QWEN, family="qwen3", qkv_bias=False, qk_norm=True, tie_embeddings=False, head_dim=24
    ),
    "llama-tied": replace(QWEN, family="llama", qkv_bias=False, rms_norm_eps=1e-5, rope_theta=5e5),
    "llama-untied-mha-wide": replace(
        QWEN,
        family="llama",
        qkv_bias=False,
        tie_embeddings=False,
        hidden_size=64,
        num_kv_heads=4,
        head_dim=12,
        rope_theta=1e4,
    ),
}
MESSAGES = (
    Message("system", "Be brief <b>&</b>."),
    Message("user", "What is 12*13 <think>?"),
    Message("assistant", "<think>\n12*13\n</think>", (ToolCall("calculator", {"expression": "12*13 é"}),)),
    Message("tool", "156"),
)
TOOLS = (
    {
        "type": "function",
        "function": {"name": "calculator", "parameters": {"properties": {"expression": {"type": "string"}}}},
    },
)


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that every part of the model matters to the logits, norms and biases
    included.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(1.0 if p.ndim == 1 and p.shape[0] != 1 else 0.0, 0.2, generator=generator)


def ours(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    randomise(model)
    return model


IDS = torch.randint(0, 97, (1, 40), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def assert_same_logits(mine: Transformer, theirs: torch.nn.Module) -> None:
    got = mine.logits(mine(IDS[0], Packed([40])))
    expected = theirs(IDS).logits[0]
    assert expected.std() > 0.5  # not a comparison of noughts
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shard", ["single", "sharded"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_we_write_loads_there_with_equal_logits(tmp_path, name, shard):
    model = ours(SHAPES[name])
    save_model(
        model,
        tmp_path / "m",
        max_shard_bytes=20_000 if shard == "sharded" else 1 << 30,
        generation={"eos_token_id": [5, 3]},
    )
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > (shard == "sharded")
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert theirs.generation_config.eos_token_id == [5, 3]
    assert_same_logits(model, theirs.eval())


@pytest.mark.parametrize("shard", ["single", "sharded"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_they_write_loads_here_with_equal_logits(tmp_path, name, shard):
    config = transformers.AutoConfig.for_model(**SHAPES[name].to_hf())
    theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(theirs, seed=1)
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path / "m", max_shard_size="20KB" if shard == "sharded" else "1GB")
    assert (tmp_path / "m/model.safetensors.index.json").exists() is (shard == "sharded")
    mine = load_model(tmp_path / "m")
    assert mine.config == SHAPES[name]
    assert_same_logits(mine, theirs)


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen3-untied-own-head-dim", "llama-untied-mha-wide"])
def test_gradients_equal(tmp_path, name):
    model = ours(SHAPES[name])
    save_model(model, tmp_path / "m")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    labels = IDS[0, 1:]
    torch.nn.functional.cross_entropy(model.logits(model(IDS[0], Packed([40])))[:-1], labels).backward()
    torch.nn.functional.cross_entropy(theirs(IDS).logits[0, :-1], labels).backward()
    split = {n: p.grad for n, p in model.named_parameters()}
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    if model.config.qk_norm:
        torch.testing.assert_close(
            split["blocks.1.q_norm.weight"], grads["model.layers.1.self_attn.q_norm.weight"], rtol=1e-4, atol=1e-6
        )
    torch.testing.assert_close(split["embed.weight"], grads["model.embed_tokens.weight"], rtol=1e-4, atol=1e-6)
    q, k, v = (grads[f"model.layers.1.self_attn.{n}_proj.weight"] for n in "qkv")
    torch.testing.assert_close(split["blocks.1.qkv.weight"], torch.cat((q, k, v)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["qwen2-tied", "qwen3-untied-own-head-dim", "llama-untied-mha-wide"])
@torch.no_grad()
def test_reward_model_loads_as_sequence_classifier(tmp_path, name):
    backbone, score = (
        ours(SHAPES[name]),
        torch.randn(1, SHAPES[name].hidden_size, generator=torch.Generator().manual_seed(5)),
    )
    save_reward_model(backbone, score, tmp_path / "r")
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "r", output_loading_info=True, dtype=torch.float32
    )
    assert theirs.config.num_labels == 1 and not info["missing_keys"] and not info["unexpected_keys"]
    loaded, weight = load_reward_model(tmp_path / "r")
    got = loaded(IDS[0], Packed([40]))[-1] @ weight[0]
    torch.testing.assert_close(got, theirs.eval()(IDS).logits[0, 0], rtol=0, atol=1e-5)


def test_a_tokenizer_we_train_loads_there(tmp_path):
    text = default_template().render(MESSAGES, tools=TOOLS)
    chat = ChatFormat(train_bpe([text] * 4, 300), default_template())
    chat.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    sample = text + "\n\n  don't 12345\t日本 e\u0301 <|endoftext|> </tool_response>"
    assert theirs(sample)["input_ids"] == chat.tokenizer.encode_rendered(sample)
    assert theirs.decode(theirs(sample)["input_ids"]) == sample
    assert theirs.eos_token_id == chat.eos_ids[0] and len(theirs) == chat.tokenizer.vocab_size
    ids = [theirs.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<think>")]
    assert theirs.decode(ids, skip_special_tokens=True) == "<think>"
    dicts = [m.to_dict() for m in MESSAGES]
    assert theirs.apply_chat_template(dicts, tools=list(TOOLS), tokenize=False) == text


MODELS = Path(__file__).parents[3] / "shared" / "models"


@pytest.mark.skipif(not MODELS.is_dir(), reason="needs the templates in ../shared/models")
@pytest.mark.parametrize("name", ["qwq-32b", "qwen2.5-coder-0.5b-instruct"])
def test_real_templates_render_as_there(name):
    from transformers.utils.chat_template_utils import render_jinja_template

    from qwq.text.template import ChatTemplate

    source = (MODELS / name / "chat_template.jinja").read_text()
    for messages, tools in ((MESSAGES, TOOLS), (MESSAGES[1:2], ())):
        dicts = [m.to_dict() for m in messages]
        theirs, _ = render_jinja_template(
            [dicts], tools=list(tools) or None, chat_template=source, add_generation_prompt=True
        )
        assert ChatTemplate(source).render(messages, tools=tools, add_generation_prompt=True) == theirs[0]
