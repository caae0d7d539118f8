"""A loaded model: chat turns and plain continuations."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from qwq.api.outputs import ChatAnswer, TextCompletion
from qwq.api.stream import ChatStream, SharedEngine
from qwq.errors import UsageError, nearest
from qwq.types import Message

if TYPE_CHECKING:
    from qwq.engine.load import LoadedModel
    from qwq.engine.request import GenerationRequest
    from qwq.engine.sampler import SamplingParams
    from qwq.engine.sequence import TokenSequence

MAX_SEED = 1 << 48


class SamplingKeywords(TypedDict, total=False):
    """Fields of `SamplingParams` that a call sets over the model's own."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    max_new_tokens: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]


class LLM:
    """A loaded model. `load` makes one. Threads may share it; their calls are computed together.

    `model` is the name it was loaded by, `max_model_len` the longest prompt and answer together in
    tokens, `sampling` the model's own sampling (from its generation_config.json; QwQ's for a model
    that thinks and states none).
    """

    def __init__(self, opened: LoadedModel, model: str) -> None:
        from qwq.engine.sampler import SamplingParams

        self.model, self.sampling = model, SamplingParams(**opened.sampling)
        self._engine, self._chat = SharedEngine(opened.engine), opened.chat
        self.max_model_len: int = opened.engine.max_len

    def __repr__(self) -> str:
        return f"<qwq.LLM {self.model}: {self.max_model_len:,} tokens>"

    @overload
    def chat(
        self, messages: str | Sequence[Message | Mapping[str, Any]], *, thinking_budget: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (), stream: Literal[False] = False, params: SamplingParams | None = None,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> ChatAnswer: ...  # fmt: skip

    @overload
    def chat(
        self, messages: str | Sequence[Message | Mapping[str, Any]], *, thinking_budget: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (), stream: Literal[True], params: SamplingParams | None = None,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> ChatStream: ...  # fmt: skip

    def chat(
        self, messages: str | Sequence[Message | Mapping[str, Any]], *, thinking_budget: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (), stream: bool = False, params: SamplingParams | None = None,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> ChatAnswer | ChatStream:  # fmt: skip
        """The assistant's next turn.

        `messages`: a question, or messages as OpenAI's API writes them (`role`, `content`), or
        `qwq.Message`s. `thinking_budget`: tokens of thinking after which it is closed; 0 for none.
        `tools`: functions in OpenAI's form (`Environment().schemas()` gives them); calls are
        returned and not run. `params`, or single fields of it (`temperature=0.6`), replace the
        model's own sampling; without `max_new_tokens` an answer may fill the context. `seed`: the
        same seed gives the same answer; random by default. `stop`: texts that end the answer and
        are cut off. `stream`: return a `ChatStream` at once.

        UsageError for messages, tools or options that cannot be used, CapacityError (a UsageError)
        where the prompt does not fit.
        """
        asked = [Message("user", messages)] if isinstance(messages, str) else list(messages)
        names = _checked(asked, tools)
        prompt = self._chat.prompt_ids(asked, tools)
        room = max(1, self.max_model_len - len(prompt))
        request = self._request(
            prompt, self._params(params, sampling, room), seed, stop=tuple(stop), eos_ids=self._chat.eos_ids,
            thinking_open=self._chat.thinking_open, thinking_budget=thinking_budget, loop_tokens=_loop_tokens(),
        )  # fmt: skip
        (sample,) = self._engine.submit([request])
        made = ChatStream(self._engine, sample, tools=names if tools else None)
        return made if stream else _whole(made)

    def generate(
        self, prompts: str | Sequence[str | Sequence[int]], params: SamplingParams | None = None, *,
        seed: int | None = None, stop: Sequence[str] = (), **sampling: Unpack[SamplingKeywords],
    ) -> list[TextCompletion]:  # fmt: skip
        """Continuations of plain prompts, computed as one batch; one for each prompt, in order.

        `prompts`: texts (special tokens in them count as such) or lists of token ids; a single text
        is one prompt. `params`, or single fields of it, replace the model's own sampling; at most
        256 new tokens unless they say otherwise. The completion of prompt i depends on `seed` and
        i, not on the other prompts (beyond float rounding). No chat template is applied: `chat`
        does that.

        UsageError for an empty prompt or a token outside the vocabulary, CapacityError where a
        prompt does not fit; no prompt is run then.
        """
        from qwq.engine.sampler import stream_seed

        listed = [prompts] if isinstance(prompts, str) else list(prompts)
        if any(isinstance(p, int) for p in listed):
            raise UsageError("prompts is one list of token ids: give a list of prompts, [[...]]")
        chosen, first = self._params(params, sampling, None), _seed(seed)
        requests = []
        for number, prompt in enumerate(listed):
            ids = self._chat.tokenizer.encode_rendered(prompt) if isinstance(prompt, str) else list(prompt)
            if not all(isinstance(i, int) for i in ids):
                raise UsageError(f"prompt {number + 1} is {str(prompt)[:40]!r}: give a text or a list of token ids")
            requests.append(
                self._request(
                    ids, chosen, stream_seed(first, number) % MAX_SEED, stop=tuple(stop), eos_ids=self._chat.eos_ids
                )
            )
            self._engine.check(requests[-1])
        samples = self._engine.submit(requests)
        try:
            for sample in samples:
                while not sample.done:
                    self._engine.step(sample)
        finally:
            for sample in samples:
                self._engine.abort(sample)
        return [_completion(s) for s in samples]

    def _request(self, prompt: list[int], params: SamplingParams, seed: int | None, **more: Any) -> GenerationRequest:
        from qwq.engine.request import GenerationRequest

        return GenerationRequest(prompt, params, seed=_seed(seed), **more)

    def _params(self, params: SamplingParams | None, fields: SamplingKeywords, room: int | None) -> SamplingParams:
        from dataclasses import replace

        unknown = next((name for name in fields if name not in SamplingKeywords.__annotations__), None)
        if unknown is not None:
            raise UsageError(f"no option {unknown!r}: {nearest(unknown, SamplingKeywords.__annotations__)}")
        if params is None:
            params = self.sampling if room is None else replace(self.sampling, max_new_tokens=room)
        return replace(params, **fields)


def _checked(messages: Sequence[Any], tools: Sequence[Any]) -> frozenset[str]:
    """Names of the tools. UsageError for what no chat template can be given."""
    if not messages:
        raise UsageError("there are no messages: give at least one")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Message) and not (
            isinstance(message, Mapping) and isinstance(message.get("role"), str) and "content" in message
        ):
            raise UsageError(
                f"message {number} is {str(message)[:60]!r}: give an object with role and content, or a qwq.Message"
            )
    for tool in tools:
        if (
            not isinstance(tool, Mapping)
            or not isinstance(tool.get("function"), Mapping)
            or not isinstance(tool["function"].get("name"), str)
        ):
            raise UsageError(
                f'tool {str(tool)[:60]!r}: give {{"type": "function", "function": {{"name": ..., "parameters": '
                f"...}}}}, as Environment().schemas() does"
            )
    return frozenset(t["function"]["name"] for t in tools)


def _whole(stream: ChatStream) -> ChatAnswer:
    with stream:
        return stream.answer


def _completion(sample: TokenSequence) -> TextCompletion:
    assert sample.stop_reason is not None
    return TextCompletion(sample.text, tuple(sample.ids), sample.stop_reason, sample.num_prompt, sample.request.seed)


def _seed(seed: int | None) -> int:
    return secrets.randbelow(MAX_SEED) if seed is None else seed


def _loop_tokens() -> int:
    from qwq.engine.thinking import LOOP_TOKENS

    return LOOP_TOKENS
