"""`/v1/completions`: raw text completion. Thinking and calls stay in the text.

`max_tokens: 0` with `echo` gives a prompt back with its log-probabilities: the engine writes one
token for it, which nobody sees. An empty prompt begins where a document does, behind the model's
start token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from qwq.engine.grammar import answer_grammar
from qwq.engine.request import GenerationRequest, GrammarMatcher
from qwq.engine.sampler import SampledToken
from qwq.engine.sequence import TokenSequence
from qwq.serve.core import Core, usage_wanted
from qwq.serve.engine_thread import RequestGroup
from qwq.serve.errors import RequestRefused
from qwq.serve.infill import infill_of
from qwq.serve.response_format import form_of
from qwq.serve.schema import CompletionRequest
from qwq.serve.sse import DONE, event
from qwq.text.response import THINK_CLOSE, THINK_OPEN

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class Completion:
    """One request: `requests` for the engine, and its answer whole or in events."""

    def __init__(
        self, core: Core, body: CompletionRequest, matcher: Callable[[], GrammarMatcher] | None = None
    ) -> None:
        self.core, self.body = core, body
        self.scoring = body.max_tokens == 0
        if self.scoring and not body.echo:
            raise RequestRefused("max_tokens: 0 needs echo, as there would be nothing to answer", "max_tokens")
        self._ends: tuple[int, ...] = ()
        self.prompts = self._filled(body.suffix) if body.suffix else self._prompts()
        prompt_top = body.logprobs if body.echo and body.logprobs is not None else None
        self.requests: list[GenerationRequest] = [
            self._request(
                body,
                ids,
                1 if self.scoring else body.max_tokens or self._default_tokens(ids),
                n=body.n,
                top=body.logprobs,
                thinking_open=self._inside_thinking(ids),
                budget=0 if body.switch is False else body.thinking_token_budget,
                matcher=matcher,
                prompt_top=prompt_top,
            )
            for ids in self.prompts
        ]
        self.head = core.head("text_completion", "cmpl-")

    @classmethod
    async def make(cls, core: Core, body: CompletionRequest) -> Completion:
        form = form_of(body)
        return cls(
            core, body, None if form is None else await core.compile(answer_grammar(form.rule, lead=False), form.param)
        )

    def _request(self, *arguments: Any, **more: Any) -> GenerationRequest:
        request = self.core.request(*arguments, **more)
        return replace(request, eos_ids=(*request.eos_ids, *self._ends)) if self._ends else request

    def _filled(self, suffix: str) -> list[list[int]]:
        """Prompts for the text between each prompt and the suffix."""
        body, tokenizer = self.body, self.core.tokenizer
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if body.echo or not all(isinstance(p, str) for p in prompts):
            raise RequestRefused("suffix: goes with prompts of text, and without echo", "suffix")
        infill = infill_of(tokenizer, "suffix")
        self._ends = infill.ends
        return [infill.ids(tokenizer, str(p), suffix) for p in prompts]

    def _default_tokens(self, ids: list[int]) -> int:
        return min(DEFAULT_MAX_TOKENS, max(1, self.core.max_len - len(ids)))

    def _prompts(self) -> list[list[int]]:
        prompt: Any = self.body.prompt

        def encode(text: str) -> list[int]:
            return self.core.tokenizer.encode_rendered(text) if text else [self.core.start_id]

        if isinstance(prompt, str):
            return [encode(prompt)]
        if isinstance(prompt[0], int):
            return [prompt]
        return [encode(p) if isinstance(p, str) else p for p in prompt]

    def _inside_thinking(self, ids: list[int]) -> bool:
        text = self.core.tokenizer.decode(ids)
        return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)

    async def answer(self) -> dict[str, Any]:
        async with self.core.running(self.requests, streamed=False) as group:
            groups = await group.finished()
        choices: list[dict[str, Any]] = []
        for samples in groups:
            for s in samples:
                text = "" if self.scoring else s.text
                choice = {"index": len(choices), "text": self._before(s) + text, "logprobs": None, **self._ending(s)}
                if self.body.logprobs is not None:
                    prompt = [c or SampledToken(s.tokens[0]) for c in s.prompt_outputs] if self.body.echo else []
                    choice["logprobs"] = self._logprobs([*prompt, *self._written(s)], 0, first_unknown=bool(prompt))
                choices.append(choice)
        return self.head | {"choices": choices, "usage": self._usage(groups), "timings": self.core.timings(groups)}

    def _before(self, s: TokenSequence) -> str:
        ids = list(s.request.prompt_ids)
        return self.core.tokenizer.decode(ids) if self.body.echo and ids != [self.core.start_id] else ""

    def _ending(self, s: TokenSequence) -> dict[str, Any]:
        return {"finish_reason": "length", "stop_reason": None} if self.scoring else self.core.ending(s)

    def _written(self, s: TokenSequence) -> list[SampledToken]:
        return [] if self.scoring else s.outputs

    def _usage(self, groups: list[list[TokenSequence]]) -> dict[str, Any]:
        usage = self.core.usage(groups)
        if self.scoring:
            usage |= {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage

    async def events(self, group: RequestGroup) -> AsyncIterator[bytes]:
        body, core = self.body, self.core
        include, continuous = usage_wanted(body)
        offsets: dict[int, int] = {}
        async for updates in group.updates():
            for u in updates:
                index = u.job * (body.n or 1) + u.sample.number
                text, known = "" if self.scoring else u.text, u.first > 0
                choice: dict[str, Any] = {
                    "index": index,
                    "text": text,
                    "logprobs": None,
                    "finish_reason": None,
                    "stop_reason": None,
                }
                if not known:
                    choice["text"] = self._before(u.sample) + text
                if body.logprobs is not None:
                    choices = self._written(u.sample)[u.first : u.last]
                    prompt = (
                        [c or SampledToken(u.sample.tokens[0]) for c in u.sample.prompt_outputs]
                        if body.echo and not known
                        else []
                    )
                    choice["logprobs"] = self._logprobs(
                        [*prompt, *choices], offsets.get(index, 0), first_unknown=bool(prompt)
                    )
                    offsets[index] = offsets.get(index, 0) + sum(len(t) for t in choice["logprobs"]["tokens"])
                if u.done:
                    choice |= self._ending(u.sample)
                elif not choice["text"] and body.logprobs is None:
                    continue
                chunk = self.head | {"choices": [choice]}
                if continuous:
                    chunk["usage"] = self._usage(group.samples)
                elif include:
                    chunk["usage"] = None
                yield event(chunk)
        if include:
            yield event(
                self.head | {"choices": [], "usage": self._usage(group.samples), "timings": core.timings(group.samples)}
            )
        yield DONE

    def _logprobs(self, choices: list[SampledToken], at: int, *, first_unknown: bool) -> dict[str, Any]:
        token, offsets = self.core.token, []
        texts = [token(c.id)["token"] for c in choices]
        for text in texts:
            offsets.append(at)
            at += len(text)
        values: list[float | None] = [0.0 if c.raw is None else c.raw for c in choices]
        top: list[dict[str, float] | None] = [{token(i)["token"]: p for i, p in c.top} for c in choices]
        if first_unknown:  # a prompt's first token has no context
            values[0] = top[0] = None
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
