"""The file of conversations: one SQLite database that one process holds, its tables, and how it is
read and written.

WAL mode: readers do not wait for the writer. A commit reaches the operating system, not the disk
(synchronous=NORMAL): a power cut may lose the last moments, but never damages the file.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from qwq.common.files import hold
from qwq.errors import ConfigError, DataError, InfraError

VERSION = 2
SCHEMA = """
CREATE TABLE conversation (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, system TEXT NOT NULL, settings TEXT NOT NULL, head INTEGER,
    created REAL NOT NULL, updated REAL NOT NULL, folder TEXT NOT NULL DEFAULT ''
);
CREATE INDEX conversation_updated ON conversation (updated DESC, id);
CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversation ON DELETE CASCADE,
    parent INTEGER REFERENCES message ON DELETE CASCADE,
    role TEXT NOT NULL, content TEXT NOT NULL, reasoning TEXT NOT NULL, tool_calls TEXT NOT NULL, tool_call_id TEXT,
    attachments TEXT NOT NULL, state TEXT NOT NULL, error TEXT, stats TEXT NOT NULL, created REAL NOT NULL
);
CREATE INDEX message_conversation ON message (conversation);
CREATE INDEX message_parent ON message (parent);
CREATE TABLE piece (
    message INTEGER NOT NULL REFERENCES message ON DELETE CASCADE, number INTEGER NOT NULL, kind TEXT NOT NULL,
    text TEXT NOT NULL, PRIMARY KEY (message, number)
) WITHOUT ROWID;
"""


class Database:
    """An SQLite file that one process holds.

    With no path, a temporary one that goes when it is closed.
    """

    def __init__(self, path: Path | None, *, first_message: int = 1) -> None:
        """`first_message`: the lowest id of a message."""
        self._folder = tempfile.TemporaryDirectory(prefix="qwq-page-") if path is None else None
        if self._folder is not None:
            path = Path(self._folder.name) / "conversations.sqlite"
        assert path is not None
        self.path = path
        self._held = self._hold(self.path)
        self._lock = threading.Lock()
        try:
            self._db = self._connect()
            self._migrate(first_message)
        except sqlite3.DatabaseError as error:
            os.close(self._held)
            raise DataError(
                f"{self.path}: not a database of conversations ({error}): give another --conversations"
            ) from None

    @staticmethod
    def _hold(path: Path) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            busy = f"another server keeps its conversations in {path}: stop it or give another --conversations"
            held = hold(Path(f"{path}.lock"), busy, mode=0o600)
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # what people ask is theirs alone
        except OSError as error:
            raise ConfigError(
                f"cannot write conversations to {path} ({error.strerror}): give another --conversations"
            ) from None
        return held

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def _migrate(self, first_message: int) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise DataError(
                f"{self.path}: written by a newer qwq (format {version}, this one knows {VERSION}): update qwq"
            )
        if version == 0:
            first = f"INSERT INTO sqlite_sequence VALUES ('message', {first_message - 1});"
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {first} PRAGMA user_version={VERSION}; COMMIT;")
        elif version < 2:
            folder = "ALTER TABLE conversation ADD COLUMN folder TEXT NOT NULL DEFAULT '';"
            self._db.executescript(f"BEGIN IMMEDIATE; {folder} PRAGMA user_version=2; COMMIT;")

    def close(self) -> None:
        with self._lock:
            self._db.close()
        os.close(self._held)
        if self._folder:
            self._folder.cleanup()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise InfraError(
                    f"cannot write the conversations ({error}): make room or give another --conversations"
                ) from None

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        # A connection of its own, so that a long search holds up nobody; opening one takes 0.1 ms.
        with closing(self._connect()) as db:
            db.execute("BEGIN")
            yield db
