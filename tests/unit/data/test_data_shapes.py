"""Shapes of rows: one conversation in each gives the same tokens, pairs in each the same pair, and
what fits none is refused in words.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwq.data.messages import Malformed, turns_of
from qwq.data.shapes import conversation, preference, problem_kind, read_conversations, scored
from qwq.errors import DataError
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, ToolCall

SHARED = Path(__file__).parents[4] / "shared" / "models"
THOUGHT = "<think>\nTwo and two.\n</think>\n4"
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(
        train_bpe(["What is 2+2? <think>\nTwo and two.\n</think>\n4 add a b"] * 3, 320), default_template()
    )


def user(text: object) -> dict:
    return {"role": "user", "content": text}


def assistant(text: object, **more: object) -> dict:
    return {"role": "assistant", "content": text, **more}


ONE_EXCHANGE = {
    "messages": {"messages": [user("What is\n2+2?"), assistant(THOUGHT)]},
    "content parts": {
        "messages": [
            user([{"type": "text", "text": "What is\n"}, {"type": "text", "text": "2+2?"}]),
            assistant([{"type": "text", "text": THOUGHT}]),
        ]
    },
    "thinking apart": {"messages": [user("What is\n2+2?"), assistant("4", reasoning_content="Two and two.")]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "What is\n2+2?"}, {"from": "gpt", "value": THOUGHT}]},
    "Alpaca": {"instruction": "What is", "input": "2+2?", "output": THOUGHT},
    "Alpaca without input": {"instruction": "What is\n2+2?", "input": "", "output": THOUGHT},
    "prompt and completion": {"prompt": "What is\n2+2?", "completion": THOUGHT},
    "messages as prompt and completion": {"prompt": [user("What is\n2+2?")], "completion": [assistant(THOUGHT)]},
    "prompt and response": {"prompt": "What is\n2+2?", "response": assistant(THOUGHT)},
    "messages as JSON text": {"messages": json.dumps([user("What is\n2+2?"), assistant(THOUGHT)])},
}


@pytest.mark.parametrize("shape", ONE_EXCHANGE)
def test_one_conversation_has_the_same_tokens_in_every_shape(chat: ChatFormat, shape: str) -> None:
    expected = chat.training_example([Message("user", "What is\n2+2?"), Message("assistant", THOUGHT)])
    made = conversation(ONE_EXCHANGE[shape])
    assert chat.training_example(made.messages, made.tools, unlearnt=made.unlearnt) == expected
    ids, mask = expected
    own = chat.tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert own == "Two and two.\n</think>\n4<|im_end|>"  # the template's own opening is no word of the model's


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"])
def test_and_with_the_templates_of_real_models(name: str) -> None:
    if not (SHARED / name / "tokenizer.json").is_file():
        pytest.skip(f"needs {name} in ../shared/models")
    chat = ChatFormat.from_folder(SHARED / name)
    made = [conversation(row) for row in ONE_EXCHANGE.values()]
    examples = [chat.training_example(m.messages, m.tools, unlearnt=m.unlearnt) for m in made]
    assert sum(examples[0][1]) > 5 and all(e == examples[0] for e in examples)


CALL = {"name": "add", "arguments": {"a": 12345678901234567890123}}
WITH_TOOLS = {
    "messages": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            user("Add."),
            assistant(None, tool_calls=[{"id": "c1", "type": "function", "function": CALL}]),
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            assistant("It is 3."),
        ],
        "tools": [TOOL],
    },
    "arguments as text, tools as text": {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            user("Add."),
            assistant("", tool_calls=[{"function": CALL | {"arguments": json.dumps(CALL["arguments"])}}]),
            {"role": "tool", "content": "3"},
            assistant("It is 3."),
        ],
        "tools": json.dumps([TOOL]),
    },
    "OpenAI's older form": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            user("Add."),
            assistant(None, function_call=CALL | {"arguments": json.dumps(CALL["arguments"])}),
            {"role": "function", "name": "add", "content": "3"},
            assistant("It is 3."),
        ],
        "functions": [TOOL["function"]],
    },
    "ShareGPT": {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Add."},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "3"},
            {"from": "gpt", "value": "It is 3."},
        ],
        "tools": json.dumps([TOOL["function"]]),
    },
    "tools as texts": {
        "system": "Be brief.",
        "messages": [
            user("Add."),
            assistant("", tool_calls=json.dumps([CALL])),
            {"role": "tool", "content": "3"},
            assistant("It is 3."),
        ],
        "tools": [json.dumps(TOOL)],
    },
}


@pytest.mark.parametrize("shape", WITH_TOOLS)
def test_calls_results_and_tools_are_the_same_in_every_shape(shape: str) -> None:
    made = conversation(WITH_TOOLS[shape])
    assert made.tools == (TOOL,) and made.unlearnt == frozenset()
    assert made.messages == (
        Message("system", "Be brief."), Message("user", "Add."),
        Message("assistant", "", (ToolCall("add", {"a": 12345678901234567890123}),)), Message("tool", "3"),
        Message("assistant", "It is 3."),
    )  # fmt: skip


def test_turns_of_weight_0_are_read_and_not_learnt(chat: ChatFormat) -> None:
    made = conversation(
        {"system": "s", "messages": [user("q"), assistant("BAD", weight=0), user("again"), assistant("GOOD", weight=1)]}
    )
    ids, mask = chat.training_example(made.messages, made.tools, unlearnt=made.unlearnt)
    own = chat.tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert own == "\n</think>\nGOOD<|im_end|>" and "BAD" in chat.tokenizer.decode(ids)
    assert ids == chat.training_example(made.messages)[0]
    with pytest.raises(Malformed, match="every assistant turn has weight 0"):
        conversation({"messages": [user("q"), assistant("BAD", weight=0)]})
    with pytest.raises(Malformed, match=r"messages\[1\] has weight 0.5: give 1, or 0"):
        conversation({"messages": [user("q"), assistant("BAD", weight=0.5)]})


def test_the_assistant_turns_of_a_prompt_are_not_learnt() -> None:
    made = conversation({"prompt": [user("q"), assistant("a"), user("r")], "completion": [assistant("b")]})
    assert [m.content for m in made.messages] == ["q", "a", "r", "b"] and made.unlearnt == {1}


def test_alpacas_history_goes_before_the_instruction() -> None:
    made = conversation({"instruction": "c", "input": None, "output": "d", "system": "s", "history": [["a", "b"]]})
    assert [m.content for m in made.messages] == ["s", "a", "b", "c", "d"] and made.unlearnt == frozenset()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "messages is an empty list"),
        ({"messages": [user("q")]}, "no assistant turn, so nothing to learn"),
        ({"messages": [user("q"), assistant(None)]}, r"messages\[1\] \(assistant\) has neither content nor tool calls"),
        ({"messages": [user("q"), assistant(" ")]}, r"messages\[1\] \(assistant\) has neither content nor tool calls"),
        ({"messages": [user(None), assistant("a")]}, r"messages\[0\] \(user\) has no content"),
        ({"messages": [user("q"), assistant(42)]}, r"messages\[1\].content is a number: give text"),
        (
            {"messages": [user("q"), assistant([{"type": "image_url", "image_url": {}}])]},
            r"messages\[1\].content\[0\] is a part of type 'image_url'",
        ),
        ({"messages": [{"content": "q"}, assistant("a")]}, r"messages\[0\] has no `role` \(it has content\)"),
        ({"messages": [{"role": "usr", "content": "q"}]}, r"messages\[0\] has the role 'usr': did you mean 'user'"),
        ({"messages": ["q"]}, r"messages\[0\] is text: give an object"),
        (
            {"messages": [user("q"), assistant("", tool_calls=[{"function": {"name": "f", "arguments": "{bad"}}])]},
            r"tool_calls\[0\] is no call: .* found .*bad",
        ),
        (
            {"messages": [user("q"), assistant("", tool_calls=[{"function": {"name": "f", "arguments": [1]}}])]},
            r"tool_calls\[0\] is no call",
        ),
        ({"messages": [user("q"), assistant("a")], "tools": "no json"}, "tools is text that is not JSON"),
        ({"messages": [user("q"), assistant("a")], "tools": [{"x": 1}]}, r"tools\[0\] is no tool"),
        (
            {"messages": [user("q"), assistant("<think>\nb\n</think>\na", reasoning_content="other")]},
            "has thinking in its content, and another apart",
        ),
        ({"prompt": "q"}, "needs `messages`, .*; it has prompt"),
        ({"prompt": "", "completion": "a"}, "prompt is empty"),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            "this is a preference pair, which a reward_model stage reads",
        ),
        ({"role": "user", "content": "q"}, "this is one message: put the messages"),
        (
            {"instruction": "q", "response": "<Thought>t</Thought> <Output>o</Output>"},
            "`qwq data convert --format marco-o1`",
        ),
        ({"question": "q", "answer": "1+1=<<1+1=2>>2\n#### 2"}, "`qwq data convert --format gsm8k`"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_in_words(row: dict, words: str) -> None:
    with pytest.raises(Malformed, match=words) as error:
        conversation(row)
    assert "\n" not in str(error.value)


def test_answers_with_headings_are_no_gsm8k() -> None:
    assert (
        conversation({"question": "q", "answer": "#### A heading\ntext"}).messages[1].content == "#### A heading\ntext"
    )


def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps(ONE_EXCHANGE["messages"]) + "\n\n" + json.dumps({"messages": [user("q"), assistant(None)]}) + "\n"
    )
    with pytest.raises(DataError, match=r"a.jsonl, line 3: messages\[1\] \(assistant\) has neither"):
        read_conversations(path)


# -- pairs -----------------------------------------------------------------------------------------

PAIRS = {
    "prompt, chosen and rejected": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "TRL": {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
    "a turn each": {"prompt": "q", "chosen": assistant("a"), "rejected": assistant("b")},
    "TRL, implicit prompt": {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
    "UltraFeedback": {
        "prompt": "q",
        "prompt_id": "1",
        "messages": [user("q"), assistant("a")],
        "chosen": [user("q"), assistant("a")],
        "rejected": [user("q"), assistant("b")],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    },
    "ShareGPT pair": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "Alpaca pair": {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
    "a question": {"question": "q", "chosen": "a", "rejected": "b"},
    "messages": {"messages": [user("q")], "chosen": assistant("a"), "rejected": assistant("b")},
    "hh-rlhf": {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
}


@pytest.mark.parametrize("shape", PAIRS)
def test_a_pair_is_the_same_in_every_shape(shape: str) -> None:
    pair = preference(PAIRS[shape])
    assert (pair.prompt, pair.chosen, pair.rejected) == (
        (Message("user", "q"),),
        (Message("assistant", "a"),),
        (Message("assistant", "b"),),
    )
    assert scored(PAIRS[shape]) == (pair.prompt, (), [pair.chosen, pair.rejected])


def test_whole_conversations_part_at_a_turn_of_the_assistant() -> None:
    start = [{"role": "system", "content": "s"}, user("q"), assistant("x")]
    pair = preference({"chosen": [*start, user("r"), assistant("a")], "rejected": [*start, user("t"), assistant("b")]})
    # They part at the user's second turn; the prompt ends before the assistant's turn in front of
    # it.
    assert [m.content for m in pair.prompt] == ["s", "q"] and [m.content for m in pair.chosen] == ["x", "r", "a"]
    equal = preference({"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("a")]})
    assert equal.chosen == equal.rejected == (Message("assistant", "a"),)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q"}, "needs `prompt`, `chosen` and `rejected`; it has prompt"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "chosen is null: give text or messages"),
        ({"chosen": "a", "rejected": "b"}, "needs a `prompt`, or `chosen` and `rejected` that are whole conversations"),
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("other"), assistant("b")]},
            "begin with different turns: they need one prompt",
        ),
        (
            {"prompt": "z", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            "prompt is not in the turns with which",
        ),
        ({"prompt": "q", "chosen": [assistant("a"), user("r")], "rejected": "b"}, "chosen ends with a turn of user"),
    ],
)
def test_what_is_no_pair_is_refused_in_words(row: dict, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        preference(row)


def test_what_a_reward_model_scores() -> None:
    answer = (Message("user", "q"),), (), [(Message("assistant", "a"),)]
    for row in (
        {"prompt": "q", "response": "a"},
        {"messages": [user("q"), assistant("a")]},
        {"instruction": "q", "output": "a"},
        {"messages": [user("q"), assistant("a")], "label": True},
    ):
        assert scored(row) == answer
    with pytest.raises(Malformed, match="needs prompt and response, .*; it has prompt"):
        scored({"prompt": "q"})
    with pytest.raises(Malformed, match="messages end with the assistant's turn"):
        scored({"messages": [user("q")]})


def test_the_kind_of_a_problem() -> None:
    rows = {
        "math": {"question": "q", "answer": "5"}, "code": {"prompt": "p", "tests": []},
        "mbpp": {"task_id": 3, "text": "t", "test_list": []}, "prompts": {"prompt": "p", "answer": "a"},
        "constraints": {"prompt": "p", "instruction_id_list": []}, None: {"x": 1},
    }  # fmt: skip
    assert {kind: problem_kind(row) for kind, row in rows.items()} == {kind: kind for kind in rows}


def test_a_template_that_drops_thoughts_keeps_the_mask_in_step() -> None:
    """The mask of weights goes by the assistant's turns, also where other turns stand between."""
    plain = ChatTemplate(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = ChatFormat(train_bpe(["a b c d e f"] * 3, 300), plain)
    turns = turns_of(
        [
            user("a"),
            assistant("b", weight=0),
            {"role": "tool", "content": "c"},
            assistant("d"),
            user("e"),
            assistant("f", weight=0.0),
        ],
        "messages",
    )
    ids, mask = chat.training_example(turns.messages, unlearnt=turns.unlearnt)
    assert chat.tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "d<|im_end|>"
