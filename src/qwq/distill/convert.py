"""Published conversations and preference sets in the form that SFT and the reward model read. A row
that cannot be read is left out, and why is counted.

    marco-o1   {"instruction", "response": "<Thought>...</Thought> <Output>...</Output>"}    Marco-o1 (Zhao et al. 2024, arXiv 2411.14405)
    toolrl     {"instruction", "input", "output": "<think>...</think> <tool_call>...</tool_call> <response>..."}   ToolRL (Qian et al. 2025, arXiv 2504.13958)
    apibank    {"system", "user", "answer": [{"name", "parameters"}]}    API-Bank (Li et al. 2023, arXiv 2304.08244) in ToolRL's form
    sharegpt   {"conversations": [{"from", "value"}], "tools": "[...]"}    ShareGPT; also as glaive (function calling)
    alpaca     {"instruction", "input", "output"}    Alpaca
    any        every shape that SFT reads itself (`data.shapes`)
    gsm8k      {"question", "answer": "steps #### 42"}    GSM8K's worked solutions (Cobbe et al. 2021, arXiv 2110.14168): steps as thinking, boxed answer
    dpo        {"conversations", "chosen", "rejected"}    pairs: prompt, chosen, rejected
    kto        {"messages", "label"}    single answers that people liked or not; pairs where one prompt has both

Thinking becomes `<think>` in front of the answer, tool calls become Hermes calls with JSON
arguments, tools JSON schemas. The prompts that ask for a set's own tags are left out. Sets without
thinking keep none, unless `empty_thinking` puts an empty one there, which templates that open the
thinking themselves need.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwq.common.files import move_aside, write_atomic
from qwq.common.jsonl import to_line
from qwq.common.source import literal
from qwq.data.messages import Malformed
from qwq.data.row_files import read_rows
from qwq.data.shapes import conversation, preference
from qwq.errors import ConfigError, DataError, QwqError, nearest
from qwq.tasks.maths import Gsm8k
from qwq.tasks.procedural.base import answer_turn
from qwq.text.response import parse
from qwq.text.template import ChatFormat

Row = dict[str, Any]
TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
}
_COT_REQUEST = re.compile(r"\s*Let's think first\. Step-by-step reasoning process:\s*\Z")
_TURN = re.compile(
    r"<(user|think|tool_call|obs|response)>(.*?)(?:</\1>|(?=<(?:user|think|tool_call|obs|response)>)|\Z)", re.DOTALL
)
_TOOL = re.compile(
    r"^\d+\. Name: (.+?)\nDescription: (.*?)\nParameters: (.*?)(?=\n\d+\. Name: |\n\n|\Z)", re.DOTALL | re.MULTILINE
)


class Skipped(Exception):
    """Why a row is left out, in a word or two."""


def convert(
    rows: Iterable[tuple[int, Mapping[str, Any]]], form: str, *, empty_thinking: bool = False
) -> tuple[list[Row], Counter[str]]:
    """SFT rows (`messages`, `tools` where there are some) or preference rows, and how many were
    left out for which reason.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: {nearest(form, FORMATS)}")
    if form in PREFERENCE and empty_thinking:
        raise ConfigError(f"--empty-thinking goes with conversations, {form} holds preferences: leave it out")
    if form == "kto":
        return _kto(rows)
    out, skipped = [], Counter[str]()
    for number, row in rows:
        try:
            made = FORMATS[form](row)
        except Skipped as reason:
            skipped[str(reason)] += 1
            continue
        except Malformed as reason:
            skipped[_in_short(str(reason))] += 1
            continue
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"row {number} is not in the form {form} ({error!r}): it has {', '.join(map(str, row)) or 'no keys'}"
            ) from None
        out.append(_with_thinking(made) if empty_thinking else made)
    return out, skipped


def _in_short(reason: str) -> str:
    """A reason without what is particular to one row, so that reasons can be counted."""
    return re.sub(r"\[\d+\]", "", reason).partition(":")[0].partition(" (")[0]


def _with_thinking(row: Row) -> Row:
    for message in row["messages"]:
        if message["role"] == "assistant" and not message["content"].startswith("<think>"):
            message["content"] = answer_turn("", message["content"]).content
    return row


# -- conversations ---------------------------------------------------------------------------------


def _marco(row: Mapping[str, Any]) -> Row:
    match = re.fullmatch(r"\s*<Thought>(.*?)</Thought>\s*<Output>(.*?)(?:</Output>\s*)?", row["response"], re.DOTALL)
    if match is None or not match[1].strip() or not match[2].strip():
        raise Skipped("thought or output missing")
    prompt = _COT_REQUEST.sub("", row["instruction"]).strip()
    return {"messages": [_user(prompt), _assistant(match[2].strip(), thinking=match[1].strip())]}


def _gsm8k(row: Mapping[str, Any]) -> Row:
    task = Gsm8k()
    try:
        problem, steps = task.read(row, "", ""), task.steps(row, "")
    except DataError:
        if not {"question", "answer"} <= row.keys():
            raise KeyError("question and answer") from None
        raise Skipped("no steps or no answer") from None
    if problem is None or not steps:
        raise Skipped("no steps or no answer")
    answer = f"The answer is \\boxed{{{problem.truth['gold']}}}."
    return {"messages": [*(m.to_dict() for m in problem.messages), _assistant(answer, thinking=steps)]}


def _toolrl(row: Mapping[str, Any]) -> Row:
    messages = _dialogue(row["input"]) + _dialogue(row["output"])
    if messages[0]["role"] != "user":
        raise Skipped("no user first")
    return {"messages": messages, "tools": _tools(row["instruction"])}


def _apibank(row: Mapping[str, Any]) -> Row:
    calls = [_hermes(c) for c in row["answer"]]
    if not calls:
        raise Skipped("no call")
    return {"messages": [*_dialogue(row["user"]), _assistant("", calls=calls)], "tools": _tools(row["system"])}


def _dialogue(text: str) -> list[Row]:
    """Messages of a text with tags: what the assistant thinks, calls and says up to the next tag of
    another is one turn.
    """
    messages: list[Row] = []
    turn: Row | None = None
    for tag, inner in _TURN.findall(text):
        inner = inner.strip()
        if tag in ("user", "obs"):
            turn = None
            messages.append(_user(inner) if tag == "user" else {"role": "tool", "content": inner})
            continue
        if turn is None or tag == "think":
            turn = _assistant("")
            messages.append(turn)
        if tag == "think":
            turn["content"] = answer_turn(inner, "").content
        elif tag == "response":
            turn["content"] += inner
        else:
            turn["tool_calls"] = [_call(line) for line in inner.splitlines() if line.strip()]
    # A user who speaks twice, or an assistant who says nothing, is no conversation.
    merged: list[Row] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"] == "user":
            merged[-1]["content"] += f"\n\n{message['content']}"
        else:
            merged.append(message)
    if not merged:
        raise Skipped("no turns")
    if any(
        m["role"] == "assistant"
        and not m.get("tool_calls")
        and not parse(m["content"], thinking_open=None, tools=()).answer
        for m in merged
    ):
        raise Skipped("an empty turn")
    return merged


def _call(line: str) -> Row:
    try:
        return _hermes(json.loads(line))
    except ValueError:
        raise Skipped("a malformed call") from None


def _hermes(call: Any) -> Row:
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise Skipped("a malformed call")
    arguments = call.get("parameters", call.get("arguments", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise Skipped("a malformed call") from None
    if not isinstance(arguments, Mapping):
        raise Skipped("a malformed call")
    return {"type": "function", "function": {"name": call["name"], "arguments": dict(arguments)}}


def _tools(text: str) -> list[Row]:
    """JSON schemas of tools listed as `1. Name: ... Description: ... Parameters: {...}`."""
    listed = text.partition("**Available Tools**")[2].partition("**Steps for Each Turn**")[0]
    found = [_schema(*match) for match in _TOOL.findall(listed.strip())]
    if not found:
        raise Skipped("no tools")
    return found


def _schema(name: str, description: str, parameters: str) -> Row:
    try:
        given = json.loads(parameters)
    except ValueError:
        try:
            given = literal(parameters.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise Skipped("tools that cannot be read") from None
    if not isinstance(given, Mapping) or not all(isinstance(v, Mapping) for v in given.values()):
        raise Skipped("tools that cannot be read")
    properties = {
        k: {"type": _type(v.get("type")), "description": str(v.get("description", ""))} for k, v in given.items()
    }
    parameters_schema = {
        "type": "object",
        "properties": properties,
        "required": [k for k, v in given.items() if "default" not in v],
    }
    return {
        "type": "function",
        "function": {"name": name.strip(), "description": description.strip(), "parameters": parameters_schema},
    }


def _type(name: Any) -> str:
    return TYPES.get(re.split(r"\W", str(name).lower(), maxsplit=1)[0], "string")


def _shaped(row: Mapping[str, Any]) -> Row:
    """Any shape that SFT reads itself (`data.shapes`), as messages."""
    made = conversation(row)
    out: Row = {
        "messages": [m.to_dict() | ({"weight": 0} if i in made.unlearnt else {}) for i, m in enumerate(made.messages)]
    }
    return out | ({"tools": list(made.tools)} if made.tools else {})


def _sharegpt(row: Mapping[str, Any]) -> Row:
    return _shaped({"conversations": row["conversations"], **{k: row[k] for k in ("tools", "system") if k in row}})


def _alpaca(row: Mapping[str, Any]) -> Row:
    return _shaped(
        {
            "instruction": row["instruction"],
            "output": row["output"],
            **{k: row[k] for k in ("input", "system", "history", "tools") if k in row},
        }
    )


def _user(text: str) -> Row:
    return {"role": "user", "content": text}


def _assistant(text: str, *, thinking: str | None = None, calls: list[Row] | None = None) -> Row:
    content = text if thinking is None else answer_turn(thinking, text).content
    return {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})


# -- preferences -----------------------------------------------------------------------------------


def _dpo(row: Mapping[str, Any]) -> Row:
    pair = preference(
        {k: row[k] for k in ("conversations", "chosen", "rejected", *(k for k in ("tools", "system") if k in row))}
    )
    (chosen,), (rejected,) = pair.chosen, pair.rejected
    if not chosen.content.strip() or not rejected.content.strip() or chosen == rejected:
        raise Skipped("an empty or equal answer")
    out: Row = {"prompt": [m.to_dict() for m in pair.prompt], "chosen": chosen.content, "rejected": rejected.content}
    return out | ({"tools": list(pair.tools)} if pair.tools else {})


def _kto(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[list[Row], Counter[str]]:
    """Each liked answer against each disliked one to the same prompt; what has no counterpart is
    counted as `no_counterpart`.
    """
    by_prompt: dict[str, dict[bool, list[str]]] = defaultdict(lambda: {True: [], False: []})
    for number, row in rows:
        try:
            *prompt, last = row["messages"]
            by_prompt[json.dumps(prompt)][bool(row["label"])].append(last["content"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"row {number} is not in the form kto ({error!r}): it has {', '.join(map(str, row)) or 'no keys'}"
            ) from None
    out, skipped = [], Counter[str]()
    for text, answers in by_prompt.items():
        out += [
            {"prompt": json.loads(text), "chosen": c, "rejected": r}
            for c in answers[True]
            for r in answers[False]
            if c != r
        ]
        if not answers[True] or not answers[False]:
            skipped["no_counterpart"] += len(answers[True]) + len(answers[False])
    return out, skipped


def check_rows(rows: Iterable[Row], chat: Any, *, max_tokens: int | None = None) -> Iterator[tuple[Row, str | None]]:
    """Each SFT row with the reason why a model's chat format cannot make a training example of it,
    or None.

    An example has assistant tokens to learn, and every prompt ends where the assistant begins.
    """
    for row in rows:
        try:
            made = conversation(row)
            ids, mask = chat.training_example(made.messages, made.tools, unlearnt=made.unlearnt)
        except (QwqError, Malformed):
            yield row, "refused by the template"
            continue
        if not any(mask):
            yield row, "nothing to learn"
        elif max_tokens is not None and len(ids) > max_tokens:
            yield row, "too long"
        else:
            yield row, None


FORMATS: dict[str, Callable[[Mapping[str, Any]], Row]] = {
    "marco-o1": _marco, "gsm8k": _gsm8k, "toolrl": _toolrl, "apibank": _apibank, "glaive": _sharegpt,
    "sharegpt": _sharegpt, "alpaca": _alpaca, "any": _shaped, "dpo": _dpo, "kto": _dpo,
}  # fmt: skip
PREFERENCE = ("dpo", "kto")


def convert_file(
    file: Path,
    form: str,
    out: Path,
    *,
    empty_thinking: bool = False,
    load_chat: Callable[[], ChatFormat] | None = None,
    max_tokens: int | None = None,
) -> tuple[dict[str, Any], Path | None]:
    """Convert the rows of `file` into `out`; returns the counts, and where an older `out` with
    other rows was moved.

    `load_chat` gives the chat format that has to make an example of each row, of at most
    `max_tokens`; it is called once the set was read. ConfigError, DataError.
    """
    if not file.is_file():
        raise DataError(f"no file at {file}: give the JSON lines of the set")
    if out.exists() and out.samefile(file):
        raise ConfigError(f"--out {out} is the set itself: name another file")
    if (load_chat and form in PREFERENCE) or (max_tokens is not None and not load_chat):
        raise ConfigError("--check goes with conversations, and --max-tokens with --check")
    numbered = [(row.number, row.fields) for row in read_rows(file)]
    rows, left_out = convert(numbered, form, empty_thinking=empty_thinking)
    if load_chat:
        checked = list(check_rows(rows, load_chat(), max_tokens=max_tokens))
        rows = [row for row, reason in checked if reason is None]
        left_out += Counter(reason for _, reason in checked if reason is not None)
    if not rows:
        raise DataError(f"{file}: no row is left ({dict(left_out)}): is it in the form {form}?")
    data = b"".join(map(to_line, rows))
    moved = move_aside(out) if out.is_file() and out.stat().st_size and out.read_bytes() != data else None
    write_atomic(out, data)
    return {"rows": len(numbered), "kept": len(rows), "left_out": dict(left_out), "out": str(out)}, moved
