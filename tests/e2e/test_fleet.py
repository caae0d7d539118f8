"""RL on rollout engines over HTTP: our own, and a stand-in for vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engines import ServedHere
from fleets import PROMPTS, SAMPLES, STEPS, ending_model, events, metrics, prompts, rollouts, run, weights
from stand_in_vllm import StandInVllm

from qwq.endpoint.rollout_client import RolloutClient, SampleRequest
from qwq.errors import InfraError
from qwq.release.export import ExportOptions, export

FAST = {"rollout.rejoin_s": 0.05, "rollout.give_up_s": 60.0, "rollout.sync_timeout_s": 20.0}
GIVES_UP = FAST | {"rollout.give_up_s": 5.0}
WILD = {"rollout.policy": "vllm", "stages.rl1.optim.lr": 3e-2}  # steps that a probe of the weights before sees


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return ending_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def local(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("local"), model)


def same_weights(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return all(torch.equal(one[name], two[name]) for name in one)


def test_two_engines_give_the_on_policy_run_bit_for_bit(model, local, tmp_path):
    with ServedHere(model) as a, ServedHere(model) as b:
        other = run(tmp_path, model, **FAST, **{"rollout.policy": "qwq", "rollout.endpoints": f"{a.url},{b.url}"})
    assert prompts(other) == prompts(local) and len(prompts(local)) == STEPS
    assert [len(step) for step in rollouts(other)] == [PROMPTS * SAMPLES] * STEPS
    for mine, theirs in zip(rollouts(other), rollouts(local), strict=True):
        assert [r["completion_ids"] for r in mine] == [r["completion_ids"] for r in theirs]
        assert [r["weight_versions"] for r in mine] == [r["weight_versions"] for r in theirs]
        assert [r["reward"] for r in mine] == [r["reward"] for r in theirs]
    assert any(m["trained_tokens"] for m in metrics(local)), "the run has to learn something"
    assert same_weights(other, local)
    assert max(m["mismatch_max"] for m in metrics(other)) < 1e-4
    assert [m["lag_max"] for m in metrics(other)] == [0] * STEPS
    assert {e["engine"] for e in events(other) if e["event"] == "accepted"} == {a.url, b.url}
    assert not list((other / "fleet" / "rl1").glob("weights*")) and not list((other / "fleet").rglob("step-*"))


def test_vllm_gets_the_salt_and_plain_sampling(model, tmp_path):
    with StandInVllm(model) as vllm:
        folder = run(tmp_path, model, **FAST, **{"rollout.policy": "vllm", "rollout.endpoints": vllm.url})
        assert vllm.hits == 0 or all(m["mismatch_max"] < 1e-4 for m in metrics(folder))
        assert {body["cache_salt"].split("-")[0] for body in vllm.seen} == {str(step) for step in range(STEPS)}
        assert all(b["sampling_params"]["top_p"] == 1 and b["sampling_params"]["top_k"] == 0 for b in vllm.seen)
        assert len({b["cache_salt"] for b in vllm.seen}) == STEPS
    assert all(m["importance_mean"] == pytest.approx(1, abs=1e-3) for m in metrics(folder) if m["trained_tokens"])
    assert max(m["fleet"]["probe_max"] for m in metrics(folder)) < 1e-4


@pytest.mark.parametrize("faults", [{"no_salt"}, {"no_pause"}])
def test_salt_or_pause_alone_keeps_the_cache_fresh(model, tmp_path, faults):
    with StandInVllm(model, faults=frozenset(faults)) as vllm:
        folder = run(tmp_path, model, **FAST, **{"rollout.policy": "vllm", "rollout.endpoints": vllm.url})
        assert vllm.hits > 0
    assert max(m["mismatch_max"] for m in metrics(folder)) < 1e-4


@pytest.mark.parametrize("block", [16, 128])
def test_a_stale_cache_fails_the_probe(model, tmp_path, block):
    """The test of the tests above: without salt and pause the engine mixes keys and values of the
    weights before with the new ones, and labels the tokens with the new version. The blocks of
    vLLM's CPU build hold 128 tokens, and only whole ones are reused.
    """
    with (
        StandInVllm(model, faults=frozenset({"no_salt", "no_pause"}), block=block) as vllm,
        pytest.raises(InfraError, match=r"no engine has been ready.*its probe differs from the trainer by"),
    ):
        run(
            tmp_path, model, **GIVES_UP,
            **{"rollout.policy": "vllm", "rollout.endpoints": vllm.url, "stages.rl1.optim.lr": 3e-2},
        )  # fmt: skip
    assert [e["version"] for e in events(tmp_path / "fleet") if e["event"] == "ready"] == [0]


def test_an_engine_with_other_weights_gets_no_work(model, local, tmp_path):
    """One that ignores the reload, and says the version it was told."""

    class Deaf(StandInVllm):
        def post(self, path, body):
            return (200, {}) if path == "/collective_rpc" else super().post(path, body)

    with StandInVllm(model) as good, Deaf(model) as deaf:
        folder = run(tmp_path, model, **FAST, **WILD, **{"rollout.endpoints": f"{deaf.url},{good.url}"})
    assert prompts(folder) == prompts(local)
    told = [e for e in events(folder) if e.get("engine") == deaf.url]
    assert {e["version"] for e in told if e["event"] == "ready"} == {0}
    assert any("its probe differs" in e["error"] for e in told if e["event"] == "away")


def test_a_tied_head_that_the_cpu_build_keeps_fails_the_probe(model, tmp_path):
    with (
        StandInVllm(model, faults=frozenset({"packed_head"})) as vllm,
        pytest.raises(InfraError, match=r"no engine has been ready.*its probe differs from the trainer by"),
    ):
        run(tmp_path, model, **GIVES_UP, **WILD, **{"rollout.endpoints": vllm.url})


def test_an_untied_copy_gets_its_head_with_each_reload(model, local, tmp_path):
    untied = tmp_path / "untied"
    export(str(model), untied, ExportOptions(untie=True))
    with StandInVllm(untied, faults=frozenset({"packed_head"})) as vllm:
        assert vllm.model.head is not None
        folder = run(tmp_path, model, **FAST, **WILD, **{"rollout.endpoints": vllm.url})
    assert prompts(folder) == prompts(local)
    assert max(m["fleet"]["probe_max"] for m in metrics(folder)) < 1e-4
    assert max(m["mismatch_max"] for m in metrics(folder)) < 1e-4


def test_no_engine_is_resumed_on_half_loaded_weights(model, local, tmp_path):
    """A sample would end vLLM's engine for good; the next reload mends it."""

    class Stumbles(StandInVllm):
        stumbled = False

        def reload(self, folder):
            first, self.stumbled = not self.stumbled, True
            return super().reload(folder / "gone" if first else folder)

    with Stumbles(model) as vllm:
        folder = run(tmp_path, model, **FAST, **WILD, **{"rollout.endpoints": vllm.url})
        assert vllm.stumbled and not vllm.dead
    assert prompts(folder) == prompts(local)
    assert any("status 500" in e["error"] for e in events(folder) if e["event"] == "away")


def test_vllm_hears_which_requests_to_abort(model):
    asked = [SampleRequest(ident, [5, 6, 7], 8, 1.0, "v", ignore_eos=True) for ident in ("a", "b")]
    with StandInVllm(model) as vllm:
        client = RolloutClient(vllm.url, "vllm")
        client.abort(["a"], 10)
        assert len(client.sample(asked[1], 10).token_ids) == 8
        with pytest.raises(InfraError, match="aborted request a"):
            client.sample(asked[0], 10)
        client.close()
