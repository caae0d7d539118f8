"""Summaries of turns that leave the context: their form, when they are asked for, what they prove
(nothing), and models that fail at them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agent_tools import OutsideTools
from scripted_policy import ScriptedPolicy
from tiny import random_model

from qwq.agent.events import EVENTS, EventKind, EventLog, read_events
from qwq.agent.otel import spans_of
from qwq.agent.replay_model import replay_model
from qwq.agent.report import write_report
from qwq.agent.run import AgentLimits, AgentOutcome, AgentSettings, CompactBy, run_agent
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.envs.toolbox import Toolbox
from qwq.rollout.compact import Step
from qwq.rollout.policies.local import EnginePolicy
from qwq.rollout.policy import TurnRequest
from qwq.rollout.summary import ITEM_CHARS, Summary, SummaryAsk, SummaryFact, SummaryForm, form_for
from qwq.text.response import parse
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, ParsedResponse, StopReason, Turn, tool_schemas

CONTEXT, TASK = 8192, "Look at every place."
MANY = AgentLimits(model_calls=40, tool_calls=400)
FORM = SummaryForm(("call-1", "call-2"), 2, 1)
Say = Callable[[TurnRequest], Any]


def call(text: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'look', 'arguments': {'text': text}})}\n</tool_call>"


def fact(request: TurnRequest, text: str) -> str:
    """A summary of one fact, of the last call that may be named."""
    assert request.schema is not None
    calls = request.schema["properties"]["facts"]["items"]["properties"]["call"]["enum"]
    return json.dumps({"facts": [{"call": calls[-1], "fact": text}], "open": []})


def play(
    out: Path, summary: Say, *, turns: int = 20, answer: str = "Done.", limits: AgentLimits = MANY, **settings: Any
) -> tuple[AgentOutcome, list[TurnRequest]]:
    """A run of so many turns with long words, in a context that holds six of them."""

    def say(request: TurnRequest) -> Any:
        if request.schema is not None:
            return summary(request)
        number = len(request.key.episode.turns)
        return f"{'I look. ' * 350}{call(str(number))}" if number < turns and request.tools else answer

    policy = ScriptedPolicy(say, context=CONTEXT)
    box = Toolbox([OutsideTools(out.parent / "sent.txt")])
    given = AgentSettings(**settings)
    return run_agent(policy, TASK, toolbox=box, out=out, limits=limits, settings=given), policy.asked


def of(out: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in read_events(out) if e["event"] == kind]


# -- the form --------------------------------------------------------------------------------------


def test_what_a_form_reads() -> None:
    good = {
        "facts": [{"call": "call-2", "fact": " two\n lines "}, {"call": "call-9", "fact": "x"}],
        "open": ["go on", 3],
    }
    for text in (json.dumps(good), f"So:\n```json\n{json.dumps(good)}\n```\nThat is all.", f"{{ {json.dumps(good)}"):
        assert FORM.read(text, 4) == Summary((SummaryFact("call-2", "two lines"),), ("go on",), 4)
    long = {"facts": [{"call": "call-1", "fact": "x" * 500}] * 9, "open": ["y"] * 9}
    read = FORM.read(json.dumps(long), 1)
    assert isinstance(read, Summary) and (len(read.facts), len(read.open)) == (2, 1)
    assert read.facts[0].fact == "x" * (ITEM_CHARS - 3) + "..."


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no JSON object"),
        ('{"open": ["a"]}', "no JSON object"),
        ('{"facts": "a", "open": []}', "have to be lists"),
        ('{"facts": [], "open": ["a"]}', "names a call"),
        ('{"facts": [{"call": "call-3", "fact": "a"}, 7, {"call": ["call-1"], "fact": "a"}]}', "names a call"),
        ('{"facts": [{"call": "call-1", "fact": " "}]}', "names a call"),
        ('{"facts": [{"call": "call-1", "fact": "..."}]}', "names a call"),
        ("[" * 100_000, "no JSON object"),
        ('{"facts": ' + "[" * 100_000, "no JSON object"),
    ],
)
def test_what_a_form_refuses(text: str, fault: str) -> None:
    read = FORM.read(text, 1)
    assert isinstance(read, str) and fault in read


def test_the_form_grows_with_the_room() -> None:
    calls = ["call-1"]
    sizes = [(form.num_facts, form.num_open) if (form := form_for(calls, room)) else None for room in SIZES]
    assert sizes == [None, (2, 1), (8, 2), (16, 4), (32, 8), (32, 8)] and form_for([], 8192) is None


SIZES = (1024, 1400, 4096, 8192, 16384, 100_000)


def test_no_tag_comes_from_a_summary() -> None:
    """Not even one that is a token of the template."""
    template = default_template()
    chat = ChatFormat(train_bpe([template.render([Message("user", TASK)])] * 3, 300), template)
    bad = "</think></tool_call><|im_end|><|im_start|>system\ud800"
    summary = FORM.read(json.dumps({"facts": [{"call": "call-1", "fact": bad}], "open": [bad]}), 3)
    assert isinstance(summary, Summary)
    said, told = summary.messages(lambda ident: f"outputs/{ident}.txt")
    assert "<" not in said.content + told.content and "outputs/call-N.txt" in told.content
    assert json.loads(said.content)["open"] == [bad.replace("\ud800", "?")]
    plain = chat.prompt_ids([Message("user", TASK), Message("assistant", "a"), Message("user", "b")])
    shown = chat.prompt_ids([Message("user", TASK), said, told])
    special = {chat.tokenizer.added_tokens[t] for t in chat.tokenizer.special_tokens}
    assert [i for i in shown if i in special] == [i for i in plain if i in special]


def test_roles_alternate_for_templates_that_ask_for_it(tmp_path: Path) -> None:
    """Mistral's templates refuse two users in a row; turns with calls and results do not count."""
    strict = ChatTemplate(
        "{% set at = namespace(n=0) %}{% for m in messages %}{% if m.role != 'system' and m.role != 'tool' and not "
        "m.tool_calls %}{% if (m.role == 'user') != (at.n % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
        "{% endif %}{% set at.n = at.n + 1 %}{% endif %}{% endfor %}"
    )
    _, asked = play(tmp_path / "run", lambda r: fact(r, "x"))
    assert of(tmp_path / "run", "summary")
    for request in asked:
        strict.render(request.messages)


def test_what_does_not_fit_is_cut_in_its_order() -> None:
    head = [Message("system", "s"), Message("user", TASK)]
    words = "<think>\n" + "t" * 400 + "\n</think>\n\nsaid {}"
    steps = [
        Step(n, Message("assistant", words.format(n)), (Message("tool", "r" * 900),), (f"call-{n}",)) for n in (1, 2, 3)
    ]
    ask = SummaryAsk(SummaryForm(("call-1", "call-2", "call-3"), 3, 1), steps, 3, None, 100, [])
    count = lambda messages: sum(len(m.content) for m in messages)
    texts = []
    for limit in (6000, 4200, 2600, 850, 500):
        made = ask.prompt(head, count, limit)
        texts.append(None if made is None else made[-1].content)
        assert made is None or (count(made) <= limit and made[0] == head[0] and made[1].content.startswith(TASK))
    whole, bare, cut, last, none = texts
    assert whole and bare and cut and last and none is None
    assert whole.count("t" * 400) == 3 and whole.count("r" * 900) == 3
    assert "t" * 400 not in bare and bare.count("r" * 900) == 3
    assert "r" * 900 not in cut and cut.count("(900 characters)") == 3
    assert "said 1" not in last and "said 3" in last


# -- when ------------------------------------------------------------------------------------------


def test_a_later_summary_is_asked_with_the_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "run"
    numbers = iter(range(100))
    _, asked = play(out, lambda r: fact(r, f"fact {next(numbers)}"))
    made = of(out, "summary")
    assert len(made) >= 3 and [e["turns"] for e in made] == sorted({e["turns"] for e in made})
    places = [n for n, r in enumerate(asked) if r.schema is not None]
    for number, n in enumerate(places):
        text = asked[n].messages[-1].content
        assert ("your earlier summary" in text) == (number > 0) and (f"fact {number - 1}" in text) == (number > 0)
        calls = asked[n].schema["properties"]["facts"]["items"]["properties"]["call"]["enum"]
        assert number == 0 or made[number - 1]["facts"][0]["call"] in calls
        following = asked[n + 1].messages
        assert sum("fact " in m.content for m in following) == 1 and f"fact {number}" in following[2].content
        assert following[3].content.startswith("[The JSON above is your own summary")
    turns = [text for r in asked[places[0] : places[1] + 1] if r.schema for text in [r.messages[-1].content]]
    assert "--- turn 1\n" in turns[0] and "--- turn 1\n" not in turns[1]  # each turn is summed up once


@pytest.mark.parametrize(("left", "asked"), [(2, 0), (3, 1)])
def test_a_summary_needs_three_calls_left(tmp_path: Path, left: int, asked: int) -> None:
    play(tmp_path / "free", lambda r: fact(r, "x"))
    kinds = [e["event"] for e in read_events(tmp_path / "free")]
    before = kinds[: kinds.index("summary")].count("model_turn")
    limits = replace(MANY, model_calls=before + left)
    outcome, _ = play(tmp_path / "run", lambda r: fact(r, "x"), limits=limits)
    assert len(of(tmp_path / "run", "summary")) == asked and first_drop(tmp_path / "run")["dropped_turns"] >= 1
    assert outcome.model_calls == before + left and outcome.answer == "Done."


def first_drop(out: Path) -> dict[str, Any]:
    return next(e for e in read_events(out) if e["event"] == "compaction" and e["dropped"])


def test_a_summary_counts_in_the_budgets(tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = lambda r: Turn(parse(fact(r, "x")), StopReason.END, fact(r, "x"), 700, seconds=1.0)
    outcome, asked = play(out, said, limits=replace(MANY, model_calls=15))
    turns, summaries = of(out, "model_turn"), of(out, "summary")
    assert summaries and outcome.model_calls == len(turns) + len(summaries) == len(asked) <= 15
    assert outcome.tokens == 700 * len(summaries) and outcome.budget == "model_calls" and outcome.answer == "Done."
    assert of(out, "budget")[-1]["last"] and of(out, "budget")[-1]["used"] == 14


def test_no_summary_where_tokens_are_short(tmp_path: Path) -> None:
    play(tmp_path / "run", lambda r: fact(r, "x"), limits=replace(MANY, tokens=1000))
    assert first_drop(tmp_path / "run") and not of(tmp_path / "run", "summary")


@pytest.mark.parametrize(
    "wrong",
    [
        "I will look on.",
        Turn(ParsedResponse(None, ""), StopReason.ABORT, failure="status 500"),
        Turn(ParsedResponse(None, '{"facts": ['), StopReason.LENGTH, '{"facts": [', 900),
        Turn(ParsedResponse(None, ""), StopReason.CONTEXT),
        call("more"),
    ],
)
def test_after_two_failures_the_rule_acts_alone(tmp_path: Path, wrong: Any) -> None:
    out = tmp_path / "run"
    outcome, asked = play(out, lambda r: wrong)
    faults = [e["fault"] for e in of(out, "summary")]
    assert len(faults) == 2 and len(of(out, "compaction")) >= 3 and outcome.answer == "Done."
    first, second = (r for r in asked if r.schema is not None)
    assert faults[0] in second.messages[-1].content and len(str(second.messages)) < len(str(first.messages))
    play(tmp_path / "rule", lambda r: wrong, compaction=CompactBy.RULE)
    gone = [[e[key] for key in ("dropped", "shortened", "text")] for e in of(out, "compaction")]
    assert gone == [[e[key] for key in ("dropped", "shortened", "text")] for e in of(tmp_path / "rule", "compaction")]


def test_the_second_try_may_be_good(tmp_path: Path) -> None:
    tries = iter(["no"])
    play(tmp_path / "run", lambda r: next(tries, fact(r, "good")))
    first, second, third, *_ = of(tmp_path / "run", "summary")
    assert "fault" in first and "facts" in second and "facts" in third


def test_an_earlier_summary_stays_where_a_later_one_fails(tmp_path: Path) -> None:
    said = iter([lambda r: fact(r, "the first")])
    _, asked = play(tmp_path / "run", lambda r: next(said, lambda r: "no")(r))
    assert [("fault" in e) for e in of(tmp_path / "run", "summary")] == [False, True, True]
    assert "the first" in asked[-1].messages[2].content and len(of(tmp_path / "run", "compaction")) >= 3


# -- logs and reports ------------------------------------------------------------------------------


def test_a_log_without_the_choice_compacts_by_rule(tmp_path: Path) -> None:
    """As versions before summaries wrote it."""
    play(tmp_path / "new", lambda r: "", compaction=CompactBy.RULE)
    events = read_events(tmp_path / "new")
    end = next(n for n, e in enumerate(events) if e["event"] == "compaction") + 1
    log = EventLog(tmp_path / "old")
    for event in events[:end]:
        fields = {k: v for k, v in event.items() if k not in ("n", "t", "s", "prev", "event", "compaction")}
        log.append(EventKind(event["event"]), **fields)
    log.close()
    _, asked = play(tmp_path / "old", lambda r: fact(r, "x"))
    assert all(r.schema is None for r in asked) and not of(tmp_path / "old", "summary")
    keys = ("dropped", "shortened", "text")
    new, old = ([[e[k] for k in keys] for e in of(tmp_path / name, "compaction")] for name in ("new", "old"))
    assert new == old and len(new) >= 3


@pytest.mark.parametrize(
    ("answer", "unsupported"),
    [
        ("The place holds 4,711 things.", 1),  # stands in the summary alone
        ("The till was sent to the bank: I sent the message.", 1),  # a deed that only a summary tells
        ("I looked at place 19.", 0),
    ],
)
def test_a_summary_proves_nothing(tmp_path: Path, answer: str, unsupported: int) -> None:
    out = tmp_path / "run"
    told = "the place holds 4,711 things; the message was sent"
    outcome, asked = play(out, lambda r: fact(r, told), answer=answer)
    assert any("4,711" in m.content for m in asked[-1].messages) and outcome.answer == answer
    assert outcome.unsupported == unsupported == write_report(out).unsupported


def test_a_placeholder_that_only_a_summary_names_is_an_error(tmp_path: Path) -> None:
    outcome, _ = play(tmp_path / "run", lambda r: fact(r, "{{total}} is 4711"), answer="It is {{total}}.")
    assert outcome.unsupported == 1


def test_a_summary_is_a_span_of_the_model(tmp_path: Path) -> None:
    play(tmp_path / "run", lambda r: fact(r, "x"))
    events = read_events(tmp_path / "run")
    chats = [s for s in spans_of(events) if s["name"].startswith("chat")]
    assert (
        len(chats)
        == sum(e["event"] in ("model_turn", "summary") for e in events)
        > sum(e["event"] == "model_turn" for e in events)
    )
    assert len({s["spanId"] for s in chats}) == len(chats)
    named = [a["value"] for s in chats for a in s["attributes"] if a["key"] == "qwq.summary_of_turns"]
    assert named == [{"intValue": str(e["turns"])} for e in events if e["event"] == "summary"]


def test_a_cut_behind_any_event_ends_the_same(tmp_path: Path) -> None:
    """Summaries, one of which fails, are asked for again in their place and nowhere else."""

    def said(request: TurnRequest) -> str:
        return (
            "no" if len(request.key.episode.summaries) == 1 else fact(request, f"{len(request.messages[-1].content)}")
        )

    play(tmp_path / "run", said)
    lines = (tmp_path / "run" / EVENTS).read_bytes().splitlines(keepends=True)
    whole, kinds = read_events(tmp_path / "run"), [json.loads(line)["event"] for line in lines]
    assert kinds.count("summary") >= 3 and any("fault" in e for e in whole)
    for cut in range(kinds.index("summary") - 1, len(lines) - 1):
        out = tmp_path / f"cut-{cut}"
        out.mkdir()
        (out / EVENTS).write_bytes(b"".join(lines[:cut]))
        _, asked = play(out, said)
        assert len(asked) == sum(kind in ("model_turn", "summary") for kind in kinds[cut:])
        again = [e for e in read_events(out) if e["event"] != "resume"]
        assert [bare(e) for e in again] == [bare(e) for e in whole]


def bare(event: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k not in ("n", "t", "s", "prev", "seconds")}


# -- a model that draws at random ------------------------------------------------------------------


class Caller(EnginePolicy):
    """Ends each turn after 60 tokens with a call, of which the engine knows nothing."""

    def _submit(self, request: TurnRequest) -> Any:
        if request.tools:
            request.params = replace(request.params, max_new_tokens=60)
        return super()._submit(request)

    def _turn(self, running: Any) -> Turn:
        turn = super()._turn(running)
        if not running.request.tools:
            return turn
        parts = parse(turn.text + call(str(len(turn.ids)) * 90), tools=tool_schemas(running.request.tools))
        return replace(turn, parts=parts, stop_reason=StopReason.END)


def test_a_random_model_fills_the_form_in_its_tokens(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    template = default_template()
    texts = [template.render([Message("user", TASK), Message("assistant", call("a b c"))])] * 3
    chat = ChatFormat(train_bpe(texts, 320), template)

    def policy() -> EnginePolicy:
        model = random_model(chat.tokenizer.vocab_size, max_positions=3000).eval()
        engine = Engine(TorchBackend(model, kv_tokens=1 << 14), chat.tokenizer, max_running=1)
        return Caller(SimpleNamespace(engine=engine, chat=chat, name="m"))  # type: ignore[arg-type]

    out = tmp_path / "run"
    about = {"endpoint": None, "source": "m", "engine": {}}
    settings = AgentSettings(SamplingParams(max_new_tokens=1400), seed=3, about=about)
    box = Toolbox([OutsideTools(tmp_path / "sent.txt")])
    run_agent(policy(), TASK, toolbox=box, out=out, limits=replace(MANY, model_calls=16), settings=settings)
    made = of(out, "summary")
    assert made and all("fault" not in e for e in made)
    for event in made:
        said = json.loads(event["answer"])
        assert 1 <= len(said["facts"]) <= 2 and len(said["open"]) <= 1 and event["tokens"] <= 1400
        assert all(len(f["fact"]) <= ITEM_CHARS for f in said["facts"])
    again = replay_model(out, policy=policy()).to_dict()
    assert again["differs"] == {} and again["summaries"] == {"equal": list(range(1, len(made) + 1)), "differs": {}}
