"""RL's groups from a fleet of engines: what the trainer gives it (weights, problems) and takes from
it (rollouts in the order of their groups).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from qwq.cluster.registry import engine_urls
from qwq.config import RlConfig, RolloutSection
from qwq.engine.sampler import SamplingParams
from qwq.errors import ConfigError, InfraError
from qwq.model import lora
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.rollout.accepted import AcceptedGroups, SampledGroup
from qwq.rollout.budget import EpisodeLimits
from qwq.rollout.collect import OnResponse
from qwq.rollout.fleet import Fleet, GroupTask
from qwq.rollout.fleet_engine import PROBE_PROMPT, PROBE_TOKENS, FleetEngine, open_engines
from qwq.rollout.leases import GroupKey
from qwq.rollout.roster import FindEngines, FleetSettings, Weights
from qwq.text.template import ChatFormat
from qwq.train.checkpoint import StageRun
from qwq.train.packing import batch_logprobs, pack_groups
from qwq.types import Message, Problem, Rollout

# The prompt of every probe: long enough for several blocks of an engine's KV cache.
PROBE_TEXT = "Say each number and its square: " + ", ".join(f"{i} and {i * i}" for i in range(1, 60))
# Largest difference of a probe, in nats, in 16 bits (SmolLM2 was seen at 0.099) and in float32.
PROBE_LIMITS = (0.3, 1e-3)
# A step's problems: the number of the first, the problems, their thinking budgets.
Numbered = tuple[int, Sequence[Problem], Sequence[int | None] | None]


def _opened(rollout: RolloutSection, urls: Sequence[str]) -> list[FleetEngine]:
    assert rollout.policy != "local"
    return open_engines(urls, rollout.policy, concurrency=rollout.concurrency)


def _finder(rollout: RolloutSection) -> FindEngines:
    """Finds the engines of the registry that the recipe names in place of URLs."""
    state = Path(rollout.endpoints[0]).expanduser()

    def find(known: Sequence[FleetEngine]) -> Sequence[FleetEngine]:
        urls, there = engine_urls(state), {engine.url: engine for engine in known}
        if not urls and not known:
            raise ConfigError(
                f"rollout.endpoints: no engines in {state}: give URLs, or the file that `qwq cluster up` writes"
            )
        return [there.get(url) or _opened(rollout, [url])[0] for url in urls]

    return find


class FleetSampler:
    """Samples the steps of one RL stage on the engines that `rollout` names."""

    def __init__(
        self, model: Transformer, chat: ChatFormat, config: RlConfig, rollout: RolloutSection, run: StageRun,
        params: SamplingParams, limits: EpisodeLimits, *, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.chat, self.config, self.run, self.seed = model, chat, config, run, seed
        shared = run.fleet_folder if rollout.folder is None else Path(rollout.folder).expanduser()
        keys = ("lease_s", "sync_timeout_s", "give_up_s", "rejoin_s", "concurrency", "max_lag",
                "stragglers", "enough", "straggler_s")  # fmt: skip
        exact = model.embed.weight.dtype == torch.float32
        settings = FleetSettings(
            shared / f"weights-{run.fleet_folder.parent.parent.name}-{run.name}", run.fleet_folder,
            version_step=config.updates, probe_limit=rollout.probe_limit or PROBE_LIMITS[exact],
            **{key: getattr(rollout, key) for key in keys},
        )  # fmt: skip
        assert rollout.policy != "local"
        self._policy = rollout.policy
        fixed = "://" in rollout.endpoints[0]
        find = None if fixed else _finder(rollout)
        engines = find([]) if find else _opened(rollout, rollout.endpoints)
        room = model.config.max_positions - PROBE_TOKENS
        prompt = chat.prompt_ids([Message("user", PROBE_TEXT)])[: min(PROBE_PROMPT[rollout.policy], room)]
        self._open: Callable[[], Fleet] = lambda: Fleet(
            engines,
            chat,
            params,
            settings,
            prompt=prompt,
            limits=limits,
            note=run.progress.note,
            find=find,
        )
        self._fleet: Fleet | None = None
        self._accepted: AcceptedGroups | None = None

    @property
    def fleet(self) -> Fleet:
        """Opened with the first sample: a stage that is only planned touches nothing."""
        if self._fleet is None:
            self._fleet = self._open()
        return self._fleet

    def close(self) -> None:
        if self._accepted is not None:
            self._accepted.close()
        if self._fleet is not None:
            self._fleet.close()

    def sample(
        self, now: Numbered, version: int, on_response: OnResponse, *, ahead: Sequence[Numbered] = ()
    ) -> list[Rollout]:
        """The rollouts of one step's problems, group after group. `on_response` gets the samples
        by their place, group after group, or as they come where stragglers may be missing.
        """
        step, published = self.run.state.step, self.fleet.roster.published
        if published is None or published.version != version:
            self.fleet.publish(Weights(version, self._save, self._score))
        if self._accepted is None:
            self._accepted = AcceptedGroups(self.run.fleet_folder, step)
        tasks = self._tasks(now, step)
        places = {task.key.group: i * self.config.samples for i, task in enumerate(tasks)}
        problems = {task.key.group: task.problem for task in tasks} | {
            t.key.group: t.problem for t in self.fleet.carried
        }
        whole = self.fleet.settings.stragglers == "wait"
        came: list[Rollout] = []

        def on_group(group: SampledGroup) -> None:
            first = places[group.key.group] if whole else len(came)
            came.extend(group.rollouts)
            for i, response in enumerate(group.responses):
                on_response(first + i, problems[group.key.group], response)

        later = [task for i, numbered in enumerate(ahead, 1) for task in self._tasks(numbered, step + i)]
        groups = self.fleet.sample(tasks, self._accepted, on_group, ahead=later)
        return [r for group in groups for r in group.rollouts] if whole else came

    def written(self, step: int) -> None:
        """The step's rollouts are in the store: its log has done its work, also one that a kill has
        left.
        """
        if self._accepted is not None:
            self._accepted.close()
            self._accepted = None
        AcceptedGroups.path_of(self.run.fleet_folder, step).unlink(missing_ok=True)

    def figures(self) -> dict[str, Any]:
        return self.fleet.figures()

    def _tasks(self, numbered: Numbered, step: int) -> list[GroupTask]:
        first, problems, budgets = numbered
        return [
            GroupTask(
                GroupKey(self.run.name, step, first + i, self.config.samples, self.seed), problem,
                budgets[i] if budgets else None,
            )
            for i, problem in enumerate(problems)
        ]  # fmt: skip

    # -- the trainer's side of a sync --------------------------------------------------------------

    def _save(self, folder: Path) -> None:
        """The weights as a model folder; adapters are merged in a copy.

        vLLM gets a tied head as a tensor of its own. A server of a tied model leaves it out; one of
        an untied copy (`qwq export --untie`) reads it.
        """
        model = lora.merge(copy.deepcopy(self.model)) if lora.adapters(self.model) else self.model
        save_model(model, folder, durable=False, untie=self._policy == "vllm")

    @torch.no_grad()
    def _score(self, prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
        batch = pack_groups([prompt], [[ids]], [[[1] * len(ids)]], {}, self.model.device)
        logprobs: list[float] = batch_logprobs(self.model, batch, self.config.temperature)[0].tolist()
        return logprobs


def check_lag(rollouts: Sequence[Rollout], step: int, updates: int, max_lag: int) -> list[int]:
    """How many steps the weights of each sampled token are behind `step`. InfraError where that is
    more than `max_lag`, or less than nothing: such a step is not trained on.
    """
    segments = [segment for r in rollouts for segment in r.all_segments]
    lags = [step - v // updates for c in segments for v, s in zip(c.weight_versions, c.sampled_mask, strict=True) if s]
    if lags and not 0 <= min(lags) <= max(lags) <= max_lag:
        raise InfraError(
            f"step {step} has tokens of weights {max(lags)} steps back (the newest {min(lags)}), at most {max_lag} are "
            "allowed: delete the step's file of rollouts, and the same command samples it again"
        )
    return lags
