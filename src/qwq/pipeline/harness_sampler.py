"""RL's groups from programs of the user's own (`harness` of a stage): each sample is one start of
the program against a server over the policy's weights, and what the server recorded is the rollout.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwq.config import Harness, Recipe
from qwq.engine.load import LoadedModel
from qwq.engine.sampler import SamplingParams
from qwq.errors import ConfigError, InfraError, install_hint
from qwq.rollout.call_log import RecordedCall, Trajectory, trajectories
from qwq.rollout.collect import OnResponse, group_seed
from qwq.rollout.harness import ProgramEnd, Programs
from qwq.rollout.policies.trainer import TrainerPolicy
from qwq.text.response import parse
from qwq.types import ParsedResponse, Problem, Response, Rollout, StopReason

if TYPE_CHECKING:
    from qwq.serve.training_gateway import Gateway, Quota

LOOPBACK = "127.0.0.1"
SETTLE_S = 10.0


def check_harness(place: str, harness: Harness, recipe: Recipe) -> None:
    """ConfigError where the program, or what it needs, is missing; `place` is the recipe's key."""
    if recipe.rollout.policy != "local":
        raise ConfigError(
            f'{place} speaks to the policy in this process, and rollout.policy is "{recipe.rollout.policy}": '
            'set it to "local"'
        )
    if recipe.cluster is not None:
        raise ConfigError(f"{place} runs in one process, and the recipe has [cluster]: leave one of them out")
    program, *arguments = harness.command
    if shutil.which(program) is None:
        raise ConfigError(f"{place}.command: no program {program!r}: give its path, or install it")
    if arguments and arguments[0].endswith(".py") and not Path(arguments[0]).is_file():
        raise ConfigError(f"{place}.command: no file at {arguments[0]}: give its path, from here or from /")
    try:
        import qwq.serve.training_gateway  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ConfigError(f"{place} needs {missing.name}: {install_hint('serve')}") from None


@dataclass(frozen=True, slots=True)
class _Sample:
    """One sample that is to be made; `at` is its place among all."""

    at: int
    problem: Problem
    group: int
    number: int

    @property
    def episode(self) -> str:
        return f"{self.group}-{self.number}"


class HarnessSampler:
    """Rollouts of one stage. `figures` says what the last `collect` saw."""

    def __init__(
        self, policy: TrainerPolicy, harness: Harness, params: SamplingParams, *, samples: int, seed: int
    ) -> None:
        self.policy, self.harness, self.params, self.samples, self.seed = policy, harness, params, samples, seed
        self.figures: dict[str, Any] = {}

    def collect(
        self, problems: Sequence[Problem], first_group: int, *, version: int,
        budgets: Sequence[int | None] | None = None, on_response: OnResponse | None = None,
    ) -> list[Rollout]:  # fmt: skip
        """`samples` rollouts of each problem, group after group; see `rollout.collect`."""
        from qwq.serve.training_gateway import Quota, training_gateway

        todo = [
            _Sample(g * self.samples + n, problem, first_group + g, n)
            for g, problem in enumerate(problems)
            for n in range(self.samples)
        ]
        quotas = {
            s.episode: Quota(
                group_seed(self.seed, s.group), s.number, self.params.max_new_tokens, self.harness.max_calls,
                budgets[s.group - first_group] if budgets else None, version,
            )
            for s in todo
        }  # fmt: skip
        ends: dict[int, ProgramEnd] = {}
        rollouts: dict[int, Rollout] = {}
        with self._loaded() as loaded, training_gateway(loaded, self.params, quotas, version=version) as gateway:
            for sample, end in self._run(todo, gateway):
                quota = quotas[sample.episode]
                _wait_for_calls(quota)
                response, rollouts[sample.at] = self._made(sample, end, quota)
                ends[sample.at] = end
                if on_response:
                    on_response(sample.at, sample.problem, response)
        self.figures = _figures([q.calls for q in quotas.values()], list(ends.values()))
        return [rollout for _, rollout in sorted(rollouts.items())]

    @contextmanager
    def _loaded(self) -> Iterator[LoadedModel]:
        with self.policy.lent() as engine:
            yield LoadedModel(engine, self.policy.chat, self.policy.name, {}, self.policy.model.config, None)  # type: ignore[arg-type]

    def _run(self, todo: Sequence[_Sample], gateway: Gateway) -> Iterator[tuple[_Sample, ProgramEnd]]:
        """The programs, `concurrency` at once, in the order in which they end."""
        programs = Programs()
        with ThreadPoolExecutor(self.harness.concurrency, thread_name_prefix="harness") as pool:
            try:
                futures = {pool.submit(self._start, programs, s, gateway): s for s in todo}
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                programs.end_all()

    def _start(self, programs: Programs, sample: _Sample, gateway: Gateway) -> ProgramEnd:
        environment = dict(os.environ) | gateway.environment(sample.episode)
        for name in ("no_proxy", "NO_PROXY"):
            environment[name] = ",".join(filter(None, (environment.get(name), LOOPBACK)))
        return programs.run(
            self.harness.command, environment=environment, stdin=json.dumps(told(sample)).encode(),
            timeout_s=self.harness.timeout_s,
        )  # fmt: skip

    # -- what a program left -----------------------------------------------------------------------

    def _made(self, sample: _Sample, end: ProgramEnd, quota: Quota) -> tuple[Response, Rollout]:
        calls = sorted(quota.calls, key=lambda call: call.number)
        trajectory = next(iter(trajectories(calls)), Trajectory(sample.episode))
        reason, failure = self._ending(end, quota, trajectory)
        chat = self.policy.chat
        rollout = trajectory.rollout(
            sample.problem, sample.group, stop_reason=reason, decode=chat.tokenizer.decode,
            prompt_ids=chat.prompt_ids(sample.problem.messages, sample.problem.tools), budget=quota.thinking_budget,
        )  # fmt: skip
        return self._response(sample.problem, calls, end, reason, failure), rollout

    def _ending(self, end: ProgramEnd, quota: Quota, trajectory: Trajectory) -> tuple[StopReason, str]:
        """Why the sample ended, and the failure that is no fault of the model, if there is one."""
        name = self.harness.command[0]
        if end.status is None:
            return StopReason.TIME, ""
        if end.status:
            if quota.limit is not None:
                return quota.limit, ""
            words = f"{name} ended with status {end.status}: {end.stderr_tail or 'it said nothing'}"
            return StopReason.ABORT, words if self.harness.on_crash == "infra" else ""
        last = trajectory.last
        if last is None or last.stop_reason is None:
            return StopReason.ABORT, f"{name} ended with status 0 and without an answer of the model"
        reason = StopReason(last.stop_reason)
        if reason is StopReason.STOP or self.harness.answer == "stdout":
            return StopReason.END, ""
        return reason, ""

    def _response(
        self, problem: Problem, calls: Sequence[RecordedCall], end: ProgramEnd, reason: StopReason, failure: str
    ) -> Response:
        tools: Any = problem.tool_schemas if problem.tools else None
        turns = [
            (c.samples[0].text, c.thinking_open, parse(c.samples[0].text, thinking_open=c.thinking_open, tools=tools))
            for c in calls
            if c.samples and not c.failure
        ]
        earlier: Sequence[ParsedResponse] = [parts for *_, parts in turns]
        if self.harness.answer == "stdout":
            text = end.stdout.strip()
            thinking_open, parts = False, ParsedResponse(None, text)
        else:
            text, thinking_open, parts = turns[-1] if turns else ("", False, ParsedResponse(None, ""))
            earlier = earlier[:-1]
        if end.status:
            text, parts = "", ParsedResponse(None, "")  # a crash has no answer
        return Response(
            text, finished=reason is StopReason.END or (bool(end.status) and reason is StopReason.ABORT),
            thinking_open=thinking_open, calls=tuple(c for p in earlier for c in p.tool_calls), parts=parts,
            failure=failure, turns=tuple(earlier),
        )  # fmt: skip


def _wait_for_calls(quota: Quota) -> None:
    """A program may end before the server has closed its last call, as after a stream's last
    line. InfraError where the server never does.
    """
    deadline = time.monotonic() + SETTLE_S
    while quota.num_open:
        if time.monotonic() > deadline:
            raise InfraError(f"calls of a program that has ended were still open after {SETTLE_S:g} s")
        time.sleep(0.002)


def told(sample: _Sample) -> Mapping[str, Any]:
    """What a program reads from standard input: the problem, and nothing that judges it."""
    problem = sample.problem
    return {
        "id": problem.id, "episode": sample.episode, "prompt": problem.messages[-1].content,
        "messages": [m.to_dict() for m in problem.messages], "tools": list(problem.tools),
    }  # fmt: skip


def _figures(calls: Sequence[Sequence[RecordedCall]], ends: Sequence[ProgramEnd]) -> dict[str, Any]:
    made = [t for each in calls for t in trajectories(sorted(each, key=lambda c: c.number))]
    untrainable = sum((Counter(t.untrainable) for t in made), Counter[str]())
    flat = [c for each in calls for c in each]
    return {
        "calls": len(flat),
        "segments": sum(len(t.segments) for t in made),
        "spliced": sum(c.spliced > 0 for c in flat),
        "crashed": sum(bool(e.status) for e in ends),
        "timed_out": sum(e.status is None for e in ends),
        **({"untrainable": dict(untrainable)} if untrainable else {}),
    }
