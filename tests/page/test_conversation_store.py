"""The conversation store, files in and out, and answers that run by themselves."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from qwq.errors import ConfigError, DataError
from qwq.serve.page.assets import STATIC
from qwq.serve.page.conversation_store import NotFound, Store
from qwq.serve.page.generation import Generations
from qwq.serve.page.message_tree import (
    Attachment,
    NewMessage,
    Piece,
    Settings,
    State,
    StoredConversation,
    StoredMessage,
    StoredToolCall,
    chat_body,
)
from qwq.serve.page.routes import mount
from qwq.serve.page.transfer import from_json, from_markdown, to_json, to_markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(tmp_path / "c.sqlite")
    yield store
    store.close()


def test_a_tree_with_two_answers(store: Store) -> None:
    id = store.create().id
    (question,), first = store.begin(id, None, [NewMessage(content="Why?\nmore")])
    _, second = store.begin(id, question.id, [])
    whole = store.whole(id)
    assert whole.conversation.title == "Why?"
    assert whole.conversation.head == second.id
    assert [m.parent for m in whole.messages] == [None, question.id, question.id]
    store.change(whole.conversation.model_copy(update={"head": first.id}))
    assert store.get(id).head == first.id
    store.delete(id)
    with pytest.raises(NotFound):
        store.message(question.id)


def test_a_message_of_another_conversation_is_no_parent(store: Store) -> None:
    one, two = store.create().id, store.create().id
    (question,), _ = store.begin(one, None, [NewMessage(content="x")])
    with pytest.raises(NotFound):
        store.begin(two, question.id, [NewMessage(content="y")])


KILLED = """
import os, sys
from pathlib import Path
from qwq.serve.page.message_tree import NewMessage, Piece
from qwq.serve.page.conversation_store import Store
store = Store(Path(sys.argv[1]))
_, answer = store.begin(store.create().id, None, [NewMessage(content="q")])
for n in range(1, 101):
    store.append(answer.id, [Piece(n, "reasoning" if n <= 50 else "content", f"{n} ")])
os.kill(os.getpid(), 9)
"""


def test_kill_9_loses_no_stored_piece(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9
    store = Store(path)
    answer = store.whole(store.recent()[0].conversation.id).messages[-1]
    assert answer.state is State.INTERRUPTED
    assert answer.reasoning.split() == [str(n) for n in range(1, 51)]
    assert answer.content.split() == [str(n) for n in range(51, 101)]
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM piece").fetchone() == (0,)
    db.close()


def test_a_folder_is_kept_forked_exported_and_added_to_older_files(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    store = Store(path)
    made = store.create(StoredConversation(id="", title="a", folder="Work"))
    store.begin(made.id, None, [NewMessage(content="q")])
    store.change(store.get(made.id).model_copy(update={"folder": "Home"}))
    assert [f.conversation.folder for f in store.recent()] == ["Home"]
    whole = store.whole(made.id)
    (copy, _), = from_json(to_json([(whole.conversation, whole.messages)]))  # fmt: skip
    assert copy.folder == "Home" and store.fork(made.id, whole.messages[0].id).folder == "Home"
    store.close()
    with sqlite3.connect(path) as db:  # as version 1 wrote it
        db.execute("ALTER TABLE conversation DROP COLUMN folder")
        db.execute("PRAGMA user_version = 1")
    db.close()
    store = Store(path)
    assert store.get(made.id).folder == "" and store.get(made.id).title == "a"
    store.create(StoredConversation(id="", folder="New"))
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def test_search_takes_every_word_and_no_wildcards(store: Store) -> None:
    for text in ("the zebra runs", "100% sure", "斑马在奔跑"):
        store.begin(store.create().id, None, [NewMessage(content=text)])
    found = lambda query: [f.conversation.title for f in store.search(query)]
    assert found("RUNS zebra") == ["the zebra runs"]
    assert found("%") == ["100% sure"]
    assert found("斑马") == ["斑马在奔跑"]
    assert found("zebra sure") == [] == found("_")


def test_one_server_at_a_time_and_no_foreign_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "c.sqlite")
    with pytest.raises(ConfigError, match="another server"):
        Store(tmp_path / "c.sqlite")
    store.close()
    (tmp_path / "x").write_bytes(b"no database " * 100)
    with pytest.raises(DataError, match="not a database"):
        Store(tmp_path / "x")


def example() -> tuple[StoredConversation, list[StoredMessage]]:
    nasty = "## User\n<!-- qwq: user -->\n\\<!-- qwq: title -->\n```\ncode\n"
    call = StoredToolCall(id="c1", name="f", arguments='{"a": "```"}')
    messages = [
        StoredMessage(
            id=1,
            parent=None,
            role="user",
            content=nasty,
            attachments=[Attachment(name="a-->b.csv", text="x,y\n````\n")],
        ),
        StoredMessage(id=2, parent=1, role="assistant", content="", reasoning="so\n\n", tool_calls=[call]),
        StoredMessage(id=3, parent=2, role="tool", content="4", tool_call_id="c1"),
        StoredMessage(id=4, parent=3, role="assistant", content="four"),
    ]
    return StoredConversation(id="", title="T # 1", system="Be brief.\n", head=4), messages


def test_json_and_markdown_come_back_whole() -> None:
    pair = example()
    assert from_json(to_json([pair, pair])) == [pair, pair]
    assert from_markdown(to_markdown([pair, pair]))[0] == pair
    (conversation, messages), *_ = from_json('[{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]')
    assert (conversation.system, conversation.title, messages[0].content) == ("S", "hi", "hi")


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1]", '{"format": "qwq-conversations", "version": 2, "conversations": []}']
)
def test_what_is_no_export_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        from_json(text)
    with pytest.raises(DataError):
        from_markdown(text)


def test_the_request_of_a_path() -> None:
    conversation, messages = example()
    body = chat_body(
        conversation.model_copy(update={"settings": Settings(temperature=0.5)}), messages[:2], continues=True
    )
    assert body["temperature"] == 0.5 and body["continue_final_message"] is True and "top_p" not in body
    assert body["messages"][0] == {"role": "system", "content": "Be brief.\n"}
    assert body["messages"][1]["content"].startswith("File `a-->b.csv`:\n`````csv\nx,y\n````\n`````\n\n## User")
    assert body["messages"][2]["reasoning_content"] == "so\n\n"


def test_stop_closes_the_request_and_keeps_what_came(store: Store) -> None:
    closed = []

    async def chat(body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            while True:
                yield {"choices": [{"delta": {"content": "a"}}]}
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async def scenario() -> StoredMessage:
        id = store.create().id
        _, answer = store.begin(id, None, [NewMessage(content="q")])
        running = Generations(chat)
        running.start(store, store.whole(id), answer)
        generation = running.get(answer.id)
        assert generation is not None
        async for _ in generation.follow(0):
            if len(generation.pieces) >= 5:
                break
        await running.stop([answer.id])
        return store.message(answer.id)

    # In a thread of its own: Playwright keeps a loop of its own in the main one.
    with ThreadPoolExecutor(1) as pool:
        message = pool.submit(asyncio.run, scenario()).result()
    assert (
        closed == [True]
        and message.state is State.STOPPED
        and set(message.content) == {"a"}
        and len(message.content) >= 5
    )


def client(tmp_path: Path) -> TestClient:
    from fastapi import FastAPI

    async def chat(body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}

    app = FastAPI()
    app.state.closing = []
    mount(app, database=tmp_path / "c.sqlite", chat=chat)
    return TestClient(app, base_url="http://127.0.0.1:8000")


def test_another_sites_page_is_refused(tmp_path: Path) -> None:
    with client(tmp_path) as http:
        assert http.get("/api/conversations").status_code == 200
        assert http.get("/api/conversations", headers={"Host": "evil.example"}).status_code == 403
        assert http.post("/api/import", content="[]", headers={"Origin": "http://evil.example"}).status_code == 403
        assert http.get("/api/export", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        page = http.get("/")
        assert (
            "script-src 'self'" in page.headers["content-security-policy"]
            and "unsafe" not in page.headers["content-security-policy"]
        )


def test_the_built_page_is_that_of_the_sources() -> None:
    web = ROOT / "web"
    names = ["build.js", "package.json", "package-lock.json", *sorted(f"src/{p.name}" for p in (web / "src").iterdir())]
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode() + (web / name).read_bytes() + b"\0")
    assert (STATIC / "built-from.txt").read_text().strip() == digest.hexdigest(), "run `make page`"
    assert "resolved" not in (web / "package-lock.json").read_text(encoding="utf-8")


def test_pieces_of_calls_are_joined() -> None:
    from qwq.serve.page.message_tree import with_pieces

    pieces = [
        Piece(1, "tool", '{"index": 0, "id": "c", "name": "f", "arguments": ""}'),
        Piece(2, "tool", '{"index": 0, "arguments": "{}"}'),
    ]
    joined = with_pieces(StoredMessage(id=1, parent=None, role="assistant"), pieces)
    assert joined.tool_calls == [StoredToolCall(id="c", name="f", arguments="{}")]


def test_a_fork_has_the_messages_up_to_one_and_a_rewritten_answer_is_a_version(tmp_path: Path) -> None:
    with client(tmp_path) as http:
        talk = http.post("/api/conversations", json={"settings": {"temperature": 0.5}}).json()["id"]
        asked = {"parent": None, "messages": [{"content": "q"}]}
        answer = http.post(f"/api/conversations/{talk}/generate", json=asked).json()["answer"]["id"]
        http.get(f"/api/messages/{answer}/events")
        new = http.post(f"/api/messages/{answer}/rewrite", json={"content": "ho"}).json()
        whole = http.get(f"/api/conversations/{talk}").json()
        assert whole["head"] == new["id"] and new["parent"] == whole["messages"][1]["parent"]
        assert [m["content"] for m in whole["messages"]] == ["q", "hi", "ho"]
        fork = http.post(f"/api/conversations/{talk}/fork", json={"message": answer}).json()
        assert fork["id"] != talk and fork["settings"]["temperature"] == 0.5
        copied = http.get(f"/api/conversations/{fork['id']}").json()
        assert [m["content"] for m in copied["messages"]] == ["q", "hi"] and copied["head"] == copied["messages"][1][
            "id"
        ]
        question = whole["messages"][0]["id"]
        assert http.post(f"/api/messages/{question}/rewrite", json={"content": "x"}).status_code == 400
        assert http.post(f"/api/conversations/{talk}/fork", json={"message": 99}).status_code == 404


def test_a_temporary_conversation_is_in_no_list_and_in_no_file(tmp_path: Path) -> None:
    with client(tmp_path) as http:
        talk = http.post("/api/conversations", json={"temporary": True}).json()["id"]
        asked = {"parent": None, "messages": [{"content": "a secret"}]}
        answer = http.post(f"/api/conversations/{talk}/generate", json=asked).json()["answer"]["id"]
        assert '"done"' in http.get(f"/api/messages/{answer}/events").text
        assert [m["content"] for m in http.get(f"/api/conversations/{talk}").json()["messages"]] == ["a secret", "hi"]
        assert http.get("/api/conversations").json()["conversations"] == []
        assert http.get("/api/conversations?search=secret").json()["conversations"] == []
        assert "secret" not in http.get("/api/export?format=json").text
        fork = http.post(f"/api/conversations/{talk}/fork", json={"message": answer}).json()["id"]
        assert http.delete(f"/api/conversations/{talk}").status_code == 200
        assert http.get(f"/api/conversations/{talk}").status_code == 404
        assert http.get(f"/api/conversations/{fork}").status_code == 200
    assert b"secret" not in b"".join(f.read_bytes() for f in tmp_path.iterdir())


def test_a_search_result_shows_words_and_no_markup(store: Store) -> None:
    store.begin(store.create().id, None, [NewMessage(content="## Divisors of **360**\nSince $360$ is")])
    assert store.search("divisors")[0].snippet == "Divisors of 360 Since 360 is"
