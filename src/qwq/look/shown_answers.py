"""One line of a file of answers, whatever wrote it, as one kind of entry.

Read are rollouts (`rollouts/STAGE/step-NNNNN.jsonl`), a run's evaluations
(`evals/STAGE/sampled.jsonl`), samples of `qwq eval` (`samples/BENCH.jsonl`) and of `qwq data
distill` (`OUT.samples.jsonl`). A field that a record does not hold is None or empty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import orjson

from qwq.report.wording import transcript
from qwq.text.response import THINK_OPEN, parse

Record = Mapping[str, Any]
# Where the token columns of a rollout begin. A quotation mark inside a string is escaped, so this
# is never text.
_TOKENS = b', "prompt_ids": ['
_MASK = b'"sampled_mask": ['
_ONES = b"1, " * 4096  # the mask of an answer without tools, of which the length says as much as a count
_BEFORE_MASK = b"], " + _MASK


@dataclass(slots=True)
class ShownAnswer:
    """One answer, as it is shown.

    `advantage` is filled in by the index, which sees the whole group.
    """

    problem_id: str
    task: str
    group: str  # answers with one group are answers to one prompt
    prompt: str
    expected: str
    output: str
    outcome: str
    reason: str
    answer: str  # what the verifier read out of the output
    verifier: str
    reward: float | None
    rewards: dict[str, float]
    tokens: int
    stop_reason: str
    sample: int | None = None
    budget: int | None = None
    calls: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    completion_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampled_mask: list[int] = field(default_factory=list)


def read_light(data: bytes | bytearray, start: int, end: int) -> tuple[dict[str, Any], int]:
    """A record without its token columns, and how many tokens it has. ValueError for no record.

    The line is `data[start:end]`; most of it is token columns, which are not even copied.
    """
    at = data.find(_TOKENS, start, end)
    if at >= 0:
        try:
            record = orjson.loads(data[start:at] + b"}")
        except orjson.JSONDecodeError:
            pass  # the columns are inside another object: the whole line is read
        else:
            first = _mask(data, at, end)
            last = data.find(b"]", first, end)
            if first < at or last < 0 or not isinstance(record.get("problem_id"), str):
                raise ValueError("no sample")
            if "tokens" in record:  # of several segments; the mask is the first one's
                return record, num_tokens(record)
            if data.startswith(_ONES[: last - first], first) and last - first < len(_ONES):
                return record, (last - first + 2) // 3
            return record, data.count(b",", first, last) + (last > first)
    record = read_record(bytes(data[start:end]))
    return record, num_tokens(record)


def _mask(data: bytes | bytearray, at: int, end: int) -> int:
    """Where the values of the mask begin, behind the token columns that begin at `at`; less than
    `at` without one.

    As the columns are written, it comes behind the second closing bracket; looking for brackets is
    cheaper than looking for its name.
    """
    closed = data.find(b"]", data.find(b"]", at, end) + 1, end)
    if closed > at and data.startswith(_BEFORE_MASK, closed):
        return closed + len(_BEFORE_MASK)
    return data.find(_MASK, at, end) + len(_MASK)


def read_record(line: bytes) -> dict[str, Any]:
    """A whole record. ValueError for what is none."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        record = json.loads(line)  # lone surrogates, NaN and whole numbers of any size, which orjson refuses
    if not isinstance(record, dict) or not isinstance(record.get("problem_id"), str):
        raise ValueError("no sample")
    return record


def num_tokens(record: Record) -> int:
    """Tokens of the answer; 0 if the record does not say."""
    ids, told = record.get("completion_ids"), record.get("tokens")
    count = told if told is not None or not isinstance(ids, list) else len(ids)
    return count if isinstance(count, int) and abs(count) < 1 << 31 else 0


class Brief(NamedTuple):
    """What lists and filters need of a record. A tuple, since an index makes 100,000 of them."""

    task: str
    outcome: str
    problem_id: str
    group: str
    reward: float  # NaN without one
    prompt: str
    words: str  # what a search reads beside the prompt


def brief(record: Record, place: str) -> Brief:
    """The part of an entry that the index holds."""
    verdict = _verdict(record)
    problem_id: str = record["problem_id"]
    words = (_output(record), _text(verdict.get("reason")), expected_text(record), problem_id)
    outcome, prompt, reward = verdict.get("outcome"), record.get("prompt"), _reward(record)
    return Brief(
        _task(record, verdict, place),
        outcome if isinstance(outcome, str) else _text(outcome),
        problem_id,
        _group(record),
        math.nan if reward is None else reward,
        prompt if isinstance(prompt, str) else _text(prompt),
        "\n".join(words),
    )


def entry(record: Record, place: str) -> ShownAnswer:
    """A record of any of the files as an entry.

    What has another type than it should is shown as text.
    """
    verdict = _verdict(record)
    rewards = record.get("rewards")
    return ShownAnswer(
        problem_id=record["problem_id"],
        task=_task(record, verdict, place),
        group=_group(record),
        prompt=_text(record.get("prompt")),
        expected=expected_text(record),
        output=_output(record),
        outcome=_text(verdict.get("outcome")),
        reason=_text(verdict.get("reason")),
        answer=_text(verdict.get("answer")),
        verifier=_text(verdict.get("verifier")),
        reward=_reward(record),
        rewards={str(k): v for k, v in rewards.items() if _is_figure(v)} if isinstance(rewards, dict) else {},
        tokens=num_tokens(record),
        stop_reason=_text(record.get("stop_reason", record.get("finish"))),
        sample=next((v for k in ("sample", "number") if isinstance(v := record.get(k), int)), None),
        budget=next((v for k in ("budget", "thinking_budget") if isinstance(v := record.get(k), int)), None),
        calls=_calls(record),
        facts=_facts(record, verdict),
        completion_ids=_column(record, "completion_ids"),
        logprobs=_column(record, "sampler_logprobs"),
        sampled_mask=_column(record, "sampled_mask"),
    )


def _task(record: Record, verdict: Mapping[str, Any], place: str) -> str:
    """A rollout's domain, an evaluation's benchmark, else the name of the verifier or the file."""
    named = record.get("domain") or record.get("benchmark") or (place if "score" in record else verdict.get("verifier"))
    return named if named and isinstance(named, str) else _text(named or place)


def _group(record: Record) -> str:
    """Shared by answers to one prompt: a rollout's group, else the problem and its benchmark."""
    number = record.get("group")
    if isinstance(number, int):
        return str(number)
    return f"{record.get('benchmark', '')}/{record['problem_id']}"


def _reward(record: Record) -> float | None:
    value: Any = record["reward"] if "reward" in record else record.get("score")
    return float(value) if _is_figure(value) else None


def _is_figure(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _output(record: Record) -> str:
    output = record["text"] if "text" in record else record.get("output")
    return output if isinstance(output, str) else _text(output)


def thinking_and_answer(shown: ShownAnswer) -> tuple[str | None, str]:
    """The thinking (None without any) and the rest, by the one rule for responses."""
    # Without a rendered prompt nothing says whether the template had opened the thinking: a closing
    # mark closes it.
    opened = True if shown.prompt.rstrip().endswith(THINK_OPEN) else None
    parts = parse(shown.output, thinking_open=opened, tools=())
    return parts.thinking, parts.answer


def public(shown: ShownAnswer) -> dict[str, Any]:
    """An entry for a program: JSON without the token columns, the output whole and in its parts."""
    thinking, answer = thinking_and_answer(shown)
    columns = ("completion_ids", "logprobs", "sampled_mask")
    fields = {k: v for k, v in asdict(shown).items() if k not in columns}
    return fields | {"thinking": thinking, "final": answer}


def _verdict(record: Record) -> Mapping[str, Any]:
    verdicts = record.get("verdicts")
    verdict = verdicts[-1] if isinstance(verdicts, list) and verdicts else record.get("verdict")
    return verdict if isinstance(verdict, dict) else {}


def _facts(record: Record, verdict: Mapping[str, Any]) -> dict[str, str]:
    """Small figures that only some records have."""
    facts: dict[str, str] = {}
    if isinstance(verdict.get("total"), int):
        facts["tests or rules passed"] = f"{verdict.get('passed')} of {verdict['total']}"
    for mark, words in (
        ("forgeable", "the judged program could have influenced it"),
        ("unsafe", "judged without a jail"),
    ):
        if verdict.get(mark):
            facts["verdict"] = words
    if later := _segments(record):
        facts["segments"] = f"{1 + len(later)}, each behind a prompt of its own"
    versions = [v for part in (record, *later) for v in _list(part.get("weight_versions"))]
    if versions:
        facts["weight version"] = (
            str(versions[0]) if versions[0] == versions[-1] else f"{versions[0]} to {versions[-1]}"
        )
    for key, name in (
        ("thinking_tokens", "thinking tokens"),
        ("seconds", "seconds"),
        ("wall_seconds", "seconds with tools"),
        ("seed", "seed"),
        ("level", "level"),
    ):
        if isinstance(record.get(key), int | float):
            facts[name] = f"{record[key]:,}" if key != "seed" else str(record[key])
    return facts


def _calls(record: Record) -> str:
    """The turns of a sample with several."""
    return transcript([t for t in _list(record.get("turns")) if isinstance(t, dict)])


def _column(record: Record, name: str) -> list[Any]:
    """A column of tokens, of all segments with the prompts of the later ones: nobody sampled
    those.
    """
    out = [*_list(record.get(name))]
    for segment in _segments(record):
        prompt = _list(segment.get("prompt_ids"))
        out += (prompt if name == "completion_ids" else [0] * len(prompt)) + _list(segment.get(name))
    return out


def _segments(record: Record) -> list[Record]:
    """What followed where another prompt began: a compacted one, or a program's own."""
    return [s for s in _list(record.get("segments")) if isinstance(s, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def expected_text(record: Record) -> str:
    """What was expected, for people: a gold answer as it is; asserts, calls or inputs a line each;
    rules a line each; anything else as JSON.
    """
    expected = record.get("expected")
    if isinstance(expected, str):
        return expected
    tests = expected.get("tests") if isinstance(expected, dict) else None
    rules = expected.get("rules") if isinstance(expected, dict) else None
    if isinstance(tests, dict):
        lines = [_test_line(test, tests) for test in _list(tests.get("asserts") or tests.get("cases"))]
        setup = tests.get("setup") if isinstance(tests.get("setup"), str) else ""
        return "\n".join(part for part in (setup, *lines) if part) or _text(expected)
    if isinstance(rules, list) and all(isinstance(rule, dict) and "id" in rule for rule in rules) and rules:
        return "\n".join(_rule_line(rule) for rule in rules)
    return _text(expected)


def _test_line(test: Any, tests: Mapping[str, Any]) -> str:
    """`f(2, n=3) == 5`, `input '2 3' gives '5'`, or the assert."""
    if not isinstance(test, dict):
        return _text(test)
    if "args" in test and "expected" in test:
        words = [repr(value) for value in _list(test["args"])]
        words += [f"{name}={value!r}" for name, value in (test.get("kwargs") or {}).items()]
        return f"{tests.get('entry_point', 'f')}({', '.join(words)}) == {test['expected']!r}"
    if "input" in test and "output" in test:
        return f"input {test['input']!r} gives {test['output']!r}"
    return _text(test)


def _rule_line(rule: Mapping[str, Any]) -> str:
    """`num_sentences: n 2, relation 'at_most'`."""
    values = ", ".join(f"{name} {value!r}" for name, value in rule.items() if name != "id")
    return f"{rule['id']}: {values}" if values else str(rule["id"])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)
