"""Evaluation: scores and intervals from known answers, and `qwq eval` on a whole model folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qwq.engine.sampler import SamplingParams
from qwq.errors import CapacityError, ConfigError, DataError, InfraError, ModelError
from qwq.eval import command, runner
from qwq.eval.command import benchmark_problems, eval_command
from qwq.eval.runner import evaluate, thinking_tokens, write_transcripts
from qwq.model.config import ModelConfig
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.tasks.procedural import family
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Outcome, Problem, Response, Rollout, StopReason, Verdict

DATA = Path(__file__).parents[2] / "data" / "real"
# A chat model's template without any thinking.
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_folder(folder: Path, template: ChatTemplate) -> Path:
    """A whole model folder with random weights."""
    problems = [family(d).problem(0, "train", i) for d in ("math", "code", "tools") for i in range(60)]
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


# -- figures ----------------------------------------------------------------------------------------------------------


def rollout(ids: list[int], mask: list[int] | None = None) -> Rollout:
    n = len(ids)
    return Rollout("p", "math", 0, [1], ids, mask or [1] * n, [0.0] * n, [0] * n, StopReason.END)


def byte_chat(*, opened: bool) -> Any:
    """A vocabulary of bytes, in which the markers are seven and eight tokens; token 0 ends a turn."""
    tokenizer = SimpleNamespace(token_bytes=[bytes([i]) for i in range(256)], vocab_size=256, special_ids=frozenset())
    return SimpleNamespace(tokenizer=tokenizer, thinking_open=opened, eos_ids=(0,))


def marked_chat(*, opened: bool) -> Any:
    """Token 8 is `<think>` and 9 is `</think>`; all others are letters."""
    pieces = [bytes([97 + i]) for i in range(8)] + [b"<think>", b"</think>"]
    return SimpleNamespace(tokenizer=SimpleNamespace(token_bytes=pieces), thinking_open=opened, eos_ids=(0,))


def test_thinking_tokens() -> None:
    """The markers do not count, nor does what the environment wrote."""
    opened, plain = marked_chat(opened=True), marked_chat(opened=False)
    assert thinking_tokens(rollout([5, 5, 9, 5]), opened) == 2
    assert thinking_tokens(rollout([5, 5, 9, 5]), plain) == 0
    assert thinking_tokens(rollout([8, 5, 5, 5, 9, 5]), plain) == 3
    assert thinking_tokens(rollout([5, 8, 5, 5, 5, 9, 5]), plain) == 0  # only the first thing said opens a thought
    assert (
        thinking_tokens(rollout([5, 9, 5, 8, 5, 5]), opened) == 1
    )  # what is reopened behind the answer is the answer's text
    # Two turns: a call, its result and the next opening (not sampled), then more thinking.
    assert thinking_tokens(rollout([5, 9, 5, 0, 6, 8, 5, 5, 9, 5], [1, 1, 1, 1, 0, 0, 1, 1, 1, 1]), opened) == 3
    assert thinking_tokens(rollout([8, 5, 9, 5, 0, 6, 6, 8, 5, 5, 9], [1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]), plain) == 3
    assert thinking_tokens(rollout([5, 6, 9, 5], [1, 0, 0, 1]), opened) == 1  # a budget closed it: no new turn
    assert thinking_tokens(rollout([5, 5, 5]), opened) == 3  # never closed
    assert thinking_tokens(rollout([5, 5, 5]), plain) == 0


def scripted(monkeypatch: pytest.MonkeyPatch, texts: list[str], *, finished: bool = True) -> None:
    """Let every problem in turn be answered by the next of `texts`."""

    def collect(policy: Any, problems: list[Problem], *args: Any, **kw: Any) -> tuple[list[Rollout], list[Response]]:
        rollouts = [rollout([7] * (10 * (i + 1))) for i in range(len(problems))]
        return rollouts, [Response(t, finished=finished) for t in texts]

    monkeypatch.setattr(runner, "collect", collect)


def sums(*golds: int) -> list[Problem]:
    return [Problem(f"p{i}", "math", (Message("user", "?"),), {"gold": str(g)}, f"c{i}") for i, g in enumerate(golds)]


@pytest.fixture
def chat(thinker: Path) -> ChatFormat:
    return ChatFormat.from_folder(thinker)


def test_score_interval_and_outcomes_of_known_answers(
    monkeypatch: pytest.MonkeyPatch, chat: ChatFormat, tmp_path: Path
) -> None:
    scripted(monkeypatch, ["\\boxed{1}", "\\boxed{2}", "", "\\boxed{5}", "\\boxed{9}"])
    benchmarks = {"first": sums(1, 2, 3, 4), "second": sums(9)}
    results = evaluate(None, chat, benchmarks, SamplingParams())  # type: ignore[arg-type]
    summary = results["first"].summary()
    assert (summary["score"], summary["n"], summary["mean_tokens"]) == (0.5, 4, 25.0)
    # Wilson's interval of 2 in 4: (0.5 + z^2/8 +- z sqrt(1/16 + z^2/64)) / (1 + z^2/4) with z = 1.96
    assert summary["ci95"] == pytest.approx([0.150, 0.850], abs=5e-4)
    assert summary["outcomes"] == {"correct": 2, "no_answer": 1, "wrong": 1}
    assert results["first"].passed == [1.0, 1.0, 0.0, 0.0]
    assert results["second"].summary()["score"] == 1.0
    write_transcripts(tmp_path / "deep" / "t.jsonl", results, benchmarks)
    rows = [json.loads(line) for line in (tmp_path / "deep" / "t.jsonl").read_text().splitlines()]
    assert [(r["benchmark"], r["problem_id"], r["verdict"]["outcome"]) for r in rows] == [
        ("first", "p0", "correct"), ("first", "p1", "correct"), ("first", "p2", "no_answer"), ("first", "p3", "wrong"),
        ("second", "p0", "correct"),
    ]  # fmt: skip
    assert not list((tmp_path / "deep").glob("*.partial"))


def test_what_did_not_end_is_never_correct(monkeypatch: pytest.MonkeyPatch, chat: ChatFormat) -> None:
    scripted(monkeypatch, ["\\boxed{1}"], finished=False)
    summary = evaluate(None, chat, {"m": sums(1)}, SamplingParams())["m"].summary()  # type: ignore[arg-type]
    assert (summary["score"], summary["outcomes"]) == (0.0, {"unfinished": 1})


def test_a_verdict_that_infrastructure_spoiled_gives_no_score(
    monkeypatch: pytest.MonkeyPatch, chat: ChatFormat
) -> None:
    scripted(monkeypatch, ["\\boxed{1}"])
    broken = Verdict(Outcome.INFRA_ERROR, "the jail would not start", "code")
    monkeypatch.setattr(runner, "grade_many", lambda items, **kw: [broken for _ in items])
    with pytest.raises(InfraError, match="the jail would not start; a score cannot be given"):
        evaluate(None, chat, {"m": sums(1)}, SamplingParams())  # type: ignore[arg-type]


# -- the command ------------------------------------------------------------------------------------------------------


def test_eval_of_a_folder(thinker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.jsonl"
    names = ["math", "tools", f"gsm8k={DATA / 'gsm8k_test.jsonl'}", f"mbpp={DATA / 'mbpp.jsonl'}"]
    result = eval_command(str(thinker), names, n=3, max_new_tokens=12, out=out)
    assert list(result["evals"]) == ["math", "tools", "gsm8k", "mbpp"]
    assert json.loads(json.dumps(result)) == result and result["temperature"] == 1.0
    for name, figures in result["evals"].items():
        assert figures["n"] == sum(figures["outcomes"].values()) == 3, name
        assert 0 <= figures["ci95"][0] <= figures["score"] <= figures["ci95"][1] <= 1
        assert 0 < figures["mean_tokens"] <= 12 and figures["mean_thinking_tokens"] <= figures["mean_tokens"]
        assert figures["tokens_per_s"] == pytest.approx(3 * figures["mean_tokens"] / figures["seconds"], rel=0.1)
    # The template opens the thinking, and an untrained model hardly closes it.
    assert result["evals"]["math"]["mean_thinking_tokens"] > 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["benchmark"] for r in rows] == ["math"] * 3 + ["tools"] * 3 + ["gsm8k"] * 3 + ["mbpp"] * 3
    assert rows[6]["problem_id"] == "gsm8k/test/1" and "Janet" in rows[6]["prompt"]
    printed = capsys.readouterr()
    assert printed.out == ""  # results go to the caller, progress to standard error
    assert "gsm8k: 3 problems, T=1" in printed.err and "tokens/s" in printed.err


def test_a_chat_model_without_thinking(plain: Path) -> None:
    result = eval_command(str(plain), ["math"], n=4, greedy=True, max_new_tokens=8)
    assert result["temperature"] == 0.0
    assert result["evals"]["math"]["mean_thinking_tokens"] == 0
    assert result["evals"]["math"]["n"] == 4


def texts_of(folder: Path, out: Path, **options: Any) -> list[str]:
    eval_command(str(folder), ["math"], n=4, max_new_tokens=10, out=out, **options)
    return [json.loads(line)["text"] for line in out.read_text().splitlines()]


def test_greedy_does_not_depend_on_the_seed_and_sampling_does(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    assert texts_of(plain, out, greedy=True, seed=1) == texts_of(plain, out, greedy=True, seed=2)
    assert texts_of(plain, out, seed=1) == texts_of(plain, out, seed=1) != texts_of(plain, out, seed=2)


def test_the_meter_counts_what_was_sampled(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "REPORT_S", 0.0)
    result = eval_command(str(plain), ["math"], n=3, greedy=True, max_new_tokens=5)
    last = [line for line in capsys.readouterr().err.splitlines() if " tokens, " in line][-1]
    assert last.startswith(f"math: {round(3 * result['evals']['math']['mean_tokens'])} tokens, ")


def test_which_problems_a_benchmark_name_means(monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark_problems("math", 5) == ("math", family("math").fixed("test", 5))
    name = f"math={DATA / 'math_train.jsonl'}"
    with pytest.raises(DataError, match="holds train rows by its name"):
        benchmark_problems(name, None)
    label, problems = benchmark_problems("gsm8k", None, DATA / "gsm8k_test.jsonl")
    assert (label, len(problems)) == ("gsm8k", 4)  # a real set is taken whole
    assert [p.id for p in benchmark_problems(f"mbpp={DATA / 'mbpp.jsonl'}", 2)[1]] == ["mbpp/11", "mbpp/14"]
    asked = []
    monkeypatch.setattr(command, "load_source", lambda source: asked.append(source) or [])
    benchmark_problems("gsm8k", 7)
    assert (asked[0].path, asked[0].split, asked[0].limit) == ("openai/gsm8k", "test", 7)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "name at least one benchmark: math, code"),
        (["gsm9k"], {}, "no benchmark 'gsm9k': did you mean 'gsm8k'"),
        (["math", "math"], {}, "benchmark math is named twice"),
        (["code=x.jsonl"], {}, "only gsm8k, mbpp, math are read from a path"),
        (["gsm8k="], {}, "has no path: write gsm8k=PATH"),
        (["math"], {"n": 0}, "--n is 0: give at least 1"),
        (["gsm8k", "mbpp"], {"data": "x.jsonl"}, "--data x.jsonl goes with one real benchmark, 2 are named"),
        (["code"], {"data": "x.jsonl"}, "--data x.jsonl goes with one real benchmark, 0 are named"),
        (["math"], {"temperature": -1.0}, "temperature=-1.0 is out of range"),
    ],
)
def test_wrong_requests_are_refused_before_the_model_is_read(
    names: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        eval_command("no/such/model", names, **options)


def test_a_missing_model_and_too_little_memory(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no model folder at"):
        eval_command(str(tmp_path / "none"), ["math"], n=1)
    monkeypatch.setattr(command, "free_memory", lambda device: 1 << 20)
    with pytest.raises(CapacityError, match="the evaluation needs about .* 0.0 GiB are free"):
        eval_command(str(plain), ["math"], n=1)


def test_thinking_is_counted_in_the_text_where_the_markers_are_no_tokens() -> None:
    chat = byte_chat(opened=False)
    ids = list(b"<think>abcd</think>ef")
    assert len(ids) == 7 + 4 + 8 + 2
    assert thinking_tokens(rollout(ids), chat) == 4
    assert thinking_tokens(rollout(ids, [1] * 8 + [0] * 2 + [1] * 11), chat) == 2  # two of them were not sampled
    assert thinking_tokens(rollout(list(b"abcd")), chat) == 0
