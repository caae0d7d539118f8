"""The trainer's own tensors as a policy (design promise 1): `engine.batch`'s batched generation,
turn by turn.

A sample keeps its row of the KV cache between its turns where its next turn comes at once; a row
whose sample waits for a slow tool is given to another, and the sample's tokens are computed again
when its turn comes. The order of rows, and so every bit, is a function of the requests and of when
they come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from qwq.engine.batch import Generator, Request
from qwq.engine.thinking import LOOP_CHECK_EVERY, Thinking, in_a_loop
from qwq.errors import InfraError, UsageError
from qwq.model.transformer import Transformer
from qwq.rollout.policies.local import writes_tools
from qwq.rollout.policy import NextRequest, TurnRequest
from qwq.text.response import parse
from qwq.text.template import ChatFormat
from qwq.types import StopReason, Turn, tool_schemas

Owner = tuple[int, int]  # (number of the prompt, number of the random stream)


class TrainerPolicy:
    """Turns from the model that is trained. `max_rows` bounds the rows of the KV cache, and so the
    memory.

    All requests that are under way share their sampling but for `max_new_tokens`; others wait until
    those are done. `count_thinking`: turns say how many tokens of thought they hold.
    """

    token_exact = True

    def __init__(
        self, model: Transformer, chat: ChatFormat, *, max_rows: int = 256, count_thinking: bool = False, name: str = ""
    ) -> None:
        self.model, self.max_rows, self.count_thinking = model, max_rows, count_thinking
        self.chat: ChatFormat = chat
        self.name = name or "the model that is trained"
        self.identity: Mapping[str, Any] = {}
        self.version = 0
        self._paused = False
        self._running: list[_Turns] = []

    @property
    def context(self) -> int | None:
        return self.model.config.max_positions

    @cached_property
    def native_tools(self) -> bool:
        return writes_tools(self.chat)

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        later: deque[TurnRequest] = deque()
        while True:
            later += self._pull(next_request, concurrency, len(later))
            if not later:
                return
            alike = [r for r in later if _sampling(r) == _sampling(later[0])]
            later = deque(r for r in later if _sampling(r) != _sampling(later[0]))
            turns = _Turns(self, alike)
            self._running.append(turns)
            try:
                yield from self._run(turns, next_request, concurrency, later)
            finally:
                self._running.remove(turns)

    def _pull(self, next_request: NextRequest, concurrency: int | None, running: int) -> list[TurnRequest]:
        if self._paused:
            raise UsageError(f"{self.name} is paused: call resume() before asking for more turns")
        new: list[TurnRequest] = []
        while concurrency is None or running + len(new) < concurrency:
            request = next_request()
            if request is None:
                break
            if request.version is not None and request.version != self.version:
                raise InfraError(
                    f"version {request.version} of the weights is to answer, {self.name} holds {self.version}"
                )
            new.append(request)
        return new

    def _run(
        self, turns: _Turns, next_request: NextRequest, concurrency: int | None, later: deque[TurnRequest]
    ) -> Iterator[tuple[TurnRequest, Turn]]:
        while turns.num_running:
            ended = turns.step()
            for row in ended:
                yield row.request, row.turn
            new = self._pull(next_request, concurrency, turns.num_running - len(ended) + len(later))
            later += turns.settle(ended, new)

    def pause(self) -> None:
        self._paused = True

    def update_weights(self, version: int) -> None:
        """Rows under way go on with the new weights over the keys and values of the old ones; their
        tokens say which is which.
        """
        for turns in self._running:
            turns.mark(self.version)
        self.version = version

    def resume(self) -> None:
        self._paused = False

    def close(self) -> None: ...


def _sampling(request: TurnRequest) -> Any:
    return replace(request.params, max_new_tokens=1)


@dataclass(slots=True)
class _Ended:
    """A row whose turn has ended, and which still stands in the cache."""

    place: int
    owner: Owner
    request: TurnRequest
    turn: Turn


@dataclass(slots=True)
class _Row:
    """The turn that a row is making. A row counts its sample's tokens, so the turn's first token
    has the number `request.offset`.

    `first` is the number of the first token behind the row's prompt; `marks` are pairs (tokens so
    far, the version that sampled them).
    """

    request: TurnRequest
    first: int
    looped: bool = False
    started: float = field(default_factory=time.monotonic)
    marks: list[tuple[int, int]] = field(default_factory=list)

    @property
    def begin(self) -> int:
        return self.request.offset

    @property
    def end(self) -> int:
        """The number that no token of the turn reaches."""
        return self.request.offset + self.request.params.max_new_tokens


class _Delayed:
    """A thinking budget that begins after `skip` tokens, which the environment writes.

    The token that ends the turn is no thought.
    """

    def __init__(self, control: Thinking, skip: int, eos_ids: Sequence[int]) -> None:
        self.control, self.skip, self.closing_ids, self.eos_ids = control, skip, control.closing_ids, eos_ids

    def due(self) -> bool:
        return not self.skip and self.control.due()

    def push(self, token: int, *, forced: bool = False) -> None:
        if self.skip:
            self.skip -= 1
        elif token not in self.eos_ids:
            self.control.push(token, forced=forced)


class _Turns(Generator):
    """Batched generation whose rows are turns: an ended row waits for `settle`, where its sample's
    next turn may take it over.
    """

    def __init__(self, policy: TrainerPolicy, requests: Sequence[TurnRequest]) -> None:
        self.policy, self.chat, self.like = policy, policy.chat, requests[0]
        self.turns: dict[Owner, _Row] = {}
        self.requests: list[Request] = []
        self.waiting: deque[Owner] = deque()
        self._ended: list[tuple[int, bool]] = []
        self._ends: set[int] = set()  # of all turns; rows are looked at one by one if they differ
        self._sees_loops = False  # whether any turn ends at a repetition
        for request in requests:
            self._enqueue(request, self._prompt(request))
        groups, waiting = self.requests, self.waiting
        params = replace(requests[0].params, max_new_tokens=max(row.end for row in self.turns.values()))
        super().__init__(
            policy.model, groups, params, self.chat.eos_ids, max_rows=policy.max_rows, thinking=lambda number: None
        )
        self.requests, self.waiting = groups, waiting
        self.lot = max(1, self.num_places // 8)  # as in Generator.run: refilling in lots keeps prefills large

    @property
    def num_running(self) -> int:
        return len(self.waiting) + len(self.rows.owner)

    def _prompt(self, request: TurnRequest) -> list[int]:
        if request.prompt_ids is not None:
            return list(request.prompt_ids)
        return self.chat.prompt_ids(request.messages, request.tools)

    def _enqueue(self, request: TurnRequest, prompt: list[int]) -> None:
        """Samples of one prompt that follow each other are one group, prefilled once."""
        last = self.requests[-1] if self.requests else None
        number = len(self.requests) - 1
        if (
            last is None
            or last.prompt_ids != prompt
            or last.seed != request.seed
            or (number, request.stream) in self.turns
        ):
            last, number = Request(prompt, 0, request.seed), number + 1
            self.requests.append(last)
        self.requests[number] = replace(last, num_samples=last.num_samples + 1)
        row = self.turns[number, request.stream] = _Row(request, request.offset)
        self._ends.add(row.end)
        self._sees_loops |= request.loop_tokens > 0
        self.waiting.append((number, request.stream))

    # -- a step ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[_Ended]:
        free = self.num_places - len(self.rows.owner)
        if self.waiting and (free >= self.lot or not self.rows.owner):
            self._admit(free)
        self._step()
        self._check_rows()
        ended, self._ended = sorted(self._ended), []
        return [self._end(place, end) for place, end in ended]

    def _admit(self, free: int) -> None:
        before = len(self.rows.owner)
        super()._admit(free)
        for place in range(before, len(self.rows.owner)):
            owner = self.rows.owner[place]
            if self.turns[owner].begin:
                self.rows.count[place] = self.turns[owner].begin
            self._begin_thinking(place, owner, 0)

    def _begin_thinking(self, place: int, owner: Owner, skip: int) -> None:
        request = self.turns[owner].request
        self.thinking.pop(owner, None)
        if request.thinking_budget is not None:
            control = self._control(request)
            self.thinking[owner] = _Delayed(control, skip, self.chat.eos_ids)  # type: ignore[assignment]
            self._close_thought(place)

    def _control(self, request: TurnRequest) -> Thinking:
        return Thinking(
            self.chat.tokenizer, opened=self.chat.thinking_open, budget=request.thinking_budget,
            max_new_tokens=request.params.max_new_tokens,
        )  # fmt: skip

    def _settle(self, places: list[int], ended: list[bool]) -> None:
        self._ended += zip(places, ended, strict=True)

    def _check_rows(self) -> None:
        """End single rows: at a limit that is not the batch's, at a repetition."""
        if len(self._ends) == 1 and not self._sees_loops:
            return
        limit, over = self.params.max_new_tokens, {place for place, _ in self._ended}
        checked = [(p, o, self.turns[o]) for p, o in enumerate(self.rows.owner) if p not in over]
        checked = [(p, o, row) for p, o, row in checked if row.request.loop_tokens or row.end < limit]
        counts = self.rows.count.tolist()
        for place, owner, row in checked:
            made = counts[place] - row.begin
            if counts[place] >= row.end or (
                made > 0
                and made % LOOP_CHECK_EVERY == 0
                and row.request.loop_tokens
                and self._loops(place, owner, made)
            ):
                self._ended.append((place, False))

    def _loops(self, place: int, owner: Owner, made: int) -> bool:
        """Whether a repetition ends the turn. In a thought with a budget it ends the thought."""
        row = self.turns[owner]
        if not in_a_loop(self.rows.ids[place, row.begin : row.begin + made].tolist(), row.request.loop_tokens):
            return False
        delayed = self.thinking.get(owner)
        control = delayed.control if isinstance(delayed, _Delayed) else None
        if control is not None and control.inside and control.limited:
            self._force(place, control.closing_ids)
            return False
        row.looped = True
        return True

    def _end(self, place: int, ended: bool) -> _Ended:
        owner = self.rows.owner[place]
        row, count = self.turns[owner], int(self.rows.count[place])
        span = slice(row.begin, count)
        ids = self.rows.ids[place, span].tolist()
        reason = (
            StopReason.END if ended else StopReason.LOOP if row.looped
            else StopReason.LENGTH if count >= row.end else StopReason.CONTEXT
        )  # fmt: skip
        text = self.chat.tokenizer.decode(ids[:-1] if ended else ids)
        parts = parse(
            text, thinking_open=self.chat.thinking_open, tools=tool_schemas(row.request.tools), cut=reason.cut
        )
        delayed = self.thinking.get(owner)
        if delayed is None and self.policy.count_thinking:
            delayed = _Delayed(self._control(row.request), 0, self.chat.eos_ids)
            for token in ids:
                delayed.push(token)
        thinking = delayed.control.num_thinking if isinstance(delayed, _Delayed) else 0
        turn = Turn(
            parts, reason, text, len(ids), thinking, time.monotonic() - row.started, ids=ids,
            sampled_mask=self.rows.mask[place, span].tolist(), logprobs=self.rows.logprobs[place, span].tolist(),
            weight_versions=self._versions(row, count),
        )  # fmt: skip
        return _Ended(place, owner, row.request, turn)

    def mark(self, version: int) -> None:
        """What is sampled so far comes from `version`."""
        for place, owner in enumerate(self.rows.owner):
            self.turns[owner].marks.append((int(self.rows.count[place]), version))

    def _versions(self, row: _Row, count: int) -> list[int]:
        out: list[int] = []
        for upto, version in [*row.marks, (count, self.policy.version)]:
            out += [version] * (upto - row.begin - len(out))
        return out

    # -- between steps -----------------------------------------------------------------------------

    @torch.inference_mode()
    def settle(self, ended: Sequence[_Ended], new: Sequence[TurnRequest]) -> list[TurnRequest]:
        """Let new requests take over their samples' rows, free the others, queue the rest; returns
        those that fit in no row.
        """
        by_stream = {(e.request.seed, e.request.stream): e for e in ended}
        kept: set[int] = set()
        others: list[TurnRequest] = []
        for request in new:
            row = by_stream.get((request.seed, request.stream))
            if row is not None and row.place not in kept and self._take_over(row, request):
                kept.add(row.place)
            else:
                others.append(request)
        leaving = [e for e in ended if e.place not in kept]
        for row in leaving:
            self.thinking.pop(row.owner, None)
            del self.turns[row.owner]
        if leaving:
            self.rows.remove([row.place for row in leaving], self.cache)
        left = []
        for request in others:
            prompt = self._prompt(request)
            if self._fits(request, len(prompt)):
                self._enqueue(request, prompt)
            else:
                left.append(request)
        return left

    def _take_over(self, row: _Ended, request: TurnRequest) -> bool:
        """Continue a sample in its row, where its next turn begins with all the tokens that the row
        holds.
        """
        place, turn, wanted = row.place, self.turns[row.owner], request.prompt_ids
        count = int(self.rows.count[place])
        held = [*self.requests[row.owner[0]].prompt_ids, *self.rows.ids[place, turn.first : count].tolist()]
        if wanted is None or list(wanted[: len(held)]) != held or not self._fits(request, len(wanted)):
            return False
        more = list(wanted[len(held) :])
        if not more or request.offset != count + len(more) or not self._force(place, more):
            return False
        taken = self.turns[row.owner] = _Row(request, turn.first)
        self._ends.add(taken.end)
        self._sees_loops |= request.loop_tokens > 0
        self._begin_thinking(place, row.owner, len(more))
        return True

    def _fits(self, request: TurnRequest, num_prompt: int) -> bool:
        """Whether the cache is wide enough and samples are drawn alike."""
        room = min(num_prompt + request.params.max_new_tokens, self.model.config.max_positions)
        return (
            _sampling(request) == _sampling(self.like)
            and room <= self.width
            and num_prompt < self.model.config.max_positions
            and request.offset + request.params.max_new_tokens <= self.params.max_new_tokens
        )
