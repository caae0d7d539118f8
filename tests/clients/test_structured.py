"""instructor in its modes, llama-index and dspy, unmodified: chat, stream, structured output,
tools, a second turn.
"""

from __future__ import annotations

import pytest

pydantic = pytest.importorskip("pydantic")


class City(pydantic.BaseModel):
    city: str
    size: int


ASK = [{"role": "user", "content": "a json city"}]
MODES = (
    "TOOLS", "TOOLS_STRICT", "JSON", "MD_JSON", "JSON_SCHEMA", "PARALLEL_TOOLS", "RESPONSES_TOOLS", "JSON_O1",
)  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_instructor(base_url: str, mode: str) -> None:
    instructor, openai = pytest.importorskip("instructor"), pytest.importorskip("openai")
    if not hasattr(instructor.Mode, mode):
        pytest.skip(f"this instructor has no mode {mode}")
    client = instructor.from_openai(openai.OpenAI(base_url=base_url, api_key="x"), mode=getattr(instructor.Mode, mode))
    create = client.chat.completions.create
    if mode == "PARALLEL_TOOLS":
        from collections.abc import Iterable

        (made,) = create(model="scripted", response_model=Iterable[City], messages=ASK)
    else:
        made = create(model="scripted", response_model=City, messages=ASK)
    assert made.model_dump() == {"city": "Paris", "size": 3}


def test_instructor_streams_partial_objects(base_url: str) -> None:
    instructor, openai = pytest.importorskip("instructor"), pytest.importorskip("openai")
    client = instructor.from_openai(openai.OpenAI(base_url=base_url, api_key="x"))
    parts = list(client.chat.completions.create_partial(model="scripted", response_model=City, messages=ASK))
    assert parts[-1].city == "Paris" and parts[-1].size == 3


@pytest.fixture
def llama(base_url: str):
    like = pytest.importorskip("llama_index.llms.openai_like")
    return like.OpenAILike(
        model="scripted",
        api_base=base_url,
        api_key="x",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=2048,
    )


def test_llama_index_chats_and_streams(llama) -> None:
    from llama_index.core.llms import ChatMessage

    assert llama.complete("hello").text == "Hello, wörld!"
    first = llama.chat([ChatMessage(role="user", content="hello")])
    again = llama.chat(
        [ChatMessage(role="user", content="hello"), first.message, ChatMessage(role="user", content="x")]
    )
    assert first.message.content == again.message.content == "Hello, wörld!"
    assert "".join(c.delta for c in llama.stream_chat([ChatMessage(role="user", content="hello")])) == "Hello, wörld!"


def test_llama_index_structured_output_and_tools(llama) -> None:
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool

    assert llama.structured_predict(City, PromptTemplate("a json city")) == City(city="Paris", size=3)

    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    answer = llama.predict_and_call([FunctionTool.from_defaults(add)], "add 3 and 4")
    assert str(answer) == "7"


@pytest.mark.parametrize("adapter", ["ChatAdapter", "JSONAdapter"])
def test_dspy(base_url: str, adapter: str) -> None:
    dspy = pytest.importorskip("dspy")
    model = dspy.LM("openai/scripted", api_base=base_url, api_key="x", max_tokens=200, temperature=0, cache=False)
    with dspy.context(lm=model, adapter=getattr(dspy, adapter)()):
        assert dspy.Predict("question -> answer: int")(question="dspy: what is 2 + 2?").answer == 4
