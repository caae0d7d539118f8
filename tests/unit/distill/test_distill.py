"""Distillation: each rule by hand, the endpoint and its faults, the store under a kill, and an SFT
set at the end.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import commands
import pytest
from fake_endpoint import FakeEndpoint
from scripted_policy import ScriptedPolicy

from qwq.cli import main
from qwq.data.shapes import read_conversations
from qwq.distill.filters import Answer, conversation, is_repetitive, mixes_languages, parts_of, reason_against
from qwq.distill.run import DistillPlan, TeacherSampling, _answer, distill, load_problems
from qwq.errors import ConfigError, DataError, InfraError
from qwq.rollout.episode import play
from qwq.rollout.policies.endpoint import EndpointPolicy
from qwq.rollout.store import read_samples
from qwq.tasks.constraints import listed_row
from qwq.text.response import parse
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import Message, Outcome, Problem, StopReason, Turn, Verdict
from qwq.verify.instructions.ifeval_requests import describe

MATH = Problem("p", "math", (Message("user", "What is 2 + 2?"),), {"gold": "4"}, "c")
GOOD = Verdict(Outcome.CORRECT, "", "math")
THOUGHT = "<think>\nTwo and two make four.\n</think>\n\\boxed{4}"


def why(
    text: str,
    *,
    finished: bool = True,
    opened: bool = False,
    outcome: Outcome = Outcome.CORRECT,
    wrap: bool = False,
    problem: Problem = MATH,
) -> str | None:
    return reason_against(problem, Answer(text, finished, opened), Verdict(outcome, "", "math"), wrap=wrap)


@pytest.mark.parametrize(
    ("text", "kw", "reason"),
    [
        (THOUGHT, {}, None), (THOUGHT.removeprefix("<think>"), {"opened": True}, None),
        (THOUGHT, {"finished": False}, "unfinished"), ("<think>\nTwo and two", {}, "unfinished"),
        (THOUGHT.partition("</think>")[0], {"opened": True}, "unfinished"), ("\\boxed{4}", {}, "no_thinking"),
        ("<think>\n\n</think>\n\\boxed{4}", {}, "no_thinking"), (THOUGHT, {"outcome": Outcome.WRONG}, "wrong"),
        (THOUGHT, {"outcome": Outcome.NO_ANSWER}, "no_answer"),
        (THOUGHT.replace("Two", "So I'll just guess. Two"), {}, "guessing"),
        (THOUGHT.replace("Two", "我们 来算 一下 Two"), {}, "mixed_languages"),
        (THOUGHT.replace("Two", "Wait, let me think about this again.\n" * 4 + "Two"), {}, "repetitive"),
        ("Two and two.\nSo it is \\boxed{4}.", {"wrap": True}, None), ("\\boxed{4}", {"wrap": True}, "no_thinking"),
    ],
)  # fmt: skip
def test_each_reason(text, kw, reason) -> None:
    assert why(text, **kw) == reason


@pytest.mark.parametrize(
    "text",
    [
        "My guess was that it is even, and so it is.",
        "Guess the teacher asks for x.",
        "We choose one of them at a time.",
        "I'm not sure whether that holds. Let me check.",
    ],
)
def test_plain_doubt_is_no_guess(text) -> None:
    assert why(THOUGHT.replace("Two", f"{text} Two")) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'll guess 4.",
        "Let's guess.",
        "just guessing here",
        "my best guess is 4",
        "I'm guessing it is 4",
        "I will pick one at random",
        "Since I can't determine the rest, I'll go with 4",
        "I'm not sure, but I'll go with 4",
    ],
)
def test_guesses(text) -> None:
    assert why(THOUGHT.replace("Two", f"{text}. Two")) == "guessing"


def test_languages_and_repetition() -> None:
    assert not mixes_languages("What is α?", "Let α and β be angles, θ the third.") and not mixes_languages(
        "Что это?", "Это море."
    )
    assert (
        not mixes_languages("海とは?", "海は広い水域です")
        and mixes_languages("What?", "The answer is четыре")
        and not mixes_languages("What?", "The sign is 山")
    )
    sentence = "the quick brown fox jumps over the lazy dog near the river bank today "
    assert is_repetitive(sentence * 4) and not is_repetitive(" ".join(f"word{i}" for i in range(500)))
    spanish = Problem(
        "q",
        "instructions",
        MATH.messages,
        {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "ru"}]},
        "c",
    )
    assert why(THOUGHT.replace("Two", "Это четыре Two"), problem=spanish) is None


def test_parts_and_conversations() -> None:
    assert parts_of(MATH, Answer("First.\n\nThen \\boxed{4}.\nDone", True), wrap=True) == (
        "First.",
        "Then \\boxed{4}.\nDone",
    )
    assert parts_of(MATH, Answer("First.\n\\[\n\\boxed{4}\n\\]", True), wrap=True) == ("First.", "\\[\n\\boxed{4}\n\\]")
    assert parts_of(MATH, Answer("First.\n\nThen 4.", True), wrap=True)[0] is None
    rules = Problem("r", "instructions", MATH.messages, {}, "c")
    assert parts_of(rules, Answer("First.\n\nThen 4.", True), wrap=True) == (None, "First.\n\nThen 4.")
    listed = listed_row(
        {"prompt": "Name a town. Use no commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        "row",
        "p",
    )
    thinking, final = parts_of(listed, Answer("Ulm.", True), wrap=True)
    assert (
        final == "Ulm."
        and "- " + describe("punctuation:no_comma", {}) in thinking
        and "I am asked: Name a town." in thinking
    )
    assert parts_of(listed, Answer("Ulm.", True)) == (None, "Ulm.")
    open_prompt = Problem("p", "custom", (Message("user", " ".join(["word"] * 61)),), {}, "c")
    assert parts_of(open_prompt, Answer("Yes.", True), wrap=True) == ("I am asked: " + "word " * 60 + "...", "Yes.")
    code = Problem("c", "code", MATH.messages, {}, "c")
    text = "I add.\n```python\ndef f(): pass\n```\nThat is it."
    assert parts_of(code, Answer(text, True), wrap=True) == ("I add.\n\nThat is it.", "```python\ndef f(): pass\n```")
    assert conversation(MATH, Answer(THOUGHT, True)) == [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": THOUGHT},
    ]


# -- a teacher -------------------------------------------------------------------------------------


def turn_of(answer: Answer) -> Turn:
    stop = StopReason.END if answer.finished else StopReason.LENGTH
    return Turn(parse(answer.text), stop, answer.text)


def scripted(script: Any) -> ScriptedPolicy:
    """A teacher in this process: sample k of a problem says `script(problem, k)`."""
    return ScriptedPolicy(lambda request: turn_of(script(*request.key.episode.job.key)))


def gsm8k(path: Path, num: int = 3) -> str:
    path.write_text(
        "".join(
            json.dumps({"question": f"What is {i} plus {i}, by the way?", "answer": f"#### {2 * i}"}) + "\n"
            for i in range(1, num + 1)
        )
    )
    return f"gsm8k={path}"


def script(problem: Problem, number: int) -> Answer:
    gold = problem.truth["gold"]
    texts = [
        f"<think>\nA long thought about it, longer than the other.\n</think>\n\\boxed{{{gold}}}",
        f"<think>\nA thought.\n</think>\n\\boxed{{{gold}}}",
        "<think>\nHm.\n</think>\n\\boxed{1}",
    ]
    return Answer(texts[number % 3], number % 4 != 3)


def test_a_set_is_made_and_goes_on_without_asking_again(tmp_path, capsys) -> None:
    source, out = gsm8k(tmp_path / "train.jsonl"), tmp_path / "sft.jsonl"
    num = len(load_problems(DistillPlan((source,))))
    teacher = scripted(script)
    summary = distill(DistillPlan((source,), samples=5, keep=1), teacher, TeacherSampling(), out)
    assert len(teacher.asked) == 5 * num and summary["kept"] == num
    assert summary["dropped"] == {"beyond_keep": num, "duplicate": num, "unfinished": num, "wrong": num}
    conversations = read_conversations(out)
    assert all(parse(c.messages[-1].content).thinking == "A thought." for c in conversations)
    template = default_template()
    chat = ChatFormat(train_bpe([template.render(conversations[0].messages)], 300), template)
    for made in conversations:
        ids, mask = chat.training_example(made.messages, made.tools)
        own = chat.tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
        assert own.startswith("A thought.\n</think>\n\\boxed{") and "plus" not in own
    assert (
        distill(DistillPlan((source,), samples=5, keep=2), teacher, TeacherSampling(), out)["kept"] == 2 * num
        and len(teacher.asked) == 5 * num
    )
    distill(DistillPlan((source,), samples=6), teacher, TeacherSampling(), out)
    assert len(teacher.asked) == 6 * num
    with pytest.raises(ConfigError, match=r"other settings \(temperature was 0.6, is now 1.0\)"):
        distill(DistillPlan((source,)), teacher, TeacherSampling(temperature=1.0), out)


def test_a_torn_line_is_made_again(tmp_path) -> None:
    source, out = gsm8k(tmp_path / "train.jsonl"), tmp_path / "sft.jsonl"
    teacher = scripted(script)
    distill(DistillPlan((source,), samples=2), teacher, TeacherSampling(), out)
    store, before = tmp_path / "sft.jsonl.samples.jsonl", out.read_bytes()
    store.write_bytes(store.read_bytes()[:-20])
    asked = len(teacher.asked)
    distill(DistillPlan((source,), samples=2), teacher, TeacherSampling(), out)
    assert len(teacher.asked) == asked + 1 and out.read_bytes() == before


def test_nothing_worth_keeping_is_said(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no answer of scripted is worth keeping \(\d+ no_thinking\)"):
        distill(
            DistillPlan((gsm8k(tmp_path / "train.jsonl"),)),
            scripted(lambda p, k: Answer("4", True)),
            TeacherSampling(),
            tmp_path / "o",
        )
    for sources, words in (
        ((), "name at least one source"),
        (("gsm8k",), "write gsm8k=FILE"),
        (("family:mth",), "did you mean 'math'"),
        (("tools",), "its answers need tools"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_problems(DistillPlan(sources))


def test_sources_of_every_kind(tmp_path) -> None:
    problems = load_problems(
        DistillPlan(("constraints", "family:math", "family:code", "family:instructions", "family:preference"), num=5)
    )
    assert len(problems) == 25 and {p.domain for p in problems} == {"math", "code", "instructions", "preference"}
    # Any task will do, by its name or as file.py:Name.
    (tmp_path / "sums.py").write_text(
        "from qwq.tasks import Task\n\n\nclass Sums(Task):\n    name = 'sums'\n\n    def rows(self, split):\n"
        "        yield from ({'prompt': f'{split}: {i} + 1?', 'answer': i + 1} for i in range(9))\n\n"
        "    def verify(self, problem, response):\n        return self.verdict(True)\n"
    )
    names = ("arithmetic:2", "math", f"{tmp_path / 'sums.py'}:Sums")
    problems = load_problems(DistillPlan(names, num=5))
    assert len(problems) == 15 and [p.messages[0].content for p in problems[10:]] == [
        f"train: {i} + 1?" for i in range(5)
    ]


# -- the endpoint ----------------------------------------------------------------------------------


class Server:
    """An OpenAI-compatible server on loopback that answers sums with a thought; `faults` are
    statuses to give first.
    """

    def __init__(self, faults: list[int] | None = None, delay_s: float = 0.0, apart: bool = False) -> None:
        self.requests: list[dict] = []
        faults = faults if faults is not None else []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                time.sleep(delay_s)
                status, reply = (faults.pop(0), {"error": "no"}) if faults else (200, outer.reply(body, apart))
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def reply(body: dict, apart: bool) -> dict:
        number = int(body["messages"][-1]["content"].split()[2])
        message = (
            {"content": f"\\boxed{{{2 * number}}}", "reasoning_content": "It is twice that."}
            if apart
            else {"content": f"Twice that.\n</think>\n\\boxed{{{2 * number}}}"}
        )
        return {"choices": [{"message": message, "finish_reason": "stop"}]}

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("apart", [False, True])
def test_an_endpoint(tmp_path, capsys, apart) -> None:
    source, out = gsm8k(tmp_path / "train.jsonl", 8), tmp_path / "sft.jsonl"
    with Server(faults=[503, 429], apart=apart) as server:
        assert (
            main(
                [
                    "data",
                    "distill",
                    source,
                    "--endpoint",
                    server.url,
                    "--api-key",
                    "k",
                    "--model",
                    "m",
                    "--samples",
                    "2",
                    "--system",
                    "Think.",
                    "--out",
                    str(out),
                ]
            )
            == 0
        )
    summary = json.loads(capsys.readouterr().out)
    assert summary["kept"] == summary["problems"] and summary["dropped"] == {"duplicate": summary["problems"]}
    first = server.requests[0]
    assert (first["path"], first["key"], first["model"], first["max_tokens"]) == (
        "/v1/chat/completions",
        "Bearer k",
        "m",
        2048,
    )
    assert len({r["seed"] for r in server.requests}) == 2 * summary["problems"]
    assert first["messages"][0] == {"role": "system", "content": "Think."}
    messages = read_conversations(out)[0].messages
    assert [m.role for m in messages] == ["user", "assistant"]
    content = messages[-1].content
    assert parse(content).thinking in ("Twice that.", "It is twice that.")


def taught_by(server: Any, plan: DistillPlan, out: Path, **options: Any) -> dict[str, Any]:
    url = server if isinstance(server, str) else server.url
    with contextlib.closing(EndpointPolicy(url, "m", **options)) as teacher:
        return distill(plan, teacher, TeacherSampling(), out)


def test_faults_of_an_endpoint(tmp_path) -> None:
    plan, out = DistillPlan((gsm8k(tmp_path / "train.jsonl", 1),), samples=1), tmp_path / "sft.jsonl"
    with Server(faults=[400]) as server, pytest.raises(InfraError, match=r"refuses the request \(status 400"):
        taught_by(server, plan, out)
    with Server(faults=[503] * 50) as server, pytest.raises(InfraError, match=r"gave no answer for 1 s \(status 503"):
        taught_by(server, plan, out, patience=(0.5, 0.5))
    with pytest.raises(InfraError, match="Connect"):
        taught_by("http://127.0.0.1:9", plan, out, patience=(0.1,))
    for arguments, words in ((("localhost", "m"), "give a URL"), (("http://x", "m"), None)):
        if words:
            with pytest.raises(ConfigError, match=words):
                EndpointPolicy(*arguments)
    for url, base in (
        ("http://x/v1/", "http://x"),
        ("http://x", "http://x"),
        ("http://x/vllm/v1/chat/completions", "http://x/vllm"),
    ):
        assert EndpointPolicy(url, "m").client.url == f"{base}/v1/chat/completions"


def test_what_a_teacher_fails_is_no_sample_and_is_asked_again(tmp_path) -> None:
    source, out = gsm8k(tmp_path / "train.jsonl", 3), tmp_path / "sft.jsonl"
    plan = DistillPlan((source,), samples=1)

    def fails(body: dict) -> Any:
        number = int(body["messages"][-1]["content"].split()[2])
        if number == 2:
            return 400, "Jinja error in chat template: context variable 'tools' is undefined"
        return (
            {"content": None, "finish_reason": "error"}
            if number == 3
            else Server.reply(body, True)["choices"][0]["message"]
        )

    once: dict[str, Any] = {"concurrency": 1, "patience": (0.01, 0.01)}
    with (
        FakeEndpoint(fails) as server,
        pytest.raises(InfraError, match="2 samples have no answer .*the same command resumes"),
    ):
        taught_by(server, plan, out, **once)
    store = out.with_name("sft.jsonl.samples.jsonl")
    rows = [json.loads(line) for line in store.read_text().splitlines()]
    assert [r["finish"] for r in rows[1:]] == ["stop"] and not out.exists()
    # What earlier versions stored of a finish_reason "error": an empty text that did not end.
    old = {k: v for k, v in rows[1].items() if k != "finish"} | {"text": "", "finished": False}
    store.write_text(json.dumps(rows[0]) + "\n" + json.dumps(old) + "\n")
    with FakeEndpoint(lambda body: Server.reply(body, True)["choices"][0]["message"]) as server:
        assert taught_by(server, plan, out, **once)["kept"] == 3
        assert len(server.asked) == 3


def only(server: FakeEndpoint, problem: Problem) -> Answer:
    with contextlib.closing(EndpointPolicy(server.url, "m")) as policy:
        (episode,) = play(policy, iter([TeacherSampling().job(problem, 0)]), TeacherSampling().params)
    return _answer(episode)


def test_a_prompt_beyond_the_teachers_context_is_unfinished(tmp_path) -> None:
    problem = load_problems(DistillPlan((gsm8k(tmp_path / "train.jsonl", 1),)))[0]
    with FakeEndpoint(lambda body: (400, "the prompt has 600 tokens, the model's context is 512")) as server:
        assert only(server, problem) == Answer("", False, finish="refused")
    cut = {"content": "A thought that was cut \\boxed{2}", "finish_reason": "length"}
    with FakeEndpoint(lambda body: cut) as server:
        answer = only(server, problem)
    assert answer.text.startswith("<think>") and parts_of(problem, answer)[0] == "unclosed"


def test_killed_at_any_moment_it_asks_for_no_stored_sample_again(tmp_path) -> None:
    source, out = gsm8k(tmp_path / "train.jsonl", 30), tmp_path / "sft.jsonl"
    with Server(delay_s=0.05) as server:
        words = ["data", "distill", source, "--endpoint", server.url, "--model", "m"]
        words += ["--samples", "2", "--concurrency", "2", "--out", out]
        store = tmp_path / "sft.jsonl.samples.jsonl"
        for stored in (5, 20):
            process = commands.Command(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline and (not store.exists() or store.read_bytes().count(b"\n") < stored):
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not out.exists()
        # An answer whose verdict the kill cut off waits beside the store, and is not asked for
        # again either.
        files = [path for path in (store, store.with_suffix(".pending")) if path.exists()]
        kept = len(
            {key for path in files for key in read_samples(path, lambda row: (row["problem_id"], row["number"]))}
        )
        before = len(server.requests)
        done = commands.run(*words, timeout=600)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert len(server.requests) - before == summary["samples"] - kept and summary["kept"] == summary["problems"]


def test_open_prompts_are_sifted_by_their_form_alone(tmp_path) -> None:
    rows = [
        {"prompt": "Name a fruit."},
        {"prompt": [{"role": "user", "content": "Name a colour."}]},
        {"messages": [{"role": "user", "content": "Name a town."}, {"role": "assistant", "content": "Ulm."}]},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    plan = DistillPlan((f"prompts={tmp_path / 'prompts.jsonl'}",), samples=1)
    assert [p.domain for p in load_problems(plan)] == ["custom"] * 3

    texts = {
        "fruit": ("<think>\nA round one.\n</think>\nAn apple.", True), "colour": ("Blue.", True),
        "town": ("<think>\nA big", False),
    }  # fmt: skip

    def said(problem: Problem, number: int) -> Answer:
        return Answer(*texts[problem.messages[-1].content.split()[-1].rstrip(".")])

    summary = distill(plan, scripted(said), TeacherSampling(), tmp_path / "out.jsonl")
    assert summary["kept"] == 1 and summary["dropped"] == {"no_thinking": 1, "unfinished": 1}
    kept = json.loads((tmp_path / "out.jsonl").read_text())
    assert kept["messages"] == [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "<think>\nA round one.\n</think>\nAn apple."},
    ]
