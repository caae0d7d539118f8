"""`qwq chat`: it samples what the engine samples, keeps the sampled tokens as history, and answers
the calculator.
"""

from __future__ import annotations

import io
import json
import os
import select
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from scripted_policy import ScriptedPolicy

from qwq.chat.command import COMMANDS, Talk, as_markdown
from qwq.chat.conversation import Conversation, resume, save
from qwq.chat.lines import InputLine, Lines
from qwq.chat.screen import Screen
from qwq.engine.backends.dense import DenseBackend
from qwq.engine.backends.torch import TorchBackend
from qwq.engine.request import GenerationRequest
from qwq.engine.sampler import SamplingParams
from qwq.engine.scheduler import Engine
from qwq.errors import ConfigError, DataError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.rollout.policies.local import EnginePolicy
from qwq.rollout.policy import TurnRequest
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import train_bpe
from qwq.types import StopReason

# Drops the thinking of earlier turns, as QwQ-32B's template does.
FORGETFUL = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["What is 2 plus 3? 2+3=5 \\boxed{5} naïve 😀"] * 3, 300)


@pytest.fixture(scope="module")
def chat(tokenizer) -> ChatFormat:
    return ChatFormat(tokenizer, default_template())


@pytest.fixture(scope="module")
def model(tokenizer) -> Transformer:
    config = preset("tiny", vocab_size=tokenizer.vocab_size, max_positions=160)
    return Transformer(config).init_weights(torch.Generator().manual_seed(0))


def scripted(patch: pytest.MonkeyPatch, replies: list[str], prompts: list[list[int]]) -> None:
    """Lets the turns of a conversation be these texts, and notes the prompt ids of each."""
    waiting = iter(replies)

    def generate(self, next_request, concurrency=None):
        script = ScriptedPolicy(lambda request: next(waiting), self.chat)
        for request, turn in script.generate(next_request):
            prompts.append(list(request.prompt_ids))
            yield request, turn

    patch.setattr(EnginePolicy, "generate", generate)


@pytest.fixture
def engine(model, chat) -> Engine:
    return Engine(TorchBackend(model, kv_tokens=1024), chat.tokenizer)


def policy_of(engine: Engine, chat: ChatFormat) -> EnginePolicy:
    loaded = SimpleNamespace(engine=engine, chat=chat, name="m")
    return EnginePolicy(loaded, interruptible=True, note=lambda _: None)  # type: ignore[arg-type]


def conversation_of(engine: Engine, chat: ChatFormat, params: SamplingParams, **options) -> Conversation:
    return Conversation(policy_of(engine, chat), params, **options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_what_the_rollouts_sample(model, engine, chat, temperature):
    params = SamplingParams(temperature=temperature, max_new_tokens=30)
    prompt = chat.prompt_ids([{"role": "user", "content": "What is 2 plus 3?"}])
    rollouts = Engine(DenseBackend(model, max_slots=4), chat.tokenizer)
    ((expected,),) = rollouts.run(
        [GenerationRequest(prompt, params, seed=5, eos_ids=chat.eos_ids, plain_sampling=True)]
    )
    shown = []
    conversation = conversation_of(engine, chat, params)
    conversation.ask("What is 2 plus 3?", 5, lambda new, thinking: shown.append(new))
    asked = iter([TurnRequest(0, params, prompt_ids=prompt, seed=5)])
    ((_, turn),) = policy_of(engine, chat).generate(lambda: next(asked, None))
    text, ids = conversation.messages[-1].content.removeprefix("<think>\n"), turn.ids
    assert ids == expected.ids and "".join(shown) == text == turn.text
    assert chat.tokenizer.decode([i for i in ids if i not in chat.eos_ids]).startswith(text)


def test_a_second_question_computes_its_own_tokens_only(engine, chat):
    """The first question and its answer are in the prefix cache, without tools too."""
    conversation = conversation_of(engine, chat, SamplingParams(max_new_tokens=20))
    conversation.ask("What is 2 plus 3?", 0, lambda *_: None)
    before = engine.stats.cached_tokens
    conversation.ask("And 4 plus 5?", 1, lambda *_: None)
    first = len(chat.prompt_ids([{"role": "user", "content": "What is 2 plus 3?"}]))
    assert engine.stats.cached_tokens - before >= first


def test_ctrl_c_stops_the_answer_and_not_the_conversation(engine, chat, monkeypatch):
    conversation = conversation_of(engine, chat, SamplingParams(max_new_tokens=60))
    steps, step = [], engine.step

    def interrupted():
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(engine, "step", interrupted)
    turn = conversation.ask("What is 2 plus 3?", 0, lambda *_: None)
    assert turn.reason is StopReason.ABORT and not turn.finished and turn.num_tokens == 5
    assert conversation.ask("And 4?", 1, lambda *_: None).reason in (
        StopReason.END,
        StopReason.LENGTH,
        StopReason.CONTEXT,
    )


def test_a_budget_ends_the_thinking(engine, chat):
    conversation = conversation_of(engine, chat, SamplingParams(max_new_tokens=80), budget=5)
    turn = conversation.ask("What is 2 plus 3?", 0, lambda *_: None)
    assert turn.num_thinking <= 5 and "</think>" in conversation.messages[-1].content


def test_a_conversation_is_saved_and_taken_up_again(engine, chat, tmp_path):
    first = conversation_of(engine, chat, SamplingParams(max_new_tokens=10))
    first.ask("What is 2 plus 3?", 0, lambda *_: None)
    save(first, tmp_path / "deep" / "chat.json")
    second = conversation_of(engine, chat, SamplingParams(max_new_tokens=10))
    resume(second, tmp_path / "deep" / "chat.json")
    assert second.messages == first.messages and second.ids == first.ids
    with pytest.raises(DataError, match="no conversation at .* to resume: begin one without --resume"):
        resume(second, tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="is no saved conversation: delete it"):
        resume(second, tmp_path / "broken.json")


def test_the_history_is_the_sampled_tokens(engine, chat, monkeypatch):
    conversation, prompts = conversation_of(engine, chat, SamplingParams()), []
    scripted(monkeypatch, ["2+3=5\n</think>\n5", "x"], prompts)
    shown = []
    assert conversation.ask("What is 2 plus 3?", 0, lambda text, thinking: shown.append(text)).answer == "5"
    kept = list(conversation.ids)
    conversation.ask("And 4?", 1, lambda *_: None)
    assert prompts[1][: len(kept)] == kept
    # and it reads exactly as the template writes the whole conversation
    assert prompts[1] == chat.prompt_ids(conversation.messages[:3])
    assert shown == ["2+3=5\n</think>\n5"]


def test_a_template_that_forgets_thinking_is_rendered_anew(engine, tokenizer, monkeypatch):
    forgetful = ChatFormat(tokenizer, ChatTemplate(FORGETFUL))
    conversation, prompts = conversation_of(engine, forgetful, SamplingParams()), []
    scripted(monkeypatch, ["hidden\n</think>\n5", "x"], prompts)
    conversation.ask("What is 2 plus 3?", 0, lambda *_: None)
    conversation.ask("And 4?", 1, lambda *_: None)
    second = tokenizer.decode(prompts[1])
    assert "hidden" not in second and "\n5<|im_end|>" in second


def test_calculator_calls_are_answered_and_the_answer_follows(engine, chat, monkeypatch):
    conversation, prompts = conversation_of(engine, chat, SamplingParams(), tools=True), []
    conversation.policy.context = None  # the script needs no room
    call = '345*22\n</think>\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "345*22"}}\n</tool_call>'
    scripted(monkeypatch, [call, "</think>\n\\boxed{7590}"], prompts)
    shown = []
    turn = conversation.ask("What is 345 times 22?", 0, lambda text, thinking: shown.append(text))
    assert turn.answer == "\\boxed{7590}" and "\n[calculator] 7590\n" in shown
    text = chat.tokenizer.decode(prompts[1])
    assert (
        "calculator(expression)" in text
        and text.rstrip().endswith("<|im_start|>assistant\n<think>")
        and "\n7590\n" in text
    )
    assert [m.role for m in conversation.messages] == ["user", "assistant", "tool", "assistant"]


def test_without_tools_a_call_is_only_text(engine, chat, monkeypatch):
    conversation, prompts = conversation_of(engine, chat, SamplingParams()), []
    scripted(
        monkeypatch,
        ['</think>\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "1"}}\n</tool_call>'],
        prompts,
    )
    conversation.ask("x", 0, lambda *_: None)
    assert len(prompts) == 1


def talk(conversation: Conversation) -> int:
    """The conversation, its lines from `input`, as from a pipe."""
    return Talk(conversation, Screen(sys.stdout), 0, conversation.params).run(Lines(COMMANDS, terminal=False))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_thinking_is_dimmed_and_control_sequences_are_not_obeyed():
    out = Terminal()
    screen = Screen(out)
    for text, thinking in (("a", True), ("b\x1b[2J\u202e", True), ("c", False)):
        screen.show(text, thinking)
    screen.end()
    assert out.getvalue() == "\x1b[2mab\ufffd[2J\ufffd\x1b[0mc\n"
    plain = io.StringIO()
    Screen(plain).show("a", True)
    assert plain.getvalue() == "a"


def test_folded_thinking_is_a_counter_and_can_be_read_later():
    out = Terminal()
    screen = Screen(out, fold=True)
    for text, thinking in (("one", True), ("two</think>", True), ("\n\nanswer", False)):
        screen.show(text, thinking)
    screen.end()
    assert "one" not in out.getvalue() and out.getvalue().endswith(
        "thought for 2 tokens (/thinking shows them)\x1b[0m\nanswer\n"
    )
    assert screen.thoughts == "onetwo</think>"


def test_commands_of_the_conversation(engine, chat, monkeypatch, capsys):
    conversation, prompts = conversation_of(engine, chat, SamplingParams()), []
    scripted(monkeypatch, ["</think>\nfirst", "</think>\nsecond"], prompts)
    lines = iter(["hello", "/new", "", "/nwe", "/budget 9", "/help", "hello", "/quit", "never read"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert talk(conversation) == 0
    out, err = capsys.readouterr()
    assert prompts[0] == prompts[1]  # nothing is left of the first conversation
    assert "first" in out and "second" in out and "a new conversation" in err and "no command /nwe" in err
    assert next(lines) == "never read" and conversation.budget == 9 and "/budget N" in err


def test_a_question_that_does_not_fit_leaves_the_conversation_as_it_was(engine, chat, monkeypatch, capsys):
    conversation = conversation_of(engine, chat, SamplingParams(max_new_tokens=2))
    lines = iter(["word " * 200, "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert talk(conversation) == 0
    assert conversation.messages == [] and "/new begins a new conversation" in capsys.readouterr().err


# -- what the user says ----------------------------------------------------------------------------


def entries(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], *, terminal: bool = False, pasted: tuple[int, ...] = ()
) -> list[InputLine]:
    """What is made of these lines; `pasted`: numbers of lines that were there when the one before
    had ended.
    """
    waiting, read = list(lines), []

    def line(prompt: str) -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    monkeypatch.setattr("builtins.input", line)
    source = Lines(COMMANDS, terminal=terminal, pending=lambda: len(lines) - len(waiting) in pasted)
    while True:
        try:
            read.append(source.read())
        except EOFError:
            return read


def test_lines_that_are_pasted_together_are_one_question(monkeypatch):
    problem = ["Let x be", "", "  /usr/bin of", "three", "next"]
    assert entries(monkeypatch, problem, terminal=True, pasted=(1, 2, 3)) == [
        InputLine("Let x be\n\n  /usr/bin of\nthree", False),
        InputLine("next", False),
    ]
    assert entries(monkeypatch, ["/usr/bin is what?", "and", "/new"], terminal=True, pasted=(1,)) == [
        InputLine("/usr/bin is what?\nand", False),
        InputLine("/new", True),
    ]
    assert entries(monkeypatch, ["a\nb", "/budget 3"], terminal=True) == [
        InputLine("a\nb", False),
        InputLine("/budget 3", True),
    ]  # readline keeps a bracketed paste's line ends


@pytest.mark.parametrize("terminal", [False, True])
def test_what_stands_between_quotes_is_one_question(monkeypatch, terminal):
    lines = ['"""first', "", "/new is text here", 'last"""', '"""one line"""', '"""', "open", "end"]
    assert entries(monkeypatch, lines, terminal=terminal) == [
        InputLine("first\n\n/new is text here\nlast", False),
        InputLine("one line", False), InputLine("open\nend", False),
    ]  # fmt: skip


def test_what_is_piped_is_one_question_up_to_a_command(monkeypatch):
    lines = ["Solve", "", "// a comment", "/usr/bin/x = 3", "/budget 5", "/new", "And", "this", "/nwe", "end", ""]
    assert entries(monkeypatch, lines) == [
        InputLine("Solve\n\n// a comment\n/usr/bin/x = 3", False), InputLine("/budget 5", True),
        InputLine("/new", True), InputLine("And\nthis", False), InputLine("/nwe", True), InputLine("end", False),
    ]  # fmt: skip
    assert entries(monkeypatch, ["", " "]) == []


def test_a_paste_in_a_terminal(tmp_path):
    """A pseudo-terminal with readline: lines one after another, and between the marks of a
    bracketed paste.
    """
    pty = pytest.importorskip("pty")
    program = (
        "import readline\nfrom qwq.chat.lines import Lines\nsource = Lines(['/quit'], terminal=True)\n"
        "while (e := source.read()).text != '/quit': print('GOT', repr(e.text), flush=True)"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-c", program],
            os.environ | {"TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    unread = b""

    def told(until: bytes) -> bytes:
        """What the terminal shows up to and with `until`; the rest waits for the next call."""
        nonlocal unread
        end = time.monotonic() + 60
        while until not in unread and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                unread += os.read(terminal, 65536)
        before, found, unread = unread.partition(until)
        assert found, before
        return before + found

    try:
        told(b"> ")
        os.write(terminal, b"one\ntwo\n\nthree")
        told(b"three")
        os.write(terminal, b"\n")
        assert b"GOT 'one\\ntwo\\n\\nthree'" in told(b"GOT") + told(b"> ")
        os.write(terminal, b"\x1b[200~a\nb\x1b[201~\n")
        assert b"GOT 'a\\nb'" in told(b"GOT") + told(b"> ")
        os.write(terminal, b"/quit\n")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


# -- commands --------------------------------------------------------------------------------------


@pytest.fixture
def spoken(engine, chat) -> Talk:
    params = SamplingParams(temperature=0.6, top_p=0.9, max_new_tokens=20)
    return Talk(conversation_of(engine, chat, params), Screen(io.StringIO()), 0, params)


def test_sampling_is_shown_and_set(spoken):
    assert "temperature          0.6" in spoken.command("/set") and spoken.command("/set top_p") == "top_p is 0.9"
    assert (
        spoken.command("/set temperature 0.2") == "temperature is 0.2"
        and spoken.command("/set top-k=5") == "top_k is 5"
    )
    assert (spoken.conversation.params.temperature, spoken.conversation.params.top_k) == (0.2, 5)
    assert spoken.command("/set temperature off") == "temperature is 0.6"
    for line, words in (
        ("/set temprature 1", "did you mean 'temperature'"),
        ("/set top_p x", "give a number"),
        ("/set top_p 3", "out of range"),
        ("/set top_k 1.5", "whole number"),
    ):
        with pytest.raises(ConfigError, match=words):
            spoken.command(line)
    assert "did you mean '/budget'" in spoken.command("/buget 3") and "a number of tokens" in spoken.command(
        "/budget x"
    )


def test_a_system_message_stands_first_and_stays(spoken, monkeypatch):
    prompts: list[list[int]] = []
    scripted(monkeypatch, ["</think>\nyes"] * 3, prompts)
    assert "in which the model is told this first" in spoken.command("/system be brief")
    spoken.ask("hello")
    assert (
        "be brief" in spoken.conversation.chat.tokenizer.decode(prompts[0]) and spoken.command("/system") == "be brief"
    )
    spoken.command("/new")
    spoken.ask("hello")
    assert prompts[1] == prompts[0]
    spoken.command("/system off")
    spoken.ask("hello")
    assert "be brief" not in spoken.conversation.chat.tokenizer.decode(prompts[2])


def test_files_go_with_the_next_question(spoken, monkeypatch, tmp_path):
    scripted(monkeypatch, ["</think>\nyes"] * 2, [])
    (tmp_path / "n.py").write_text("print(3)")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    assert "goes with the next question" in spoken.command(f"/file {tmp_path / 'n.py'}")
    spoken.ask("what is this?")
    spoken.ask("and?")
    assert [m.content for m in spoken.conversation.messages if m.role == "user"] == [
        "File `n.py`:\n```py\nprint(3)\n```\n\nwhat is this?",
        "and?",
    ]
    for path, words in (
        ("", "needs a path"),
        (str(tmp_path / "none"), "give a file that is there"),
        (str(tmp_path / "b"), "no text in UTF-8"),
        (str(tmp_path), "directory"),
    ):
        with pytest.raises(DataError, match=words):
            spoken.command(f"/file {path}")


def test_a_conversation_is_written_and_never_over_another(spoken, monkeypatch, tmp_path):
    scripted(monkeypatch, ["so\n</think>\nyes"], [])
    spoken.conversation.begin("be brief")
    spoken.ask("hello")
    assert spoken.command(f"/save {tmp_path / 'a.json'}").startswith("3 messages")
    kept = json.loads((tmp_path / "a.json").read_text())["messages"]
    assert [m["role"] for m in kept] == ["system", "user", "assistant"] and kept[1]["content"] == "hello"
    spoken.command(f"/save {tmp_path / 'a.md'}")
    text = (tmp_path / "a.md").read_text()
    assert (
        text == as_markdown(spoken.conversation)
        and "## User\n\nhello" in text
        and "<details><summary>Thinking</summary>\n\nso\n\n</details>\n\nyes" in text
    )
    with pytest.raises(DataError, match="there already"):
        spoken.command(f"/save {tmp_path / 'a.md'}")


def test_an_answer_again_after_files_and_errors(spoken, monkeypatch):
    prompts: list[list[int]] = []
    scripted(monkeypatch, ["</think>\nyes", "</think>\nno"], prompts)
    assert spoken.command("/retry") == "nothing to answer again yet"
    spoken.ask("hello")
    spoken.command("/retry")
    assert prompts[0] == prompts[1] and len(spoken.conversation.messages) == 2 and spoken.seed == 1


def test_a_call_at_the_end_of_an_open_thinking_is_answered(engine, chat, monkeypatch):
    conversation, prompts = conversation_of(engine, chat, SamplingParams(), tools=True), []
    conversation.policy.context = None  # the script needs no room
    call = '<think>so <tool_call>\n{"name": "calculator", "arguments": {"expression": "2*3"}}\n</tool_call>'
    scripted(monkeypatch, [call, "</think>\n6"], prompts)
    assert conversation.ask("2 times 3?", 0, lambda *_: None).answer == "6" and conversation.messages[2].content == "6"
