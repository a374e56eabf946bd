"""psycopg2 connections as sessions: `Options(db_init_func=Psycopg2Sessions("host=... dbname=..."))`.

Decides how such a connection waits, and how it is opened, checked, made ready, interrupted on the server and closed. It
must not know when, nor whose request uses it: `pool/session.py` does.

A connection of psycopg2 that is interrupted while it waits closes itself, and its statement runs on: the server looks
at a connection only between statements. Nor can it be asked any more which process of the server that is. So this is
remembered, and the process ended from another connection.
"""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import gevent
import psycopg2
from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.socket import wait_read, wait_write
from psycopg2 import extensions

from ..pool.guards import register
from ..sessionsource import SessionSource
from .drivers import cancelling, end_statement, interrupts
from .transactions import TransactionGuard

__all__ = ["Psycopg2Sessions", "cancel_statement", "install_wait_callback", "protect"]

Connection = extensions.connection

logger = logging.getLogger("intralb_gevent")

CANCEL_SECONDS = 3.0
"""How long it may take to connect to the server and have it end a statement."""

MOST_CANCELLING = 4
"""How many connections may be open at the same time to end statements, beside those of the slots."""

_cancelling = BoundedSemaphore(MOST_CANCELLING)

# The patched one would go round the hub also when it is not to wait.
_poll_at_once = monkey.get_original("select", "poll")

_LONGEST_TIMEOUT = 2_147_483_647
_SHOWN = ("host", "port", "dbname", "user")

# A process that is younger than the connection has got the number of one that has ended.
_TERMINATE = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where pid = %s and backend_start <= clock_timestamp() - %s * interval '1 second'
"""


class Psycopg2Sessions(SessionSource):
    """Opens a psycopg2 connection for each slot that uses one.

    `dsn` and the keyword arguments are those of `psycopg2.connect`. With `statement_timeout=True` the server's
    `statement_timeout` is set to the time that is left to each request before it uses its connection, which costs a
    round trip. A request that leaves a transaction open has it rolled back.

    psycopg2 gets a wait callback, so that only the request that waits is stopped: `install_wait_callback()`. With one
    it has neither COPY nor large objects. The name of the server is looked up by libpq, which stops everything: give
    `hostaddr` where that can take long.

    What an aborted request was doing is ended on the server from another connection, of which there are at most
    `MOST_CANCELLING` at the same time: leave room for them. Behind a pooler that does not tell the numbers of the
    server's processes this cannot be: use `statement_timeout=True` there.

    A connection on which something has arrived while it was idle is replaced, since that is how a server says that it
    has closed it; so this is not for connections that LISTEN. Raises `psycopg2.ProgrammingError` when `dsn` is
    malformed.
    """

    def __init__(self, dsn: str = "", *, statement_timeout: bool = False, **kwargs: Any) -> None:
        self._dsn = dsn
        self._kwargs = kwargs
        self._statement_timeout = statement_timeout
        self._place = _place(dsn, kwargs)
        self._open = 0

    def __repr__(self) -> str:
        return f"<Psycopg2Sessions {self._place} open={self._open}>"

    def open(self, worker_id: int) -> Connection:
        """Connect; raises `psycopg2.OperationalError` if that fails."""
        install_wait_callback()
        connection: Connection = psycopg2.connect(self._dsn, **self._kwargs)
        self._open += 1
        _remember(connection)
        return connection

    def check(self, session: Connection) -> bool:
        """Say whether the connection is in order, as far as can be seen without asking the server."""
        return not session.closed and not _has_something_to_read(session)

    def begin(self, session: Connection, seconds: float) -> None:
        """Tell the server how much time is left, if it is to know."""
        if self._statement_timeout:
            milliseconds = min(max(seconds, 0.001) * 1000, _LONGEST_TIMEOUT)
            _outside_of_transactions(session, f"set statement_timeout = {math.ceil(milliseconds)}")

    def reset(self, session: Connection) -> None:
        """Roll back what a request has not committed; raises `psycopg2.Error` if the connection is not idle then."""
        if session.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
            session.rollback()
        if session.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
            raise psycopg2.OperationalError(f"{session!r} is not idle after a rollback")

    def discard(self, session: Connection) -> None:
        """End what the connection still does on the server, and close it."""
        try:
            cancel_statement(session)
        finally:
            self.close(session)

    def close(self, session: Connection) -> None:
        """Close the connection; the server rolls back what was not committed."""
        self._open -= 1
        session.close()


# Waiting.


def install_wait_callback() -> None:
    """Have all connections of psycopg2 wait in gevent's hub; call it before the first of them is opened.

    A wait callback that is there already is kept, and the log tells of it: it must wait with gevent, as that of
    psycogreen does.
    """
    present = extensions.get_wait_callback()
    if present is None:
        extensions.set_wait_callback(_wait)
    elif present is not _wait and not isinstance(present, _Protected):
        _tell_of(present)


def protect() -> None:
    """Have all connections of psycopg2 wait in gevent's hub, and end on the server what an interrupted one is doing.

    A transaction that an aborted request has left open is rolled back if no other slot has used the connection.
    Where the application has installed a wait callback itself, as that of psycogreen, it goes on to be called.
    """
    present = extensions.get_wait_callback()
    if not isinstance(present, _Protected):
        extensions.set_wait_callback(_Protected(present or _wait))
        register(_GUARD)


def _wait(connection: Connection) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:
        if state == extensions.POLL_ERROR:
            raise psycopg2.OperationalError("the connection is in an unknown state")
        try:
            (wait_read if state == extensions.POLL_READ else wait_write)(connection.fileno())
        except BaseException:
            # Once this function is left the connection is closed, and cannot be asked any more.
            _remember(connection)
            raise


class _Protected:
    """A wait callback that also ends, on the server, the statement whose wait is interrupted."""

    def __init__(self, callback: Callable[[Connection], object]) -> None:
        self._callback = callback

    def __repr__(self) -> str:
        return f"<protected {self._callback!r}>"

    def __call__(self, connection: Connection) -> None:
        """Wait for what a connection waits for."""
        _GUARD.note_use(connection)
        try:
            self._callback(connection)
        except BaseException as error:
            if interrupts(error):
                _remember(connection)
                end_statement(connection)
            raise


def _in_transaction(connection: Connection) -> bool:
    return not connection.closed and connection.info.transaction_status in _OPEN_TRANSACTION


_OPEN_TRANSACTION = (extensions.TRANSACTION_STATUS_INTRANS, extensions.TRANSACTION_STATUS_INERROR)
_GUARD = TransactionGuard("psycopg2", _in_transaction)


# Ending what runs on the server.


class _Backend(NamedTuple):
    """The process of the server that serves a connection, and how to reach that server."""

    pid: int
    known_at: float
    parameters: dict[str, Any]

    def __repr__(self) -> str:
        # Without the parameters: there is a password among them.
        return f"<_Backend {self.pid}>"


_backends: WeakKeyDictionary[Connection, _Backend] = WeakKeyDictionary()


def _remember(connection: Connection) -> None:
    info = connection.info
    if info.backend_pid and connection not in _backends:
        # Of several servers this is the one that was chosen.
        chosen = {"host": info.host, "port": info.port, "password": info.password or None}
        _backends[connection] = _Backend(info.backend_pid, monotonic(), {**info.dsn_parameters, **chosen})


def cancel_statement(connection: Connection) -> None:
    """End what an interrupted connection still runs on the server, if it does; close it afterwards.

    The server's process is ended altogether, from another connection and without blocking the hub. Waits for some
    seconds at most. If the server cannot be reached this is logged, and no error. It knows the connections that
    `Psycopg2Sessions` has opened, and those that were interrupted in the wait callback of `install_wait_callback`.
    """
    backend = _backends.pop(connection, None)
    if backend is None or not _may_be_running(connection):
        return
    late = psycopg2.OperationalError("the server does not answer")
    try:
        with cancelling(), gevent.Timeout(CANCEL_SECONDS, late), _cancelling:
            _terminate(backend)
    except psycopg2.Error as error:
        logger.warning("a statement could not be cancelled on the server: %s", error)


def _may_be_running(connection: Connection) -> bool:
    """Say whether a statement was interrupted: the connection is broken by that, which is more than closed."""
    if connection.closed:
        return connection.closed == _BROKEN
    return connection.info.transaction_status == extensions.TRANSACTION_STATUS_ACTIVE


_BROKEN = 2


def _terminate(backend: _Backend) -> None:
    connection = psycopg2.connect(**backend.parameters)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_TERMINATE, (backend.pid, monotonic() - backend.known_at))
    finally:
        connection.close()


# Small things.


def _has_something_to_read(connection: Connection) -> bool:
    look = _poll_at_once()
    look.register(connection.fileno(), select.POLLIN)
    return bool(look.poll(0))


def _outside_of_transactions(connection: Connection, statement: str) -> None:
    autocommit = connection.autocommit
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    # Not in a `finally`: a connection that was interrupted here is given up.
    connection.autocommit = autocommit


def _place(dsn: str, kwargs: dict[str, Any]) -> str:
    """Say where a connection goes to, without what is secret."""
    known: dict[str, Any] = {**extensions.parse_dsn(dsn), **kwargs}
    return " ".join(f"{name}={known[name]}" for name in _SHOWN if name in known)


_told: set[int] = set()


def _tell_of(callback: Any) -> None:
    if id(callback) not in _told:
        _told.add(id(callback))
        logger.warning("psycopg2 has a wait callback already, which is kept: %r; it must wait with gevent", callback)
