"""Sessions that are sqlite3 connections, which wait for each other without stopping the process.

Decides how long a connection waits for another's lock, when a statement is ended, and what is cleaned up after a
request. It must not know when that is asked: `pool/session.py` does.
"""

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
from gevent import getcurrent
from gevent.lock import Semaphore

from ..errors import OptionError
from ..pool.safepoints import called_by_library
from ..sessionsource import SessionSource

__all__ = ["SQLiteSessions"]

INSTRUCTIONS = 1000
"""After how many instructions of SQLite's machine it is asked whether to go on: some ten microseconds."""

ABORT_SECONDS = 1.0
"""How long a statement ended by the deadline waits for the abort that says so."""

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.025

Result = TypeVar("Result")


class _Turns:
    """Who waits for the lock of a database in this process; one is woken when another has given it back."""

    def __init__(self) -> None:
        self._given_back = Semaphore(0)
        self._waiting = 0

    def wait(self, seconds: float) -> None:
        """Wait until somebody in this process has given the lock back; other processes are not seen."""
        self._waiting += 1
        try:
            self._given_back.acquire(timeout=seconds)
        finally:
            self._waiting -= 1

    def next(self) -> None:
        """Say that the lock may be free."""
        if self._waiting and not self._given_back.ready():
            self._given_back.release()


class _Limits:
    """When statements end, and how long they wait for a lock; the connection's progress handler asks it."""

    def __init__(self, timeout: float, turns: _Turns) -> None:
        self.timeout = timeout
        self.turns = turns
        self.ends_at = math.inf
        """In seconds of `time.monotonic()`."""

    @called_by_library
    def passed(self) -> bool:
        """Say whether the request's time is over, also if it has been given more since it began."""
        return monotonic() >= self.ends_at and monotonic() >= self._extended()

    def _extended(self) -> float:
        slot = getattr(getcurrent(), "intralb_slot", None)
        if slot is not None and slot.job is not None:
            self.ends_at = max(self.ends_at, slot.job.deadline.at)
        return self.ends_at

    def apply(
        self, function: Callable[..., Result], *arguments: Any, again: Callable[[], bool] | None = None
    ) -> Result:
        """Call a function of SQLite; repeat it while another connection has the lock, unless `again` says no."""
        give_up_at, pause = monotonic() + self.timeout, FIRST_PAUSE
        while True:
            try:
                return function(*arguments)
            except sqlite3.OperationalError as error:
                if self.passed():
                    # The hub knows it, too, and would have thrown the abort here had it been able to.
                    gevent.sleep(ABORT_SECONDS)
                if not _is_busy(error) or (again and not again()) or monotonic() + pause > give_up_at:
                    raise
            self.turns.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Say whether waiting may help: another connection has the lock, and not a newer state of the database."""
    # Python 3.10 does not tell the code; there a transaction that can never go on is waited for, too.
    code = getattr(error, "sqlite_errorcode", None)
    return str(error) == "database is locked" and code != getattr(sqlite3, "SQLITE_BUSY_SNAPSHOT", 517)


class SlotCursor(sqlite3.Cursor):
    """A cursor that waits for locks without stopping the process."""

    connection: SlotConnection

    def execute(self, *arguments: Any) -> SlotCursor:
        self.connection.limits.apply(super().execute, *arguments)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> SlotCursor:
        if not isinstance(parameters, Sequence):
            parameters = list(parameters)
        connection = self.connection
        changes = connection.total_changes
        # Nothing is done twice.
        connection.limits.apply(super().executemany, sql, parameters, again=lambda: connection.total_changes == changes)
        return self

    def fetchone(self) -> Any:
        return self.connection.limits.apply(super().fetchone)

    def fetchmany(self, *size: Any, **named: Any) -> list[Any]:
        return self.connection.limits.apply(lambda: super(SlotCursor, self).fetchmany(*size, **named))

    def fetchall(self) -> list[Any]:
        return self.connection.limits.apply(super().fetchall)

    def __next__(self) -> Any:
        return self.connection.limits.apply(super().__next__)


class SlotConnection(sqlite3.Connection):
    """A connection that waits for locks without stopping the process, and ends statements at the deadline."""

    limits: _Limits
    file: tuple[str, tuple[int, int]] | None
    cursors: WeakSet[sqlite3.Cursor]

    def prepare(self, limits: _Limits) -> None:
        """Begin to keep to limits."""
        self.limits = limits
        self.cursors = WeakSet()
        path = sqlite3.Connection.execute(self, "PRAGMA database_list").fetchone()[2]
        self.file = (path, _identity(path)) if path else None
        self.set_progress_handler(limits.passed, INSTRUCTIONS)

    def cursor(self, factory: Any = SlotCursor) -> Any:
        cursor = super().cursor(factory)
        self.cursors.add(cursor)
        return cursor

    # In C the next three would make a cursor that is not ours.

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        return self.cursor().executemany(sql, parameters)

    def executescript(self, script: str, /) -> Any:
        return self.cursor().executescript(script)

    def commit(self) -> None:
        self.limits.apply(super().commit)
        self.limits.turns.next()

    def rollback(self) -> None:
        super().rollback()
        self.limits.turns.next()

    def close_cursors(self) -> None:
        """Close what was left open: it may hold a lock, and SQLite closes no file before."""
        for cursor in list(self.cursors):
            cursor.close()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        """Commit or roll back, as sqlite3 does, which would not call the method above."""
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
    """Opens a sqlite3 connection for each slot: `Options(db_init_func=SQLiteSessions("notes.sqlite3"))`.

    Takes the arguments of `sqlite3.connect` except `factory`. SQLite works inside this process: while it runs a
    statement nothing else runs, and no abort but the deadline's ends it. What this source adds:

    - Waiting for another connection's lock, up to `timeout` seconds, lets other requests run, among them the one that
      has the lock; SQLite's own waiting would stop them all. `executescript` and SQL run outside a request's greenlet
      do not differ; `executescript` alone does not wait but fails at once.
    - A statement still running at the request's deadline is ended then, and the request is answered 504.
    - After each request its transaction is rolled back, and cursors it left open, which would hold a lock, are closed.
    - A file that has been replaced by another one is opened anew.

    With ":memory:" each slot has a database of its own.
    """

    def __init__(self, database: str | os.PathLike[str], *, timeout: float = 5.0, **kwargs: Any) -> None:
        if "factory" in kwargs:
            raise OptionError("factory: not allowed in SQLiteSessions, which has its own; extend its open() instead")
        self._database = database
        self._timeout = timeout
        self._kwargs = kwargs
        self._turns = _Turns()

    def __repr__(self) -> str:
        return f"<SQLiteSessions {os.fspath(self._database)!r} timeout={self._timeout}>"

    def open(self, worker_id: int) -> sqlite3.Connection:
        """Return a new connection; raises `sqlite3.Error`."""
        connection = sqlite3.connect(self._database, timeout=0, factory=SlotConnection, **self._kwargs)
        try:
            connection.prepare(_Limits(self._timeout, self._turns))
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self, session: SlotConnection) -> bool:
        """Say whether it is open, and its file is still the one at that path."""
        # Raises if it is closed.
        open_and_unused = session.total_changes >= 0
        return open_and_unused and (session.file is None or _identity(session.file[0]) == session.file[1])

    def begin(self, session: SlotConnection, seconds: float) -> None:
        """Have statements ended that still run when the request must have ended."""
        session.limits.ends_at = monotonic() + seconds

    def reset(self, session: SlotConnection) -> None:
        """Close the cursors left open, and roll back."""
        session.limits.ends_at = math.inf
        session.close_cursors()
        session.rollback()

    def discard(self, session: SlotConnection) -> None:
        """Interrupt what it runs in another thread, and close it."""
        session.interrupt()
        with suppress(sqlite3.Error):
            session.close_cursors()
        session.close()
        self._turns.next()

    def close(self, session: SlotConnection) -> None:
        """Close it."""
        self.discard(session)
