"""The plan of a recipe: counts worked out by hand, memory against what is really held, and the
check for capacity.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.stages import stage_memory, stage_plan

from qwq.common import memory
from qwq.common.run_folder import RunFolder
from qwq.config import Recipe, load_recipe
from qwq.engine.multi_step import PREFILL_TOKENS
from qwq.errors import CapacityError, DataError, ModelError
from qwq.model import footprint
from qwq.model.config import ModelConfig, preset
from qwq.model.layouts import JoinedPrefix, KVCache, Packed, SharedPrefix
from qwq.model.transformer import Transformer
from qwq.pipeline.check import check_capacity
from qwq.pipeline.plan.counts import PlanContext, count
from qwq.pipeline.plan.explain import explain, explain_with_cluster
from qwq.pipeline.plan.micro_batches import MicroBatches, micro_batches_of
from qwq.pipeline.plan.peak import evaluation_memory
from qwq.pipeline.plan.rows import read_own_data
from qwq.pipeline.plan.shape import model_config
from qwq.tasks.published import how_to_get
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.train.losses import CHUNK_LOGITS, logprobs

RECIPES = Path(__file__).parents[3] / "recipes"
GIB = 2**30
RL = {
    "name": "x",
    "model": {"preset": "tiny"},
    "compute": {"max_rows": 16, "micro_batch_tokens": 1000},
    "stages": {
        "pretrain": {"kind": "pretrain", "tokens": 10_000, "batch_tokens": 512, "mix": {"math": 1.0}},
        "rl1": {"kind": "rl1", "steps": 5, "prompts": 6, "samples": 4, "max_new_tokens": 100, "mix": {"math": 1.0}},
        "reward_model": {"kind": "reward_model", "pairs": 50, "batch_pairs": 8, "epochs": 2},
        "rl2": {
            "kind": "rl2",
            "steps": 5,
            "prompts": 6,
            "samples": 4,
            "max_new_tokens": 100,
            "mix": {"preference": 1.0},
            "contract": {"domains": []},
        },
    },
}


def recipe(**overrides: Any) -> Recipe:
    from qwq.config import apply_override

    data = json.loads(json.dumps(RL))
    for dotted, value in overrides.items():
        apply_override(data, dotted.replace("__", "."), value)
    return Recipe.model_validate(data)


def small(**fields: Any) -> ModelConfig:
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_layers": 3, "num_heads": 4}
    return ModelConfig(
        **({"family": "qwen2", **sizes, "num_kv_heads": 2, "head_dim": 16, "tie_embeddings": True} | fields)
    )


# -- counts ----------------------------------------------------------------------------------------


def test_counts_of_an_rl_stage() -> None:
    """Groups of 4 x 100 tokens, 1000 in a micro-batch: 2 groups each, so 3 micro-batches for 6
    prompts.
    """
    found = stage_plan(recipe(), "rl1", preset("tiny"))
    assert found.steps == 5
    assert found.work == "6 prompts x 4 samples x 100 new tokens, 3 micro-batches x 1 update"
    assert found.tokens == 5 * 6 * 4 * 100
    more = stage_plan(recipe(stages__rl1__updates=2, stages__rl1__refill=1), "rl1", preset("tiny"))
    assert more.work.endswith("3 micro-batches x 2 updates, up to 1 refill")
    assert more.tokens == 2 * found.tokens


def test_a_group_larger_than_a_micro_batch_is_divided() -> None:
    """Groups of 4 x 100 tokens, 250 in a micro-batch: 2 completions each, so 2 parts a group, 12
    for 6 prompts; an update computes each prompt twice.
    """
    config, plain, divided = preset("tiny"), recipe(), recipe(compute__micro_batch_tokens=250)
    found = stage_plan(divided, "rl1", config)
    assert found.work == "6 prompts x 4 samples x 100 new tokens, 12 micro-batches x 1 update"
    prompt = divided.stages["rl1"].prompt_lengths(PlanContext(divided, "rl1", config)).mean
    again = 5 * 3 * 6 * prompt * config.flops_per_token(int(prompt + 50))
    assert found.flops - stage_plan(plain, "rl1", config).flops == pytest.approx(again)
    # Two completions and the prompt; of a part smaller than a completion, that completion.
    assert micro_batches_of(divided.stages["rl1"], 250) == MicroBatches(12, 2, 1, 2)
    assert micro_batches_of(divided.stages["rl1"], 1) == MicroBatches(24, 1, 1, 4)
    assert micro_batches_of(divided.stages["rl1"], 1000) == MicroBatches(3, 8, 2, 1)


def test_flops_of_an_rl_stage() -> None:
    """Sampling is one forward pass over prompts and answers, an update three; KL adds the
    reference's.
    """
    config, small_recipe = preset("tiny"), recipe()
    prompt = small_recipe.stages["rl1"].prompt_lengths(PlanContext(small_recipe, "rl1", config)).mean
    forward = 5 * (6 * prompt + 6 * 4 * 100) * config.flops_per_token(int(prompt + 50))
    assert stage_plan(small_recipe, "rl1", config).flops == pytest.approx(4 * forward)
    with_kl = stage_plan(recipe(stages__rl1__kl=0.01), "rl1", config).flops
    assert with_kl == pytest.approx(5 * forward)


def test_counts_of_the_other_stages() -> None:
    config = preset("tiny")
    pretrain = stage_plan(recipe(), "pretrain", config)
    assert (pretrain.steps, pretrain.tokens) == (20, 10_000)  # 10000 / 512, rounded up
    assert pretrain.flops == 3 * 10_000 * config.flops_per_token()
    assert stage_plan(recipe(), "reward_model", config).steps == 14  # 2 epochs of 50 / 8, rounded up
    tiny = load_recipe(RECIPES / "tiny.toml")
    control = next(n for n, s in tiny.stages.items() if s.kind == "control")
    assert stage_plan(tiny, control, config).steps is None
    fixed = load_recipe(RECIPES / "tiny.toml", {f"stages.{control}.steps": 7})
    assert stage_plan(fixed, control, config).steps == 7


@pytest.mark.parametrize(
    ("number", "text"), [(950, "950"), (12_345, "12,345"), (3_400_000, "3.4M"), (32.8e9, "32.8G"), (5e15, "5P")]
)
def test_count(number: float, text: str) -> None:
    assert count(number) == text


def test_lengths_in_tokens_are_on_the_high_side_of_a_real_tokenizer() -> None:
    from qwq.tasks import get
    from qwq.text.template import ChatFormat, default_template
    from qwq.text.tokenizer import train_bpe

    problems = [get("math").problem(0, "train", i) for i in range(300)]
    template = default_template()
    chat = ChatFormat(train_bpe([template.render(p.messages) for p in problems], 400), template)
    longest = max(len(chat.prompt_ids(p.messages)) for p in problems)
    assert (
        longest
        <= recipe().stages["rl1"].prompt_lengths(PlanContext(recipe(), "rl1", preset("tiny"))).longest
        <= 2.5 * longest
    )


# -- memory ----------------------------------------------------------------------------------------


def saved_for_backward(config: ModelConfig, layout: Any, num_tokens: int) -> int:
    """Numbers that autograd holds after a forward pass, without the parameters."""
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in own:
            held.setdefault(t.untyped_storage().data_ptr(), t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        hidden = model(torch.zeros(num_tokens, dtype=torch.long), layout)
    assert hidden.requires_grad
    return sum(t.untyped_storage().nbytes() for t in held.values()) // 4


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_layers": 8},
        {"intermediate_size": 640},
        {"num_kv_heads": 4},
        {"family": "llama", "qkv_bias": False},
        {"family": "qwen3", "qkv_bias": False, "qk_norm": True},
    ],
)
def test_activations_are_what_autograd_holds(fields: dict[str, Any]) -> None:
    config = small(**fields)
    groups = ([50, 40], [[60, 80, 70], [90, 50]])
    even = ([50, 50], [[60, 60, 60], [60, 60, 60]])  # padding is counted, so equal lengths are exact
    packed = footprint.packed_copies(config, 4, 90, 64.0)
    shared = footprint.shared_copies(config, 5, 90, 2, 50)
    for layout, n, copies, spare in (
        (Packed([70, 70, 70]), 210, 0, 1.05),
        (Packed([40, 70, 55, 90]), 255, packed, 1.05),
        (SharedPrefix(*groups), 440, shared, 1.05),
        (SharedPrefix(*even), 460, footprint.shared_copies(config, 6, 60, 2, 50), 1.05),
        (JoinedPrefix(*groups), 440, footprint.joined_copies(config, 5, 90, 2, 50), 1.1),
    ):
        estimate, held = footprint.activation_values(config, n, copies), saved_for_backward(config, layout, n)
        assert held / 1.07 < estimate < spare * held, (layout, estimate / held)


def test_parts_are_the_sizes_of_the_tensors() -> None:
    """Weights and moments by the model itself, the cache by the cache itself."""
    config, rl = small(), recipe(stages__rl1__kl=0.01)
    weights = sum(p.numel() * 4 for p in Transformer(config).parameters())
    memory = stage_memory(rl, "rl1", config)
    assert memory.parts["weights"] == memory.parts["reference"] == weights
    assert memory.parts["AdamW"] == 2 * weights
    assert "reference" not in stage_memory(recipe(), "rl1", config).parts
    assert stage_memory(recipe(), "rl2", config).parts["reward model"] == weights
    rollback = stage_memory(recipe(stages__rl2__contract__on_breach="rollback"), "rl2", config)
    assert rollback.parts["last good check"] == 3 * weights  # the weights and two moments
    assert "last good check" not in stage_memory(recipe(stages__rl2__contract__on_breach="hold"), "rl2", config).parts
    cache = KVCache(config, 16, 150)
    parts = footprint.sampling_parts(config, 16, 50, 100, 4)
    kept = 16 * 100 * 28  # ids, masks, forced ids (8 bytes each) and log-probabilities (4)
    assert parts["key/value cache"] == cache.k.nbytes + cache.v.nbytes + kept


def test_what_samples_in_16_bits_holds_half() -> None:
    """The evaluation of a run in bfloat16 was counted with weights and cache in float32."""
    config = small()
    exact, half = (
        evaluation_memory(recipe(compute__dtype=d, eval__math=4), config).parts for d in ("float32", "bfloat16")
    )
    kept = 4 * recipe().eval.max_new_tokens * 28  # of 4 rows, as above
    assert exact["weights"] == 4 * config.num_parameters and half["weights"] == 2 * config.num_parameters
    assert half["packed weights"] == 2 * config.num_parameters and "packed weights" not in exact
    assert 2 * (half["key/value cache"] - kept) == exact["key/value cache"] - kept
    assert 2 * half["activations"] == exact["activations"] and half["logits"] == exact["logits"]
    on_gpu = evaluation_memory(recipe(compute__dtype="bfloat16", compute__device="cuda", eval__math=4), config).parts
    assert on_gpu["weights"] == 2 * config.num_parameters and not {"packed weights", "program"} & on_gpu.keys()


def test_the_constants_are_those_of_the_code_they_speak_of() -> None:
    assert footprint.PREFILL_TOKENS == PREFILL_TOKENS
    for name in ("CHUNK_LOGITS", "KEPT_PROBS", "WHOLE_VOCABULARY", "BLOCK_TOKENS", "BLOCK_ENTRIES"):
        assert getattr(footprint, name) == getattr(logprobs, name), name


def test_a_large_vocabulary_costs_a_block_of_logits_on_a_cpu_and_rows_of_them_on_a_gpu() -> None:
    config = replace(small(), vocab_size=150_000)
    frozen = config.num_parameters - 1  # the head has no gradient
    parts = [footprint.update_parts(config, 2000, trained=frozen, device=d) for d in ("cpu", "cuda")]
    block, rows = (p["logits"] + p["activations"] for p in parts)
    assert rows - block == 4 * 2 * (CHUNK_LOGITS - 512 * 4096)


MEASURE = """
import json, sys, threading, time
from pathlib import Path
from qwq.config import load_recipe
from qwq.pipeline.run import RecipeRun

recipe = load_recipe(sys.argv[1])
peak = [0]
def watch():
    while True:
        line = next(l for l in open("/proc/self/status") if l.startswith("VmRSS"))
        peak[0] = max(peak[0], int(line.split()[1]) * 1024)
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
run = RecipeRun(recipe, Path(sys.argv[2]))
run.run()
rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").open()]
print(json.dumps({"peak": peak[0], "trained": max(r.get("trained_tokens", 0) for r in rows)}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_estimate_against_the_measured_peak_of_a_run(tmp_path: Path) -> None:
    """An untrained model answers to the cap, so the update is as large as the plan says; within a
    factor of 1.5.
    """
    text = """
name = "peak"
model = { preset = "tiny" }
compute = { threads = 1, micro_batch_tokens = 16384 }
[stages.pretrain]
kind = "pretrain"
tokens = 600
mix = { math = 1.0 }
evaluate = false
[stages.rl1]
kind = "rl1"
steps = 1
prompts = 16
samples = 8
max_new_tokens = 64
mix = { math = 1.0 }
drop_zero_signal = false
evaluate = false
"""
    (tmp_path / "r.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "r.toml"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    loaded = load_recipe(tmp_path / "r.toml")
    estimate = stage_memory(loaded, "rl1", model_config(loaded)).total
    assert found["trained"] > 0.5 * 16 * 8 * 64  # else there was nothing to measure
    assert 1 / 1.5 < estimate / found["peak"] < 1.5, (
        f"estimated {estimate / GIB:.2f} GiB, measured {found['peak'] / GIB:.2f}"
    )


# -- what is free ----------------------------------------------------------------------------------


def test_free_memory_knows_cgroup_limits(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/a/b\n")
    assert memory._cgroup_free(tmp_path, tmp_path / "own") == []
    (tmp_path / "a/memory.max").write_text("1000\n")
    (tmp_path / "a/memory.current").write_text("700\n")
    (tmp_path / "a/memory.stat").write_text("anon 400\ninactive_file 250\n")
    (tmp_path / "a/b/memory.max").write_text("max\n")
    (tmp_path / "a/b/memory.current").write_text("600\n")
    assert memory._cgroup_free(tmp_path, tmp_path / "own") == [550]  # 1000 - 700, and 250 that the kernel gives back
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("900\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text("850\n")
    assert memory._cgroup_free(tmp_path, tmp_path / "own") == [50, 550]


def test_free_memory_is_the_tightest_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = memory.free_memory()
    assert wide > 0
    monkeypatch.setattr(memory, "_cgroup_free", lambda: [1000])
    assert memory.free_memory() < wide


# -- the check -------------------------------------------------------------------------------------


def test_what_fits_passes(tmp_path: Path) -> None:
    for name in RL["stages"]:
        check_capacity(recipe(), name, RunFolder(tmp_path))


def test_too_much_is_refused_with_both_sides_and_the_option_to_lower(tmp_path: Path) -> None:
    with pytest.raises(
        CapacityError,
        match=r"stage rl1 needs about \d+\.\d GiB \(activations .*GiB are free: lower compute.micro_batch_tokens",
    ):
        check_capacity(
            recipe(compute__micro_batch_tokens=10**8, stages__rl1__prompts=10**6), "rl1", RunFolder(tmp_path)
        )
    rows = recipe(compute__max_rows=10**7, stages__rl1__prompts=10**7)
    with pytest.raises(CapacityError, match=r"\(key/value cache .* lower compute.max_rows \(now 10000000\)") as error:
        check_capacity(rows, "rl1", RunFolder(tmp_path))
    assert "\n" not in str(error.value)
    # A large group is divided, but its tokens are held: 6 x 10^7 x 100 of 84 bytes.
    with pytest.raises(CapacityError, match=r"rollouts 469\.4.* lower stages.rl1.samples \(now 10000000\)"):
        check_capacity(recipe(stages__rl1__samples=10**7), "rl1", RunFolder(tmp_path))
    long = recipe(stages__rl1__max_new_tokens=10**7, compute__max_rows=1)
    assert "stages.rl1.max_new_tokens (now 10000000)" in stage_memory(long, "rl1", small()).repairs["activations"]
    with pytest.raises(CapacityError, match=r"stage pretrain .* lower stages.pretrain.batch_tokens \(now 1000000000\)"):
        check_capacity(recipe(stages__pretrain__batch_tokens=10**9), "pretrain", RunFolder(tmp_path))
    with pytest.raises(CapacityError, match=r"the evaluation after stage rl1 needs .* lower compute.max_rows"):
        check_capacity(recipe(compute__max_rows=10**8, eval__math=10**8), "rl1", RunFolder(tmp_path))


def test_a_model_that_cannot_fit_at_all_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Qwen's 32.8 billion parameters in float32: 122.1 GiB of weights, and the same again three
    times to train them.
    """
    monkeypatch.setattr("qwq.pipeline.check.free_memory", lambda device: 16 * GIB)
    with pytest.raises(
        CapacityError, match=r"weights 122\.1, gradients 122\.1.* 16\.0 GiB are free: use a smaller model"
    ):
        check_capacity(recipe(model__preset="qwq-32b"), "pretrain", RunFolder(tmp_path))


def test_the_check_reads_the_model_that_was_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    final = tmp_path / "checkpoints/pretrain/final"
    final.mkdir(parents=True)
    (final / "config.json").write_text(json.dumps(preset("qwq-32b").to_hf()))
    monkeypatch.setattr("qwq.pipeline.check.free_memory", lambda device: 16 * GIB)
    with pytest.raises(CapacityError, match="stage rl1 needs"):
        check_capacity(recipe(), "rl1", RunFolder(tmp_path))


# -- the text --------------------------------------------------------------------------------------


def test_explain_names_every_stage_and_what_is_done(tmp_path: Path) -> None:
    tiny = load_recipe(RECIPES / "tiny.toml")
    (tmp_path / "tiny/stages").mkdir(parents=True)
    (tmp_path / "tiny/stages/pretrain.json").write_text("{}")
    text = explain(tiny, tmp_path)
    lines = text.splitlines()
    for name, stage in tiny.stages.items():
        assert any(line.startswith(f"{name} ") and stage.kind in line for line in lines)
    assert "pretrain (done)" in text and "sft (done)" not in text
    rl1 = next(line for line in lines if line.startswith("rl1"))
    stage = tiny.stages["rl1"]
    assert f"{stage.prompts} prompts x {stage.samples} samples x {stage.max_new_tokens} new tokens" in rl1
    assert f"{tiny.eval.math:,} math" in text and "Free: " in text


def test_explain_of_the_32b_model() -> None:
    text = explain(recipe(model__preset="qwq-32b"))
    assert "qwq-32b, 32.8B parameters (qwen2, 64 layers, hidden 5120, vocabulary 152,064)" in text
    # 2 x 152064 x 5120 for embedding and head, 487,605,248 a layer, 5120 for the last norm
    assert preset("qwq-32b").num_parameters == 1_557_135_360 + 64 * 487_605_248 + 5120


def test_explain_reads_the_config_of_a_model_folder_and_real_sources(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small().to_hf()))
    data = Path(__file__).parents[2] / "data/real/mbpp.jsonl"
    given = {"model.path": str(tmp_path), "stages.rl1.sources": [{"kind": "mbpp", "path": str(data)}]}
    text = explain(load_recipe(RECIPES / "gsm8k-mbpp-0.5b.toml", given))
    assert f"{count(small().num_parameters)} parameters (qwen2, 3 layers" in text
    assert "No evaluation." in text
    with pytest.raises(ModelError, match="no model folder at"):
        explain(load_recipe(RECIPES / "gsm8k-mbpp-0.5b.toml", given | {"model.path": str(tmp_path / "none")}))
    missing = given | {"stages.rl1.sources": [{"kind": "mbpp", "path": str(tmp_path / "none.jsonl")}]}
    text = explain(load_recipe(RECIPES / "gsm8k-mbpp-0.5b.toml", missing))
    assert (
        f"  {tmp_path}/none.jsonl for stages.rl1.sources.0.path\n    give a JSON-lines file of mbpp rows, or "
        "another path" in text
    )


def test_planning_needs_no_torch(tmp_path: Path) -> None:
    """Also where a file of conversations is read, whose tokens a tokenizer counts that is trained
    for it.
    """
    given = {"stages.sft.path": str(write_conversations(tmp_path)), "stages.sft.documents": 3}
    code = (
        "import sys; from qwq.config import load_recipe; from qwq.pipeline.plan.explain import explain; "
        f"print(explain(load_recipe({str(RECIPES / 'tiny.toml')!r}, {given!r}))); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "3 demonstrations x " in done.stdout and "3 of 5 rows, left out: 2 beyond documents = 3" in done.stdout


# -- data that is here, and data that is not -------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "qwq-32b",
        "qwen2.5-7b-node",
        "qwen2.5-0.5b-h100",
        "qwen2.5-0.5b-laptop",
        "gsm8k-mbpp-0.5b",
        "qwen2.5-0.5b-cold-start",
    ],
)
def test_recipes_are_planned_without_their_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh clone: the data folder that the recipes name is not there, and the plan says
    how each file is got.
    """
    monkeypatch.chdir(tmp_path)
    text = explain_with_cluster(load_recipe(RECIPES / f"{name}.toml"))
    keys = "".join(line for line in (RECIPES / f"{name}.toml").read_text().splitlines() if not line.startswith("#"))
    named = set(re.findall(r'"(\.\./shared/[^"]+)"', keys))
    for path in named:
        assert re.search(
            rf"^  {re.escape(path)} for [\w.]+(, [\w.]+)*\n    (curl|mkdir) .*{re.escape(path)}", text, re.MULTILINE
        ), path
    assert "Not here, and needed by `qwq train`" in text and (named or "  cold.jsonl for stages.sft.path" in text)
    assert list(tmp_path.iterdir()) == []


def test_how_a_published_file_is_got() -> None:
    assert how_to_get("../shared/data/gsm8k/train.jsonl").startswith(
        "curl -fL --create-dirs -o ../shared/data/gsm8k/train.jsonl https://"
    )
    packed = how_to_get("my data/humaneval/HumanEval.jsonl")
    assert packed.startswith("mkdir -p 'my data/humaneval' && curl -fL https://")
    assert packed.endswith("HumanEval.jsonl.gz | gunzip > 'my data/humaneval/HumanEval.jsonl'")
    assert how_to_get("mine.jsonl") is None


def write_conversations(folder: Path, answers: tuple[str, ...] = ("1", "2", "3", "4", "5")) -> Path:
    path = folder / "data.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]} for answer in answers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights, whose tokenizer knows no words: a token for each byte, and
    the special ones.
    """
    folder = tmp_path_factory.mktemp("model")
    chat = ChatFormat(train_bpe(["x"], 270), default_template())
    chat.save(folder)
    (folder / "config.json").write_text(
        json.dumps(small(vocab_size=chat.tokenizer.vocab_size, max_positions=60).to_hf())
    )
    return folder


def own(chat_model: Path, stage: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"name": "x", "model": {"path": str(chat_model)}, "stages": {"own": stage}})


def test_explain_reads_a_file_of_conversations(chat_model: Path, tmp_path: Path) -> None:
    """By hand, a token a byte but for the special ones: <|im_start|> user\\n ?<|im_end|>
    \\n<|im_start|> assistant\\n<think> \\n are 1 + 5 + 1 + 1 + 1 + 1 + 10 + 1 + 1 = 22 that are not
    learnt; \\n</think>\\n 1 <|im_end|> are 1 + 1 + 1 + 1 + 1 = 5 that are.
    """
    data = write_conversations(tmp_path, ("1", "22", "333", "long " * 20))
    stage = {"kind": "sft", "path": str(data), "batch_tokens": 30, "epochs": 2}
    text = explain(own(chat_model, stage), tmp_path)
    counted = re.search(r"own: .*data.jsonl: (.*)", text)[1]
    assert counted.startswith("3 of 4 rows, left out: 1 over 60 tokens, the model's positions (first: ")
    assert "84 tokens, 18 of them learnt; lengths 27 to 29, median 28" in counted
    # 84 tokens in each of 2 passes are 168, 30 a step at least: 6 steps.
    assert re.search(r"^own +sft +model +3 demonstrations x 2 epochs, 30 tokens a step +6 +168 ", text, re.MULTILINE)
    rendered = text.split("[[double brackets]]:\n")[1].split("\nown: ")[0]
    assert (
        rendered
        == "    <|im_start|>user\n    ?<|im_end|>\n    <|im_start|>assistant\n    <think>\n    [[\n    </think>\n"
        "    1<|im_end|>]]"
    )


def test_explain_reads_a_file_of_pairs(chat_model: Path, tmp_path: Path) -> None:
    """Ten prompts: 7 for training, 1 for validation, 2 for test.

    Answers of 1 and 2 bytes: 27 and 28 tokens as above.
    """
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": chr(97 + i), "chosen": "1", "rejected": "22"}) + "\n" for i in range(10))
    )
    text = explain(own(chat_model, {"kind": "reward_model", "path": str(path), "batch_pairs": 2}), tmp_path)
    assert (
        "own: " + str(path) + ": all 10 rows; shape prompt, chosen and rejected; 550 tokens" in text
        and "7 train, 1 validation, 2 test pairs" in text
    )
    # 7 pairs, 2 a step: 4 steps; 7 x (27 + 28) = 385 tokens.
    assert re.search(r"^own +reward_model +model +2 pairs a step, 7 pairs x 1 epoch +4 +385 ", text, re.MULTILINE)
    assert f"own: {path}, line 1, chosen, 27 tokens, scored is what is in [[double brackets]]:" in text
    assert f"own: {path}, line 1, rejected, 28 tokens" in text


def test_a_long_row_is_shown_without_its_middle(chat_model: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(chat_model, wide)
    (wide / "config.json").write_text(json.dumps(small(vocab_size=270, max_positions=9000).to_hf()))
    text = explain(own(wide, {"kind": "sft", "path": str(write_conversations(tmp_path, ("x" * 5000,)))}), tmp_path)
    assert re.search(r"x{100} \.\.\. 3,\d\d\d characters \.\.\. x{100}", text) and len(text) < 4000


def test_a_bad_row_stops_the_plan_and_a_missing_file_does_not(chat_model: Path, tmp_path: Path) -> None:
    data = write_conversations(tmp_path)
    stage = {"kind": "sft", "path": str(data)}
    data.write_text(data.read_text() + "{bad\n")
    with pytest.raises(DataError, match="line 6: not JSON"):
        explain(own(chat_model, stage), tmp_path)
    data.unlink()
    text = explain(own(chat_model, stage), tmp_path)
    assert (
        f"all rows of {data} x 1 epoch" in text
        and f"  {data} for stages.own.path\n    give a JSON-lines file with a `messages` list" in text
    )


def test_memory_is_planned_by_the_longest_row_that_is_there(chat_model: Path, tmp_path: Path) -> None:
    """One row of 27 tokens, where 512 are assumed of a file that is not read."""
    recipe_there = own(
        chat_model, {"kind": "sft", "path": str(write_conversations(tmp_path, ("1",))), "batch_tokens": 100}
    )
    config = model_config(recipe_there)
    uses, _ = read_own_data(recipe_there, RunFolder(tmp_path), config.max_positions)
    read, assumed = (stage_memory(recipe_there, "own", config, use).parts["activations"] for use in (uses["own"], None))
    # 99 tokens, and a longest row of which the last token is not fed: 125 of equal rows. Assumed
    # are 610 in 3 rows of up to 511, a mean of 255. The loss is the peak of both, before gradients.
    assert read == 4 * footprint.activation_values(config, 125)
    assert assumed == 4 * footprint.activation_values(config, 610, footprint.packed_copies(config, 3, 511, 255.0))


def test_completions_that_cannot_fit_beside_the_prompt_are_said(tmp_path: Path) -> None:
    """The tiny model has 1,024 positions, and math prompts take some 200 tokens."""
    text = explain(recipe(stages__rl1__max_new_tokens=1000, eval__math=10, eval__max_new_tokens=5000), tmp_path)
    assert re.search(
        r"stages.rl1.max_new_tokens is 1,000 and the longest prompt about \d+ tokens, and the model has 1,024 "
        r"positions",
        text,
    )
    assert "eval.max_new_tokens is 5,000 and the longest prompt" in text
    assert "positions" not in explain(recipe(), tmp_path)
