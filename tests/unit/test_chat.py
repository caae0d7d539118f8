"""`qwq chat`: it samples what the engine samples, keeps the sampled tokens as history, and answers the calculator."""

from __future__ import annotations

import io

import pytest
import torch

from qwq.chat import Conversation, Screen, _talk, resume, save
from qwq.engine.engine import Engine
from qwq.engine.generate import Request, generate
from qwq.engine.sampler import SamplingParams
from qwq.engine.torch_backend import TorchBackend
from qwq.errors import DataError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
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

    def turn(self, prompt, seed, show):
        text = next(waiting)
        prompts.append(list(prompt))
        show(text, False)
        chat = self.chat
        return text, [*chat.tokenizer.encode_rendered(text), chat.eos_ids[0]], True

    patch.setattr(Conversation, "_turn", turn)


@pytest.fixture
def engine(model, chat) -> Engine:
    return Engine(TorchBackend(model, kv_tokens=1024), chat.tokenizer)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_what_the_rollouts_sample(model, engine, chat, temperature):
    params = SamplingParams(temperature=temperature, max_new_tokens=30)
    prompt = chat.prompt_ids([{"role": "user", "content": "What is 2 plus 3?"}])
    ((expected,),) = generate(model, [Request(prompt, seed=5)], params, chat.eos_ids)
    shown = []
    text, ids, _ = Conversation(engine, chat, params)._turn(prompt, 5, lambda new, thinking: shown.append(new))
    assert ids == expected.ids and "".join(shown) == text
    assert chat.tokenizer.decode([i for i in ids if i not in chat.eos_ids]).startswith(text)


def test_ctrl_c_stops_the_answer_and_not_the_conversation(engine, chat, monkeypatch):
    conversation = Conversation(engine, chat, SamplingParams(max_new_tokens=60))
    steps, step = [], engine.step

    def interrupted():
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(engine, "step", interrupted)
    turn = conversation.ask("What is 2 plus 3?", 0, lambda *_: None)
    assert turn.reason is StopReason.ABORT and not turn.finished and conversation.sample.num_prompt
    assert conversation.ask("And 4?", 1, lambda *_: None).reason in (StopReason.END, StopReason.LENGTH, StopReason.CONTEXT)


def test_a_budget_ends_the_thinking(engine, chat):
    conversation = Conversation(engine, chat, SamplingParams(max_new_tokens=80), budget=5)
    conversation.ask("What is 2 plus 3?", 0, lambda *_: None)
    assert conversation.sample.num_thinking <= 5 and "</think>" in conversation.messages[-1].content


def test_a_conversation_is_saved_and_taken_up_again(engine, chat, tmp_path):
    first = Conversation(engine, chat, SamplingParams(max_new_tokens=10))
    first.ask("What is 2 plus 3?", 0, lambda *_: None)
    save(first, tmp_path / "deep" / "chat.json")
    second = Conversation(engine, chat, SamplingParams(max_new_tokens=10))
    resume(second, tmp_path / "deep" / "chat.json")
    assert second.messages == first.messages and second.ids == first.ids
    with pytest.raises(DataError, match="no conversation at .* to resume: begin one without --resume"):
        resume(second, tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="is no saved conversation: delete it"):
        resume(second, tmp_path / "broken.json")


def test_the_history_is_the_sampled_tokens(engine, chat, monkeypatch):
    conversation, prompts = Conversation(engine, chat, SamplingParams()), []
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
    conversation, prompts = Conversation(engine, forgetful, SamplingParams()), []
    scripted(monkeypatch, ["hidden\n</think>\n5", "x"], prompts)
    conversation.ask("What is 2 plus 3?", 0, lambda *_: None)
    conversation.ask("And 4?", 1, lambda *_: None)
    second = tokenizer.decode(prompts[1])
    assert "hidden" not in second and "\n5<|im_end|>" in second


def test_calculator_calls_are_answered_and_the_answer_follows(engine, chat, monkeypatch):
    conversation, prompts = Conversation(engine, chat, SamplingParams(), tools=True), []
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
    conversation, prompts = Conversation(engine, chat, SamplingParams()), []
    scripted(
        monkeypatch,
        ['</think>\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "1"}}\n</tool_call>'],
        prompts,
    )
    conversation.ask("x", 0, lambda *_: None)
    assert len(prompts) == 1


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
    assert "one" not in out.getvalue() and out.getvalue().endswith("thought for 2 tokens (/thinking shows them)\x1b[0m\nanswer\n")
    assert screen.thoughts == "onetwo</think>"


def test_commands_of_the_conversation(engine, chat, monkeypatch, capsys):
    conversation, prompts = Conversation(engine, chat, SamplingParams()), []
    scripted(monkeypatch, ["</think>\nfirst", "</think>\nsecond"], prompts)
    lines = iter(["hello", "/new", "", "/nwe", "/budget 9", "/help", "hello", "/quit", "never read"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert _talk(conversation, 0) == 0
    out, err = capsys.readouterr()
    assert prompts[0] == prompts[1]  # nothing is left of the first conversation
    assert "first" in out and "second" in out and "a new conversation" in err and "no command /nwe" in err
    assert next(lines) == "never read" and conversation.budget == 9 and "/budget N" in err


def test_a_question_that_does_not_fit_leaves_the_conversation_as_it_was(engine, chat, monkeypatch, capsys):
    conversation = Conversation(engine, chat, SamplingParams(max_new_tokens=2))
    lines = iter(["word " * 200, "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert _talk(conversation, 0) == 0
    assert conversation.messages == [] and "/new begins a new conversation" in capsys.readouterr().err
