"""Everything that a run needs is read and checked before anything is touched, and `--fresh` deletes
nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwq.cli import main
from qwq.config import load_recipe
from qwq.pipeline.run import RecipeRun

RECIPE = """
name = "one"
model = {{ path = "{model}" }}
compute = {{ threads = 1, max_rows = 16 }}
[stages.sft]
kind = "sft"
evaluate = false
documents = 4
path = "{data}"
[stages.rl1]
kind = "rl1"
steps = 2
prompts = 2
samples = 2
max_new_tokens = 16
evaluate = false
mix = {{ math = 1.0 }}
sources = [{{ kind = "gsm8k", path = "{sums}" }}]
optim = {{ lr = 1e-4 }}
"""


@pytest.fixture(autouse=True)
def _keep_signals(keep_signals):
    """`qwq train` runs inside pytest here."""


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CONVERSATIONS = lines(
    [
        {"messages": [{"role": "user", "content": f"{i}+{i}?"}, {"role": "assistant", "content": str(2 * i)}]}
        for i in range(4)
    ]
)
SUMS = lines(
    [
        {"question": f"Tom has {i} and buys {i} more. How many?", "answer": f"{i}+{i}={2 * i}\n#### {2 * i}"}
        for i in range(40)
    ]
)


def write_recipe(folder: Path, model: Path) -> Path:
    (folder / "data.jsonl").write_text(CONVERSATIONS)
    (folder / "train.jsonl").write_text(SUMS)
    path = folder / "one.toml"
    path.write_text(RECIPE.format(model=model, data=folder / "data.jsonl", sums=folder / "train.jsonl"))
    return path


@pytest.fixture
def recipe(tmp_path, model) -> Path:
    return write_recipe(tmp_path, model)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def finished(recipe, tmp_path, capsys) -> Path:
    """A run of both stages that is finished."""
    runs = tmp_path / "runs"
    assert main(["train", str(recipe), "--runs", str(runs)]) == 0
    capsys.readouterr()
    assert json.loads((runs / "one" / "results.json").read_text())["finished"]
    return runs / "one"


@pytest.fixture(scope="module")
def kept(tmp_path_factory, model) -> tuple[Path, Path]:
    """A recipe and its finished run, which no test may change."""
    folder = tmp_path_factory.mktemp("kept")
    recipe = write_recipe(folder, model)
    threads = torch.get_num_threads()
    RecipeRun(load_recipe(recipe), folder / "runs").run()
    torch.set_num_threads(threads)
    return recipe, folder / "runs" / "one"


# -- nothing finished is deleted -------------------------------------------------------------------

BROKEN = [
    (["--stages.sft.path=nofile.jsonl"], "no data file at nofile.jsonl (stages.sft.path)"),
    (
        ['--stages.rl1.sources=[{kind="math",path="nofile.jsonl"}]'],
        "no data file at nofile.jsonl (stages.rl1.sources.0.path)",
    ),
    (
        ['--eval.sources=[{kind="math",path="nofile.jsonl"}]', "--stages.rl1.evaluate=true"],
        "no data file at nofile.jsonl (eval.sources.0.path)",
    ),
    (["--stages.sft.path={tmp}/bad.jsonl"], "bad.jsonl, line 5: not JSON"),
    (
        ['--stages.rl1.sources=[{kind="gsm8k",path="{tmp}/bad.jsonl"}]'],
        "bad.jsonl, line 1: field 'question' must be text, found 'None'",
    ),
    (
        ['--stages.rl1.rewards=[{function="{tmp}/rew.py:nothing"}]'],
        "rew.py has no function 'nothing': valid names: boom",
    ),
    (['--stages.rl1.rewards=[{function="{tmp}/no.py:f"}]'], "no file at"),
    (["--stages.rl1.loss={tmp}/no.py:mine"], "loss "),
    (["--stages.rl1.advantage={tmp}/rew.py:nothing"], "rew.py has no function 'nothing'"),
    (['--stages.rl1.sources=[{kind="task",path="{tmp}/no.py:Sums"}]'], "task "),
    (
        ["--model.chat_template={tmp}/notools.jinja", "--stages.rl1.mix.tools=1.0"],
        "the chat template refuses these messages: no tools here",
    ),
    (["--model.path={tmp}/nowhere"], "no model folder at"),
    (["--model.path={tmp}/cut"], "model.safetensors is cut short"),
    (["--model.chat_template={tmp}/no.jinja"], "model.chat_template: no file"),
    (["--model.chat_template={tmp}/bad.jinja"], "chat template, line 1:"),
    (["--model.chat_template={tmp}/latin.jinja"], "latin.jinja is not UTF-8 (byte 0)"),
    (["--stages.rl1.max_new_tokens=5000"], "stages.rl1.max_new_tokens is 5,000, and the model has 1,024 positions"),
    (["--stages.sft.batch_tokens=9000000000"], "stage sft needs about"),
    (["--stages.rl1.samples=90000000"], "stage rl1 needs about"),
    (["--compute.device=cuda:77"], "device 'cuda:77' is asked for, and there "),
    (["--stages.sft.optim.lr=inf"], "stages.sft.optim.lr: Input should be a finite number"),
]


@pytest.fixture
def broken_files(tmp_path, model) -> Path:
    (tmp_path / "bad.jsonl").write_text(CONVERSATIONS + '{"messages": [\n')
    (tmp_path / "rew.py").write_text("def boom(completions, **kw):\n    raise ValueError('my bug')\n")
    (tmp_path / "bad.jinja").write_text("{% for m in messages %}{{ m.content }}")
    turns = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif "
        "%}<|im_start|>{{ m.role }}\n{{ m.content }}"
    )
    opening = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    (tmp_path / "notools.jinja").write_text(turns + opening)
    (tmp_path / "latin.jinja").write_bytes(b"\xe9{{ messages[0].content }}")
    shutil.copytree(model, tmp_path / "cut")
    with (tmp_path / "cut" / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"), BROKEN, ids=[o[0].split("=")[0] + str(i) for i, (o, _) in enumerate(BROKEN)]
)
def test_a_finished_run_outlives_fresh_with_anything_that_is_not_there(kept, broken_files, error, options, words):
    """The run of two stages stands untouched after `--fresh` with each fault, and no second folder
    is made.
    """
    recipe, finished = kept
    before = contents(finished)
    given = [option.replace("{tmp}", str(broken_files)) for option in options]
    line = error("train", recipe, "--runs", finished.parent, "--fresh", *given)
    assert words in line
    assert contents(finished) == before and [p.name for p in finished.parent.iterdir()] == ["one"]


def test_nothing_is_written_where_a_new_run_cannot_begin(recipe, broken_files, error, tmp_path):
    for options, words in BROKEN:
        given = [option.replace("{tmp}", str(broken_files)) for option in options]
        assert words in error("train", recipe, "--runs", tmp_path / "runs", *given)
        assert not (tmp_path / "runs").exists()


def test_a_dry_run_checks_the_same_but_for_the_machine(recipe, broken_files, error, tmp_path, capsys):
    for options, words in BROKEN:
        given = [option.replace("{tmp}", str(broken_files)) for option in options]
        command = ["train", recipe, "--runs", tmp_path / "runs", "--dry-run", *given]
        if "needs about" in words or "cuda" in words:
            assert main([str(c) for c in command]) == 0
            out = capsys.readouterr().out
            assert "  NO" in out or "No cuda:77 here" in out
        else:
            assert words in error(*command)
    assert not (tmp_path / "runs").exists()


def test_fresh_moves_the_run_aside_and_says_where(finished, recipe, capsys):
    old = contents(finished)
    command = ["train", str(recipe), "--runs", str(finished.parent), "--fresh", "--stages.sft.epochs=2"]
    assert main(command) == 0
    assert f"the run before is kept in {finished}.1 (" in capsys.readouterr().err
    assert contents(Path(f"{finished}.1")) == old
    assert (
        "epochs = 2" in (finished / "recipe.toml").read_text()
        and json.loads((finished / "results.json").read_text())["finished"]
    )
    second = contents(finished)
    assert main(command) == 0
    assert f"kept in {finished}.2 (" in capsys.readouterr().err
    assert contents(Path(f"{finished}.1")) == old and contents(Path(f"{finished}.2")) == second
    # The kept run is a run like any other.
    assert main(["report", f"{finished}.1"]) == 0


def test_fresh_over_a_name_that_is_taken_takes_the_next(finished, recipe, capsys):
    Path(f"{finished}.1").write_text("a file of somebody's")
    Path(f"{finished}.2").symlink_to("nowhere")
    assert main(["train", str(recipe), "--runs", str(finished.parent), "--fresh", "--until", "sft"]) == 0
    assert f"kept in {finished}.3 (" in capsys.readouterr().err
    assert Path(f"{finished}.1").read_text() == "a file of somebody's"


def test_fresh_without_a_run_moves_nothing(recipe, tmp_path, capsys):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / ".lock").touch()
    assert main(["train", str(recipe), "--runs", str(tmp_path / "runs"), "--fresh", "--until", "sft"]) == 0
    assert "kept in" not in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["one"]


def test_a_finished_run_needs_none_of_its_data(finished, recipe, tmp_path, capsys):
    (tmp_path / "data.jsonl").unlink()
    (tmp_path / "train.jsonl").unlink()
    assert main(["train", str(recipe), "--runs", str(finished.parent)]) == 0
    assert "was finished before" in capsys.readouterr().err


def test_a_run_that_goes_on_needs_only_what_is_left(recipe, tmp_path, capsys):
    command = ["train", str(recipe), "--runs", str(tmp_path / "runs")]
    assert main([*command, "--until", "sft"]) == 0
    (tmp_path / "data.jsonl").unlink()
    assert main(command) == 0
    assert json.loads((tmp_path / "runs" / "one" / "results.json").read_text())["finished"]


def test_all_missing_files_are_named_at_once(recipe, error, tmp_path):
    sources = '[{kind="gsm8k",path="../sets/gsm8k/train.jsonl",decontaminate=["../sets/humaneval/HumanEval.jsonl"]}]'
    line = error(
        "train", recipe, "--runs", tmp_path / "runs", "--stages.sft.path=no.jsonl", f"--stages.rl1.sources={sources}"
    )
    places = "no.jsonl, at ../sets/gsm8k/train.jsonl, at ../sets/humaneval/HumanEval.jsonl"
    assert line == f"error: no data file at {places}: `qwq explain RECIPE` says how to get each"


# -- where a run may be written --------------------------------------------------------------------


def test_runs_at_a_place_where_nothing_can_be_written(recipe, error, tmp_path):
    (tmp_path / "afile").write_text("x")
    for runs in (tmp_path / "afile", tmp_path / "afile" / "below", "/proc/qwq"):
        line = error("train", recipe, "--runs", runs)
        assert f"{runs}/one cannot be written (" in line and "give another folder with --runs" in line
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").write_text("a file")
    assert "one cannot be written (File exists" in error("train", recipe, "--runs", tmp_path / "runs")


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_file_system(recipe, error, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "one cannot be written (Read-only file system" in error("train", recipe, "--runs", small_disk)


@pytest.mark.parametrize("room", [0, 2_000, 20_000, 120_000])
def test_a_disk_that_fills_up(recipe, error, small_disk, room):
    """At the recipe, at the metrics, at the final folder (about 60 kB with the tokenizer) or later:
    one line, and with room the same command resumes.
    """
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(b"0" * ((1 << 20) - 8192 - room))
    line = error("train", recipe, "--runs", small_disk, "--stages.rl1.steps=1")
    assert "No space left on device" in line or "MiB are free" in line
    assert "free" in line and "run the same command again" in line
    filler.unlink()
    assert main(["train", str(recipe), "--runs", str(small_disk), "--stages.rl1.steps=1"]) == 0


# -- what goes wrong while it runs -----------------------------------------------------------------


@pytest.fixture
def answering(tmp_path) -> list[str]:
    """Options under which even random weights give answers to be judged: no thinking to close, and
    room until an end token is drawn (1 in 280).
    """
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    (tmp_path / "plain.jinja").write_text(turns + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    return [
        f"--model.chat_template={tmp_path}/plain.jinja",
        "--stages.rl1.max_new_tokens=800",
        "--stages.rl1.prompts=6",
    ]


@pytest.mark.parametrize("stage", ["sft", "rl1"])
def test_weights_that_become_infinite_end_in_one_line_and_reach_no_folder(recipe, error, tmp_path, answering, stage):
    others = [] if stage == "sft" else [*answering, f'--stages.rl1.rewards=[{{function="{tmp_path}/noise.py:noise"}}]']
    (tmp_path / "noise.py").write_text(
        "def noise(completions, **kw):\n    return [float(i) for i in range(len(completions))]\n"
    )
    options = [
        f"--stages.{stage}.optim.lr=3e38",
        f"--stages.{stage}.optim.warmup=0.0",
        f"--stages.{stage}.optim.weight_decay=100.0",
    ]
    line = error("train", recipe, "--runs", tmp_path / "runs", *options, *others)
    assert "made weights NaN or infinite" in line and "lower optim.lr (now 3e+38)" in line
    assert not list((tmp_path / "runs" / "one" / "checkpoints" / stage).glob("*"))


def test_a_reward_function_that_raises(recipe, error, tmp_path, answering):
    (tmp_path / "rew.py").write_text("def boom(completions, **kw):\n    raise ValueError('my\\nbug')\n")
    options = [f'--stages.rl1.rewards=[{{function="{tmp_path}/rew.py:boom"}}]', *answering]
    line = error("train", recipe, "--runs", tmp_path / "runs", *options)
    assert f"reward function {tmp_path}/rew.py:boom raised ValueError at step 1, asked about " in line
    assert line.endswith("completions: my bug (rew.py, line 2)")


def test_damaged_files_of_a_run_that_goes_on(recipe, error, tmp_path):
    options = ["--runs", str(tmp_path / "runs"), "--compute.checkpoint_interval_s=0", "--stages.rl1.steps=40"]
    assert main(["train", str(recipe), *options, "--until", "sft"]) == 0
    assert main(["train", str(recipe), *options, "--max-minutes", "0.0001"]) == 130
    folder = tmp_path / "runs" / "one"
    (checkpoint,) = (folder / "checkpoints" / "rl1").glob("step-*")
    step = int(checkpoint.name.removeprefix("step-"))
    rollouts = folder / "rollouts" / "rl1" / f"step-{step:05d}.jsonl"
    for text, words in (('{"half":', "line 1: damaged ("), ("", "damaged (it holds no rollout)")):
        rollouts.write_text(text)
        line = error("train", recipe, *options)
        assert f"{rollouts}" in line and words in line and "delete the file" in line
    rollouts.unlink()
    (checkpoint / "weights.safetensors").write_bytes((checkpoint / "weights.safetensors").read_bytes()[:1000])
    line = error("train", recipe, *options)
    assert f"{checkpoint}/weights.safetensors is damaged (" in line and f"delete the folder {checkpoint}" in line
    shutil.rmtree(checkpoint)
    record = folder / "stages" / "sft.json"
    whole = record.read_text()
    record.write_text(whole[:20])
    assert f"{record} is damaged (" in error("train", recipe, *options)
    record.write_text(whole)
    assert main(["train", str(recipe), *options, "--max-minutes", "0.0001"]) == 130
    assert load_file(next((folder / "checkpoints" / "rl1").glob("step-*")) / "weights.safetensors")
