"""Thinking budgets, the answer after them, and loops: on a random model, and on scripts that
misbehave on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from fake_slots import FakeSlots
from tiny import random_model

from qwq.engine.backends.base import Chunk
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.engine.sequence import TokenSequence
from qwq.engine.thinking import CLOSING_PHRASE, in_a_loop
from qwq.text.tokenizer import Tokenizer, train_bpe
from qwq.types import StopReason


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(
        [f"let me see, {a} and {b} make {a + b}. wait, so it is </ then" for a in range(30) for b in range(9)], 330
    )


class Scripted(FakeSlots):
    """A backend that says what a function of the tokens so far says."""

    max_positions, max_slots = 4096, 8

    def __init__(self, vocab_size: int, say: Callable[[list[int]], int]) -> None:
        super().__init__(vocab_size)
        self.say = say

    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        out = []
        for c in chunks:
            assert c.start == len(self.held[c.slot]), "the engine skips or repeats tokens"
            for i, t in enumerate(c.ids):
                self.held[c.slot].append(t)
                if i >= len(c.ids) - c.num_logits:
                    logits = torch.zeros(self.vocab_size)
                    logits[self.say(self.held[c.slot])] = 50.0
                    out.append(logits)
        return torch.stack(out) if out else torch.zeros(0, self.vocab_size)


def play(
    tokenizer: Tokenizer, reply: str | Callable[[list[int]], int], *, prompt: str = "question: ", **options
) -> TokenSequence:
    """One greedy sample of a script: a text that is written token by token whatever is forced in
    between, then the end token.
    """
    start = tokenizer.encode_rendered(prompt)
    end = tokenizer.eos_ids[0]
    if isinstance(reply, str):
        words = iter(tokenizer.encode_rendered(reply))
        said: dict[int, int] = {}

        def say(held: list[int]) -> int:
            return said.setdefault(len(held), next(words, end))
    else:
        say = reply
    engine = Engine(Scripted(tokenizer.vocab_size, say), tokenizer)
    params = SamplingParams(temperature=0, max_new_tokens=options.pop("max_new_tokens", 400))
    ((sample,),) = engine.run([GenerationRequest(start, params, eos_ids=tokenizer.eos_ids, **options)])
    return sample


def test_two_hundred_budgets_hold_to_the_token_and_answers_follow(tokenizer) -> None:
    model = random_model(tokenizer.vocab_size, scale=0.3, seed=1, max_positions=1024)
    engine = Engine(TorchBackend(model, kv_tokens=1 << 15), tokenizer, max_running=50)
    close = tokenizer.token_id("</think>")
    budgets = [0, 16, 64, 256] * 50
    requests = [
        GenerationRequest(
            tokenizer.encode_rendered(f"question {i}<think>\n"), SamplingParams(max_new_tokens=340), seed=i,
            eos_ids=tokenizer.eos_ids, thinking_open=True, thinking_budget=b,
        )
        for i, b in enumerate(budgets)
    ]  # fmt: skip
    ended_early = forced = 0
    for b, (sample,) in zip(budgets, engine.run(requests), strict=True):
        at = sample.ids.index(close)
        thought = sum(not f for f in sample.forced[:at])
        assert thought == sample.num_thinking <= b
        assert sample.text.partition("</think>")[2].strip(), "no answer"
        forced += sample.forced[at]
        ended_early += sample.num_thinking < b
    assert forced > 100 and ended_early > 10  # both ways of closing happened


@pytest.mark.parametrize("budget", [0, 1, 5, 6, 7, 100])
def test_a_thought_that_the_model_opens_itself(tokenizer, budget) -> None:
    thought = tokenizer.encode("let me see, 3 and 4 make 7")
    sample = play(tokenizer, "<think>let me see, 3 and 4 make 7</think>the answer", thinking_budget=budget)
    assert sample.num_thinking == min(budget, len(thought))
    assert sample.stop_reason is StopReason.END
    if budget < len(thought):
        before, _, after = sample.text.partition("</think>")
        assert before.endswith(CLOSING_PHRASE if budget else "<think>")
        assert after.strip()
    else:
        assert sample.text == "<think>let me see, 3 and 4 make 7</think>the answer"


def test_a_marker_in_pieces_is_a_marker(tokenizer) -> None:
    """A tokenizer without the markers as tokens writes them in pieces, which are no thought
    either.
    """
    pieces = tokenizer.encode("</think>")
    assert len(pieces) > 2
    ids = iter([*tokenizer.encode("wait, so"), *pieces, *tokenizer.encode("seven"), tokenizer.eos_ids[0]])
    sample = play(tokenizer, lambda held: next(ids), thinking_open=True, thinking_budget=50)
    assert sample.text == "wait, so</think>seven" and sample.num_thinking == len(tokenizer.encode("wait, so"))


def test_ending_inside_the_thought_closes_it_instead(tokenizer) -> None:
    end, answer = tokenizer.eos_ids[0], tokenizer.encode("seven")
    ids = iter([*tokenizer.encode("wait"), end, *answer, end])
    sample = play(tokenizer, lambda held: next(ids), thinking_open=True, thinking_budget=50)
    assert sample.text == f"wait{CLOSING_PHRASE}</think>\n\nseven" and sample.stop_reason is StopReason.END
    without = play(tokenizer, lambda held: end, thinking_open=True)
    assert without.ids == [end]  # no budget, no interference


def test_no_end_before_the_answers_first_word(tokenizer) -> None:
    sample = play(
        tokenizer, lambda held: tokenizer.eos_ids[0], thinking_open=True, thinking_budget=10, max_new_tokens=60
    )
    assert sample.text.partition("</think>")[2].strip()


def test_a_budget_leaves_room_for_the_answer(tokenizer) -> None:
    word = tokenizer.encode(" and")[0]
    for limit in (8, 40, 80, 200):
        sample = play(tokenizer, lambda held: word, thinking_open=True, thinking_budget=1000, max_new_tokens=limit)
        assert len(sample.ids) == limit
        assert limit < 40 or len(sample.text.partition("</think>")[2]) >= 8, limit


def test_a_loop_in_the_answer_is_stopped_and_says_so(tokenizer) -> None:
    phrase = tokenizer.encode("so it is 7 and ")
    start = len(tokenizer.encode_rendered("question: "))
    sample = play(tokenizer, lambda held: phrase[(len(held) - start) % len(phrase)], loop_tokens=96)
    assert sample.stop_reason is StopReason.LOOP and 96 <= len(sample.ids) <= 96 + len(phrase) + 16
    free = play(tokenizer, lambda held: phrase[(len(held) - start) % len(phrase)])
    assert free.stop_reason is StopReason.LENGTH


def test_a_loop_in_a_limited_thought_ends_the_thought(tokenizer) -> None:
    close, word, end = tokenizer.token_id("</think>"), tokenizer.encode(" and")[0], tokenizer.eos_ids[0]
    answer = tokenizer.encode("seven")

    def say(held: list[int]) -> int:
        if close not in held:
            return word
        after = [t for t in held[held.index(close) + 1 :] if t in answer]
        return answer[len(after)] if len(after) < len(answer) else end

    sample = play(tokenizer, say, thinking_open=True, thinking_budget=300, loop_tokens=64)
    assert sample.loop_in_thinking and 64 <= sample.num_thinking <= 80
    assert sample.stop_reason is StopReason.END and sample.text.endswith("seven")


@pytest.mark.parametrize(
    ("ids", "looping"),
    [
        ([1, 2, 3] * 40, True),
        ([5] * 96, True),
        ([5] * 95, False),
        ([*range(30)] * 4, True),
        ([*range(30)] * 3, False),
        ([*range(97)] * 8, False),  # longer than the phrases that are looked for
        ([1, 2, 3] * 40 + [4], False),
        ([x for i in range(60) for x in (1, 2, i)], False),
    ],
)
def test_what_counts_as_a_loop(ids, looping) -> None:
    assert in_a_loop(ids, 96) is looping
