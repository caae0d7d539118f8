"""Conversations in SQLite, written so that a killed process loses at most the token in flight.

Every streamed piece of an answer is one committed row of `piece` before anybody is shown it; when
the answer ends, one transaction writes it whole and deletes its pieces. A store that opens and
finds pieces puts them together and marks the answer as interrupted.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwq.errors import UsageError
from qwq.serve.page.database import Database
from qwq.serve.page.message_tree import (
    NewMessage,
    Piece,
    State,
    StoredConversation,
    StoredMessage,
    path_to,
    title_of,
    with_pieces,
)

SNIPPET_CHARS = 120
MARKUP = re.compile(r"[*_`#>|$\\]+")  # of Markdown and formulas, which a line of search results does not draw
TEMPORARY = "t-"  # begins the ids of temporary conversations
TEMPORARY_MESSAGES = 1 << 50  # their lowest id; a browser's numbers are whole up to 1 << 53
JSON_FIELDS = ("tool_calls", "attachments", "stats")


class NotFound(UsageError):
    """What is asked for is not in the store."""


@dataclass(frozen=True)
class Found:
    """A conversation in a list; `message` and `snippet` say where a search found it."""

    conversation: StoredConversation
    message: int | None = None
    snippet: str = ""


@dataclass(frozen=True)
class Whole:
    """A conversation with its messages in the order they were made, and the number of the last
    piece in each answer under way.
    """

    conversation: StoredConversation
    messages: list[StoredMessage]
    pieces: dict[int, int]


class Store(Database):
    """Conversations and their messages. `prefix` begins their ids."""

    def __init__(self, path: Path | None, *, prefix: str = "", first_message: int = 1) -> None:
        super().__init__(path, first_message=first_message)
        self._prefix = prefix
        self._recover()

    def _recover(self) -> None:
        rows = self._db.execute("SELECT * FROM message WHERE state = ?", (State.STREAMING,)).fetchall()
        for row in rows:
            message = with_pieces(_message(row), self._pieces(self._db, row["id"]))
            self.finish(message.model_copy(update={"state": State.INTERRUPTED}))

    # -- conversations -----------------------------------------------------------------------------

    def create(self, conversation: StoredConversation | None = None) -> StoredConversation:
        now = time.time()
        made = (conversation or StoredConversation(id="")).model_copy(
            update={"id": self._prefix + secrets.token_hex(8), "head": None, "created": now, "updated": now}
        )
        with self._write() as db:
            _insert_conversation(db, made)
        return made

    def get(self, id: str) -> StoredConversation:
        with self._read() as db:
            return _conversation(_one(db, "conversation", id))

    def whole(self, id: str) -> Whole:
        with self._read() as db:
            conversation = _conversation(_one(db, "conversation", id))
            messages, pieces = [], {}
            for row in db.execute("SELECT * FROM message WHERE conversation = ? ORDER BY id", (id,)):
                message = _message(row)
                if message.state is State.STREAMING:
                    new = self._pieces(db, message.id)
                    pieces[message.id] = len(new)
                    message = with_pieces(message, new)
                messages.append(message)
        return Whole(conversation, messages, pieces)

    def recent(self, *, limit: int = 100, before: tuple[float, str] | None = None) -> list[Found]:
        """The conversations last used first; `before` is the (updated, id) of the last one already
        known.
        """
        updated, id = before or (float("inf"), "")
        with self._read() as db:
            rows = db.execute(
                "SELECT * FROM conversation WHERE updated < ? OR (updated = ? AND id > ?) ORDER BY updated DESC, id "
                "LIMIT ?",
                (updated, updated, id, limit),
            )
            return [Found(_conversation(r)) for r in rows]

    def search(self, query: str, *, limit: int = 50) -> list[Found]:
        """Conversations with every word of the query in their title or in one message; where, for
        the latest such message.
        """
        words = query.split()[:10]
        patterns = ["%" + w.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%" for w in words]
        text = "m.content || ' ' || m.reasoning || ' ' || m.attachments"
        hit = " AND ".join([f"({text}) LIKE ? ESCAPE '\\'"] * len(words)) or "0"
        title = " AND ".join(["c.title LIKE ? ESCAPE '\\'"] * len(words)) or "0"
        with self._read() as db:
            rows = db.execute(
                f"SELECT c.*, (SELECT max(m.id) FROM message m WHERE m.conversation = c.id AND {hit}) AS hit, "
                f"({title}) AS titled FROM conversation c WHERE hit IS NOT NULL OR titled ORDER BY updated DESC, "
                "c.id LIMIT ?",
                (*patterns, *patterns, limit),
            ).fetchall()
            return [
                Found(_conversation(r), r["hit"], self._snippet(db, r["hit"], words[0]) if r["hit"] else "")
                for r in rows
            ]

    @staticmethod
    def _snippet(db: sqlite3.Connection, id: int, word: str) -> str:
        row = db.execute("SELECT content, reasoning, attachments FROM message WHERE id = ?", (id,)).fetchone()
        for text in (row["content"], row["reasoning"], *(f["text"] for f in json.loads(row["attachments"]))):
            at = text.lower().find(word.lower())
            if at >= 0:
                start = max(0, at - SNIPPET_CHARS // 3)
                cut = " ".join(MARKUP.sub("", text[start : start + SNIPPET_CHARS]).split())
                return ("…" if start else "") + cut + ("…" if start + SNIPPET_CHARS < len(text) else "")
        return ""

    def change(self, conversation: StoredConversation) -> None:
        """Write title, folder, system prompt, settings and head. It does not count as use."""
        with self._write() as db:
            _one(db, "conversation", conversation.id)
            if conversation.head is not None:
                self._belongs(db, conversation.head, conversation.id)
            db.execute(
                "UPDATE conversation SET title = ?, folder = ?, system = ?, settings = ?, head = ? WHERE id = ?",
                (
                    conversation.title,
                    conversation.folder,
                    conversation.system,
                    _settings(conversation),
                    conversation.head,
                    conversation.id,
                ),
            )

    def delete(self, id: str) -> None:
        with self._write() as db:
            _one(db, "conversation", id)
            db.execute("DELETE FROM conversation WHERE id = ?", (id,))

    def insert(self, conversations: Sequence[tuple[StoredConversation, Sequence[StoredMessage]]]) -> list[str]:
        """Imported conversations under new ids, all or none; parents come before their children."""
        ids = []
        with self._write() as db:
            for conversation, messages in conversations:
                # Formats without times come in as used now.
                times = {k: getattr(conversation, k) or time.time() for k in ("created", "updated")}
                new = conversation.model_copy(update={"id": self._prefix + secrets.token_hex(8), "head": None, **times})
                _insert_conversation(db, new)
                known: dict[int, int] = {}
                for m in messages:
                    parent = None if m.parent is None else known[m.parent]
                    state = State.INTERRUPTED if m.state is State.STREAMING else m.state
                    known[m.id] = _insert_message(db, new.id, m.model_copy(update={"parent": parent, "state": state}))
                head = None if conversation.head is None else known[conversation.head]
                db.execute("UPDATE conversation SET head = ? WHERE id = ?", (head, new.id))
                ids.append(new.id)
        return ids

    def fork(self, id: str, message: int) -> StoredConversation:
        """A new conversation with the messages up to `message`."""
        whole = self.whole(id)
        if all(m.id != message for m in whole.messages):
            raise NotFound(f"message {message} is not in conversation {id}: load the conversation again")
        path = path_to(whole.messages, message)
        title = f"{whole.conversation.title} (fork)" if whole.conversation.title else ""
        now = {"created": 0.0, "updated": 0.0}
        copy = whole.conversation.model_copy(update={"title": title, "head": message, **now})
        return self.get(self.insert([(copy, path)])[0])

    # -- messages ----------------------------------------------------------------------------------

    def message(self, id: int) -> StoredMessage:
        with self._read() as db:
            return _message(_one(db, "message", id))

    def begin(
        self, conversation: str, parent: int | None, new: Sequence[NewMessage]
    ) -> tuple[list[StoredMessage], StoredMessage]:
        """Add what the user says and an empty answer after it, in one step; the answer becomes the
        head.
        """
        now = time.time()
        added: list[StoredMessage] = []
        with self._write() as db:
            row = _one(db, "conversation", conversation)
            if parent is not None:
                self._belongs(db, parent, conversation)
            for m in new:
                message = StoredMessage(id=0, parent=parent, created=now, **dict(m))
                parent = _insert_message(db, conversation, message)
                added.append(message.model_copy(update={"id": parent}))
            answer = StoredMessage(id=0, parent=parent, role="assistant", state=State.STREAMING, created=now)
            answer = answer.model_copy(update={"id": _insert_message(db, conversation, answer)})
            title = row["title"] or (title_of(added[0].content or added[0].attachments[0].name) if added else "")
            db.execute(
                "UPDATE conversation SET head = ?, updated = ?, title = ? WHERE id = ?",
                (answer.id, now, title, conversation),
            )
        return added, answer

    def rewrite(self, id: int, content: str) -> StoredMessage:
        """Another version of an answer, in the user's words, becomes the head.

        Its thinking stays.
        """
        with self._write() as db:
            row = _one(db, "message", id)
            answer = _message(row)
            if answer.role != "assistant" or answer.tool_calls or answer.state is State.STREAMING:
                raise UsageError(f"message {id} is not a finished answer without tool calls: it cannot be edited")
            now = time.time()
            new = answer.model_copy(update={"content": content, "state": State.COMPLETE, "error": None, "created": now})
            new = new.model_copy(update={"id": _insert_message(db, row["conversation"], new)})
            db.execute("UPDATE conversation SET head = ?, updated = ? WHERE id = ?", (new.id, now, row["conversation"]))
        return new

    def begin_again(self, message: StoredMessage) -> None:
        """Let a stored answer be continued."""
        with self._write() as db:
            row = _one(db, "message", message.id)
            db.execute("UPDATE message SET state = ?, error = NULL WHERE id = ?", (State.STREAMING, message.id))
            db.execute(
                "UPDATE conversation SET head = ?, updated = ? WHERE id = ?",
                (message.id, time.time(), row["conversation"]),
            )

    def append(self, message: int, pieces: Iterable[Piece]) -> None:
        with self._write() as db:
            db.executemany("INSERT INTO piece VALUES (?, ?, ?, ?)", [(message, *p) for p in pieces])

    def finish(self, message: StoredMessage) -> None:
        """Store an answer whole. One that was deleted meanwhile stays deleted."""
        with self._write() as db:
            row = _row(message)
            sets = ", ".join(f"{k} = :{k}" for k in row if k not in ("parent", "created"))
            db.execute(f"UPDATE message SET {sets} WHERE id = :id", row | {"id": message.id})
            db.execute("DELETE FROM piece WHERE message = ?", (message.id,))

    @staticmethod
    def _pieces(db: sqlite3.Connection, message: int) -> list[Piece]:
        rows = db.execute("SELECT number, kind, text FROM piece WHERE message = ? ORDER BY number", (message,))
        return [Piece(*r) for r in rows]

    @staticmethod
    def _belongs(db: sqlite3.Connection, message: int, conversation: str) -> None:
        if _one(db, "message", message)["conversation"] != conversation:
            raise NotFound(f"message {message} is not in conversation {conversation}: load the conversation again")


class Stores:
    """The store that is kept, and the one of temporary conversations, which are in no list, no
    search and no export.
    """

    def __init__(self, path: Path | None) -> None:
        self.kept = Store(path)
        self.temporary = Store(None, prefix=TEMPORARY, first_message=TEMPORARY_MESSAGES)

    def of(self, id: str | int) -> Store:
        """The store of a conversation or of a message."""
        temporary = id.startswith(TEMPORARY) if isinstance(id, str) else id >= TEMPORARY_MESSAGES
        return self.temporary if temporary else self.kept

    def close(self) -> None:
        self.kept.close()
        self.temporary.close()


def _one(db: sqlite3.Connection, table: str, id: str | int) -> sqlite3.Row:
    row = db.execute(f"SELECT * FROM {table} WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no {table} {id}: it may have been deleted in another window")
    return row


def _conversation(row: sqlite3.Row) -> StoredConversation:
    return StoredConversation(
        **{k: row[k] for k in StoredConversation.model_fields if k != "settings"}, settings=json.loads(row["settings"])
    )


def _settings(conversation: StoredConversation) -> str:
    return conversation.settings.model_dump_json(exclude_none=True)


def _insert_conversation(db: sqlite3.Connection, c: StoredConversation) -> None:
    row = (c.id, c.title, c.system, _settings(c), c.head, c.created, c.updated, c.folder)
    db.execute("INSERT INTO conversation VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _message(row: sqlite3.Row) -> StoredMessage:
    values = {k: json.loads(row[k]) if k in JSON_FIELDS else row[k] for k in StoredMessage.model_fields}
    return StoredMessage(**values)


def _row(m: StoredMessage) -> dict[str, object]:
    values = m.model_dump(exclude={"id"}, exclude_none=False, mode="json")
    return {k: json.dumps(v, ensure_ascii=False) if k in JSON_FIELDS else v for k, v in values.items()}


def _insert_message(db: sqlite3.Connection, conversation: str, m: StoredMessage) -> int:
    row = _row(m) | {"conversation": conversation}
    cursor = db.execute(f"INSERT INTO message ({', '.join(row)}) VALUES ({', '.join(':' + k for k in row)})", row)
    assert cursor.lastrowid is not None
    return cursor.lastrowid
