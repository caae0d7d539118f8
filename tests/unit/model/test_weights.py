"""Model folders: what is written comes back bit for bit, and every way a folder can be bad has its
one line.
"""

import json
from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from qwq.errors import CapacityError, DataError, ModelError
from qwq.model import model_folder as model_folder
from qwq.model.config import ModelConfig
from qwq.model.layouts import Packed
from qwq.model.logits import logits_of_file, to_line
from qwq.model.model_folder import eos_ids, generation_config, resolve_folder
from qwq.model.names import hf_shapes, state_to_hf
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, load_reward_model, save_model, save_reward_model, state_from_hf

CONFIG = ModelConfig("qwen2", 50, 16, 24, 2, 4, 2, 6, tie_embeddings=True, max_positions=64, eos_token_id=3)


def make(seed: int = 0, **changes) -> Transformer:
    config = replace(CONFIG, **changes)
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.5, generator=generator)
    return model


def assert_same(a: Transformer, b: Transformer) -> None:
    assert a.config == b.config
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": False},
        {"family": "llama", "qkv_bias": False},
        {"family": "qwen3", "qkv_bias": False, "qk_norm": True},
    ],
)
@pytest.mark.parametrize("max_shard_bytes", [1 << 30, 2000])
def test_round_trip_is_exact(tmp_path, changes, max_shard_bytes):
    model = make(**changes)
    save_model(model, tmp_path / "m", max_shard_bytes=max_shard_bytes)
    assert_same(load_model(tmp_path / "m"), model)
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    assert (len(shards) == 1) is (max_shard_bytes > 2000)
    assert sorted(k for s in shards for k in load_file(s)) == sorted(hf_shapes(model.config))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]  # no partial folder left


def test_fused_matrices_are_split_by_rows():
    model = make()
    hf = state_to_hf(CONFIG, model.state_dict())
    qkv = model.state_dict()["blocks.1.qkv.weight"]
    assert torch.equal(hf["model.layers.1.self_attn.q_proj.weight"], qkv[:24])
    assert torch.equal(hf["model.layers.1.self_attn.k_proj.weight"], qkv[24:36])
    assert torch.equal(hf["model.layers.1.self_attn.v_proj.weight"], qkv[36:])
    assert torch.equal(hf["model.layers.0.mlp.up_proj.weight"], model.state_dict()["blocks.0.gate_up.weight"][24:])
    back = state_from_hf(CONFIG, hf)
    assert all(torch.equal(back[k], v) for k, v in model.state_dict().items())
    with pytest.raises(ModelError, match="1 missing .model.norm.weight."):
        state_from_hf(CONFIG, {k: v for k, v in hf.items() if k != "model.norm.weight"})


def test_dtypes_on_disk_and_in_memory(tmp_path):
    save_model(make(), tmp_path / "m", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(tmp_path / "m/model.safetensors").values()} == {torch.bfloat16}
    loaded = load_model(tmp_path / "m")
    assert loaded.embed.weight.dtype == torch.float32
    assert torch.equal(loaded.embed.weight, make().embed.weight.bfloat16().float())
    assert load_model(tmp_path / "m", dtype=torch.bfloat16).norm.weight.dtype == torch.bfloat16


def test_loaded_model_trains_and_owns_its_memory(tmp_path):
    save_model(make(), tmp_path / "m")
    model = load_model(tmp_path / "m")
    before = (tmp_path / "m/model.safetensors").read_bytes()
    model.logits(model(torch.tensor([1, 2, 3]), Packed([3]))).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None and p.is_leaf
            p.zero_()
    assert (tmp_path / "m/model.safetensors").read_bytes() == before


def test_saving_again_replaces_the_weights_and_keeps_other_files(tmp_path):
    """Sharded over single and back: the old files would be read, or lie about, if they stayed."""
    target = tmp_path / "m"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    for seed, limit in ((1, 1 << 30), (2, 2000), (3, 4000), (4, 1 << 30)):
        save_model(make(seed), target, max_shard_bytes=limit)
        assert_same(load_model(target), make(seed))
        index = target / "model.safetensors.index.json"
        named = set(json.loads(index.read_text())["weight_map"].values()) if limit < 1 << 30 else {"model.safetensors"}
        assert {p.name for p in target.glob("*.safetensors")} == named
        assert index.exists() is (limit < 1 << 30)
    assert (target / "notes.txt").read_text() == "mine"


def test_a_save_that_dies_leaves_no_folder(tmp_path, monkeypatch):
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("qwq.model.weights.write_atomic", die)
    with pytest.raises(KeyboardInterrupt):
        save_model(make(), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    monkeypatch.undo()
    save_model(make(), tmp_path / "m")
    assert_same(load_model(tmp_path / "m"), make())


def test_generation_config_and_end_tokens(tmp_path):
    save_model(make(), tmp_path / "m", generation={"eos_token_id": [5, 3], "temperature": 0.6})
    assert generation_config(tmp_path / "m") == {"eos_token_id": [5, 3], "temperature": 0.6}
    assert eos_ids(tmp_path / "m") == (5, 3)
    save_model(make(), tmp_path / "n")
    assert generation_config(tmp_path / "n") == {} and eos_ids(tmp_path / "n") == (3,)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_reward_model_round_trip(tmp_path, family):
    backbone, score = make(family=family, qkv_bias=family == "qwen2", tie_embeddings=False), torch.randn(1, 16)
    save_reward_model(backbone, score, tmp_path / "r")
    loaded, weight = load_reward_model(tmp_path / "r")
    assert torch.equal(weight, score) and loaded.head is None
    ids, layout = torch.tensor([1, 2, 3]), Packed([3])
    torch.testing.assert_close(loaded(ids, layout), backbone(ids, layout), rtol=0, atol=0)
    save_model(make(), tmp_path / "m")
    with pytest.raises(ModelError, match="is no reward model: it has no score.weight"):
        load_reward_model(tmp_path / "m")
    fails(tmp_path / "r", "is a reward model .it has score.weight. and cannot write text")


def test_a_reward_models_head_stays_in_float32(tmp_path):
    """A score of 1 + 2^-10 would be 1 in bfloat16.

    The index counts 4 bytes for each of its numbers and 2 for the others.
    """
    backbone, score = make(tie_embeddings=False).bfloat16(), torch.full((1, 16), 1 + 2.0**-10)
    save_reward_model(backbone, score, tmp_path / "r", max_shard_bytes=2000)
    index = json.loads((tmp_path / "r" / "model.safetensors.index.json").read_text())
    stored = {k: v for file in set(index["weight_map"].values()) for k, v in load_file(tmp_path / "r" / file).items()}
    assert stored["score.weight"].dtype == torch.float32 and {
        t.dtype for k, t in stored.items() if k != "score.weight"
    } == {torch.bfloat16}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored.values())
    loaded, weight = load_reward_model(tmp_path / "r", dtype=torch.bfloat16)
    assert torch.equal(weight, score) and loaded.embed.weight.dtype == torch.bfloat16


# -- bad folders -----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    save_model(make(), tmp_path / "m")
    return tmp_path / "m"


def rewrite(saved, change) -> None:
    tensors = load_file(saved / "model.safetensors")
    change(tensors)
    save_file(tensors, saved / "model.safetensors")


def fails(model, message: str, error=ModelError) -> None:
    with pytest.raises(error, match=message) as caught:
        load_model(model)
    assert "\n" not in str(caught.value)


def test_missing_folder_names_the_repair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = "no model folder at .*: give a folder with config.json .*`qwq train RECIPE` writes"
    fails(tmp_path / "nothing", message)
    fails("runs/tiny", message)  # has the shape of a hub name, but is where runs live
    fails("./a/b", message)
    (tmp_path / "file").write_text("")
    fails(tmp_path / "file", "is a file: give the folder")


def test_a_run_folder_points_to_its_models(tmp_path):
    (tmp_path / "checkpoints/rl1/final").mkdir(parents=True)
    fails(tmp_path, "no config.json in .*this is a run's folder, its models are .*checkpoints/rl1/final")


def test_hub_names_are_downloaded_and_failures_are_one_line(tmp_path, saved, monkeypatch):
    import huggingface_hub

    asked = []

    def give(name, *, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, revision, allow_patterns))
        return str(saved)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert resolve_folder("Some-Org/model-0.5b") == saved
    assert resolve_folder("hf:Some-Org/model-0.5b@v2") == saved
    files = model_folder.HUB_FILES
    assert asked == [("Some-Org/model-0.5b", "model", revision, files) for revision in (None, "v2")]
    assert not any("bin" in pattern or "*.py" in pattern for pattern in model_folder.HUB_FILES)

    def refuse(name, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot be reached\nand is not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    fails("Some-Org/model", "the hub does not give it .LocalEntryNotFoundError: cannot be reached and is not")


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_weights_show_both_sizes(saved, keep):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    needed = len(whole) if keep == -1 else r"\d+"
    fails(saved, rf"model.safetensors is cut short: {len(whole[:keep])} bytes are there, {needed} are needed")


def test_other_bytes_are_no_safetensors(saved):
    path = saved / "model.safetensors"
    path.write_bytes(b"\x80\x02}q\x00." * 100)
    fails(saved, "model.safetensors: not a safetensors file")
    path.write_bytes((20).to_bytes(8, "little") + b"x" * 100)
    fails(saved, "its safetensors header cannot be read")


def test_missing_and_unexpected_tensors_are_named(saved):
    rewrite(saved, lambda t: t.pop("model.layers.0.self_attn.q_proj.bias"))
    fails(saved, r"do not match config.json .qwen2, 2 layers.: 1 missing .model.layers.0.self_attn.q_proj.bias.$")
    rewrite(saved, lambda t: t.update({"model.layers.2.extra": torch.zeros(1)}))
    fails(saved, r"1 missing .* and 1 unexpected .model.layers.2.extra.$")


def test_leftovers_of_older_writers_are_ignored(saved):
    rewrite(
        saved,
        lambda t: t.update(
            {
                "lm_head.weight": t["model.embed_tokens.weight"].clone(),
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(3),
            }
        ),
    )
    assert_same(load_model(saved), make())


def test_wrong_shapes_show_both_sides(saved):
    rewrite(saved, lambda t: t.update({"model.norm.weight": torch.zeros(17)}))
    fails(saved, r"model.norm.weight is \[17\], config.json asks for \[16\]")


def test_integer_weights_are_refused(saved):
    rewrite(saved, lambda t: t.update({"model.norm.weight": torch.zeros(16, dtype=torch.int8)}))
    fails(saved, "model.norm.weight is stored as I8; F32, F16, BF16")


def test_pickles_are_never_loaded(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    fails(saved, "weights only as pytorch_model.bin, a pickle, which is never loaded")
    (saved / "pytorch_model.bin").unlink()
    fails(saved, "no weights in .*: neither model.safetensors nor model.safetensors.index.json")


def test_an_index_cannot_name_files_elsewhere(tmp_path):
    save_model(make(), tmp_path / "m", max_shard_bytes=2000)
    index = tmp_path / "m/model.safetensors.index.json"
    (tmp_path / "m/model-00002-of-00008.safetensors").unlink(missing_ok=True)
    for other in ("model-9.safetensors", "../m/model.safetensors"):
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": other}}))
        fails(tmp_path / "m", "names .*, which is not in")
    index.write_text("{}")
    fails(tmp_path / "m", "no weight_map")


# -- qwq logits ------------------------------------------------------------------------------------


def test_logits_lines_give_back_the_same_float32(saved, tmp_path):
    file = tmp_path / "ids.jsonl"
    file.write_text('{"ids": [1, 2, 3], "note": "x"}\n{"ids": [7]}\n')
    rows = list(logits_of_file(saved, file))
    model = make()
    for i, ids in enumerate(([1, 2, 3], [7])):
        expected = model.logits(model(torch.tensor(ids), Packed([len(ids)]))).detach().numpy()
        line = orjson.loads(to_line(rows[i]))
        assert line["index"] == i
        assert np.array_equal(np.array(line["logits"], dtype=np.float32), rows[i]["logits"])
        np.testing.assert_allclose(rows[i]["logits"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"ids": [1, 2', "line 2: not JSON"),
        ("[1]", 'line 2: "ids" must be a list'),
        ('{"ids": []}', 'line 2: "ids" must be a list of at least one'),
        ('{"ids": [1.5]}', 'line 2: "ids" must be a list of at least one whole number'),
        ('{"ids": [true]}', 'line 2: "ids" must be'),
        ('{"ids": [1, 50]}', "line 2: id 50 is outside the model's vocabulary, 0 to 49"),
        ('{"ids": [-1]}', "line 2: id -1 is outside"),
        ('{"ids": [' + "1, " * 64 + "1]}", "line 2: 65 ids, the model reads at most 64"),
        ("", "line 2: not JSON"),
    ],
)
def test_bad_logits_lines_name_file_and_line(saved, tmp_path, line, message):
    file = tmp_path / "ids.jsonl"
    file.write_text('{"ids": [1]}\n' + line + "\n")
    rows = logits_of_file(saved, file)
    assert next(rows)["index"] == 0
    with pytest.raises(DataError, match=f"ids.jsonl, {message}") as caught:
        next(rows)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_logits_files(saved, tmp_path):
    with pytest.raises(DataError, match="no file at .*give a file of JSON lines with"):
        next(logits_of_file(saved, tmp_path / "no.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="empty.jsonl is empty"):
        next(logits_of_file(saved, tmp_path / "empty.jsonl"))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = make()
    save_model(model, tmp_path / "m")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    stored["model.layers.1.mlp.down_proj.weight"][3, 2] = float("nan")
    save_file(stored, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj\.weight holds NaN or infinite weights"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_not_written(tmp_path, bad):
    model = make()
    with torch.no_grad():
        model.blocks[1].down.weight[3, 2] = bad
    with pytest.raises(
        ModelError,
        match=r"layers\.1\.mlp\.down_proj\.weight holds NaN or infinite weights as float32, so the model is not "
        r"written",
    ):
        save_model(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_weights_beyond_a_narrow_dtype_are_not_written_as_infinities(tmp_path):
    model = make()
    with torch.no_grad():
        model.blocks[0].o.weight[0, 0] = 1e6  # float16 ends at 65,504
    save_model(model, tmp_path / "wide")
    with pytest.raises(ModelError, match="infinite weights as float16"):
        save_model(model, tmp_path / "narrow", dtype=torch.float16)


@pytest.mark.parametrize("device", ["banana", "cuda:77", "cuda:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path, device):
    with pytest.raises(CapacityError, match=f"device '{device}'.*(use cpu|use one of these)"):
        load_model(tmp_path / "nowhere", device=device)


def test_loading_says_how_far_it_is(tmp_path):
    model, seen = make(), []
    save_model(model, tmp_path / "m")
    load_model(tmp_path / "m", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (model.config.num_parameters, model.config.num_parameters)
