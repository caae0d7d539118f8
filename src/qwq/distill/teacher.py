"""Teachers: a model behind an OpenAI-compatible endpoint, or one in this process. Both answer jobs as they are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from qwq.distill.filters import Answer
from qwq.endpoint.client import GO_ON, EndpointClient, Request
from qwq.endpoint.pool import concurrently
from qwq.endpoint.reply import RequestFailed
from qwq.errors import ConfigError, InfraError
from qwq.tasks.procedural.base import digest
from qwq.text.response import THINK_CLOSE, THINK_OPEN
from qwq.types import Message, Problem, StopReason

PATIENCE_S = 120.0
LONGEST_PAUSE_S = 15.0


@dataclass(frozen=True, slots=True)
class Job:
    """TokenSequence `number` of a problem."""

    problem: Problem
    number: int

    def seed(self, base: int) -> int:
        return digest(f"{base}/{self.problem.id}/{self.number}") % 2**31


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the teacher is asked. `system` is a prompt for the teacher alone; what is learnt from holds no trace of it."""

    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 2048
    seed: int = 0
    system: str | None = None

    def messages(self, problem: Problem) -> tuple[Message, ...]:
        return problem.messages if self.system is None else (Message("system", self.system), *problem.messages)


class Teacher(Protocol):
    """`answers` takes jobs as it can and gives each back with its answer, in the order in which they are done."""

    name: str

    def answers(self, jobs: Iterator[Job], sampling: Sampling) -> Iterator[tuple[Job, Answer]]: ...


class Endpoint:
    """An OpenAI-compatible chat endpoint. Waits out a server that is away or busy for `patience_s`, then InfraError.

    A request that the server refuses or fails holds up no other: it is told at the end, by an InfraError. `answers` can be
    asked once; it closes the connections.
    """

    def __init__(
        self, url: str, model: str, *, api_key: str | None = None, concurrency: int = 8, patience_s: float = PATIENCE_S
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"--concurrency is {concurrency}: give at least 1")
        self.name, self.concurrency = model, concurrency
        self.client = EndpointClient(url, model, api_key=api_key, patience=_pauses(patience_s), connections=concurrency)
        self.url = self.client.url

    def answers(self, jobs: Iterator[Job], sampling: Sampling) -> Iterator[tuple[Job, Answer]]:
        failures: list[str] = []
        try:
            for job, got in concurrently(
                lambda: next(jobs, None), lambda job: self._ask(job, sampling), self.concurrency
            ):
                if isinstance(got, RequestFailed):
                    failures.append(str(got))
                else:
                    yield job, got
        finally:  # left before the end, too: nobody waits for answers that nobody will read
            self.client.close()
        if failures:
            raise InfraError(f"{len(failures):,} samples have no answer ({failures[-1]}); {GO_ON}")

    def _ask(self, job: Job, sampling: Sampling) -> Answer:
        messages = [m.to_dict() for m in sampling.messages(job.problem)]
        got = self.client.complete(
            Request(
                messages, job.seed(sampling.seed), sampling.temperature, sampling.top_p, sampling.max_new_tokens
            )  # fmt: skip
        )
        text = got.answer
        if got.thinking:
            close = f"\n{THINK_CLOSE}\n{got.answer}" if got.thinking_closed else ""
            text = f"{THINK_OPEN}\n{got.thinking}{close}"
        return Answer(text, got.stop is StopReason.END, finish=got.finish)


def _pauses(patience_s: float) -> list[float]:
    """Pauses between tries, doubling from half a second up to 15 s, `patience_s` together."""
    pauses: list[float] = []
    while (left := patience_s - sum(pauses)) > 0:
        pauses.append(min(left, 0.5 * 2 ** len(pauses), LONGEST_PAUSE_S))
    return pauses


class LocalTeacher:
    """A model folder, run folder or GGUF file in the engine of this process."""

    def __init__(self, opened: Any, loop_tokens: int) -> None:
        self.opened, self.name, self.loop_tokens = opened, opened.name, loop_tokens

    def answers(self, jobs: Iterator[Job], sampling: Sampling) -> Iterator[tuple[Job, Answer]]:
        from qwq.engine.request import GenerationRequest
        from qwq.engine.sampler import SamplingParams

        engine, chat = self.opened.engine, self.opened.chat
        params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_new_tokens=sampling.max_new_tokens
        )
        running: list[tuple[Job, Any]] = []
        while True:
            while len(running) < engine.max_running and (job := next(jobs, None)) is not None:
                prompt = chat.prompt_ids(sampling.messages(job.problem), job.problem.tools)
                request = GenerationRequest(
                    prompt, params, seed=job.seed(sampling.seed), eos_ids=chat.eos_ids, thinking_open=chat.thinking_open,
                    loop_tokens=self.loop_tokens,
                )  # fmt: skip
                running.append((job, engine.submit(request)[0]))
            if not running:
                return
            engine.step()
            for job, sample in [pair for pair in running if pair[1].done]:
                running.remove((job, sample))
                ended = sample.stop_reason
                yield job, Answer(sample.text, ended is StopReason.END, chat.thinking_open, ended.value)
