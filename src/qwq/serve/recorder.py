"""Keeps every model call of the server as tokens (`rollout.call_log`). All endpoints pass
`Core.start` and `Core.end`, which call `admit`, `begin` and `end` here.

1. A prompt whose first tokens spell the same text as an earlier answer of its episode with its
   prompt, in other tokens, gets the tokens that were sampled: the model reads the same text, and
   training reads one sequence (design promise 2).
2. Nothing is lost in silence: calls that the disk refuses wait in memory, and until they are
   written further calls are refused (503).
"""

from __future__ import annotations

import time
import uuid
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qwq.engine.load import say
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.sequence import TokenSequence
from qwq.errors import QwqError
from qwq.rollout.call_log import RecordedCall, RecordedSample
from qwq.serve.engine_thread import RequestGroup
from qwq.serve.episodes import CALLER, Caller
from qwq.serve.errors import RequestRefused
from qwq.serve.weight_versions import WeightVersions
from qwq.text.template import ChatFormat
from qwq.text.tokenizer import MARKUP_TOKENS

KEPT_EPISODES, KEPT_ANSWERS = 256, 4  # whose tokens are remembered, and of each how many answers
GONE = "the client went away before the end"
PLAIN = SamplingParams()


def untrainable(request: GenerationRequest) -> list[str]:
    """Why tokens of a request are no draws from the model's own tempered distribution, each reason
    with the field that asked for it; empty where they are.
    """
    p = request.params
    reasons = [
        (p.temperature == 0, "temperature 0: the most likely token is no draw"),
        (p.top_p < 1, f"top_p {p.top_p:g}"),
        (p.top_k > 0, f"top_k {p.top_k}"),
        (p.min_p > 0, f"min_p {p.min_p:g}"),
        (p.repetition_penalty != 1, f"repetition_penalty {p.repetition_penalty:g}"),
        (p.presence_penalty != 0, f"presence_penalty {p.presence_penalty:g}"),
        (p.frequency_penalty != 0, f"frequency_penalty {p.frequency_penalty:g}"),
        (bool(p.logit_bias), "logit_bias"),
        (request.matcher is not None, "grammar (structured output, tool_choice or strict tools)"),
        (request.min_new_tokens > 0, f"min_tokens {request.min_new_tokens}: no end token before"),
        (
            request.thinking_budget is not None and not request.plain_sampling,
            "thinking budget: no end token inside the thought",
        ),
    ]
    return [words for holds, words in reasons if holds]


@dataclass(slots=True)
class _Open:
    """A group under way: who called, and of each request its number and how much was spliced."""

    caller: Caller
    numbers: list[int]
    spliced: list[int]
    started: float
    clock: float


class Recorder:
    """Hands each call that has ended to `keep`, which may raise a QwqError to say that it is not
    kept. Lives in the event loop.
    """

    def __init__(self, chat: ChatFormat, keep: Callable[[RecordedCall], None], *, server: str = "") -> None:
        self.chat, self.keep = chat, keep
        self.server = server or uuid.uuid4().hex
        self._number = 0
        self._open: dict[RequestGroup, _Open] = {}
        self._unwritten: list[RecordedCall] = []
        self._answers: OrderedDict[str, list[array[int]]] = OrderedDict()
        self._spliced: list[int] = []
        tokenizer = chat.tokenizer
        self._control = frozenset(i for t, i in tokenizer.added_tokens.items() if t not in MARKUP_TOKENS)

    # -- from Core ---------------------------------------------------------------------------------

    def admit(self, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
        """The requests as they are sampled. RequestRefused (503) while the disk is full."""
        self._write()
        if self._unwritten:
            raise RequestRefused(
                "calls cannot be recorded (the server's log says why), so none is answered: free some space",
                status=503, kind="server_error", code="not_recorded",
            )  # fmt: skip
        caller = CALLER.get() or Caller()
        self._spliced, admitted = [], []
        for request in requests:
            request = replace(request, drawn_logprobs=True)
            ids, spliced = self.sampled_ids(caller.episode, request.prompt_ids) or (request.prompt_ids, 0)
            self._spliced.append(spliced)
            admitted.append(self.shaped(caller, replace(request, prompt_ids=ids)))
        return admitted

    def shaped(self, caller: Caller, request: GenerationRequest) -> GenerationRequest:
        """A request as it is sampled; a recorder that trains has rules of its own."""
        return request

    def begin(self, group: RequestGroup) -> None:
        """A group has been handed to the engine, which `admit` admitted just before."""
        numbers = list(range(self._number, self._number + len(group.jobs)))
        self._number += len(numbers)
        caller = CALLER.get() or Caller()
        self._open[group] = _Open(caller, numbers, self._spliced, time.time(), time.monotonic())

    def end(self, group: RequestGroup, versions: WeightVersions) -> None:
        """Keep the calls of a group that has ended or is given up; a second call does nothing."""
        opened = self._open.pop(group, None)
        if opened is None:
            return
        for at, job in enumerate(group.jobs):
            samples = [self._sample(group, s, versions) for s in job.samples]
            call = RecordedCall(
                number=opened.numbers[at], server=self.server, episode=opened.caller.episode, path=opened.caller.path,
                prompt_ids=list(job.request.prompt_ids), samples=samples, sampling=_sampling(job.request),
                seed=job.request.seed, thinking_open=job.request.thinking_open, spliced=opened.spliced[at],
                started=round(opened.started, 3), seconds=round(time.monotonic() - opened.clock, 4),
                failure="" if samples and all(s.stop_reason for s in samples) else group.failed_by or GONE,
            )  # fmt: skip
            self._remember(call)
            self._unwritten.append(call)
        self._write()

    # -- the disk ----------------------------------------------------------------------------------

    def _write(self) -> None:
        while self._unwritten:
            try:
                self.keep(self._unwritten[0])
            except QwqError as error:
                say(f"a call is not recorded yet: {error}")
                return
            self._unwritten.pop(0)

    # -- tokens ------------------------------------------------------------------------------------

    def _sample(self, group: RequestGroup, s: TokenSequence, versions: WeightVersions) -> RecordedSample:
        # The engine may still write to a sample that is given up: each column is cut to one length.
        done = s.done
        length = min(len(s.drawn_logprobs), len(s.forced), len(s.ids))
        reasons = untrainable(s.request)
        if not done:
            reasons.append(GONE)
        elif s.stop_reason == "abort" and s not in group.stopped:
            reasons.append("the server stopped the answer")
        return RecordedSample(
            completion_ids=s.ids[:length], sampled_mask=[1 - f for f in s.forced[:length]],
            logprobs=[0.0 if f else p for p, f in zip(s.drawn_logprobs[:length], s.forced[:length], strict=True)],
            weight_versions=versions.spans(group, s, length),
            stop_reason=str(s.stop_reason) if done else None, text=s.text if done else "", untrainable=reasons,
        )  # fmt: skip

    def _remember(self, call: RecordedCall) -> None:
        kept = self._answers.setdefault(call.episode, [])
        self._answers.move_to_end(call.episode)
        kept += [array("q", [*call.prompt_ids, *s.completion_ids]) for s in call.samples if s.completion_ids]
        del kept[:-KEPT_ANSWERS]
        while len(self._answers) > KEPT_EPISODES:
            self._answers.popitem(last=False)

    def sampled_ids(self, episode: str, prompt: Sequence[int]) -> tuple[list[int], int] | None:
        """The prompt with the tokens of an earlier answer of its episode (and of that one's prompt)
        in place of other tokens for the same text, and how many they are; None where nothing is to
        be replaced.
        """
        ends = [(end, t) for t in self._answers.get(episode, ()) if (end := self._same_text(t, prompt)) is not None]
        if not ends:
            return None
        end, tokens = max(ends, key=lambda pair: pair[0])
        made = [*tokens, *prompt[end:]]
        return None if made == list(prompt) else (made, len(tokens))

    def _same_text(self, tokens: Sequence[int], prompt: Sequence[int]) -> int | None:
        """How many first tokens of `prompt` spell the text of `tokens`; None where none do. Control
        tokens are only alike to themselves.
        """
        i = j = 0
        left = right = b""  # text that is read and not compared yet, of either side
        while i < len(tokens) or left or right:
            if not left and not right and j < len(prompt) and tokens[i] == prompt[j]:
                i, j = i + 1, j + 1
                continue
            if not left:
                left, i = (self._text(tokens[i]) if i < len(tokens) else b""), i + 1
            if not right:
                right, j = (self._text(prompt[j]) if j < len(prompt) else b""), j + 1
            size = min(len(left), len(right))
            if not size or left[:size] != right[:size]:
                return None
            left, right = left[size:], right[size:]
        return j

    def _text(self, token: int) -> bytes:
        spelled = self.chat.tokenizer.token_bytes
        return b"" if token in self._control or token >= len(spelled) else spelled[token]


def _sampling(request: GenerationRequest) -> dict[str, object]:
    """The settings that are not those of plain sampling, and what ends an answer."""
    p = request.params
    out: dict[str, object] = {"temperature": p.temperature, "max_new_tokens": p.max_new_tokens}
    names = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    out |= {name: getattr(p, name) for name in names if getattr(p, name) != getattr(PLAIN, name)}
    if p.logit_bias:
        out["logit_bias"] = [list(pair) for pair in p.logit_bias]
    if request.n > 1:
        out["n"] = request.n
    if request.stop:
        out["stop"] = list(request.stop)
    if request.stop_ids:
        out["stop_token_ids"] = list(request.stop_ids)
    if request.thinking_budget is not None:
        out["thinking_budget"] = request.thinking_budget
    if request.min_new_tokens:
        out["min_tokens"] = request.min_new_tokens
    if request.matcher is not None:
        out["grammar"] = True
    if not request.eos_ids:
        out["ignore_eos"] = True
    return out
