"""The recipe: what may stand in it, what the command line may change, and how a mistake is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qwq.config import apply_override, dump_recipe, load_recipe, parse_value
from qwq.errors import ConfigError

TINY = Path(__file__).resolve().parents[3] / "recipes" / "tiny.toml"
SMALL = """
name = "t"
[model]
preset = "tiny"
[stages.pretrain]
kind = "pretrain"
tokens = 1000
mix = { math = 1.0 }
[stages.sft]
kind = "sft"
mix = { math = 1.0 }
[stages.rl1]
kind = "rl1"
steps = 3
mix = { math = 0.5, code = 0.5 }
[stages.more]
kind = "control"
"""


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    path = tmp_path / "t.toml"
    path.write_text(SMALL)
    return path


def fails(path: Path, overrides: dict | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("stages.rl1.step", "unknown key 'stages.rl1.step': did you mean 'steps'?"),
        ("stages.rl1.optim.learning_rat", "unknown key 'stages.rl1.optim.learning_rat'"),
        ("stages.rl1.mix.maths", "did you mean 'math'?"),
        ("stagess.rl1", "did you mean 'stages'?"),
        ("compute.thread", "did you mean 'threads'?"),
        ("eval.codes", "did you mean 'code'?"),
    ],
)
def test_an_unknown_key_fails_with_the_nearest_name(recipe_file, key, hint):
    assert hint in fails(recipe_file, {key: 3})


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("stages.rl1.steps", "many", "stages.rl1.steps"),
        ("stages.rl1.steps", 0, "greater than or equal to 1, not 0"),
        ("stages.rl1.samples", 1, "greater than or equal to 2, not 1"),
        ("stages.rl1.optim.warmup", 1.5, "less than or equal to 1, not 1.5"),
        ("stages.rl1.kind", "pretran", "stages.rl1.kind is 'pretran': did you mean 'pretrain'?"),
        ("name", "../up", "name"),
        ("stages.more.match", "rl9", "stages.more.match is 'rl9', which is not an earlier stage: did you mean 'rl1'?"),
        ("stages.sft.mix", {}, "stages.sft has no data"),
        ("model.vocab_size", "512", "model.vocab_size"),
        ("stages.rl1.optim.beta2", 1.0, "stages.rl1.optim.beta2: Input should be less than 1, not 1.0"),
        ("stages.rl1.optim.beta1", 1.0, "stages.rl1.optim.beta1: Input should be less than 1"),
        ("stages.rl1.optim.lr", float("inf"), "stages.rl1.optim.lr: Input should be a finite number, not Infinity"),
        ("stages.sft.optim.lr", float("nan"), "stages.sft.optim.lr: Input should be a finite number"),
        ("stages.rl1.mix.math", float("inf"), "stages.rl1.mix.math: Input should be a finite number, not Infinity"),
        (
            "stages.rl1.temperature",
            1e-40,
            "stages.rl1.temperature: Input should be greater than or equal to 0.01, not 1e-40",
        ),
        (
            "seed",
            99999999999999999999999999,
            "seed: Input should be less than or equal to 4294967295, not 99999999999999999999999999",
        ),
        ("compute.device", "banana", "compute.device: device 'banana' is none of cpu, cuda, mps, xpu"),
        ("compute.device", "cuda:x", "compute.device: device 'cuda:x' is none of"),
        ("compute.device", "cuda:", "compute.device: device 'cuda:' is none of"),
        ("compute.device", "cudda", "did you mean 'cuda'?"),
        ("compute.threads", 100000, "compute.threads: Input should be less than or equal to 1024, not 100000"),
        ("stages.more.of", "rl1", "stages.more.of is 'rl1', a stage of kind rl1: name an sft stage"),
        ("eval.budgets", [64, -1], "eval.budgets.1: Input should be greater than or equal to 0, not -1"),
        ("name", "x" * 101, "name: String should have at most 100 characters"),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_both_sides(recipe_file, key, value, part):
    assert part in fails(recipe_file, {key: value})


@pytest.mark.parametrize("name", ["a/b", "sft.1", ".", "..", "../../x", "", " ", "a b", "ünï", "-x", "x" * 65, "a\nb"])
def test_a_stage_s_name_is_one_word(tmp_path, name):
    """It becomes a folder and a file of the run, and a part of dotted keys."""
    path = tmp_path / "t.toml"
    path.write_text(
        f'name = "t"\nmodel = {{ path = "m" }}\n[stages.{json.dumps(name)}]\nkind = "sft"\nmix = {{ math = 1.0 }}\n'
    )
    assert "a stage's name is made of letters, digits, _ and -, 64 at most" in fails(path)
    path.write_text(path.read_text().replace(json.dumps(name), '"sft-1_b"'))
    assert list(load_recipe(path).stages) == ["sft-1_b"]


KINDS = """
name = "t"
model = { path = "m" }
[stages.sft]
kind = "sft"
mix = { math = 1.0 }
[stages.rm]
kind = "reward_model"
[stages.rl2]
kind = "rl2"
steps = 1
mix = { preference = 1.0 }
reward_model = { model = "rm" }
contract = { domains = [] }
"""


def test_stages_name_others_of_the_kinds_that_they_can_use(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(KINDS)
    assert load_recipe(path).start_of("rl2") == "sft"
    told = fails(path, {"stages.rl2.reward_model.model": "sft"})
    assert "stages.rl2.reward_model.model is 'sft', a stage of kind sft: name a reward_model stage" in told
    told = fails(path, {"stages.rl2.start_from": "rm"})
    assert "stages.rl2.start_from is 'rm', a stage of kind reward_model: name a stage that trains a policy" in told
    # A reward model that no prompt of the stage asks is never read.
    assert load_recipe(path, {"stages.rl2.reward_model.model": "sft", "stages.rl2.mix": {"math": 1.0}})


CONTRACT = """
name = "t"
model = { path = "m" }
[stages.rl1]
kind = "rl1"
steps = 1
mix = { code = 1.0 }
sources = [{ kind = "gsm8k", path = "g" }, { kind = "prompts", path = "p" }]
rewards = [{ function = "f.py:f" }]
[stages.rl2]
kind = "rl2"
steps = 1
mix = { tools = 1.0 }
"""


def held(path, overrides) -> list[str] | None:
    return load_recipe(path, overrides).stages["rl2"].contract.domains


def test_a_contract_holds_what_stage_1_trained_on_and_that_must_be_replayed(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(CONTRACT)
    told = fails(path)
    assert (
        "stages.rl2.contract holds code, math (what rl1 trained on), and the stage draws prompts from tools alone"
        in told
    )
    assert (
        "give stages.rl2 mix.code a weight, a source of kind gsm8k (such as g), or set stages.rl2.contract.domains "
        "([] holds nothing)" in told
    )
    mix, gsm8k = (
        {"stages.rl2.mix": {"tools": 1.0, "code": 0.5}},
        {"stages.rl2.sources": [{"kind": "gsm8k", "path": "other"}]},
    )
    assert "give stages.rl2 mix.code a weight, or set" in fails(path, gsm8k)
    assert held(path, mix | gsm8k) == ["code", "math"]
    assert load_recipe(path, mix | gsm8k).stages["rl2"].replays() == {"code": ["code"], "math": ["gsm8k:other:train"]}
    # Sums of the family, or another set of math, do not replay GSM8K.
    for other in (
        {"stages.rl2.mix": {"math": 1.0, "code": 0.5}},
        mix | {"stages.rl2.sources": [{"kind": "math", "path": "x"}]},
    ):
        assert "give stages.rl2 a source of kind gsm8k (such as g), or set" in fails(path, other)
        assert held(path, other | {"stages.rl2.contract.domains": ["math"]}) == ["math"]
    assert held(path, {"stages.rl2.contract.domains": []}) == []


def own_task(folder: Path) -> str:
    text = "import qwq\n\nclass Sums(qwq.Task):\n    name = 'own-sums'\n    def rows(self, split):\n"
    (folder / "f.py").write_text(f"{text}        return [{{'prompt': split}}]\n")
    return f"{folder}/f.py:Sums"


def test_a_mix_and_an_evaluation_take_any_task(recipe_file, tmp_path):
    own = own_task(tmp_path)
    mix = {own: 0.5, "gsm8k": 0.2, "math": 0.3, "arithmetic:2": 0.0}
    read = load_recipe(recipe_file, {"stages.rl1.mix": mix, f'eval."{own}"': 1, 'eval."math-rows"': 3, "eval.math": 2})
    assert list(read.stages["rl1"].mix.weights().items()) == [("math", 0.3), (own, 0.5), ("gsm8k", 0.2)]
    assert list(read.eval.counts().items())[-2:] == [(own, 1), ("math-rows", 3)]
    (tmp_path / "again.toml").write_text(dump_recipe(read))
    assert load_recipe(tmp_path / "again.toml") == read


def test_a_task_of_the_mix_is_held_by_its_domain_name_or_key(tmp_path):
    path, own = tmp_path / "t.toml", own_task(tmp_path)
    path.write_text(CONTRACT)
    mix = {"math": 0.4, "gsm8k": 0.3, own: 0.3}
    both = {"stages.rl1.mix": mix, "stages.rl1.sources": [], "stages.rl2.mix": mix, "stages.rl2.sources": []}
    read = load_recipe(path, both).stages["rl2"]
    assert read.replays() == {"math": ["math", "gsm8k"], "own-sums": [own]}
    named = load_recipe(path, both | {"stages.rl2.contract.domains": ["gsm8k", own]}).stages["rl2"]
    assert named.replays() == {"gsm8k": ["gsm8k"], own: [own]}
    source = {"stages.rl2.mix": {"math": 1.0, "gsm8k": 1.0}, "stages.rl2.sources": [{"kind": "task", "path": own}]}
    assert load_recipe(path, both | source).stages["rl2"].replays()["own-sums"] == [f"task:{own}:train"]
    swapped = {k.replace("rl2", "rl1"): v for k, v in source.items()} | {
        "stages.rl2.mix": mix,
        "stages.rl2.sources": [],
    }
    assert load_recipe(path, swapped).stages["rl2"].replays()["own-sums"] == [own]
    lost = {k: v for k, v in mix.items() if k != "gsm8k"}
    assert "give stages.rl2 mix.gsm8k a weight" in fails(path, both | {"stages.rl2.mix": lost})
    lost = {k: v for k, v in mix.items() if k != own}
    assert f'give stages.rl2 mix."{own}" a weight' in fails(
        path, both | {"stages.rl2.mix": lost}
    )  # as TOML writes the key


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stages.rl1.mix.gsm8", 1.0, "unknown key 'stages.rl1.mix.gsm8': did you mean 'gsm8k'?"),
        ("eval.max_new_tokns", 4, "unknown key 'eval.max_new_tokns': did you mean 'max_new_tokens'?"),
        ('stages.rl1.mix."no.py:X"', 1.0, "stages.rl1.mix: task 'no.py:X': no file at no.py"),
        ("stages.rl1.mix.gsm8k", -1.0, "stages.rl1.mix.gsm8k: Input should be greater than or equal to 0, not -1.0"),
        ("eval.gsm8k", 1.5, "eval.gsm8k: Input should be a valid integer, not 1.5"),
        ("eval.prompts", 4, "eval: no verifier judges the problems of task 'prompts'"),
    ],
)
def test_what_is_no_task_or_no_number_is_one_line(recipe_file, key, value, words):
    assert words in fails(recipe_file, {key: value})


def test_a_contract_names_domains_kinds_and_single_sources(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(CONTRACT)
    own = own_task(tmp_path)
    sources = [
        {"kind": "gsm8k", "path": "g"},
        {"kind": "math", "path": "m"},
        {"kind": "task", "path": own},
        {"kind": "arithmetic", "level": 2},
    ]
    drawn = {"stages.rl2.sources": sources, "stages.rl2.mix": {"math": 1.0, "tools": 1.0}}

    def replays(*names: str) -> dict[str, list[str]]:
        return load_recipe(path, drawn | {"stages.rl2.contract.domains": list(names)}).stages["rl2"].replays()

    assert replays("math") == {"math": ["math", "gsm8k:g:train", "math:m:train", "arithmetic:2:train"]}
    assert replays("gsm8k", "math:m:train") == {"gsm8k": ["gsm8k:g:train"], "math:m:train": ["math:m:train"]}
    assert replays("own-sums", "arithmetic", "tools") == {
        "own-sums": [f"task:{own}:train"],
        "arithmetic": ["arithmetic:2:train"],
        "tools": ["tools"],
    }
    for name, hint in (
        ("gsm8", "a source of gsm8 (did you mean 'gsm8k'?)"),
        ("own_sums", "did you mean 'own-sums'?"),
        ("code", "mix.code a weight or a source of code"),
    ):
        assert hint in fails(path, drawn | {"stages.rl2.contract.domains": ["tools", name]})
    prompts = {"stages.rl2.sources": [{"kind": "prompts", "path": "p"}], "stages.rl2.rewards": [{"function": "f.py:f"}]}
    assert "a source of prompts (" in fails(
        path, prompts | {"stages.rl2.contract.domains": ["prompts"]}
    )  # no verifier could tell what is lost


def test_without_a_stage_1_a_contract_holds_what_is_replayed_of_math_and_code(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(re.sub(r"\[stages\.rl1\].*?(?=\[stages\.rl2\])", "", CONTRACT, flags=re.S))
    assert "holds math, code, and the stage draws prompts from tools alone" in fails(path)
    assert held(path, {"stages.rl2.mix": {"tools": 1.0, "math": 1.0}}) == ["math"]
    assert held(path, {"stages.rl2.sources": [{"kind": "mbpp", "path": "x"}, {"kind": "gsm8k", "path": "x"}]}) == [
        "math",
        "code",
    ]


def test_a_settled_contract_is_written_out_and_read_back(tmp_path):
    """So a run that was begun before is the same recipe: math and code were the default then, and
    are what the demo trains on.
    """
    recipe = load_recipe(TINY)
    path = tmp_path / "recipe.toml"
    path.write_text(dump_recipe(recipe))
    assert 'domains = ["math", "code"]' in path.read_text() and dump_recipe(load_recipe(path)) == dump_recipe(recipe)


def test_a_source_that_is_named_twice_is_refused(tmp_path):
    """One of the two was dropped in silence, with its weight."""
    path = tmp_path / "t.toml"
    path.write_text(CONTRACT)
    twice = {"stages.rl1.sources": [{"kind": "gsm8k", "path": "g", "weight": 2.0}, {"kind": "gsm8k", "path": "g"}]}
    assert "sources name gsm8k:g:train 2 times: name it once, with the weights added up" in fails(path, twice)


def test_the_recipes_with_a_second_stage_hold_what_stage_1_trained_on():
    sets = {}
    for path in TINY.parent.glob("*.toml"):
        for stage in load_recipe(path).stages.values():
            if stage.kind == "rl2":
                sets[path.stem] = {
                    held: [label.partition(":")[0] for label in labels] for held, labels in stage.replays().items()
                }
    assert sets == {
        "announcement": {"math": ["math"], "code": ["code"]},
        "tiny": {"math": ["math"], "code": ["code"]}, "small": {"math": ["math"], "code": ["code"]},
        "qwen2.5-0.5b-h100": {"math": ["gsm8k"], "code": ["mbpp"]},
        "qwen2.5-0.5b-laptop": {"math": ["gsm8k"], "code": ["mbpp"]},
        "qwen2.5-7b-node": {"math": ["gsm8k", "math"], "code": ["mbpp"]},
        "qwq-32b": {"math": ["math"], "code": ["mbpp"]},
    }  # fmt: skip


def test_a_missing_key_and_a_missing_recipe_name_the_repair(tmp_path, recipe_file):
    recipe_file.write_text(SMALL.replace("steps = 3\n", ""))
    assert "'stages.rl1.steps' is missing: add it" in fails(recipe_file)
    assert f"no recipe at {tmp_path / 'u.toml'}: there: t.toml" in fails(tmp_path / "u.toml")
    recipe_file.write_text("name = ")
    assert "is not TOML" in fails(recipe_file)


def test_overrides_set_one_field_and_leave_the_rest(recipe_file):
    plain = load_recipe(recipe_file)
    changed = load_recipe(recipe_file, {"stages.rl1.steps": 7, "stages.rl1.optim.lr": 0.5, "seed": 2, "name": "x"})
    assert (changed.stages["rl1"].steps, changed.stages["rl1"].optim.lr, changed.run_name) == (7, 0.5, "x-s2")
    assert changed.stages["sft"] == plain.stages["sft"] and plain.run_name == "t"
    assert changed.stages["rl1"].optim.beta2 == plain.stages["rl1"].optim.beta2
    # dashes are read as underscores, as options are usually written
    assert load_recipe(recipe_file, {"stages.rl1.max-new-tokens": 9}).stages["rl1"].max_new_tokens == 9


def test_a_model_path_on_the_command_line_takes_the_preset_s_place(recipe_file):
    model = load_recipe(recipe_file, {"model.path": "../dir"}).model
    assert (model.preset, model.path) == (None, "../dir")


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match="'seed' is a value, not a table"):
        apply_override({"seed": 1}, "seed.x", 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ("../a b", "../a b"),
        ('"3"', "3"),
        ("{math = 1.0}", {"math": 1.0}),
        ("[1, 2]", [1, 2]),
        ("-1", -1),
    ],
)
def test_values_are_toml_and_anything_else_is_text(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("path", sorted(TINY.parent.glob("*.toml")), ids=lambda p: p.stem)
def test_a_resolved_recipe_reads_back_equal(tmp_path, path):
    recipe = load_recipe(path)
    written = tmp_path / "recipe.toml"
    written.write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(written)
    assert again == recipe and list(again.stages) == list(recipe.stages)
    assert dump_recipe(again) == dump_recipe(recipe)


def test_quotes_backslashes_and_umlauts_survive_the_round_trip(tmp_path, recipe_file):
    recipe = load_recipe(recipe_file, {"stages.sft.path": 'C:\\d\t"ä"\x7f/x.jsonl'})
    recipe_file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(recipe_file) == recipe


def test_a_stage_starts_from_the_last_one_that_changed_the_policy(recipe_file):
    recipe = load_recipe(recipe_file)
    assert [recipe.start_of(n) for n in recipe.stages] == [None, "pretrain", "sft", "sft"]
    tiny = load_recipe(TINY)
    # the control and the reward model change no policy, so stage 2 goes on from the end of stage 1
    assert (tiny.start_of("rl2"), tiny.start_of("reward_model"), tiny.start_of("control")) == ("rl1", "rl1", "sft")
    assert load_recipe(recipe_file, {"stages.rl1.start_from": "pretrain"}).start_of("rl1") == "pretrain"


def test_the_recipe_is_read_without_torch():
    code = (
        f"import sys; from qwq.config import load_recipe; load_recipe({str(TINY)!r}); "
        "import qwq.types, qwq.errors; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
