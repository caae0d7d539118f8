"""`qwq release` writes a folder that is whole or absent, and says in it how the model was made."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from qwq.cli import main
from qwq.errors import ConfigError, DataError, ModelError
from qwq.model import lora
from qwq.model.weights import load_model
from qwq.release.assemble import ReleaseOptions, release
from qwq.release.card_rules import faults_of
from qwq.release.secrets import secrets_in

OPTIONS = ReleaseOptions()


def test_a_run_becomes_a_folder_with_all_its_parts(run, tmp_path):
    out = release(str(run), tmp_path / "out", OPTIONS)
    names = {p.name for p in out.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "recipe.toml"}
    assert names >= {"report.html", "results.json", "README.md", "Modelfile", "LICENSE", "SHA256SUMS"}
    check = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True)
    assert check.returncode == 0 and check.stdout.count(": OK") == len(names) - 1
    final = run / "checkpoints" / "rl1" / "final"
    assert (out / "model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_paths_of_the_users_home_are_shortened(run, tmp_path):
    out = release(str(run), tmp_path / "out", OPTIONS)
    assert 'path = "~/data/train.jsonl"' in (out / "recipe.toml").read_text()
    assert (out / "report.html").read_text() == "<p>trained in ~/work/small</p>\n"


def test_the_card_tells_scores_stages_and_verdicts(run, tmp_path):
    out = release(str(run), tmp_path / "out", OPTIONS)
    text = (out / "README.md").read_text()
    card = ModelCard(text)
    assert faults_of(text) == []
    (result,) = card.data.eval_results
    assert (result.metric_value, result.metric_args["interval_95"], result.metric_args["problems"]) == (
        0.7,
        [0.604, 0.781],
        100,
    )
    assert (card.data.license, card.data.language, card.data.datasets) == ("apache-2.0", ["en"], ["openai/gsm8k"])
    assert "| rl1 | rl1 | 2 | 1.5 | 3 correct, 1 unfinished, 1 wrong |" in text
    assert "| math | sampled | 70.0% | 60.4 to 78.1% | 100 | 70 correct, 30 wrong |" in text
    assert "with seed 3" in text and "arithmetic of level 1" in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("program", ["qwq", "transformers", "vLLM", "SGLang", "llama.cpp", "Ollama", "MLX"])
def test_the_card_says_how_to_run_it_in_each_program(run, tmp_path, program):
    out = release(str(run), tmp_path / "out", ReleaseOptions(repository="me/small"))
    text = (out / "README.md").read_text()
    section = text.partition(f"### {program}\n")[2].partition("\n### ")[0]
    assert "```" in section and ("me/small" in section or "Modelfile" in section)


def test_the_modelfile_has_template_sampling_and_ends(run, tmp_path):
    text = (release(str(run), tmp_path / "out", OPTIONS) / "Modelfile").read_text()
    assert "FROM .\n" in text and 'TEMPLATE """{{ if .Tools }}' in text
    assert "PARAMETER temperature 0.6\n" in text and "PARAMETER top_p 0.95\n" in text and "PARAMETER top_k 40\n" in text
    assert 'PARAMETER stop "<|im_end|>"\n' in text and "PARAMETER num_ctx 1024\n" in text
    assert text.count('"""') == 4


def test_a_model_folder_alone_is_released_with_its_base_models_licence(model, tmp_path):
    (model / "README.md").write_text("---\nlicense: mit\nlanguage: [de]\nbase_model: org/base\n---\n# x\n")
    out = release(str(model), tmp_path / "out", OPTIONS)
    front = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert (front["license"], front["language"], front["base_model"]) == ("mit", ["de"], "org/base")
    assert "model-index" not in front and not (out / "recipe.toml").exists()
    named = release(
        str(model), tmp_path / "named", ReleaseOptions(name="Mine", licence="cc-by-4.0", languages=("en", "zh"))
    )
    front = yaml.safe_load((named / "README.md").read_text().split("---")[1])
    assert (front["license"], front["language"]) == ("cc-by-4.0", ["en", "zh"])


def test_a_run_that_kept_only_its_adapter_is_merged(run, model, tmp_path):
    final = run / "checkpoints" / "rl1" / "final"
    base = shutil.move(final, tmp_path / "base")
    policy = load_model(base)
    lora.add(policy, rank=2, seed=0)
    for m in lora.adapters(policy).values():
        m.lora_b.data.fill_(0.1)
    lora.save_adapter(policy, run / "checkpoints" / "rl1" / "adapter", base=str(base))
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('preset = "tiny"', f'path = "{base}"'))
    out = release(str(run), tmp_path / "out", OPTIONS)
    lora.merge(policy)
    expected = dict(policy.named_parameters())
    assert all((p == expected[n]).all() for n, p in load_model(out).named_parameters())
    assert {p.name for p in (out / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_the_same_release_again_is_checked_and_another_one_refused(run, tmp_path):
    out = release(str(run), tmp_path / "out", OPTIONS)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert release(str(run), out, OPTIONS) == out
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    with pytest.raises(ConfigError, match="is a release of other weights or with other options"):
        release(str(run), out, ReleaseOptions(name="other"))
    (out / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"config.json has sha256 .*SHA256SUMS says"):
        release(str(run), out, OPTIONS)
    with pytest.raises(ConfigError, match="is there already and is no release"):
        release(str(run), run, OPTIONS)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("nowhere", ModelError, "no model folder at"),
        ("file.gguf", ModelError, "is a file: release a run or a model folder"),
        ("empty", ModelError, "no config.json in"),
        ("unfinished", ModelError, "has no finished stage yet"),
    ],
)
def test_a_source_that_is_none_is_one_line_and_nothing_is_written(source, error, words, tmp_path):
    (tmp_path / "file.gguf").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.toml").write_text('name = "x"\n[stages.sft]\nkind = "sft"\n')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words):
        release(str(tmp_path / source), tmp_path / "out", OPTIONS)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_midway_leaves_nothing(run, tmp_path):
    (run / "checkpoints" / "rl1" / "final" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError):
        release(str(run), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_secret_in_the_run_stops_the_release(run, tmp_path):
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text() + f'# HF_TOKEN = "hf_{"a1" * 17}"\n')
    with pytest.raises(DataError, match=r"recipe.toml, line \d+: an access token of Hugging Face") as caught:
        release(str(run), tmp_path / "out", OPTIONS)
    assert "hf_a1" not in str(caught.value) and not (tmp_path / "out").exists()


KILLED = """
import sys
from pathlib import Path
from qwq.release import assemble
from qwq.release.assemble import ReleaseOptions, release
def say(part):
    print(part, flush=True)
    if part == sys.argv[3]:
        sys.stdin.read()
release(sys.argv[1], Path(sys.argv[2]), ReleaseOptions(), say)
"""


@pytest.mark.parametrize("part", ["model.safetensors", "training", "README.md"])
def test_after_a_kill_the_same_command_goes_on(run, tmp_path, part):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(run), str(out), part]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any(line.strip() == part for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    partial = tmp_path / ".out.partial"
    (partial / ".model.safetensors.1.partial").write_bytes(b"half")
    written = []
    release(str(run), out, OPTIONS, written.append)
    assert written[0] == part and not partial.exists()
    shutil.move(out, tmp_path / "resumed")
    release(str(run), out, OPTIONS)
    assert (tmp_path / "resumed" / "SHA256SUMS").read_text() == (out / "SHA256SUMS").read_text()


def test_what_a_kill_left_of_another_release_is_not_used(run, tmp_path):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "release.json").write_text(json.dumps({"made_from": "something else"}))
    (partial / ".done").write_text("config.json\n")
    (partial / "config.json").write_text("{}")
    out = release(str(run), tmp_path / "out", OPTIONS)
    assert json.loads((out / "config.json").read_text())["hidden_size"] == 192


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("key = 'sk-proj-abcdefghijklmnop1234'", "an API key"),
        ("ms-01234567-89ab-cdef-0123-456789abcdef", "ModelScope"),
        ("AKIAABCDEFGHIJKLMNOP", "AWS"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ("https://me:hunter22@example.org/x", "password in an address"),
        ('api_key: "abcdef0123456789abcd"', "key or password"),
        ("see /home/someone/data/x.jsonl", "home folder"),
        ("in C:\\Users\\someone\\x", "home folder"),
        ("open /root/.ssh", "home folder"),
    ],
)
def test_what_must_not_be_published_is_found(tmp_path, text, what):
    (tmp_path / "notes.md").write_text(f"fine\n{text}\n")
    (found,) = secrets_in(tmp_path, ["notes.md"])
    assert found.startswith("notes.md, line 2: ") and what in found


@pytest.mark.parametrize(
    "text", ['"eos_token": "<|im_end|>"', "max_tokens = 8192", "root of /home is", "https://a.org/b:c@d", "sk-learn"]
)
def test_what_only_looks_like_a_secret_passes(tmp_path, text):
    (tmp_path / "notes.md").write_text(text)
    assert secrets_in(tmp_path, ["notes.md"]) == []


@pytest.mark.parametrize("name", [".env", "sub/.env.local", "id_rsa", "server.pem", ".git/config", "token"])
def test_files_of_credentials_are_found_by_their_names(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert secrets_in(tmp_path, [name]) == [f"{name}: a file of credentials by its name"]


def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written .*give another folder with OUT"):
        release(str(run), tmp_path / "file" / "out", OPTIONS)


def test_two_commands_do_not_write_one_release(run, tmp_path):
    command = [sys.executable, "-c", KILLED, str(run), str(tmp_path / "out"), "LICENSE"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        assert any(line.strip() == "LICENSE" for line in process.stdout)
        with pytest.raises(ConfigError, match="is being written by another process"):
            release(str(run), tmp_path / "out", OPTIONS)
        process.communicate(timeout=60)
    assert (tmp_path / "out" / "SHA256SUMS").is_file()


@pytest.mark.parametrize(("words", "names"), [(["none"], []), (["q8_0", "F16"], ["small-F16.gguf", "small-Q8_0.gguf"])])
def test_gguf_files_of_a_release_are_those_named(run, tmp_path, words, names):
    out = tmp_path / "out"
    assert main(["release", str(run), str(out), "--gguf", *words]) == 0
    assert sorted(p.name for p in out.glob("*.gguf")) == names
    weights = re.search(r"^FROM (.*)$", (out / "Modelfile").read_text(), re.MULTILINE)[1]
    assert weights == ("./small-F16.gguf" if names else ".")
    assert all(f"`{name}`" in (out / "README.md").read_text() for name in names)


def test_a_release_of_an_older_state_is_kept(run, tmp_path, capsys):
    assert main(["push", str(run), "me/small", "--dry-run", "--gguf", "none"]) == 0
    (run / "report.html").write_text("<p>later</p>")
    assert main(["push", str(run), "me/small", "--dry-run", "--gguf", "none"]) == 0
    assert (run / "release" / "report.html").read_text() == "<p>later</p>"
    assert "work/small" in (run / "release.1" / "report.html").read_text()
    assert "was made from another state" in capsys.readouterr().err


def test_a_bad_name_is_refused_before_anything_is_written(run, capsys):
    assert main(["push", str(run), "small", "--dry-run"]) == 2
    assert "is no repository's name" in capsys.readouterr().err and not (run / "release").exists()


def test_a_part_can_be_left_out(run, tmp_path, capsys):
    report = run / "report.html"
    report.write_text("redis://me:hunter22@cache.local/0")
    out = tmp_path / "out"
    assert main(["release", str(run), str(out), "--gguf", "none"]) == 2
    assert "report.html, line 1: a password in an address" in capsys.readouterr().err and not out.exists()
    assert main(["release", str(run), str(out), "--gguf", "none", "--leave-out", "report.html"]) == 0
    assert not (out / "report.html").exists() and "report.html" not in (out / "README.md").read_text()
    assert main(["release", str(run), str(tmp_path / "x"), "--leave-out", "report.htm"]) == 2
    assert "did you mean 'report.html'" in capsys.readouterr().err


def test_the_release_of_a_run_that_cannot_be_written_is_made_here(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qwq.release.push.os.access", lambda path, mode: False)
    assert main(["push", str(run), "me/small", "--dry-run", "--gguf", "none"]) == 0
    assert (tmp_path / "small-release" / "SHA256SUMS").is_file() and not (run / "release").exists()
