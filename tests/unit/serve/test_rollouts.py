"""A server with --rollout-engine in this process: samples, weight versions, pause and reload."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx2
import pytest
import torch
from engines import ServedHere
from little import make_model
from tiny import random_model, randomised

from qwq.endpoint.rollout_client import RolloutClient, SampleRequest
from qwq.errors import ConfigError, InfraError
from qwq.model.weights import load_model, save_model
from qwq.serve.options import ServeOptions
from qwq.train.packing import batch_logprobs, pack_groups

PROMPT = [5, 9, 40, 41, 42, 7, 8, 9, 10, 11] * 4
WAIT = 20.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of one shape with different weights."""
    first = make_model(tmp_path_factory.mktemp("a") / "model")
    other = load_model(first)
    second = first.parent / "other"
    save_model(randomised(other, 0.12, seed=1), second)
    return first, second


@pytest.fixture(scope="module")
def server(models: tuple[Path, Path]):
    with ServedHere(models[0]) as served:
        yield served


@pytest.fixture
def client(server: ServedHere):
    made = RolloutClient(server.url, "qwq")
    yield made
    made.resume(WAIT)
    made.close()


def load(client: RolloutClient, folder: Path, version: str, mode: str = "keep") -> None:
    client.pause(mode, WAIT)  # type: ignore[arg-type]
    client.reload(str(folder), WAIT)
    client.say_version(version, WAIT)
    client.resume(WAIT)


def scored(folder: Path, prompt: list[int], ids: list[int]) -> list[float]:
    """Log-probabilities of `ids` after `prompt`, by a forward pass of the folder's weights."""
    model = load_model(folder)
    batch = pack_groups([prompt], [[ids]], [[[1] * len(ids)]], {}, torch.device("cpu"))
    with torch.no_grad():
        return batch_logprobs(model, batch, 1.0)[0].tolist()


def furthest(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def test_samples_carry_the_log_probabilities_of_the_loaded_weights(client, models):
    for folder, version in (*zip(models, ("s/1", "s/2"), strict=True), (models[0], "s/3")):
        load(client, folder, version)
        got = client.sample(SampleRequest("r", PROMPT, 12, 1.0, version, seed=3, ignore_eos=True), WAIT)
        assert len(got.token_ids) == 12
        assert got.versions == [version] * 12
        assert got.sampled_mask == [1] * 12
        assert furthest(got.logprobs, scored(folder, PROMPT, got.token_ids)) < 1e-4


def test_the_random_stream_is_the_requests_own(client, models):
    load(client, models[0], "v")
    ask = [
        SampleRequest(f"{i}", PROMPT, 8, 1.0, "v", seed=3, stream=s, ignore_eos=True) for i, s in enumerate((0, 0, 1))
    ]
    first, again, other = (client.sample(r, WAIT).token_ids for r in ask)
    assert first == again != other
    rest = SampleRequest("rest", [*PROMPT, *first[:3]], 5, 1.0, "v", seed=3, offset=3, ignore_eos=True)
    assert client.sample(rest, WAIT).token_ids == first[3:]


def test_another_version_is_refused_and_a_reload_forgets_the_name(client, models):
    load(client, models[0], "v/1")
    with pytest.raises(InfraError, match=r"409.*'v/2'.*'v/1' is loaded"):
        client.sample(SampleRequest("r", PROMPT, 4, 1.0, "v/2"), WAIT)
    client.reload(str(models[1]), WAIT)
    with pytest.raises(InfraError, match="409"):
        client.sample(SampleRequest("r", PROMPT, 4, 1.0, "v/1"), WAIT)


def test_weights_change_in_the_middle_of_a_sample(client, models):
    load(client, models[0], "v/1")
    got = []

    def ask() -> None:
        got.append(client.sample(SampleRequest("long", PROMPT, 250, 1.0, "v/1", seed=5, ignore_eos=True), WAIT))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.15)
    load(client, models[1], "v/2")
    thread.join()
    (sample,) = got
    at = sample.versions.index("v/2")
    assert 0 < at < 250
    assert set(sample.versions[at:]) == {"v/2"}
    new = scored(models[1], PROMPT, sample.token_ids)
    old = scored(models[0], PROMPT, sample.token_ids)
    assert furthest(sample.logprobs[:at], old[:at]) < 1e-4
    assert furthest(sample.logprobs[at:], new[at:]) < 1e-4, "later tokens see a context of the new weights"
    assert furthest(sample.logprobs[at:], old[at:]) > 0.01


def test_pause_holds_requests_and_abort_ends_them(client, models):
    load(client, models[0], "v")
    client.pause("keep", WAIT)
    with pytest.raises(InfraError, match="Timeout"):
        client.sample(SampleRequest("held", PROMPT, 4, 1.0, "v"), 0.2)
    client.resume(WAIT)
    failures: list[str] = []

    def ask(ident: str) -> None:
        try:
            client.sample(SampleRequest(ident, PROMPT, 450, 1.0, "v", ignore_eos=True), WAIT)
        except InfraError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    client.abort(["one"], WAIT)
    threads[0].join()
    client.pause("abort", WAIT)
    client.resume(WAIT)
    threads[1].join()
    assert "request one was aborted" in failures[0]
    assert "aborted request two" in failures[1]


def test_only_plain_sampling_and_weights_that_fit(server, models, tmp_path):
    url = f"{server.url}/inference/v1/generate"
    for field, value in (("top_p", 0.9), ("top_k", 5), ("min_p", 0.1), ("repetition_penalty", 1.2)):
        answer = httpx2.post(url, json={"token_ids": PROMPT, "sampling_params": {field: value}}, timeout=WAIT)
        assert answer.status_code == 400, field
        assert field in answer.json()["error"]["message"]
    client = RolloutClient(server.url, "qwq")
    narrow = load_model(models[0])
    with pytest.raises(InfraError, match="no folder"):
        client.reload(str(tmp_path / "none"), WAIT)
    save_model(random_model(narrow.config.vocab_size), tmp_path / "narrow")
    with pytest.raises(InfraError, match="2 layers of 24"):
        client.reload(str(tmp_path / "narrow"), WAIT)
    client.close()


def test_paths_need_the_flag_and_the_key(models):
    with ServedHere(models[0], rollout_engine=False) as plain:
        assert httpx2.post(f"{plain.url}/pause", timeout=WAIT).status_code == 404
    with ServedHere(models[0], api_key=("secret",)) as locked:
        assert httpx2.post(f"{locked.url}/pause", timeout=WAIT).status_code == 401
        client = RolloutClient(locked.url, "qwq", api_key="secret")
        client.pause("keep", WAIT)
        client.close()
    with pytest.raises(ConfigError, match="--api-key"):
        ServeOptions(host="0.0.0.0", rollout_engine=True)
