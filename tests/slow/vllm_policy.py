"""Keys and values of earlier weights on a live vLLM. `make test-vllm-policy`.

    python tests/slow/vllm_policy.py --vllm PYTHON

PYTHON is the interpreter of an environment that has vLLM; a CPU is enough. The model is a small
Qwen2 that learns sums, its head stored as a tensor of its own. It gets weights B after A, with and
without the salt, with and without the pause. Without both the engine mixes keys and values of A
into B, and the probe has to show it (the test of the test); else it differs by rounding. `qwq
train` without both ends with an error that says so.

The last line is JSON: largest differences of the probe from the trainer's own log-probabilities, in
nats, and the tokens of its prompt that came out of the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import httpx2
import torch
from sums import sums_folder
from vllm_server import VllmServer

from qwq.config import Recipe
from qwq.endpoint.rollout_client import RolloutClient
from qwq.errors import InfraError
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model, save_model
from qwq.pipeline.run import RecipeRun
from qwq.release.export import ExportOptions, export
from qwq.rollout.fleet_engine import PROBE_PROMPT, FleetEngine, SharedWeights
from qwq.text.template import ChatFormat
from qwq.train.fleet_sampler import PROBE_LIMITS, PROBE_TEXT
from qwq.train.packing import batch_logprobs, pack_groups
from qwq.types import Message

ROUNDING = 1e-4


class Careless(RolloutClient):
    """A client that leaves out the salt, the pause, or both."""

    salt = pause_first = False

    def _body(self, r: Any) -> dict[str, Any]:
        body = super()._body(r)
        return body if self.salt else {k: v for k, v in body.items() if k != "cache_salt"}

    def pause(self, mode: Any, timeout_s: float) -> None:
        if self.pause_first:
            super().pause(mode, timeout_s)


class Place:
    """The model, its recipe, and the server."""

    def __init__(self, folder: Path, vllm: str) -> None:
        self.folder, self.tied = folder, sums_folder(folder) / "model"
        untied = folder / "untied"
        export(str(self.tied), untied, ExportOptions(untie=True, dtype="float32"))
        self.server = VllmServer(vllm, untied, folder / "vllm.log", max_model_len=1024)
        self.recipe = folder / "sums.toml"
        self.recipe.write_text(f"""
name = "sums"
[model]
path = {json.dumps(str(self.tied))}
[compute]
threads = 1
checkpoint_interval_s = 0
[stages.rl1]
kind = "rl1"
steps = 4
prompts = 16
samples = 8
max_new_tokens = 16
sources = [{{ kind = "math", path = {json.dumps(str(folder / "train.jsonl"))} }}]
optim = {{ lr = 2e-3, warmup = 0.1 }}
""")


def cache(place: Place) -> dict[str, Any]:
    """The probe's difference and what was cached, for each of the four ways."""
    a, b = load_model(place.tied, dtype=torch.float32), load_model(place.tied, dtype=torch.float32)
    with torch.no_grad():
        for block in b.blocks:
            block.qkv.weight.mul_(1.05)
        b.embed.weight.mul_(1.01)
    for name, model in (("a", a), ("b", b)):
        save_model(model, place.folder / "weights" / name, untie=True, durable=False)
    chat = ChatFormat.from_folder(place.tied)
    prompt = chat.prompt_ids([Message("user", PROBE_TEXT)])[: PROBE_PROMPT["vllm"]]
    row: dict[str, Any] = {}
    for salt in (False, True):
        for pause in (False, True):
            httpx2.post(f"{place.server.url}/reset_prefix_cache", timeout=60).raise_for_status()
            client = Careless(place.server.url, "vllm")
            client.salt, client.pause_first = salt, pause
            engine, name = FleetEngine(client), f"salt {salt}, pause {pause}"
            sync(place, engine, "a", prompt, a)
            before = place.server.hits()
            worst = sync(place, engine, "b", prompt, b)
            row[name] = {"probe_max": worst, "cached_tokens": place.server.hits() - before}
            print(f"{name}: {row[name]}", flush=True)
            client.close()
    careless = row.pop("salt False, pause False")
    assert careless["cached_tokens"] and careless["probe_max"] > PROBE_LIMITS[True], careless
    assert all(not r["cached_tokens"] and r["probe_max"] < ROUNDING for r in row.values()), row
    trains_with_neither(place)
    return {"neither": careless, **row}


def sync(place: Place, engine: FleetEngine, name: str, prompt: Sequence[int], model: Transformer) -> float:
    weights = SharedWeights(f"{name}-{time.time_ns()}", 0, str(place.folder / "weights" / name))
    probe = engine.set_weights(weights, prompt, 1.0, timeout_s=120.0, mode="abort").probe
    assert set(probe.versions) == {weights.name}
    batch = pack_groups([prompt], [[probe.token_ids]], [[[1] * len(probe.token_ids)]], {}, model.device)
    with torch.no_grad():
        own = batch_logprobs(model, batch, 1.0)[0]
    return float((own - torch.tensor(probe.logprobs)).abs().max())


def trains_with_neither(place: Place) -> None:
    """A run whose client leaves out salt and pause ends with an error."""
    from qwq.rollout import fleet_engine

    whole, fleet_engine.RolloutClient = fleet_engine.RolloutClient, Careless
    try:
        recipe = Recipe.load(
            place.recipe, **{"rollout.policy": "vllm", "rollout.endpoints": place.server.url, "rollout.give_up_s": 5.0,
                             "stages.rl1.optim.warmup": 0.0},
        )  # fmt: skip
        RecipeRun(recipe, place.folder / "neither").run()
    except InfraError as error:
        assert "its probe differs from the trainer" in str(error), error
        print(f"qwq train with neither: {error}", flush=True)
    else:
        raise AssertionError("a run without salt and pause has to fail")
    finally:
        fleet_engine.RolloutClient = whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, metavar="PYTHON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), args.vllm)
        with place.server:
            version = httpx2.get(f"{place.server.url}/version", timeout=60).json()["version"]
            row = {"name": f"vLLM {version}: keys and values of earlier weights", **cache(place)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
