"""Several models under one address, one in memory at a time."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("llguidance")

import scripted
from little import Served, make_model

from qwq.errors import ModelError
from qwq.serve.catalogue import ModelCard
from qwq.serve.engine_thread import EngineRunner
from qwq.serve.model_turns import ModelEntry
from qwq.serve.options import ServeOptions
from qwq.serve.switch import ModelSwitch


class Models:
    """Scripted models that say their names, and what was loaded when.

    `held`: how many are in memory now.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        self.loads: list[str] = []
        self.held = self.most = 0
        self.broken: dict[str, Exception] = {}
        self.step_s = step_s

    def entry(self, *names: str, open: Callable[[], scripted.LoadedModel] | None = None) -> ModelEntry:
        """The second model's template knows no tools, and its context is half as long."""
        return ModelEntry(ModelCard.of(names, self.made(names[0])), open or (lambda: self.open(names[0])))

    def made(self, name: str) -> scripted.LoadedModel:
        chat = scripted.chat_format(
            scripted.OPENING
            if name == "one"
            else scripted.OPENING.replace("if tools", "if nothing").replace("in tools", "in nothing")
        )

        def reply(prompt: str) -> str:
            return "</think>" + (f"{name} says " * 300 if "long" in prompt else f"I am {name}")

        return scripted.opened(chat, scripted.Script(chat, reply, self.step_s), max_len=1024 if name == "one" else 512)

    def open(self, name: str) -> scripted.LoadedModel:
        if name in self.broken:
            raise self.broken[name]
        made = self.made(name)
        backend = made.engine.backend
        backend.close = self.close  # type: ignore[attr-defined]
        self.loads.append(name)
        self.held += 1
        self.most = max(self.most, self.held)
        return made

    def close(self) -> None:
        self.held -= 1


def serve(models: Models, **options) -> ModelSwitch:
    return ModelSwitch(
        [models.entry("one", "uno"), models.entry("two")], ServeOptions(served_model_name=("one", "uno"), **options)
    )


def ask(client: httpx2.Client, model: str | None, text: str = "x", **more) -> httpx2.Response:
    return client.post(
        "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": text}], **({} if model is None else {"model": model}), **more},
    )


def ask_and_leave(client: httpx2.Client, model: str, after_s: float) -> None:
    with pytest.raises(httpx2.TimeoutException):
        client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "x"}], "model": model},
            timeout=after_s,
        )


def said(made: httpx2.Response) -> str:
    assert made.status_code == 200, made.text
    return made.json()["choices"][0]["message"]["content"]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def client(models: Models) -> Iterator[httpx2.Client]:
    with scripted.serving(serve(models).guarded()) as url, httpx2.Client(base_url=url, timeout=60) as made:
        yield made
    assert models.held == 0


def test_each_request_is_answered_by_the_model_that_it_names(client: httpx2.Client, models: Models) -> None:
    assert models.loads == ["one"]
    assert [said(ask(client, name)) for name in ("one", "two", "two", None, "uno", None)] == [
        "I am one",
        "I am two",
        "I am two",
        "I am two",
        "I am one",
        "I am one",
    ]
    assert models.loads == ["one", "two", "one"] and models.most == 1
    two = client.post(
        "/v1/messages", json={"model": "two", "max_tokens": 50, "messages": [{"role": "user", "content": "x"}]}
    ).json()
    assert two["content"][0]["text"] == "I am two" and two["model"] == "two"
    assert (
        client.post(
            "/api/chat", json={"model": "one:latest", "messages": [{"role": "user", "content": "x"}], "stream": False}
        ).json()["message"]["content"]
        == "I am one"
    )
    assert said(ask(client, "two")) == "I am two" and models.most == 1


def test_lists_name_all_of_them_and_load_none(client: httpx2.Client, models: Models) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert (
        [m["id"] for m in listed] == ["one", "uno", "two"]
        and listed[0]["max_model_len"] == 1024
        and listed[2]["max_model_len"] == 512
    )
    assert [m["name"] for m in client.get("/api/tags").json()["models"]] == ["one", "uno", "two"]
    assert (
        client.get("/v1/models/two").json()["id"] == "two"
        and client.post("/api/show", json={"model": "two"}).status_code == 200
    )
    assert (
        client.get("/health").status_code == 200
        and client.get("/metrics").status_code == 200
        and models.loads == ["one"]
    )
    shown = [client.post("/api/show", json={"model": name}).json() for name in ("one:latest", "two")]
    assert ["tools" in s["capabilities"] for s in shown] == [True, False] and [s["modelfile"] for s in shown] == [
        "FROM one\n",
        "FROM two\n",
    ]
    assert [max(v for k, v in s["model_info"].items() if "context_length" in k) for s in shown] == [1024, 512]
    # `:latest` is Ollama's alone.
    assert ask(client, "two:latest").status_code == 404 and models.loads == ["one"]
    unknown = ask(client, "three")
    assert (
        unknown.status_code == 404
        and all(n in unknown.json()["error"]["message"] for n in ("'one'", "'two'"))
        and models.loads == ["one"]
    )
    assert (
        client.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}).status_code
        == 400
    )


def test_answers_under_way_end_before_their_model_is_let_go() -> None:
    models = Models(0.002)
    with scripted.serving(serve(models).guarded()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        answers: dict[int, str] = {}

        def go(number: int, name: str, text: str, **more) -> None:
            answers[number] = said(ask(client, name, text, **more))

        threads = [threading.Thread(target=go, args=(0, "one", "long"), kwargs={"max_tokens": 200})]
        threads += [threading.Thread(target=go, args=(i, ("two", "one")[i % 2], "x")) for i in range(1, 7)]
        for t in threads:
            t.start()
            time.sleep(0.03)
        for t in threads:
            t.join()
        assert answers[0].startswith("one says one says") and len(answers[0]) > 150
        assert [answers[i] for i in range(1, 7)] == [
            f"I am {('two', 'one')[i % 2]}" for i in range(1, 7)
        ] and models.most == 1


def test_a_model_that_cannot_be_loaded_is_said_and_tried_again(
    client: httpx2.Client, models: Models, capfd: pytest.CaptureFixture[str]
) -> None:
    for error in (
        ModelError("/secret/path has no weights"),
        RuntimeError("/secret/path: out of memory"),
        MemoryError("/secret/path"),
    ):
        models.broken["two"] = error
        refused = ask(client, "two")
        assert (
            refused.status_code == 503
            and "'two' cannot be loaded" in refused.json()["error"]["message"]
            and "secret" not in refused.text
        )
        assert "/secret/path" in capfd.readouterr().err and models.held == 0
    # Nothing is loaded now, and lists load nothing.
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["one", "uno", "two"] and client.get(
        "/health"
    ).json() == {"status": "ok"}
    assert (
        client.get("/api/ps").json() == {"models": []}
        and client.get("/metrics").status_code == 200
        and models.loads == ["one"]
    )
    assert ask(client, "three").status_code == 404 and models.loads == ["one"]
    assert said(ask(client, "one")) == "I am one"
    models.broken.clear()
    assert said(ask(client, "two")) == "I am two"


def test_health_and_lists_do_not_wait_for_a_model(models: Models) -> None:
    gate = threading.Event()
    slow = models.entry("two", open=lambda: (gate.wait(20), models.open("two"))[1])
    switch = ModelSwitch([models.entry("one"), slow], ServeOptions(served_model_name=("one",)))
    with scripted.serving(switch.guarded()) as url, httpx2.Client(base_url=url, timeout=30) as client:
        waiting = threading.Thread(target=lambda: ask(client, "two"))
        waiting.start()
        time.sleep(0.3)
        assert client.get("/health", timeout=2).json() == {"status": "ok", "loading": True}
        assert [m["id"] for m in client.get("/v1/models", timeout=2).json()["data"]] == ["one", "two"]
        assert (
            client.get("/metrics", timeout=2).status_code == 200
            and client.get("/api/tags", timeout=2).status_code == 200
        )
        gate.set()
        waiting.join()
        assert (
            client.get("/health").json() == {"status": "ok"}
            and client.get("/v1/models").json()["data"][0]["id"] == "two"
        )


def test_a_client_that_leaves_the_queue_loads_nothing() -> None:
    models = Models(0.02)
    with scripted.serving(serve(models).guarded()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        long = threading.Thread(target=lambda: ask(client, "one", "long", max_tokens=60))
        long.start()
        time.sleep(0.2)
        ask_and_leave(client, "two", 0.1)
        long.join()
        assert said(ask(client, "one")) == "I am one" and models.loads == ["one"]


def test_a_load_whose_client_has_gone_is_finished_and_blocks_nobody(models: Models) -> None:
    gate = threading.Event()
    slow = models.entry("two", open=lambda: (gate.wait(20), models.open("two"))[1])
    with scripted.serving(
        ModelSwitch([models.entry("one"), slow], ServeOptions(served_model_name=("one",))).guarded()
    ) as url:
        with httpx2.Client(base_url=url, timeout=60) as client:
            ask_and_leave(client, "two", 0.3)
            talk = client.post("/api/conversations", json={"system": "", "settings": {}}).json()["id"]
            body = {"parent": None, "messages": [{"role": "user", "content": "x", "attachments": []}]}
            answer = client.post(f"/api/conversations/{talk}/generate", json=body).json()["answer"]["id"]
            time.sleep(0.2)
            assert client.post(f"/api/messages/{answer}/stop", timeout=2).status_code == 200
            assert client.get("/health", timeout=2).json() == {"status": "ok", "loading": True}
            gate.set()
            assert said(ask(client, "one")) == "I am one" and models.loads == ["one", "two", "one"] and models.most == 1


def test_a_model_that_is_still_computing_is_not_freed(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread outlives the time that its end is waited for: a long step whose client has
    gone.
    """
    monkeypatch.setattr(EngineRunner, "stop", lambda runner: runner._inbox.put(None))
    models.step_s = 0.8
    freed_while_alive: list[bool] = []
    switch = serve(models)
    with scripted.serving(switch.guarded()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        assert switch.turns.core is not None
        runner, close = switch.turns.core.runner, models.close
        switch.turns.core.loaded.engine.backend.close = lambda: (freed_while_alive.append(runner.alive), close())  # type: ignore[attr-defined]
        ask_and_leave(client, "one", 0.3)
        models.step_s = 0.0
        assert said(ask(client, "two")) == "I am two" and freed_while_alive == [False]


def test_too_many_that_wait_are_refused(models: Models) -> None:
    gate = threading.Event()
    slow = models.entry("two", open=lambda: (gate.wait(20), models.open("two"))[1])
    switch = ModelSwitch([models.entry("one"), slow], ServeOptions(served_model_name=("one",), max_waiting=2))
    with scripted.serving(switch.guarded()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        waiting = [threading.Thread(target=ask, args=(client, "two")) for _ in range(2)]
        for t in waiting:
            t.start()
        time.sleep(0.3)
        refused = ask(client, "one")
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "queue_full"
        gate.set()
        for t in waiting:
            t.join()
        assert said(ask(client, "one")) == "I am one"


def test_a_server_that_ends_loads_no_more() -> None:
    models = Models(0.01)
    switch = serve(models)
    statuses: dict[str, int] = {}
    with scripted.serving(switch.guarded()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        threads = [
            threading.Thread(target=lambda n=n: statuses.update({n: ask(client, n, "long").status_code}))
            for n in ("one", "two")
        ]
        for t in threads:
            t.start()
            time.sleep(0.2)
        switch.abort_all()
        for t in threads:
            t.join()
    assert statuses == {"one": 500, "two": 503} and models.loads == ["one"] and models.held == 0


def test_the_name_is_read_as_the_application_reads_it(client: httpx2.Client, models: Models) -> None:
    body = '{"model": "two", "messages": [{"role": "user", "content": "x"}]}'.encode("utf-16")
    made = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert said(made) == "I am two"
    made = client.post("/apply-template", json={"model": "one", "messages": [{"role": "user", "content": "x"}]})
    assert made.status_code == 200 and models.loads == ["one", "two", "one"]


def test_counts_of_a_model_stay_while_another_is_loaded(client: httpx2.Client) -> None:
    def counts(key: str) -> dict[str, float]:
        found = re.findall(rf'^vllm:{key}{{.*model_name="(\w+)".*}} (\S+)$', client.get("/metrics").text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    for name in ("one", "two", "one"):
        assert said(ask(client, name)) == f"I am {name}"
    first, ended, running = (
        counts("generation_tokens_total"),
        counts("request_success_total"),
        counts("num_requests_running"),
    )
    assert first["one"] == 2 * first["two"] > 0 and ended == {"one": 2, "two": 1} and running == {"one": 0}


def test_responses_go_on_whichever_model_answers(client: httpx2.Client) -> None:
    first = client.post("/v1/responses", json={"model": "one", "input": "x"}).json()
    second = client.post(
        "/v1/responses", json={"model": "two", "input": "y", "previous_response_id": first["id"]}
    ).json()
    assert (
        second["output"][-1]["content"][0]["text"] == "I am two"
        and client.get(f"/v1/responses/{first['id']}").status_code == 200
    )


def test_keys_come_before_models(models: Models) -> None:
    with (
        scripted.serving(serve(models, api_key=("k",), max_request_mib=1, root_path="/qwq").guarded()) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        assert ask(client, "two").status_code == 401 and models.loads == ["one"]
        client.headers["authorization"] = "Bearer k"
        assert ask(client, "two", "x" * (1 << 20)).status_code == 413
        chunked = client.post(
            "/v1/completions",
            content=iter([b'{"model": "two", "prompt": "', b"x" * (1 << 20), b'"}']),
            headers={"content-type": "application/json"},
        )
        assert chunked.status_code == 413 and models.loads == ["one"]
        assert client.post(
            "/qwq/v1/chat/completions", json={"model": "two", "messages": [{"role": "user", "content": "x"}]}
        ).status_code == 200 and models.loads == ["one", "two"]


def test_the_page_talks_to_the_model_that_is_loaded(models: Models) -> None:
    with scripted.serving(serve(models).guarded()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        assert client.get("/").status_code == 200
        talk = client.post("/api/conversations", json={"system": "", "settings": {}}).json()["id"]
        for name in ("one", "two"):
            assert said(ask(client, name)) == f"I am {name}"
            made = client.post(
                f"/api/conversations/{talk}/generate",
                json={"parent": None, "messages": [{"role": "user", "content": "x", "attachments": []}]},
            ).json()
            end = time.monotonic() + 10
            while time.monotonic() < end:
                kept = next(
                    m
                    for m in client.get(f"/api/conversations/{talk}").json()["messages"]
                    if m["id"] == made["answer"]["id"]
                )
                if kept["state"] == "complete":
                    break
                time.sleep(0.05)
            assert kept["content"] == f"I am {name}"


def test_the_command_with_two_models(tmp_path: Path) -> None:
    one, two = make_model(tmp_path / "one"), make_model(tmp_path / "two")
    bare = make_model(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    # What cannot be served is found before the first model is loaded.
    for options, words in (
        ((f"zwei={tmp_path / 'none'}",), "none"),
        ((f"zwei={bare}",), "no weights in"),
        ((str(two), "--max-model-len", "600"), "2 to 512 tokens"),
    ):
        with pytest.raises(AssertionError, match=words) as refused:
            Served(one, *options)
        assert "loading" not in str(refused.value)
    server = Served(one, f"zwei={two}", "--no-page")
    try:
        before = server.client.get("/v1/models").json()["data"]
        assert [m["id"] for m in before] == ["one", "zwei"] and before[1]["max_model_len"] == 512
        shown = server.post("/api/show", model="zwei").json()
        for name in ("zwei", "one"):
            assert server.post("/v1/completions", model=name, prompt="x", max_tokens=3).json()["model"] == name
            # A list says of a model the same whether it is loaded or not.
            after = {m["id"]: m for m in server.client.get("/v1/models").json()["data"]}
            assert after == {m["id"]: m for m in before} and server.post("/api/show", model="zwei").json() == shown
    finally:
        assert server.stop() == 0


def streamed(url: str, path: str, **fields: object) -> list[str]:
    body = {"model": "two", "stream": True, "max_tokens": 50, "messages": [{"role": "user", "content": "x"}]} | fields
    with httpx2.stream("POST", url + path, json=body, timeout=60) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        return [line for line in answer.iter_lines() if line]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_stream_is_kept_open_while_its_model_loads(
    models: Models, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("qwq.serve.sse.QUIET_S", 0.1)
    slow = models.entry("two", open=lambda: (time.sleep(0.5), models.open("two"))[1])
    switch = ModelSwitch([models.entry("one"), slow], ServeOptions(served_model_name=("one",)))
    with scripted.serving(switch.guarded()) as url:
        lines = streamed(url, path)
        assert lines[:2] == [": still at work"] * 2
        events = [line for line in lines if not line.startswith(":")]
        assert events[0].startswith("data: {" if "chat" in path else "event: message_start")
        assert "two" in "".join(events)
        # What is wrong with a request is said when its model is there, and then the status has been
        # sent.
        with httpx2.Client(base_url=url, timeout=60) as client:
            ask(client, "one")
        lines = [line for line in streamed(url, path, temperature=-1) if not line.startswith(":")]
        assert "temperature" in lines[-2 if "chat" in path else -1]
        assert lines[-1] == "data: [DONE]" if "chat" in path else lines[0] == "event: error"


def test_a_stream_whose_model_cannot_be_loaded_ends_with_the_error(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwq.serve.sse.QUIET_S", 0.1)

    def fail() -> scripted.LoadedModel:
        time.sleep(0.3)
        raise ModelError("weights are damaged")

    switch = ModelSwitch(
        [models.entry("one"), models.entry("two", open=fail)], ServeOptions(served_model_name=("one",))
    )
    with scripted.serving(switch.guarded()) as url:
        lines = streamed(url, "/v1/chat/completions")
        assert lines[0].startswith(":") and "cannot be loaded" in lines[-2] and lines[-1] == "data: [DONE]"


def test_a_conversation_of_the_page_goes_to_the_model_that_it_names(models: Models) -> None:
    with scripted.serving(serve(models).guarded()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        assert [m["sampling"] for m in client.get("/v1/models").json()["data"]] == [{"temperature": 0.0}] * 3
        question = {"parent": None, "messages": [{"role": "user", "content": "x"}]}
        for name, words in (("two", "I am two"), ("three", "'three' is not served here")):
            talk = client.post("/api/conversations", json={"settings": {"model": name}}).json()["id"]
            answer = client.post(f"/api/conversations/{talk}/generate", json=question).json()["answer"]["id"]
            with client.stream("GET", f"/api/messages/{answer}/events") as events:
                assert words in "".join(events.iter_text())
        assert models.loads == ["one", "two"]
