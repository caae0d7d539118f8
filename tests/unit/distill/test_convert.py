"""Published sets in the form that SFT and the reward model read: each format by hand, the whole
files, and training examples of them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from qwq.cli import main
from qwq.data.shapes import read_conversations, read_pairs
from qwq.distill.convert import check_rows, convert
from qwq.errors import ConfigError, DataError
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe

SHARED = Path(__file__).parents[4] / "shared"
FILES = {
    "marco-o1": "long_cot/marco_o1_demo.jsonl", "toolrl": "tool_use/sft_with_thinking.jsonl",
    "apibank": "tool_use/apibank_level1.jsonl", "glaive": "tool_use/glaive_demo.jsonl",
}  # fmt: skip
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")
SYSTEM = """You call tools.

**Available Tools**
In your response, you can use the following tools:
1. Name: Find Book
Description: Finds a book.
Parameters: {"title": {"description": "its title", "type": "string", "default": ""}, "year": {"type": "float", "description": "of print"}}
2. Name: lend
Description: Lends it.
Parameters: {'id': {'type': 'int', 'description': 'of the book'}}

**Steps for Each Turn**
1. Think
"""


def one(row: dict, form: str, **kw) -> dict:
    (made,), skipped = convert([(1, row)], form, **kw)
    assert not skipped
    return made


def test_marco_o1() -> None:
    row = {
        "instruction": "Is it so? Let's think first. Step-by-step reasoning process:",
        "response": "<Thought>\nIt is.\n</Thought>\n<Output>\nYes\n</Output>",
    }
    expected = {
        "messages": [
            {"role": "user", "content": "Is it so?"},
            {"role": "assistant", "content": "<think>\nIt is.\n</think>\nYes"},
        ]
    }
    assert (
        one(row, "marco-o1")
        == expected
        == one(row | {"response": row["response"].removesuffix("</Output>")}, "marco-o1")
    )
    assert convert([(1, row | {"response": "Yes"})], "marco-o1") == ([], {"thought or output missing": 1})


def test_gsm8ks_steps_become_the_thinking() -> None:
    row = {
        "question": "Tom has 1,000 clips and buys 24. How many?",
        "answer": "He has 1000+24=<<1000+24=1024>>1,024 clips.\n#### 1,024",
    }
    (made,), skipped = convert([(1, row)], "gsm8k")
    user, assistant = made["messages"]
    assert user["content"].startswith("Tom has") and user["content"].endswith("\\boxed{}.") and not skipped
    assert assistant["content"] == "<think>\nHe has 1000+24=1,024 clips.\n</think>\nThe answer is \\boxed{1024}."
    assert convert([(1, row | {"answer": "#### 3"})], "gsm8k") == ([], {"no steps or no answer": 1})


def test_toolrl() -> None:
    history = (
        "**Dialogue Records History**\n<user> Lend me Emma </user>\n\n<think> Find it. </think>\n<tool_call>\n"
        '{"name": "Find Book", "parameters": {"title": "Emma"}}\n</tool_call>\n<obs> [3] </obs>\n'
    )
    output = (
        '<think> It is 3. </think>\n<tool_call>\n{"name": "lend", "parameters": {"id": 3}}\n'
        '{"name": "lend", "parameters": {"id": 4}}\n</tool_call>'
    )
    made = one({"instruction": SYSTEM, "input": history, "output": output}, "toolrl")
    call = lambda name, **kw: {"type": "function", "function": {"name": name, "arguments": kw}}
    assert made["messages"] == [
        {"role": "user", "content": "Lend me Emma"},
        {
            "role": "assistant",
            "content": "<think>\nFind it.\n</think>\n",
            "tool_calls": [call("Find Book", title="Emma")],
        },
        {"role": "tool", "content": "[3]"},
        {
            "role": "assistant",
            "content": "<think>\nIt is 3.\n</think>\n",
            "tool_calls": [call("lend", id=3), call("lend", id=4)],
        },
    ]
    assert [t["function"]["name"] for t in made["tools"]] == ["Find Book", "lend"]
    first = made["tools"][0]["function"]["parameters"]
    assert first["properties"]["year"] == {"type": "number", "description": "of print"} and first["required"] == [
        "year"
    ]
    assert made["tools"][1]["function"]["parameters"]["properties"]["id"]["type"] == "integer"
    said = one(
        {
            "instruction": SYSTEM,
            "input": "<user> Hi </user>",
            "output": "<think> Greet. </think>\n<response> Hello </response>",
        },
        "toolrl",
    )
    assert said["messages"][-1] == {"role": "assistant", "content": "<think>\nGreet.\n</think>\nHello"}
    for output, reason in (
        ("<think> a </think>\n<tool_call>\n{bad}\n</tool_call>", "a malformed call"),
        ("<think> a </think>", "an empty turn"),
    ):
        assert convert([(1, {"instruction": SYSTEM, "input": "<user> Hi </user>", "output": output})], "toolrl") == (
            [],
            {reason: 1},
        )


def test_apibank_and_empty_thinking() -> None:
    row = {
        "system": SYSTEM,
        "user": "<user>Lend 3</user>\n<response>Sure.</response>\n\n<user>Do it</user>",
        "answer": [{"name": "lend", "parameters": {"id": 3}}],
    }
    made = one(copy.deepcopy(row), "apibank")
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "user", "assistant"]
    assert made["messages"][-1]["content"] == "" and made["messages"][-1]["tool_calls"][0]["function"]["arguments"] == {
        "id": 3
    }
    thought = one(row, "apibank", empty_thinking=True)
    assert [m["content"] for m in thought["messages"] if m["role"] == "assistant"] == [
        "<think>\n\n</think>\nSure.",
        "<think>\n\n</think>\n",
    ]


def test_glaive() -> None:
    turns = [
        ("human", "Hi"),
        ("function_call", '{"name": "f", "arguments": "{\\"a\\": 1}"}'),
        ("observation", "[1]"),
        ("gpt", "It is 1."),
    ]
    row = {"conversations": [{"from": f, "value": v} for f, v in turns], "tools": '[{"name": "f", "parameters": {}}]'}
    made = one(row, "glaive")
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert made["messages"][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert made["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def test_preferences(tmp_path) -> None:
    row = {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello"},
        "rejected": {"from": "gpt", "value": "No"},
    }
    assert one(row, "dpo") == {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "Hello", "rejected": "No"}
    assert convert([(1, row | {"rejected": row["chosen"]})], "dpo")[1] == {"an empty or equal answer": 1}

    def row_of(q, a, good):
        return {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "label": good}

    pairs, skipped = convert(
        enumerate([row_of("a", "x", True), row_of("a", "y", False), row_of("a", "z", False), row_of("b", "x", True)]),
        "kto",
    )
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("x", "y"), ("x", "z")] and skipped == {
        "no_counterpart": 1
    }
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(pairs[0]))
    (pair,) = read_pairs(path)
    assert (pair.prompt[0].content, pair.chosen[0].content, pair.rejected[0].content) == ("a", "x", "y")


def test_errors_are_one_line(tmp_path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'marco-o1'"):
        convert([], "marco")
    with pytest.raises(DataError, match=r"row 7 is not in the form glaive .* it has a"):
        convert([(7, {"a": 1})], "glaive")
    with pytest.raises(ConfigError, match="holds preferences"):
        convert([], "dpo", empty_thinking=True)
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a", "response": "b"}\n')
    assert main(["data", "convert", str(path), "--format", "marco-o1", "--out", str(tmp_path / "o")]) == 2
    assert not (tmp_path / "o").exists()


def test_what_stands_at_out_is_kept(tmp_path, capsys) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "o.jsonl"
    row = '{"instruction": "a", "input": "", "output": "b"}\n'
    source.write_text(row)
    out.write_text("mine\n")
    command = ["data", "convert", str(source), "--format", "alpaca", "--out"]
    assert main([*command, str(out)]) == 0
    assert (tmp_path / "o.jsonl.1").read_text() == "mine\n"
    assert f"{out} was there with other rows: it is {out}.1 now" in capsys.readouterr().err
    assert main([*command, str(out)]) == 0  # the same rows again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "o.jsonl", "o.jsonl.1"]
    assert main([*command, str(source)]) == 2
    assert source.read_text() == row


def test_out_in_a_place_without_files_is_one_line(tmp_path, capsys) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    for command in (["data", "convert", str(source), "--format", "alpaca"], ["data", "constraints", "--n", "1"]):
        assert main([*command, "--out", "/proc/x.jsonl"]) == 2
        assert (
            capsys.readouterr().err.strip()
            == "error: /proc/x.jsonl cannot be written: /proc takes no new files, name another place"
        )


@needs_shared
@pytest.mark.parametrize("form", sorted(FILES))
def test_whole_files_become_training_examples(form, tmp_path, capsys) -> None:
    out = tmp_path / "sft.jsonl"
    assert (
        main(
            [
                "data",
                "convert",
                str(SHARED / "data" / FILES[form]),
                "--format",
                form,
                "--out",
                str(out),
                *(["--empty-thinking"] if form in ("apibank", "glaive") else []),
            ]
        )
        == 0
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary["kept"] >= 0.95 * summary["rows"], summary
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    conversations = read_conversations(out)
    assert len(conversations) == len(rows) == summary["kept"]
    template = default_template()
    chat = ChatFormat(train_bpe([template.render(conversations[0].messages)], 300), template)
    for row, reason in check_rows(rows[:20], chat):
        assert reason is None, row
    messages, tools = conversations[0].messages, conversations[0].tools
    ids, mask = chat.training_example(messages, tools)
    own = chat.tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert "</think>" in own and "<|im_start|>user" not in own
    if form == "marco-o1":
        assert messages[-1].content.startswith("<think>\n") and sum(mask) > 50


@needs_shared
def test_real_models_templates_take_them(tmp_path, capsys) -> None:
    model = SHARED / "models" / "smollm2-135m-instruct"
    if not (model / "tokenizer.json").is_file():
        pytest.skip(f"needs {model}")
    command = [
        "data",
        "convert",
        str(SHARED / "data" / FILES["marco-o1"]),
        "--format",
        "marco-o1",
        "--out",
        str(tmp_path / "o"),
        "--check",
        str(model),
    ]
    assert main([*command, "--max-tokens", "2048"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] >= 100


def test_sft_leaves_out_long_conversations_and_names_bad_ones(tmp_path) -> None:
    from qwq.pipeline.stages.sft import SftStage

    template = default_template()
    chat = ChatFormat(train_bpe(["a word and another word"] * 3, 300), template)
    path = tmp_path / "sft.jsonl"
    turn = lambda text: {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]}
    path.write_text("".join(json.dumps(turn(f"<think>\n{'word ' * n}\n</think>\nb")) + "\n" for n in (5, 300, 6)))
    stage = SftStage.model_validate({"kind": "sft", "path": str(path), "max_tokens": 120})
    made = stage.make_documents(chat, "sft", 0)
    assert (
        len(made.documents) == 2
        and f"2 of 3 rows, left out: 1 over 120 tokens (first: {path}, line 2)" in made.use.note()
    )
    with pytest.raises(DataError, match="no conversation of at most 10 tokens"):
        stage.model_copy(update={"max_tokens": 10}).make_documents(chat, "sft", 0)
    # A template that opens the thinking whatever comes.
    opener = ChatTemplate(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    chat = ChatFormat(chat.tokenizer, opener)
    path.write_text(json.dumps(turn("no thinking")) + "\n")
    with pytest.raises(DataError, match="sft.jsonl, line 1: no training example from these messages"):
        stage.make_documents(chat, "sft", 0)
