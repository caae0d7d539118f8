"""`qwq push` brings a release to a hub whole, and nothing that must not be there."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import hub_stand_in
import pytest
import torch
from hub_stand_in import MS_TOKEN, TOKEN, Repository, content_of, environment
from huggingface_hub import ModelCard

from qwq.common.checksums import sha256_of
from qwq.errors import ConfigError
from qwq.model.model_folder import stored_tensors
from qwq.model.weights import load_model
from qwq.release.assemble import ReleaseOptions, release
from qwq.release.push import plan

QWQ = str(Path(sys.executable).with_name("qwq"))


@pytest.fixture
def hub():
    with hub_stand_in.serving() as served:
        yield served


@pytest.fixture
def released(run, tmp_path):
    return release(str(run), tmp_path / "released", ReleaseOptions())


# `qwq` whose client of Hugging Face does not wait between its tries.
IMPATIENT = """
import sys, time
import huggingface_hub.utils._http as http
http.time = type("Clock", (), {"sleep": staticmethod(lambda s: None), "time": time.time, "monotonic": time.monotonic})
from qwq.cli import main
sys.exit(main(sys.argv[1:]))
"""


def qwq(env, *arguments, **options):
    return subprocess.run([QWQ, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=120, **options)


def test_a_dry_run_shows_every_file_with_its_bytes_and_sends_nothing(run, tmp_path, hub):
    address, hubs = hub
    done = qwq(environment(tmp_path, address), "push", run, "me/small", "--to", "huggingface", "--dry-run")
    assert done.returncode == 0, done.stderr
    *rows, total = done.stdout.splitlines()
    shown = {name: int(size) for size, name in (row.split() for row in rows)}
    folder = run / "release"
    assert shown == {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert total == f"{sum(shown.values())} bytes in {len(shown)} files of {folder} for {address}/me/small"
    assert hubs.asked == [] and "me/small" in (folder / "README.md").read_text()


def test_a_push_makes_a_private_repository_equal_to_the_folder(released, tmp_path, hub):
    address, hubs = hub
    env = environment(tmp_path, address, HF_TOKEN=TOKEN)
    done = qwq(env, "push", released, "me/small")
    assert (done.returncode, done.stdout) == (0, f"{address}/me/small\n"), done.stderr
    repository = hubs.repositories["me/small"]
    assert repository.private and repository.files == content_of(released)
    assert "model.safetensors" in repository.lfs and len(repository.commits) == 1
    assert sorted(hubs.parts) == [sha256_of(released / "model.safetensors")]  # it came in parts
    before = len(hubs.writes())
    assert qwq(env, "push", released, "me/small").returncode == 0
    assert len(hubs.writes()) == before  # the second time there is nothing to do


def test_a_released_folder_is_pushed_without_importing_torch(released, tmp_path, hub):
    address, hubs = hub
    code = "import sys; sys.modules['torch'] = None; from qwq.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "push", str(released), "me/small"]
    env = environment(tmp_path, address, HF_TOKEN=TOKEN)
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{address}/me/small\n"), done.stderr
    assert hubs.repositories["me/small"].files == content_of(released)


@pytest.mark.parametrize("to", ["huggingface", "modelscope"])
def test_what_was_pushed_comes_back_by_its_name(released, tmp_path, hub, to):
    if to == "modelscope":
        pytest.importorskip("modelscope_hub")
    address, _ = hub
    env = environment(tmp_path, address, HF_TOKEN=TOKEN, MODELSCOPE_API_TOKEN=MS_TOKEN)
    assert qwq(env, "push", released, "me/small", "--to", to).returncode == 0
    name = "modelscope:me/small" if to == "modelscope" else "hf:me/small"
    done = qwq(env, "export", name, tmp_path / "back")
    assert done.returncode == 0, done.stderr
    again, first = (
        {n: (t.shape, t.dtype) for n, t in stored_tensors(f).items()} for f in (tmp_path / "back", released)
    )
    assert again == first
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(load_model(f).parameters() for f in (tmp_path / "back", released)), strict=True)
    )


def test_a_later_release_takes_the_earlier_ones_files_away_and_leaves_others(released, run, tmp_path, hub):
    address, hubs = hub
    env = environment(tmp_path, address, HF_TOKEN=TOKEN)
    assert qwq(env, "push", released, "me/small").returncode == 0
    hubs.repositories["me/small"].files["notes.txt"] = b"mine"
    (run / "report.html").unlink()
    later = release(str(run), tmp_path / "later", ReleaseOptions(repository="me/small"))
    assert qwq(env, "push", later, "me/small").returncode == 0
    assert hubs.repositories["me/small"].files == content_of(later) | {"notes.txt": b"mine"}


def test_the_stand_ins_validator_accepts_the_card_through_the_hubs_own_client(released, hub, monkeypatch):
    address, _ = hub
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    text = (released / "README.md").read_text()
    ModelCard(text).validate()
    with pytest.raises(ValueError, match='"license" must be one of'):
        ModelCard(text.replace("license: apache-2.0", "license: apache")).validate()


@pytest.mark.parametrize("to", ["huggingface", "modelscope"])
def test_without_a_token_nothing_is_asked(released, tmp_path, hub, to):
    if to == "modelscope":
        pytest.importorskip("modelscope_hub")
    address, hubs = hub
    done = qwq(environment(tmp_path, address), "push", released, "me/small", "--to", to)
    assert done.returncode == 2 and "error: no token for" in done.stderr and hubs.asked == []


@pytest.mark.parametrize("to", ["huggingface", "modelscope"])
def test_a_refused_token_is_one_line_that_does_not_show_it(released, tmp_path, hub, to):
    if to == "modelscope":
        pytest.importorskip("modelscope_hub")
    address, hubs = hub
    wrong = "hf_" + "W" * 34
    env = environment(tmp_path, address, HF_TOKEN=wrong, MODELSCOPE_API_TOKEN=wrong)
    done = qwq(env, "push", released, "me/small", "--to", to)
    assert done.returncode == 2, done.stderr
    assert f"error: {address} refuses the token for me/small (401)" in done.stderr
    assert wrong not in done.stderr + done.stdout and not hubs.repositories


def test_the_clients_own_store_gives_the_token(released, tmp_path, hub):
    address, hubs = hub
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN)
    assert qwq(environment(tmp_path, address), "push", released, "me/small").returncode == 0
    assert "me/small" in hubs.repositories


def test_public_is_asked_for_before_and_made_so_after_all_is_there(released, tmp_path, hub):
    address, hubs = hub
    env = environment(tmp_path, address, HF_TOKEN=TOKEN)
    refused = qwq(env, "push", released, "me/small", "--public", stdin=subprocess.DEVNULL)
    assert refused.returncode == 2 and "nothing was sent" in refused.stderr and not hubs.repositories
    assert qwq(env, "push", released, "me/small", "--public", "--yes").returncode == 0
    assert not hubs.repositories["me/small"].private
    writes = [path for _, path in hubs.writes()]
    assert writes.index("/api/models/me/small/settings") > writes.index("/api/models/me/small/commit/main")


def test_a_repository_that_is_public_already_is_asked_about(released, tmp_path, hub):
    address, hubs = hub
    hubs.repositories["me/small"] = Repository(private=False)
    done = qwq(environment(tmp_path, address, HF_TOKEN=TOKEN), "push", released, "me/small", stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "is public, and nothing was sent" in done.stderr
    assert not hubs.repositories["me/small"].files


@pytest.mark.parametrize("to", ["huggingface", "modelscope"])
def test_a_hub_that_goes_away_is_one_line_and_no_half_release(released, tmp_path, hub, to):
    if to == "modelscope":
        pytest.importorskip("modelscope_hub")
    address, hubs = hub
    hubs.fail_after = 3
    token = {"HF_TOKEN": TOKEN, "MODELSCOPE_API_TOKEN": MS_TOKEN}
    short = {"MODELSCOPE_API_MAX_RETRIES": "0"}
    env = environment(tmp_path, address, **token, **short)
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "push", released, "me/small", "--to", to],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 70, (done.stdout, done.stderr)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {address} did not take all of me/small") and "run the same command again" in last
    assert TOKEN not in done.stderr and MS_TOKEN not in done.stderr and "Traceback" not in done.stderr
    hubs.fail_after = None
    again = qwq(environment(tmp_path, address, **token), "push", released, "me/small", "--to", to)
    assert again.returncode == 0, again.stderr
    assert repository_of(hubs, to).files == content_of(released)


def repository_of(hubs, to):
    return hubs.repositories["modelscope/me/small" if to == "modelscope" else "me/small"]


@pytest.mark.parametrize("to", ["huggingface", "modelscope"])
def test_killed_at_random_moments_and_run_again_it_ends_complete(released, tmp_path, hub, to):
    if to == "modelscope":
        pytest.importorskip("modelscope_hub")
    address, hubs = hub
    hubs.delay_s = 0.02
    env = environment(tmp_path, address, HF_TOKEN=TOKEN, MODELSCOPE_API_TOKEN=MS_TOKEN)
    command = [QWQ, "push", str(released), "me/small", "--to", to]
    draw, log = random.Random(0), []
    for num_requests in (2, 8, 14):  # tests/slow/push_kills.py draws ten
        moment = len(hubs.asked) + num_requests
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while len(hubs.asked) < moment and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0.0, 0.04))
            process.send_signal(signal.SIGKILL)
            log += process.communicate()
        if hubs.repositories:
            assert repository_of(hubs, to).files in ({}, content_of(released))  # all or nothing
    done = qwq(env, *command[1:])
    assert done.returncode == 0, done.stderr
    assert repository_of(hubs, to).files == content_of(released)
    assert not any(token in text for token in (TOKEN, MS_TOKEN) for text in [*log, done.stderr, done.stdout])


def test_modelscope_gets_a_private_repository_equal_to_the_folder(released, tmp_path, hub):
    pytest.importorskip("modelscope_hub")
    address, hubs = hub
    env = environment(tmp_path, address, MODELSCOPE_API_TOKEN=MS_TOKEN)
    done = qwq(env, "push", released, "me/small", "--to", "modelscope")
    assert (done.returncode, done.stdout) == (0, f"{address}/models/me/small\n"), done.stderr
    repository = hubs.repositories["modelscope/me/small"]
    assert repository.private and repository.files == content_of(released)
    assert len(repository.commits) == 1 and "Upload" not in done.stdout
    before = len(hubs.writes())
    assert qwq(env, "push", released, "me/small", "--to", "modelscope").returncode == 0
    assert len(hubs.writes()) == before


@pytest.mark.parametrize("name", ["small", "a/b/c", "me/../x", "me/a--b", "/x", "me/"])
def test_a_name_that_no_hub_takes_is_refused(released, name):
    with pytest.raises(ConfigError, match="is no repository's name: write OWNER/NAME"):
        plan(released, name, "huggingface")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").write_text("{}"), "config.json has sha256"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / ".env").write_text("X=1"), ".env is not in SHA256SUMS"),
        (lambda f: (f / "SHA256SUMS").write_text("nonsense\n"), "SHA256SUMS, line 1: not a checksum"),
    ],
)
def test_a_folder_that_is_not_as_it_was_released_is_not_sent(released, tmp_path, hub, spoil, words):
    address, hubs = hub
    spoil(released)
    done = qwq(environment(tmp_path, address, HF_TOKEN=TOKEN), "push", released, "me/small")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 and hubs.asked == []


def test_a_secret_in_the_release_is_not_sent(released, tmp_path, hub):
    address, hubs = hub
    report = released / "report.html"
    old = sha256_of(report)
    report.write_text(f"<p>{TOKEN}</p>")
    sums = released / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, sha256_of(report)))
    done = qwq(environment(tmp_path, address, HF_TOKEN=TOKEN), "push", released, "me/small")
    assert done.returncode == 2 and "report.html, line 1: the access token of this machine" in done.stderr
    assert TOKEN not in done.stderr and hubs.asked == []
