"""`import qwq`: light, complete and typed; chat, generate, evaluate and train on a tiny model;
names that recipes take.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from little import make_model

import qwq
from qwq.api import EngineKeywords
from qwq.api.llm import SamplingKeywords
from qwq.api.outputs import PieceKind
from qwq.cli import main
from qwq.config import rl_config as config
from qwq.engine.options import EngineOptions
from qwq.engine.sampler import SamplingParams
from qwq.errors import ConfigError, UsageError
from qwq.reward.functions import REWARDS, load_function
from qwq.text.template import default_template
from qwq.train.losses import LOSSES, LossInput
from qwq.types import StopReason

ROOT = Path(__file__).resolve().parents[2]
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("api") / "tiny", default_template().source)


@pytest.fixture(scope="module")
def llm(folder) -> qwq.LLM:
    return qwq.load(folder, threads=1)


def fresh(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | more
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


# -- the import ------------------------------------------------------------------------------------


def test_the_import_is_light():
    """Under 0.1 s of CPU on a quiet core; the bound here leaves room for a busy machine."""
    done = fresh(
        "import sys, time; t = time.process_time(); import qwq; print(time.process_time() - t, 'torch' in "
        "sys.modules, 'pydantic' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    seconds, *heavy = done.stdout.split()
    assert float(seconds) < 0.25 and heavy == ["False", "False"]


@pytest.mark.parametrize(
    "name",
    [
        "load",
        "train",
        "evaluate",
        "verify",
        "Sandbox",
        "Recipe",
        "Task",
        "Environment",
        "reward",
        "tasks",
        "tool",
        "Stage",
        "StagePlan",
        "stage",
    ],
)
def test_a_name_comes_without_torch(name):
    done = fresh(f"import sys, qwq; qwq.{name}; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_every_name_is_there_and_listed():
    for name in qwq.__all__:
        assert getattr(qwq, name) is not None
    assert set(qwq.__all__) <= set(dir(qwq))
    assert set(qwq._PLACES) | {"__version__"} == set(qwq.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = qwq.nothing  # type: ignore[attr-defined]


def test_the_type_checker_sees_the_same_names():
    block = (ROOT / "src/qwq/__init__.py").read_text().partition("if TYPE_CHECKING:")[2].partition("\n\n# Where")[0]
    assert set(re.findall(r"import \w+ as (\w+)", block)) | {"__version__"} == set(qwq.__all__)
    assert (ROOT / "src/qwq/py.typed").is_file() and '"py.typed"' in (ROOT / "pyproject.toml").read_text()


USER = """
import qwq

llm = qwq.load("x", threads=1)
reveal_type(llm.chat("hi"))
reveal_type(llm.chat("hi", stream=True))
reveal_type(llm.generate(["x"], qwq.SamplingParams()))
reveal_type(qwq.verify.math("a", "b"))
reveal_type(qwq.verify.code("a", {}))
reveal_type(qwq.train(qwq.Recipe.load("tiny"))["stages"])
reveal_type(qwq.tasks.get("x"))
reveal_type(qwq.__version__)

@qwq.reward("n")
def f(prompts: list[str]) -> list[float]: return []

reveal_type(f)
qwq.load("x", thread=1)
qwq.verify.math("a", 3)
"""
# Libraries whose types no part of the interface shows; reading them takes most of mypy's time.
UNREAD = "mypy-torch.*,numpy.*,matplotlib.*,jinja2.*,tokenizers.*,safetensors.*,sympy.*"


def test_a_users_code_is_checked_against_it(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n[{UNREAD}]\nfollow_imports = skip\n")
    words = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file=mypy.ini",
        "--follow-imports=silent",
        "--ignore-missing-imports",
        "--cache-dir",
        str(tmp_path / "cache"),
        "user.py",
    ]
    env = os.environ | {"MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    types = [
        t.rpartition(".")[2] if "[" not in t and "def" not in t else t
        for t in re.findall(r'Revealed type is "(.*)"', done.stdout)
    ]
    assert types == [
        "ChatAnswer", "ChatStream", "list[qwq.api.outputs.TextCompletion]", "Verdict", "Verdict", "Any", "Task", "str",
        types[-1],
    ], done.stdout  # fmt: skip
    assert types[-1].startswith("def (prompts:")
    errors = re.findall(r"user.py:\d+: error: (.*?)  \[", done.stdout)
    assert len(errors) == 2 and '"thread"' in errors[0] and '"int"' in errors[1], done.stdout


def test_the_version_is_the_projects_also_without_an_installation():
    stated = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    hidden = (
        "import importlib.metadata as m\ndef f(n): raise m.PackageNotFoundError\nm.version = f\nimport qwq\n"
        "print(qwq.__version__)"
    )
    assert fresh(hidden).stdout.strip() == stated


def test_every_public_object_has_a_docstring():
    missing = [n for n in qwq.__all__ if n != "__version__" and not (getattr(qwq, n).__doc__ or "").strip()]
    methods = [getattr(qwq.LLM, n) for n in ("chat", "generate")] + [qwq.Recipe.load, qwq.ChatStream.close]
    assert missing == [] and all(inspect.getdoc(m) for m in methods)


# -- chat ------------------------------------------------------------------------------------------


def test_options_are_those_of_the_engine_and_the_sampler():
    assert set(EngineKeywords.__annotations__) == {f.name for f in fields(EngineOptions)} - {"cache_repair"}
    assert set(SamplingKeywords.__annotations__) == {f.name for f in fields(SamplingParams)}


def test_streamed_and_whole_answers_are_one(llm):
    whole = llm.chat("what is 2 and 3?", seed=4, max_new_tokens=40)
    with llm.chat("what is 2 and 3?", seed=4, max_new_tokens=40, stream=True) as stream:
        pieces = list(stream)
    assert stream.answer == whole and whole.seed == 4
    assert "".join(p.text for p in pieces if p.kind is PieceKind.THINKING) == whole.thinking
    assert "".join(p.text for p in pieces if p.kind is PieceKind.TEXT) == whole.text
    assert 0 < whole.num_tokens <= 40 and whole.num_prompt_tokens > 0
    assert whole.message().role == "assistant"


def test_two_streams_at_once_and_one_that_is_left(llm):
    alone = [llm.chat(q, seed=1, max_new_tokens=20) for q in ("what is 1?", "what is 2?")]
    streams = [llm.chat(q, seed=1, max_new_tokens=20, stream=True) for q in ("what is 1?", "what is 2?")]
    left = llm.chat("what is 3?", seed=1, max_new_tokens=400, stream=True)
    next(left)
    left.close()
    assert left.answer.stop_reason is StopReason.ABORT
    dropped = llm.chat("what is 4?", seed=1, stream=True)
    del dropped
    assert [s.answer.raw for s in streams] == [a.raw for a in alone]
    assert not llm._engine.engine.has_work


def test_threads_share_a_model(llm):
    questions = [f"what is {i}?" for i in range(6)]
    alone = [llm.chat(q, seed=2, max_new_tokens=16).raw for q in questions]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda q: llm.chat(q, seed=2, max_new_tokens=16).raw, questions))
    assert together == alone and not llm._engine.engine.has_work


SAID = '<think>\nadd them\n</think>\n\nI ask.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


def scripted(llm, monkeypatch, text: str, size: int = 3) -> None:
    """Lets the engine write this text, `size` characters a step."""

    def step():
        for sample in [*llm._engine.engine.waiting]:
            sample.shown = text[: len(sample.shown) + size]
            if sample.shown == text:
                llm._engine.engine._finish(sample, StopReason.END)

    monkeypatch.setattr(llm._engine.engine, "step", step)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_thinking_text_and_calls_are_parted(llm, monkeypatch, size):
    scripted(llm, monkeypatch, SAID, size)
    with llm.chat("what is 2?", tools=[ADD], stream=True) as stream:
        kinds = [p.kind for p in stream]
    answer = stream.answer
    assert list(dict.fromkeys(kinds)) == ["thinking", "text", "call"] and kinds.count("call") == 1
    assert (answer.thinking, answer.text) == ("add them", "I ask.")
    assert answer.tool_calls == (qwq.ToolCall("add", {"a": 2}),) and answer.finished
    assert answer.message().tool_calls == answer.tool_calls and "add them" in answer.message().content


def test_without_tools_a_call_is_text(llm, monkeypatch):
    scripted(llm, monkeypatch, SAID)
    answer = llm.chat("what is 2?")
    assert answer.tool_calls == () and "<tool_call>" in answer.text


def test_a_budget_of_thinking(llm, monkeypatch):
    asked = []
    submit = llm._engine.engine.submit
    monkeypatch.setattr(llm._engine.engine, "submit", lambda request: asked.append(request) or submit(request))
    llm.chat("what is 2?", thinking_budget=5, max_new_tokens=4, stop=["so"])
    assert asked[0].thinking_budget == 5 and asked[0].stop == ("so",)


def test_sampling_defaults_are_the_models_own(folder, tmp_path):
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.25, "top_k": 7}))
    try:
        own = qwq.load(folder, threads=1)
    finally:
        (folder / "generation_config.json").unlink()
    assert (own.sampling.temperature, own.sampling.top_k) == (0.25, 7)
    assert own._params(None, {"temperature": 0.5}, 99) == SamplingParams(temperature=0.5, top_k=7, max_new_tokens=99)
    assert own._params(SamplingParams(max_new_tokens=3), {}, 99) == SamplingParams(max_new_tokens=3)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda m: m.chat([]), "no messages"),
        (lambda m: m.chat(["hello"]), "message 1 is 'hello'"),
        (lambda m: m.chat("x", tools=[{"name": "f"}]), "tool"),
        (lambda m: m.chat("x", temprature=1), "did you mean 'temperature'"),
        (lambda m: m.chat("x", temperature=-1), "temperature=-1 is out of range"),
        (lambda m: m.generate([1, 2]), r"\[\[\.\.\.\]\]"),
        (lambda m: m.generate([[]]), "the prompt is empty"),
        (lambda m: m.generate(["what", [10**9]]), "outside the vocabulary"),
        (lambda m: m.generate([[1] * 600]), "600 tokens, the model's context is 512"),
    ],
)
def test_a_bad_request_is_one_line_and_leaves_nothing_behind(llm, what, words):
    with pytest.raises(UsageError, match=words):
        what(llm)
    assert not llm._engine.engine.has_work


def test_bad_loads(folder, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'threads'"):
        qwq.load(folder, thread=1)  # type: ignore[call-arg]
    with pytest.raises(UsageError):
        qwq.load(tmp_path / "none")


# -- generate --------------------------------------------------------------------------------------


def test_completions_are_in_order_and_do_not_depend_on_the_batch(llm):
    prompts = ["what is 1", [5, 6, 7], "question 2"]
    params = qwq.SamplingParams(temperature=1.0, max_new_tokens=12)
    batch = llm.generate(prompts, params, seed=3)
    assert [c.num_prompt_tokens for c in batch] == [
        len(llm._chat.tokenizer.encode_rendered(prompts[0])),
        3,
        batch[2].num_prompt_tokens,
    ]
    again = llm.generate([*prompts, "what is 9"], params, seed=3)
    assert [c.ids for c in again[:3]] == [c.ids for c in batch]
    assert all(c.num_tokens <= 12 for c in batch)
    assert len({c.seed for c in llm.generate(["what"] * 4, params, seed=3)}) == 4
    assert llm.generate("what", params, seed=3)[0].ids == llm.generate(["what"], params, seed=3)[0].ids
    assert llm.generate([]) == []


# -- verifiers, decorators, recipes ----------------------------------------------------------------


def test_verifiers_are_called_by_their_module():
    assert qwq.verify.math(r"so \boxed{1/2}", "0.5").correct
    assert qwq.verify.math.verify is not qwq.verify.math
    assert qwq.verify.instructions("one two", [{"id": "no_commas"}]).correct
    assert qwq.verify.tools(qwq.Response(r"\boxed{5}"), {"gold": "5", "min_calls": 0}).correct
    with pytest.raises(AttributeError):
        _ = qwq.verify.nothing


def test_a_program_is_verified_in_a_sandbox():
    tests = {"kind": "asserts", "asserts": ["assert f(1) == 2"]}
    with qwq.Sandbox(1, unsafe=True) as box:
        assert qwq.verify.code("def f(x): return x + 1", tests, sandbox=box).correct
        assert not qwq.verify.code("def f(x): return x", tests, sandbox=box).correct


def test_a_decorated_reward_is_named_in_a_recipe():
    @qwq.reward("short")
    def short(prompts, completions, completion_ids, **columns):
        return [1.0 for _ in completions]

    try:
        made = load_function("short", weight=2.0)
        assert (made.name, made.call, made.weight) == ("short", short, 2.0)
        with pytest.raises(ConfigError, match="did you mean 'short'"):
            load_function("shrt")
        with pytest.raises(ConfigError, match="one word"):
            qwq.reward("file.py:f")
    finally:
        REWARDS.pop("short", None)


def test_a_decorated_loss_is_in_the_registry(monkeypatch):
    monkeypatch.setattr(config, "LOSS_CLIPS", clips := dict(config.LOSS_CLIPS))
    monkeypatch.setattr("qwq.train.losses.base.LOSS_CLIPS", clips)

    @qwq.loss("mine", summed="tokens")
    def mine(batch):
        return batch.no_such_field

    assert LOSSES.pop("mine") is mine and mine.summed == "tokens"
    with pytest.raises(ConfigError, match=r"loss mine raised AttributeError.*test_api.py, line \d+"):
        mine(LossInput(*[torch.zeros(2)] * 3, torch.zeros(2, dtype=torch.long)))


def test_the_command_trains_by_the_same_function(tmp_path, monkeypatch):
    """`qwq train` parses, calls `qwq.train` and prints."""
    asked = {}

    def train(recipe, **options):
        asked.update(options, name=recipe.name)
        return {"recipe": recipe.name, "stages": [], "finished": False}

    monkeypatch.setattr("qwq.api.train", train)
    assert main(["train", "tiny", "--runs", str(tmp_path), "--until", "sft", "--max-minutes=3", "--fresh"]) == 0
    command = asked.pop("command")
    assert command.startswith("qwq train tiny") and asked == {
        "name": "tiny", "runs": tmp_path, "until": "sft", "fresh": True, "max_minutes": 3.0, "progress": True,
    }  # fmt: skip


def test_a_time_of_no_minutes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max-minutes is 0: give a number above 0"):
        qwq.train("tiny", runs=tmp_path, max_minutes=0)


def test_signals_are_given_back_after_a_training():
    import signal
    import threading

    from qwq.train.checkpoint import StopFlag

    before, stop = signal.getsignal(signal.SIGINT), StopFlag()
    with stop.on_signals():
        signal.raise_signal(signal.SIGINT)
    assert stop.raised and signal.getsignal(signal.SIGINT) is before
    entered = []

    def elsewhere():
        with StopFlag().on_signals():
            entered.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert entered == [True]


def test_a_file_of_several_objects_is_imported_once(tmp_path):
    """A stage that checks for the file's own task class meets the class that the recipe made."""
    from qwq.common.imports import import_object

    file = tmp_path / "both.py"
    file.write_text("class A: pass\ndef b(): return A\n")
    first = import_object(f"{file}:A", "task")
    assert import_object(f"{file}:b", "loss")() is first
    file.write_text("class A: changed = True\n")
    assert import_object(f"{file}:A", "task").changed


def test_a_recipe_by_name_with_overrides():
    recipe = qwq.Recipe.load("tiny", seed=3, **{"stages.rl1.steps": 2})
    assert (recipe.name, recipe.seed, recipe.stages["rl1"].steps) == ("tiny", 3, 2)
    with pytest.raises(ConfigError, match="steps"):
        qwq.Recipe.load("tiny", **{"stages.rl1.stepz": 2})


def test_the_examples_of_the_docs_run(tmp_path, monkeypatch):
    """One script, in the order of the page, beside a tiny model, two rows of GSM8K's form and the
    page's own recipe.
    """
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (tmp_path / "sums.toml").write_text(re.search(r"```toml\n(.*?)```", text, re.S)[1])
    make_model(tmp_path / "runs" / "tiny")
    rows = [{"question": f"What is {i} and 1?", "answer": f"#### {i + 1}"} for i in range(3)]
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    script = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert script.count("assert ") >= 8
    (tmp_path / "page.py").write_text(script)
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "sums-s1" / "report.html").is_file() and (
        tmp_path / "evals" / "tiny" / "results.json"
    ).is_file()
