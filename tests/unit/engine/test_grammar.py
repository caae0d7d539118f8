"""Grammar matchers: what may come next, where they apply, and how they fail."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("llguidance")

import scripted

from qwq.engine.grammar import Grammars, answer_grammar, calls_grammar, json_rule
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.sequence import TokenSequence
from qwq.errors import UsageError
from qwq.types import StopReason

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "maximum": 9, "minimum": 0}},
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def chat():
    return scripted.chat_format()


@pytest.fixture(scope="module")
def grammars(chat) -> Grammars:
    return Grammars(chat.tokenizer, chat.tokenizer.vocab_size, chat.eos_ids)


def run(chat, grammars: Grammars, grammar: str, said: str, **more) -> TokenSequence:
    model = scripted.opened(chat, scripted.Script(chat, lambda prompt: said))
    ids = chat.prompt_ids([{"role": "user", "content": "x"}])
    params = SamplingParams(temperature=more.pop("temperature", 0.0), max_new_tokens=200)
    request = GenerationRequest(
        ids, params, eos_ids=chat.eos_ids, thinking_open=True, matcher=grammars.compile(grammar, "f"), **more
    )
    ((sample,),) = model.engine.run([request])
    return sample


def answer(sample: TokenSequence) -> str:
    return sample.text.partition("</think>")[2].strip()


def test_what_the_model_wants_where_the_schema_allows_it(chat, grammars: Grammars) -> None:
    sample = run(chat, grammars, answer_grammar(json_rule(POINT)), 'I think {"y": 1}</think>\n\n{"x": 7}')
    assert answer(sample) == '{"x": 7}' and '{"y": 1}' in sample.text and sample.stop_reason is StopReason.END


@pytest.mark.parametrize("seed", range(5))
def test_what_it_does_not_want_is_made_to_fit(chat, grammars: Grammars, seed: int) -> None:
    sample = run(
        chat, grammars, answer_grammar(json_rule(POINT)), "so</think>\n\nno json at all", temperature=1.0, seed=seed
    )
    assert 0 <= json.loads(answer(sample))["x"] <= 9 and sample.stop_reason is StopReason.END


def test_a_budget_closes_the_thinking_and_the_form_follows(chat, grammars: Grammars) -> None:
    sample = run(chat, grammars, answer_grammar(json_rule(POINT)), "and so on " * 100, thinking_budget=10)
    assert sample.num_thinking <= 10 and 0 <= json.loads(answer(sample))["x"] <= 9


def test_calls_of_several_functions(chat, grammars: Grammars) -> None:
    grammar = calls_grammar([('a b"c', POINT), ("g", None)], parallel=True)
    wanted = (
        '<tool_call>\n{"name": "a b\\"c", "arguments": {"x": 1}}\n</tool_call>\n<tool_call>\n'
        '{"name": "g", "arguments": {}}\n</tool_call>'
    )
    assert answer(run(chat, grammars, grammar, f"so</think>{wanted}")) == wanted


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "wibble"},
        {"$ref": "http://x/y"},
        {"type": "string", "pattern": "("},
        {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
    ],
)
def test_a_schema_that_cannot_be_is_refused(grammars: Grammars, schema: dict) -> None:
    with pytest.raises(UsageError, match="f: this form cannot be enforced"):
        grammars.compile(answer_grammar(json_rule(schema)), "f")


def test_two_samples_have_a_guide_each(chat, grammars: Grammars) -> None:
    model = scripted.opened(chat, scripted.Script(chat, lambda prompt: "so</think>\n\nno"))
    request = GenerationRequest(
        chat.prompt_ids([{"role": "user", "content": "x"}]), SamplingParams(temperature=1.0, max_new_tokens=100), n=6,
        eos_ids=chat.eos_ids, thinking_open=True, matcher=grammars.compile(answer_grammar(json_rule(POINT)), "f"),
    )  # fmt: skip
    (samples,) = model.engine.run([request])
    assert all(0 <= json.loads(answer(s))["x"] <= 9 for s in samples)


def test_a_schema_that_no_guide_can_hold_leaves_the_model_free(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert grammars.for_schema(POINT) is not None
    assert grammars.for_schema({"type": "wibble"}) is None
    monkeypatch.setattr("qwq.engine.grammar.find_spec", lambda name: None)  # llguidance is not installed
    assert grammars.for_schema(POINT) is None
