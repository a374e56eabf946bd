"""Store the notes in SQLite as threaded applications usually do: one connection per thread, and short transactions.

Under gevent, waiting for SQLite's lock blocks the whole process. Therefore, each transaction has only a few statements,
and no other code runs between them.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
import weakref
from typing import NamedTuple

__all__ = [
    "AUTHOR_LENGTH",
    "DATABASE_VARIABLE",
    "LATEST",
    "SEARCH_LENGTH",
    "TEXT_LENGTH",
    "ConnectionPerThread",
    "Note",
    "count",
    "default_path",
    "find",
    "latest",
    "open_connection",
    "write",
]

DATABASE_VARIABLE = "INTRALB_DEMO_DATABASE"
LATEST = 50
"""Maximum number of notes in a list."""
KEPT = 10_000
"""Maximum number of notes in the file; older notes are deleted, so that a load test does not fill the disk."""
TEXT_LENGTH = 1000
AUTHOR_LENGTH = 60
SEARCH_LENGTH = 200
BUSY_SECONDS = 5.0
"""Maximum number of seconds that SQLite waits for another writer before it fails with "database is locked"."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL,
    author TEXT NOT NULL,
    written_at INTEGER NOT NULL
)
"""
_SCHEMA_VERSION = 1
_COLUMNS = "id, text, author, written_at"
_INSERT = "INSERT INTO notes (text, author, written_at) VALUES (?, ?, ?)"
_SEED = (
    (
        "This application was written for threads. It sleeps, it blocks, it keeps a connection per thread.",
        "Ada",
    ),
    ("Behind the balancer the same code runs in greenlets, and nobody had to change a line of it.", "Grace"),
    ("Write a note: it goes through one slot, one database session and one short transaction.", "Edsger"),
)


class Note(NamedTuple):
    """One stored note; `written_at` is in seconds since the epoch."""

    id: int
    text: str
    author: str
    written_at: int


class ConnectionPerThread:
    """Gives each thread its own connection to a file; a connection is opened when the thread first needs it."""

    def __init__(self, path: str) -> None:
        """Store the path, without opening the file."""
        self._path = path
        self._local = threading.local()

    def current(self) -> sqlite3.Connection:
        """Return the calling thread's connection; the connection is closed when the thread ends."""
        if not hasattr(self._local, "held"):
            self._local.held = _Held(open_connection(self._path))
        return self._local.held.connection  # type: ignore[no-any-return]  # set above


class _Held:
    # Only the thread-local refers to this object, so this object closes the connection when the thread ends. The
    # connection itself is part of a reference cycle; without this object, the connection would stay open until a
    # garbage collection.
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        weakref.finalize(self, connection.close)


def default_path() -> str:
    """Return the path in INTRALB_DEMO_DATABASE, or the path of this user's file in the temporary directory."""
    ours = os.path.join(tempfile.gettempdir(), f"intralb-demo-{os.getuid()}.sqlite3")
    return os.environ.get(DATABASE_VARIABLE) or ours


def open_connection(path: str) -> sqlite3.Connection:
    """Open the file, and create the schema and the first notes if the file has no schema.

    Rows can be read by column name. Any thread may use the connection, but only one thread at a time. Raises
    `sqlite3.DatabaseError` if the file cannot be used.
    """
    try:
        return _prepared(sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False))
    except sqlite3.DatabaseError as error:
        raise type(error)(
            f"the notes cannot be stored in {path!r}: {error}; "
            f"name an SQLite file in a writable directory, for example with {DATABASE_VARIABLE}"
        ) from error


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        connection.row_factory = sqlite3.Row
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # With NORMAL, commits do not wait for the disk. A database with a write-ahead log cannot be corrupted by this
    # setting.
    connection.execute("PRAGMA synchronous = NORMAL")
    if _schema_version(connection) == _SCHEMA_VERSION:
        return
    _use_write_ahead_log(connection)
    connection.execute("BEGIN IMMEDIATE")
    # Check again, because another process may have created the schema before this process got the lock.
    if _schema_version(connection) != _SCHEMA_VERSION:
        _create(connection)
    connection.commit()


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # Retry: if two processes change the journal mode of a new file at the same time, SQLite does not wait, and one
    # process gets an error.
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
        time.sleep(0.01)


def _schema_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchall()[0][0])


def _create(connection: sqlite3.Connection) -> None:
    now = int(time.time())
    connection.execute(_SCHEMA)
    connection.executemany(_INSERT, [(text, author, now) for text, author in _SEED])
    connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")


def latest(connection: sqlite3.Connection, search: str) -> list[Note]:
    """Return the newest notes, at most `LATEST`, with `search` in their text or author; "" matches all notes."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM notes WHERE instr(lower(text || ' ' || author), lower(?)) > 0"
        " ORDER BY id DESC LIMIT ?",
        (search, LATEST),
    )
    return [Note(*row) for row in rows.fetchall()]


def find(connection: sqlite3.Connection, note_id: int) -> Note | None:
    """Return the note with this id, or None if there is none."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM notes WHERE id = ?", (note_id,)).fetchall()
    return Note(*rows[0]) if rows else None


def count(connection: sqlite3.Connection) -> int:
    """Return the number of stored notes."""
    return int(connection.execute("SELECT count(*) FROM notes").fetchall()[0][0])


def write(connection: sqlite3.Connection, text: str, author: str) -> int:
    """Store a note and return its id; if there are more than `KEPT` notes, delete the oldest."""
    try:
        note_id = connection.execute(_INSERT, (text, author, int(time.time()))).lastrowid or 0
        connection.execute("DELETE FROM notes WHERE id <= ?", (note_id - KEPT,))
        connection.commit()
    except BaseException:
        # Roll back after any exception; otherwise, SQLite's write lock would stay held.
        connection.rollback()
        raise
    return note_id
