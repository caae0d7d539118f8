"""Names of hubs' repositories, and downloads that resume and are checked, against stand-ins."""

import subprocess
import sys
from pathlib import Path

import hub_stand_in
import pytest
from hub_stand_in import MS_TOKEN, TOKEN, Repository, environment

from qwq.common.hub_files import HubName, hub_id, parse_hub_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen/QwQ-32B", HubName("huggingface", "Qwen/QwQ-32B")),
        ("hf:Qwen/QwQ-32B", HubName("huggingface", "Qwen/QwQ-32B", explicit=True)),
        ("hf://Qwen/QwQ-32B@v1.0", HubName("huggingface", "Qwen/QwQ-32B", "v1.0", explicit=True)),
        ("modelscope:Qwen/QwQ-32B", HubName("modelscope", "Qwen/QwQ-32B", explicit=True)),
        ("hf:me/x:Q4_K_M", HubName("huggingface", "me/x", quant="Q4_K_M", explicit=True)),
        ("me/x:Q8_0", HubName("huggingface", "me/x", quant="Q8_0")),
        ("hf:me/x/sub/x-Q8_0.gguf", HubName("huggingface", "me/x", file="sub/x-Q8_0.gguf", explicit=True)),
    ],
)
def test_names_of_repositories(text, name):
    assert parse_hub_name(text) == name


@pytest.mark.parametrize(
    "text", ["runs/tiny", "../a/b", "/a/b", "x", "a/b/c", "data/train.jsonl", "x.gguf", "a/x.gguf", "~/m/x", "hf:x", ""]
)
def test_paths_are_no_names(text):
    assert parse_hub_name(text) is None and hub_id(text) == ""


def test_a_folder_that_is_here_is_meant_unless_a_prefix_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen").mkdir()
    assert parse_hub_name("Qwen/QwQ-32B") is None
    assert parse_hub_name("hf:Qwen/QwQ-32B") is not None


FETCH = """
import sys
from qwq.common.hub_files import download, gguf_file, parse_hub_name
from qwq.errors import QwqError
name = parse_hub_name(sys.argv[1])
try:
    print(gguf_file(name) if name.names_file else download(name, ["*.json", "*.safetensors"]))
except QwqError as error:
    print(error, file=sys.stderr)
    raise SystemExit(error.exit_status)
"""


def fetch(tmp_path, address, name):
    """Fetch in a process of its own: the clients read their addresses when they are imported."""
    env = environment(tmp_path, address, HF_TOKEN=TOKEN, MODELSCOPE_API_TOKEN=MS_TOKEN)
    return subprocess.run(
        [sys.executable, "-c", FETCH, name], env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )


FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 5000,
    "README.md": b"# not fetched",
    "x-Q4_K_M.gguf": b"four",
    "x-Q8_0.gguf": b"eight",
}


@pytest.fixture
def hub():
    hubs = hub_stand_in.Hubs()
    for name in ("me/x", "modelscope/me/x"):
        hubs.repositories[name] = Repository(True, dict(FILES), {"model.safetensors", "x-Q4_K_M.gguf", "x-Q8_0.gguf"})
    with hub_stand_in.serving(hubs) as (address, hubs):
        yield address, hubs


HUBS = ["hf:me/x", "modelscope:me/x"]


def skip_without_client(name):
    if name.startswith("modelscope"):
        pytest.importorskip("modelscope_hub")


@pytest.mark.parametrize("name", HUBS)
def test_a_repository_is_fetched_once(hub, tmp_path, name):
    skip_without_client(name)
    address, hubs = hub
    done = fetch(tmp_path, address, name)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")} == {
        k: FILES[k] for k in ("config.json", "model.safetensors")
    }
    gets = [path for method, path in hubs.asked if method == "GET" and "safetensors" in path]
    assert fetch(tmp_path, address, name).returncode == 0
    assert [path for method, path in hubs.asked if method == "GET" and "safetensors" in path] == gets


@pytest.mark.parametrize("name", HUBS)
def test_a_damaged_download_is_refused_and_fetched_again(hub, tmp_path, name):
    skip_without_client(name)
    address, hubs = hub
    hubs.damage = "model.safetensors"
    done = fetch(tmp_path, address, name)
    assert done.returncode == 2 and "model.safetensors" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 500 and "Traceback" not in done.stderr
    hubs.damage = ""
    again = fetch(tmp_path, address, name)
    assert again.returncode == 0, again.stderr
    folder = Path(again.stdout.strip().splitlines()[-1])
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("name", HUBS)
def test_one_gguf_file_by_quantisation_or_name(hub, tmp_path, name):
    skip_without_client(name)
    address, _ = hub
    for what, content in ((":Q4_K_M", b"four"), (":q8_0", b"eight"), ("/x-Q8_0.gguf", b"eight")):
        done = fetch(tmp_path, address, name + what)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip().splitlines()[-1]).read_bytes() == content
    missing = fetch(tmp_path, address, f"{name}:Q2_K")
    assert missing.returncode == 2 and "no single GGUF file for Q2_K" in missing.stderr


@pytest.mark.parametrize("name", ["hf:me/absent", "modelscope:me/absent"])
def test_a_repository_that_is_not_there_is_one_line(hub, tmp_path, name):
    skip_without_client(name)
    done = fetch(tmp_path, hub[0], name)
    assert done.returncode == 2 and "no model folder at" in done.stderr and "check the name" in done.stderr
    assert TOKEN not in done.stderr and MS_TOKEN not in done.stderr


def test_a_torn_download_goes_on_where_it_was(hub, tmp_path):
    address, hubs = hub
    weights = bytes(range(256)) * 100_000  # the client writes 10 MB at a time
    hubs.repositories["me/x"].files["model.safetensors"] = weights
    hubs.cut_after = 22_000_000
    done = fetch(tmp_path, address, "hf:me/x")
    if done.returncode:  # the client may also go on by itself
        done = fetch(tmp_path, address, "hf:me/x")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert (folder / "model.safetensors").read_bytes() == weights
    spans = [span for path, span in hubs.ranges if path == "model.safetensors"]
    assert len(spans) == 2 and int(spans[1].removeprefix("bytes=").rstrip("-")) > 0
