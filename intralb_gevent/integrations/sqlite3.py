"""Support for sqlite3: sessions whose connections wait for locks without blocking the process."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakSet

import gevent
from gevent.lock import Semaphore

from ..aborts.safepoints import called_by_library
from ..aborts.slotgreenlet import current_slot
from ..errors import OptionError
from ..sessionsource import SessionSource

__all__ = ["SQLiteSessions"]

INSTRUCTIONS = 1000
"""SQLite calls the progress handler after this number of virtual machine instructions, about every ten microseconds."""

ABORT_SECONDS = 1.0
"""Maximum number of seconds for which a handler waits for its abort after its statement was ended at the deadline."""

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.025

Result = TypeVar("Result")


class _LockQueue:
    """A queue of this process's greenlets that wait for a database's lock; each release wakes one greenlet."""

    def __init__(self) -> None:
        self._given_back = Semaphore(0)
        self._waiting = 0

    def wait(self, seconds: float) -> None:
        """Wait until a connection of this process releases the lock, but no longer than `seconds`."""
        self._waiting += 1
        try:
            self._given_back.acquire(timeout=seconds)
        finally:
            self._waiting -= 1

    def next(self) -> None:
        """Wake one waiting greenlet, because the lock may be free."""
        if self._waiting and not self._given_back.ready():
            self._given_back.release()


class _Limits:
    """The limits of a connection's statements: the deadline, and the longest wait for locks."""

    def __init__(self, timeout: float, lock_queue: _LockQueue) -> None:
        self.timeout = timeout
        self.lock_queue = lock_queue
        self.ends_at = math.inf
        """Deadline of the statements, in `time.monotonic()` seconds."""

    @called_by_library
    def passed(self) -> bool:
        """Return True if the request's deadline, including any extension, has passed."""
        return monotonic() >= self.ends_at and monotonic() >= self._extended()

    def _extended(self) -> float:
        slot = current_slot()
        if slot is not None and slot.job is not None:
            self.ends_at = max(self.ends_at, slot.job.deadline.at)
        return self.ends_at

    def apply(
        self, function: Callable[..., Result], *arguments: Any, again: Callable[[], bool] | None = None
    ) -> Result:
        """Call a function of SQLite; repeat the call while another connection holds the lock.

        If `again` is passed and returns False, the call is not repeated.
        """
        give_up_at, pause = monotonic() + self.timeout, FIRST_PAUSE
        while True:
            try:
                return function(*arguments)
            except sqlite3.OperationalError as error:
                if self.passed():
                    # Switch to the hub, which could not throw the abort while SQLite was running.
                    gevent.sleep(ABORT_SECONDS)
                if not _is_busy(error) or (again and not again()) or monotonic() + pause > give_up_at:
                    raise
            self.lock_queue.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Return True if waiting may help, because another connection holds the lock.

    Waiting does not help if the transaction's snapshot is outdated.
    """
    return str(error) == "database is locked" and error.sqlite_errorcode != sqlite3.SQLITE_BUSY_SNAPSHOT


class SlotCursor(sqlite3.Cursor):
    """A cursor that waits for locks without blocking the process."""

    connection: SlotConnection

    def execute(self, *arguments: Any) -> SlotCursor:
        """Execute a statement; while the database is locked, repeat the call for `timeout` seconds at most."""
        self.connection.limits.apply(super().execute, *arguments)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> SlotCursor:
        """Execute a statement with each of several sets of parameters; wait for locks as `execute` does."""
        if not isinstance(parameters, Sequence):
            parameters = list(parameters)
        connection = self.connection
        changes = connection.total_changes
        # Repeat a failed call only if it has written nothing.
        connection.limits.apply(super().executemany, sql, parameters, again=lambda: connection.total_changes == changes)
        return self

    def fetchone(self) -> Any:
        """Return the next row, or None; wait for locks as `execute` does."""
        return self.connection.limits.apply(super().fetchone)

    def fetchmany(self, *size: Any, **named: Any) -> list[Any]:
        """Return the next rows; wait for locks as `execute` does."""
        return self.connection.limits.apply(lambda: super(SlotCursor, self).fetchmany(*size, **named))

    def fetchall(self) -> list[Any]:
        """Return all remaining rows; wait for locks as `execute` does."""
        return self.connection.limits.apply(super().fetchall)

    def __next__(self) -> Any:
        return self.connection.limits.apply(super().__next__)


class SlotConnection(sqlite3.Connection):
    """A connection that waits for locks without blocking the process, and ends statements at the deadline."""

    limits: _Limits
    file: tuple[str, tuple[int, int]] | None
    cursors: WeakSet[sqlite3.Cursor]

    def prepare(self, limits: _Limits) -> None:
        """Set the limits of this connection, and initialize its fields."""
        self.limits = limits
        self.cursors = WeakSet()
        path = sqlite3.Connection.execute(self, "PRAGMA database_list").fetchone()[2]
        self.file = (path, _identity(path)) if path else None
        self.set_progress_handler(limits.passed, INSTRUCTIONS)

    def cursor(self, factory: Any = SlotCursor) -> Any:
        """Return a new cursor, which `close_cursors` will close."""
        cursor = super().cursor(factory)
        self.cursors.add(cursor)
        return cursor

    # Override the next three methods, because their C versions would create cursors of another class.

    def execute(self, *arguments: Any) -> Any:
        """Execute a statement with a new cursor, and return the cursor."""
        return self.cursor().execute(*arguments)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        """Execute a statement with each of several sets of parameters; return the new cursor."""
        return self.cursor().executemany(sql, parameters)

    def executescript(self, script: str, /) -> Any:
        """Execute several statements with a new cursor, and return the cursor."""
        return self.cursor().executescript(script)

    def commit(self) -> None:
        """Commit the transaction, waiting for locks; then wake the next greenlet that waits for the lock."""
        self.limits.apply(super().commit)
        self.limits.lock_queue.next()

    def rollback(self) -> None:
        """Roll back the transaction; then wake the next greenlet that waits for the lock."""
        super().rollback()
        self.limits.lock_queue.next()

    def close_cursors(self) -> None:
        """Close cursors that were left open, because an open cursor may hold a lock, and may keep the file open."""
        for cursor in list(self.cursors):
            cursor.close()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        """Commit or roll back with the methods above, which sqlite3's own `__exit__` would bypass."""
        if kind is None:
            try:
                self.commit()
            except BaseException:
                self.rollback()
                raise
        else:
            self.rollback()
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


class SQLiteSessions(SessionSource):
    """A source that opens a sqlite3 connection for each slot: `Options(db_init_func=SQLiteSessions("notes.sqlite3"))`.

    The arguments are those of `sqlite3.connect`, except `factory`. SQLite runs inside this process, so a statement
    blocks the event loop, and only the deadline can end a running statement.

    While a request waits for another connection's lock, for up to `timeout` seconds, other requests run, including the
    request that holds the lock. SQLite's own wait would block all requests. Statements outside of a request's greenlet
    wait in the same way. `executescript`, however, fails immediately if the database is locked.

    A statement that is still running at the request's deadline is ended, and the request is answered 504. After each
    request, its transaction is rolled back, and open cursors are closed, because open cursors would hold a lock. If the
    database file has been replaced by another file, the slot opens the new file.

    With ":memory:", each slot has its own database.
    """

    def __init__(self, database: str | os.PathLike[str], *, timeout: float = 5.0, **kwargs: Any) -> None:
        if "factory" in kwargs:
            raise OptionError("factory: not allowed, because SQLiteSessions sets it; extend its open() instead")
        self._database = database
        self._timeout = timeout
        self._kwargs = kwargs
        self._turns = _LockQueue()

    def __repr__(self) -> str:
        return f"<SQLiteSessions {os.fspath(self._database)!r} timeout={self._timeout}>"

    def open(self, worker_id: int) -> sqlite3.Connection:
        """Return a new connection; raises `sqlite3.Error` if the database cannot be opened."""
        connection = sqlite3.connect(self._database, timeout=0, factory=SlotConnection, **self._kwargs)
        try:
            connection.prepare(_Limits(self._timeout, self._turns))
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self, session: SlotConnection) -> bool:
        """Return True if the connection is open, and the database's path still refers to the same file."""
        # Reading `total_changes` raises an error if the connection is closed.
        open_and_unused = session.total_changes >= 0
        return open_and_unused and (session.file is None or _identity(session.file[0]) == session.file[1])

    def begin(self, session: SlotConnection, seconds: float) -> None:
        """Set the deadline of the session's statements to the request's deadline."""
        session.limits.ends_at = monotonic() + seconds

    def reset(self, session: SlotConnection) -> None:
        """Close cursors that were left open, and roll back the transaction."""
        session.limits.ends_at = math.inf
        session.close_cursors()
        session.rollback()

    def discard(self, session: SlotConnection) -> None:
        """Interrupt a statement that the connection may be running in another thread, and close the connection."""
        session.interrupt()
        with suppress(sqlite3.Error):
            session.close_cursors()
        session.close()
        self._turns.next()

    def close(self, session: SlotConnection) -> None:
        """Close the connection."""
        self.discard(session)
