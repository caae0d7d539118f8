"""Teachers: a model behind an OpenAI-compatible endpoint, or one in this process. Both answer jobs as they are done."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

from qwq.distill.filters import Answer
from qwq.errors import ConfigError, InfraError, UsageError
from qwq.problems.base import digest
from qwq.text.parse import THINK_CLOSE, THINK_OPEN
from qwq.types import Message, Problem

PATIENCE_S = 120.0
READ_TIMEOUT_S = 1800.0  # a long thought can take this long to arrive whole
LATER = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Job:
    """Sample `number` of a problem."""

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
    """An OpenAI-compatible chat endpoint. Waits out a server that is away or busy for `patience_s`, then InfraError."""

    def __init__(self, url: str, model: str, *, api_key: str | None = None, concurrency: int = 8, patience_s: float = PATIENCE_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--endpoint {url}: give a URL like http://127.0.0.1:8000/v1")
        if concurrency < 1:
            raise ConfigError(f"--concurrency is {concurrency}: give at least 1")
        base = url.rstrip("/").removesuffix("/chat/completions")
        self.url = f"{base}/chat/completions" if re.search(r"/v\d+$", base) else f"{base}/v1/chat/completions"
        self.model, self.name, self.concurrency, self.patience_s = model, model, concurrency, patience_s
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx2.Timeout(READ_TIMEOUT_S, connect=10.0)
        self._client = httpx2.Client(headers=headers, timeout=timeout, limits=httpx2.Limits(max_connections=concurrency))

    def answers(self, jobs: Iterator[Job], sampling: Sampling) -> Iterator[tuple[Job, Answer]]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            running: dict[Future[Answer], Job] = {}
            try:
                while True:
                    while len(running) < self.concurrency and (job := next(jobs, None)) is not None:
                        running[pool.submit(self._ask, job, sampling)] = job
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                if running:  # left before the end: nobody waits for answers that nobody will read
                    self._client.close()
                for future in running:
                    future.cancel()

    def _ask(self, job: Job, sampling: Sampling) -> Answer:
        body = {
            "model": self.model, "messages": [m.to_dict() for m in sampling.messages(job.problem)], "temperature": sampling.temperature,
            "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens, "seed": job.seed(sampling.seed),
        }  # fmt: skip
        deadline, pause = time.monotonic() + self.patience_s, 0.5
        while True:
            try:
                reply = self._client.post(self.url, json=body)
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if reply.status_code == 200:
                    return self._read(reply)
                reason = f"status {reply.status_code}: {' '.join(reply.text.split())[:200]}"
                if reply.status_code not in LATER:
                    raise UsageError(f"{self.url} refuses the request ({reason}): check --model {self.model} and the key")
            if time.monotonic() + pause > deadline:
                raise InfraError(f"{self.url} gave no answer for {self.patience_s:.0f} s ({reason}): start it, then run the same command again")
            time.sleep(pause)
            pause = min(2 * pause, 15.0)

    def _read(self, reply: httpx2.Response) -> Answer:
        try:
            choice = reply.json()["choices"][0]
            message = choice["message"]
            text = message.get("content") or ""
            # Some servers hand the thinking out apart.
            thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InfraError(f"{self.url} answers in another form than OpenAI's ({error!r}): {reply.text[:120]!r}") from None
        if thinking:
            text = f"{THINK_OPEN}\n{thinking.strip()}\n{THINK_CLOSE}\n{text}"
        # A template that opened the thinking leaves its mark only at the close.
        opened = THINK_CLOSE in text and THINK_OPEN not in text.partition(THINK_CLOSE)[0]
        return Answer(text, choice.get("finish_reason") == "stop", opened)


class LocalTeacher:
    """A model folder, run folder or GGUF file in the engine of this process."""

    def __init__(self, opened: Any, loop_tokens: int) -> None:
        self.opened, self.name, self.loop_tokens = opened, opened.name, loop_tokens

    def answers(self, jobs: Iterator[Job], sampling: Sampling) -> Iterator[tuple[Job, Answer]]:
        from qwq.engine.request import GenerationRequest
        from qwq.engine.sampler import SamplingParams
        from qwq.types import StopReason

        engine, chat = self.opened.engine, self.opened.chat
        params = SamplingParams(temperature=sampling.temperature, top_p=sampling.top_p, max_new_tokens=sampling.max_new_tokens)
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
                yield job, Answer(sample.text, sample.stop_reason is StopReason.END, chat.thinking_open)
