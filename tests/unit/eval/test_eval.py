"""Evaluation: scores and intervals from known answers, one protocol a task, and `qwq eval` on a
whole model folder.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scripted_policy import ScriptedPolicy

from qwq import api
from qwq.config import Source
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.sequence import TokenSequence
from qwq.engine.thinking import ThinkingState
from qwq.errors import ConfigError, DataError, InfraError, ModelError
from qwq.eval import run as evaluation
from qwq.eval.options import EvalOptions, prepare
from qwq.eval.run import evaluate, write_transcripts
from qwq.model.config import ModelConfig
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.tasks import get
from qwq.tasks.base import Task, marked
from qwq.tasks.sources import load_source
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import TextStream, train_bpe
from qwq.types import Message, Outcome, Problem, StopReason, Verdict
from qwq.verify.grade import VERIFIERS

DATA = Path(__file__).parents[2] / "data" / "real"
# A chat model's template without any thinking.
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_folder(folder: Path, template: ChatTemplate) -> Path:
    """A whole model folder with random weights."""
    problems = [get(d).problem(0, "train", i) for d in ("math", "code", "tools") for i in range(60)]
    chat = ChatFormat(
        train_bpe([default_template().render(p.messages, tools=p.tools) for p in problems], 400), template
    )
    config = ModelConfig(
        family="qwen2", vocab_size=chat.tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_layers=1,
        num_heads=2, num_kv_heads=1, head_dim=16, tie_embeddings=True, max_positions=1024, eos_token_id=chat.eos_ids[0],
    )  # fmt: skip
    folder.mkdir()
    save_model(Transformer(config).init_weights(torch.Generator().manual_seed(0)), folder)
    chat.save(folder)
    return folder


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "thinker", default_template())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "plain", ChatTemplate(PLAIN))


# -- figures ---------------------------------------------------------------------------------------


def thought(turns: list[list[int]], chat: Any, sampled: list[int] | None = None) -> int:
    """Tokens of thought over the turns, as the engine counts them; `sampled` masks a single
    turn.
    """
    count = 0
    for ids in turns:
        thinking = ThinkingState(chat.tokenizer, opened=chat.thinking_open, budget=None, max_new_tokens=len(ids))
        request = GenerationRequest([1], eos_ids=chat.eos_ids)
        sequence = TokenSequence(request, 0, 0, thinking, TextStream(chat.tokenizer), [1], False)
        sequence.extend(ids, [])
        sequence.forced = [1 - mask for mask in sampled or [1] * len(ids)]
        if ids[-1] in chat.eos_ids:
            sequence.finish(StopReason.END, ids[-1])
        count += sequence.num_thinking
    return count


def byte_chat(*, opened: bool) -> Any:
    """A vocabulary of bytes, in which the markers are seven and eight tokens; token 0 ends a
    turn.
    """
    tokenizer = SimpleNamespace(token_bytes=[bytes([i]) for i in range(256)], vocab_size=256, special_ids=frozenset())
    return SimpleNamespace(tokenizer=tokenizer, thinking_open=opened, eos_ids=(0,))


def marked_chat(*, opened: bool) -> Any:
    """Token 8 is `<think>` and 9 is `</think>`; all others are letters."""
    pieces = [bytes([97 + i]) for i in range(8)] + [b"<think>", b"</think>"]
    return SimpleNamespace(tokenizer=SimpleNamespace(token_bytes=pieces), thinking_open=opened, eos_ids=(0,))


def test_thinking_tokens() -> None:
    """The markers do not count, nor does what ends a turn or what was forced."""
    opened, plain = marked_chat(opened=True), marked_chat(opened=False)
    assert thought([[5, 5, 9, 5]], opened) == 2
    assert thought([[5, 5, 9, 5]], plain) == 0
    assert thought([[8, 5, 5, 5, 9, 5]], plain) == 3
    assert thought([[5, 8, 5, 5, 5, 9, 5]], plain) == 0  # only the first thing said opens a thought
    assert thought([[5, 9, 5, 8, 5, 5]], opened) == 1  # what is reopened behind the answer is the answer's text
    # Two turns, with a call between them.
    assert thought([[5, 9, 5, 0], [5, 5, 9, 5]], opened) == 3
    assert thought([[8, 5, 9, 5, 0], [8, 5, 5, 9]], plain) == 3
    assert thought([[5, 6, 9, 5]], opened, [1, 0, 0, 1]) == 1  # a budget closed it
    assert thought([[5, 5, 5]], opened) == 3  # never closed
    assert thought([[5, 5, 5, 0]], opened) == 3  # never closed, and ended
    assert thought([[5, 5, 5]], plain) == 0


def scripted(monkeypatch: pytest.MonkeyPatch, texts: list[str], *, finished: bool = True) -> None:
    """Let every problem in turn be answered by the next of `texts`."""
    said = iter(texts)

    def policy(model: Any, chat: ChatFormat, **_: Any) -> ScriptedPolicy:
        return ScriptedPolicy(lambda request: next(said) if finished else chat.own_ids(next(said)), chat)

    monkeypatch.setattr(evaluation, "TrainerPolicy", policy)


def sums(*golds: int) -> list[Problem]:
    return [Problem(f"p{i}", "math", (Message("user", "?"),), {"gold": str(g)}, f"c{i}") for i, g in enumerate(golds)]


@pytest.fixture
def chat(thinker: Path) -> ChatFormat:
    return ChatFormat.from_folder(thinker)


def test_score_interval_and_outcomes_of_known_answers(
    monkeypatch: pytest.MonkeyPatch, chat: ChatFormat, tmp_path: Path
) -> None:
    texts = [f"</think>{answer}" for answer in ("\\boxed{1}", "\\boxed{2}", "", "\\boxed{5}", "\\boxed{9}")]
    scripted(monkeypatch, texts)
    benchmarks = {"first": sums(1, 2, 3, 4), "second": sums(9)}
    results = evaluate(None, chat, benchmarks, SamplingParams())  # type: ignore[arg-type]
    summary = results["first"].summary()
    assert (summary["score"], summary["n"]) == (0.5, 4)
    assert summary["mean_tokens"] == sum(len(chat.own_ids(t)) + 1 for t in texts[:4]) / 4
    # Wilson's interval of 2 in 4: (0.5 + z^2/8 +- z sqrt(1/16 + z^2/64)) / (1 + z^2/4) with z =
    # 1.96
    assert summary["ci95"] == pytest.approx([0.150, 0.850], abs=5e-4)
    assert summary["outcomes"] == {"correct": 2, "no_answer": 1, "wrong": 1}
    assert results["first"].passed == [1.0, 1.0, 0.0, 0.0]
    assert results["second"].summary()["score"] == 1.0
    write_transcripts(tmp_path / "deep" / "t.jsonl", results)
    rows = [json.loads(line) for line in (tmp_path / "deep" / "t.jsonl").read_text().splitlines()]
    assert [(r["benchmark"], r["problem_id"], r["verdict"]["outcome"]) for r in rows] == [
        ("first", "p0", "correct"), ("first", "p1", "correct"), ("first", "p2", "no_answer"), ("first", "p3", "wrong"),
        ("second", "p0", "correct"),
    ]  # fmt: skip
    assert not list((tmp_path / "deep").glob("*.partial"))


def test_what_did_not_end_is_never_correct(monkeypatch: pytest.MonkeyPatch, chat: ChatFormat) -> None:
    scripted(monkeypatch, ["</think>\\boxed{1}"], finished=False)
    summary = evaluate(None, chat, {"m": sums(1)}, SamplingParams())["m"].summary()  # type: ignore[arg-type]
    assert (summary["score"], summary["outcomes"]) == (0.0, {"unfinished": 1})


def test_a_verdict_that_infrastructure_spoiled_gives_no_score(
    monkeypatch: pytest.MonkeyPatch, chat: ChatFormat
) -> None:
    scripted(monkeypatch, ["</think>\\boxed{1}"])
    asked: list[str] = []
    broken = Verdict(Outcome.INFRA_ERROR, "the jail would not start", "code")
    monkeypatch.setitem(VERIFIERS, "broken", lambda problem, response: (asked.append(problem.id), broken)[1])
    problems = [replace(p, task="") for p in sums(1)]
    monkeypatch.setattr(Task, "mark", lambda self, p, r: marked(VERIFIERS["broken"](p, r)))
    with pytest.raises(InfraError, match="grading p0: the jail would not start; a score cannot be given"):
        evaluate(None, chat, {"m": problems}, SamplingParams())  # type: ignore[arg-type]
    assert asked == ["p0"] * 3  # asked again twice


# -- one protocol a task ---------------------------------------------------------------------------


def test_a_file_and_a_folder_are_one_task_with_one_protocol(tmp_path: Path) -> None:
    """`--data FILE`, `--data DIR` and NAME=PATH give the same problems, prompts, sampling and
    settings.
    """
    row = {"question": "Two and three?", "answer": "so\n#### 5"}
    (tmp_path / "gsm8k").mkdir()
    file = tmp_path / "gsm8k" / "test.jsonl"
    file.write_text(json.dumps(row) + "\n")
    ways = [(["gsm8k"], file), (["gsm8k"], tmp_path), ([f"gsm8k={file}"], None)]
    items = [prepare(names, data, EvalOptions())[0] for names, data in ways]
    assert [(i.name, i.problems, i.protocol) for i in items] == [
        (items[0].name, items[0].problems, items[0].protocol)
    ] * 3
    settings = [i.settings(1) for i in items]
    assert settings == [settings[0]] * 3 and list(settings[0]["data"]) == ["test.jsonl"]
    (problem,) = items[0].problems
    assert problem.messages[0].content == (
        "Two and three?\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    p = items[0].protocol
    assert (p.samples, p.temperature, p.top_p, p.top_k, p.max_new_tokens) == (1, 0.6, 0.95, 40, 32_768)
    # RL reads the same object.
    assert load_source(Source(kind="gsm8k", path=str(file), split="test")) == items[0].problems


def test_what_a_flag_sets_is_recorded() -> None:
    (item,) = prepare(["math"], None, EvalOptions(n=3, temperature=0.0, max_new_tokens=7))
    assert (item.protocol.temperature, item.protocol.max_new_tokens, item.protocol.samples) == (0.0, 7, 1)
    assert (item.settings(5)["temperature"], item.settings(5)["max_new_tokens"], item.settings(5)["seed"]) == (
        0.0,
        7,
        5,
    )
    (other,) = prepare(["math"], None, EvalOptions(n=3))
    assert (other.protocol.temperature, other.protocol.max_new_tokens) == (1.0, 512)


def test_which_problems_a_name_means(tmp_path: Path) -> None:
    (item,) = prepare(["math"], None, EvalOptions(n=5))
    assert item.problems == get("math").fixed("test", 5)
    with pytest.raises(DataError, match="holds train rows by its name"):
        prepare([f"math={DATA / 'math_train.jsonl'}"], None, EvalOptions())
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"problem": "1+1?", "answer": "2"}) + "\n")
    for names, data in ((["math"], file), (["math-rows"], file), ([f"math={file}"], None)):
        (item,) = prepare(names, data, EvalOptions())
        assert (item.name, item.problems[0].truth) == ("math-rows", {"gold": "2"})
    (item,) = prepare(["gsm8k"], DATA / "gsm8k_test.jsonl", EvalOptions())
    assert (item.name, len(item.problems)) == ("gsm8k", 4)  # a set is taken whole
    (item,) = prepare([f"mbpp={DATA / 'mbpp.jsonl'}"], None, EvalOptions(n=2))
    assert [p.id for p in item.problems] == ["mbpp/11", "mbpp/14"]
    (item,) = prepare(["arithmetic:2"], None, EvalOptions(n=2))
    assert item.name == "arithmetic:2" and {p.level for p in item.problems} == {2}


def test_the_interval_of_right_and_wrong_is_wilsons() -> None:
    """3 of 4 right: Wilson's [0.3006, 0.9544]; shares are resampled."""
    from qwq.eval.summarise import interval

    assert interval(Task(), {"": [1.0, 1.0, 1.0, 0.0]}) == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert interval(Task(), {"": [1.0, 0.5, 1.0, 0.0]}) != pytest.approx([0.3006, 0.9544], abs=1e-4)


# -- the command -----------------------------------------------------------------------------------


def test_eval_of_a_folder(thinker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    names = ["math", "tools", f"gsm8k={DATA / 'gsm8k_test.jsonl'}", f"mbpp={DATA / 'mbpp.jsonl'}"]
    results = api.evaluate(str(thinker), names, n=3, max_new_tokens=12, out=out, threads=1)
    assert list(results) == ["math", "tools", "gsm8k", "mbpp"]
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    for name, figures in results.items():
        assert figures["n"] == sum(figures["outcomes"].values()) == 3, name
        assert 0 <= figures["ci95"][0] <= figures["score"] <= figures["ci95"][1] <= 1
        assert 0 < figures["mean_tokens"] <= 12 and figures["mean_thinking_tokens"] <= figures["mean_tokens"]
        assert figures["protocol"]["max_new_tokens"] == 12
    assert (results["math"]["protocol"]["temperature"], results["gsm8k"]["protocol"]["temperature"]) == (1.0, 0.6)
    # The template opens the thinking, and an untrained model hardly closes it.
    assert results["math"]["mean_thinking_tokens"] > 0
    rows = [json.loads(line) for line in (out / "samples" / "gsm8k.jsonl").read_text().splitlines()]
    assert rows[0]["problem_id"] == "gsm8k/test/1" and "Janet" in rows[0]["prompt"]
    printed = capsys.readouterr()
    assert printed.out == ""  # results go to the caller, progress to standard error
    assert "gsm8k: 3 samples" in printed.err and "tokens/s" in printed.err


def test_a_chat_model_without_thinking(plain: Path, tmp_path: Path) -> None:
    figures = api.evaluate(plain, ["math"], n=4, greedy=True, max_new_tokens=8, out=tmp_path, threads=1)["math"]
    assert figures["protocol"]["temperature"] == 0.0
    assert figures["mean_thinking_tokens"] == 0 and figures["n"] == 4


def texts_of(folder: Path, out: Path, **options: Any) -> dict[str, str]:
    api.evaluate(folder, ["math"], n=4, max_new_tokens=10, out=out, threads=1, deterministic=True, **options)
    rows = [json.loads(line) for line in (out / "samples" / "math.jsonl").read_text().splitlines()]
    return {r["problem_id"]: r["output"] for r in rows}


def test_greedy_does_not_depend_on_the_seed_and_sampling_does(plain: Path, tmp_path: Path) -> None:
    outs = iter([tmp_path / str(i) for i in range(5)])
    assert texts_of(plain, next(outs), greedy=True, seed=1) == texts_of(plain, next(outs), greedy=True, seed=2)
    first = texts_of(plain, next(outs), seed=1)
    assert first == texts_of(plain, next(outs), seed=1) != texts_of(plain, next(outs), seed=2)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "name at least one task: aime24"),
        (["gsm9k"], {}, "no task 'gsm9k': did you mean 'gsm8k'"),
        (["math", "math"], {}, "task math is named twice"),
        (["tools=x.jsonl"], {}, "task tools makes its own problems and reads no file"),
        (["gsm8k="], {}, "has no path: write gsm8k=PATH"),
        (["math"], {"n": 0}, "--n is 0: give at least 1"),
        (["gsm8k", "mbpp"], {"data": "FILE"}, "is a file, and 2 of the tasks read files: write NAME=PATH"),
        (["tools"], {"data": "FILE"}, "is a file, and 0 of the tasks read files"),
        (["gsm8k"], {"data": "nowhere"}, "--data nowhere: no such file or folder"),
        (["math"], {"temperature": -1.0}, "temperature and top-k are 0 or more"),
        (["math"], {"greedy": True, "temperature": 1.0}, "--greedy and --temperature 1 contradict each other"),
        (["prompts"], {"data": "FILE"}, "task prompts has no verifier"),
    ],
)
def test_wrong_requests_are_refused_before_the_model_is_read(
    tmp_path: Path, names: list[str], options: dict[str, Any], message: str
) -> None:
    if options.get("data") == "FILE":
        (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "x"}) + "\n")
        options = options | {"data": tmp_path / "rows.jsonl"}
    with pytest.raises(ConfigError, match=message):
        api.evaluate("no/such/model", names, **options)


def test_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder at"):
        api.evaluate(tmp_path / "none", ["math"], n=1)


def test_thinking_is_counted_in_the_text_where_the_markers_are_no_tokens() -> None:
    chat = byte_chat(opened=False)
    ids = list(b"<think>abcd</think>ef")
    assert len(ids) == 7 + 4 + 8 + 2
    assert thought([ids], chat) == 4
    assert thought([ids], chat, [1] * 8 + [0] * 2 + [1] * 11) == 2  # two of them were not sampled
    assert thought([list(b"abcd")], chat) == 0
