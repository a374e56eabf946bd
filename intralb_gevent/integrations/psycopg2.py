"""Support for psycopg2: connections as sessions, protection of other connections, and cancellation of statements.

psycopg2 closes a connection whose wait is interrupted. The connection's statement continues to run, because the server
checks the connection only between statements. Therefore, this module terminates the connection's server process from
another connection. The pid of the server process is recorded before the connection is closed, because a closed
connection no longer reports the pid.
"""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import psycopg2
from gevent import monkey
from gevent.socket import wait_read, wait_write
from psycopg2 import extensions

from ..pool.guards import register
from ..sessionsource import SessionSource
from .drivers import end_statement, interrupts
from .psycopg2_endings import Backend, end_backend
from .transactions import TransactionGuard

__all__ = ["Psycopg2Sessions", "cancel_statement", "install_wait_callback", "protect"]

Connection = extensions.connection

logger = logging.getLogger("intralb_gevent")

CANCEL_SECONDS = 3.0
"""Maximum number of seconds to wait for the first attempt to end a statement."""

# Use the original poll(), because gevent's poll() would yield to the hub even with a timeout of 0.
_poll_at_once = monkey.get_original("select", "poll")

_LONGEST_TIMEOUT = 2_147_483_647
_SHOWN = ("host", "port", "dbname", "user")


class Psycopg2Sessions(SessionSource):
    """A source that opens a psycopg2 connection for each slot whose requests use the database.

    `dsn` and the keyword arguments are those of `psycopg2.connect`. With `statement_timeout=True`, the server's
    `statement_timeout` is set to the request's remaining time before the request uses its connection; setting the
    timeout costs a round trip. A transaction that a request leaves open is rolled back.

    `open` installs a wait callback in psycopg2, so that a connection that waits does not block the whole process. With
    a wait callback, psycopg2 supports neither COPY nor large objects. libpq's lookup of the server's name still blocks
    the whole process; set `hostaddr` if the lookup can take a long time.

    The statement of an aborted request is ended on the server from another connection. The server must allow
    `psycopg2_endings.MOST_CANCELLING` connections for ending statements, in addition to the slots' connections. Behind
    a pooler that hides the pids of the server processes, use `statement_timeout=True` instead, because statements
    cannot be ended from another connection.

    A connection that has received data while idle is replaced, because a server sends data when it closes a connection.
    Therefore, this class does not work for connections that LISTEN. Raises `psycopg2.ProgrammingError` if `dsn` is
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
        """Return a new connection; raises `psycopg2.OperationalError` if connecting fails."""
        install_wait_callback()
        connection: Connection = psycopg2.connect(self._dsn, **self._kwargs)
        self._open += 1
        _remember(connection)
        return connection

    def check(self, session: Connection) -> bool:
        """Return True if the connection looks usable, without sending anything to the server."""
        return not session.closed and not _has_something_to_read(session)

    def begin(self, session: Connection, seconds: float) -> None:
        """Set the server's statement timeout to the request's remaining time, if `statement_timeout` is True."""
        if self._statement_timeout:
            milliseconds = min(max(seconds, 0.001) * 1000, _LONGEST_TIMEOUT)
            _outside_of_transactions(session, f"set statement_timeout = {math.ceil(milliseconds)}")

    def reset(self, session: Connection) -> None:
        """Roll back an open transaction; raises `psycopg2.Error` if the connection is not idle afterwards."""
        if session.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
            session.rollback()
        if session.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
            raise psycopg2.OperationalError(f"{session!r} is not idle after a rollback")

    def discard(self, session: Connection) -> None:
        """End the connection's statement on the server, and close the connection."""
        try:
            cancel_statement(session)
        finally:
            self.close(session)

    def close(self, session: Connection) -> None:
        """Close the connection; the server rolls back an open transaction."""
        self._open -= 1
        session.close()


# Waiting.


def install_wait_callback() -> None:
    """Make all psycopg2 connections wait in gevent's hub; call this before the first connection is opened.

    If the application has installed a wait callback, that callback is kept, and a warning is logged. The application's
    callback must wait with gevent, as the callback of psycogreen does.
    """
    present = extensions.get_wait_callback()
    if present is None:
        extensions.set_wait_callback(_wait)
    elif present is not _wait and not isinstance(present, _Protected):
        _tell_of(present)


def protect() -> None:
    """Make all psycopg2 connections wait in gevent's hub; if a wait is interrupted, end the connection's statement.

    A transaction that an aborted request has left open is rolled back if no other slot has used the connection. A wait
    callback that the application has installed, such as psycogreen's, is still called.
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
            # Record the pid now, because psycopg2 closes the connection when this function raises an exception.
            _remember(connection)
            raise


class _Protected:
    """A wait callback that also ends an interrupted statement on the server."""

    def __init__(self, callback: Callable[[Connection], object]) -> None:
        self._callback = callback

    def __repr__(self) -> str:
        return f"<protected {self._callback!r}>"

    def __call__(self, connection: Connection) -> None:
        """Wait until the connection is ready."""
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


# Ending statements on the server.


_backends: WeakKeyDictionary[Connection, Backend] = WeakKeyDictionary()


def _remember(connection: Connection) -> None:
    info = connection.info
    if info.backend_pid and connection not in _backends:
        # Record the host and port of the server in use, because the DSN may list several servers.
        chosen = {"host": info.host, "port": info.port, "password": info.password or None}
        _backends[connection] = Backend(info.backend_pid, monotonic(), {**info.dsn_parameters, **chosen})


def cancel_statement(connection: Connection) -> None:
    """End the statement that an interrupted connection still runs on the server.

    The server process is terminated from another connection. If the server refuses this connection, for example because
    it accepts no more connections, a cancel request is sent. A termination that fails is repeated in the background.
    This function waits for at most a few seconds. If the server cannot be reached, the error is logged, not raised. The
    caller must close the connection afterwards. This function works for connections that `Psycopg2Sessions` has opened,
    and for connections that were interrupted in the wait callback of `install_wait_callback`.
    """
    backend = _backends.pop(connection, None)
    if backend is None or not _may_be_running(connection):
        return
    ending = end_backend(backend)
    ending.tried.wait(CANCEL_SECONDS)
    # Send nothing to a server that has not responded in time, because the request would block the whole process.
    if ending.error is not None and not connection.closed:
        _request_cancel(connection)


def _request_cancel(connection: Connection) -> None:
    """Send a cancel request, which the server accepts even if it accepts no more connections.

    psycopg2 blocks the whole process, even if this function is called in a native thread, until the server has read the
    request.
    """
    try:
        connection.cancel()
    except psycopg2.Error as error:
        logger.debug("a statement could not be cancelled on the server, and is ended later: %s", error)


def _may_be_running(connection: Connection) -> bool:
    """Return True if a statement may still be running; psycopg2 marks an interrupted connection as broken."""
    if connection.closed:
        return connection.closed == _BROKEN
    return connection.info.transaction_status == extensions.TRANSACTION_STATUS_ACTIVE


_BROKEN = 2


# Helpers.


def _has_something_to_read(connection: Connection) -> bool:
    look = _poll_at_once()
    look.register(connection.fileno(), select.POLLIN)
    return bool(look.poll(0))


def _outside_of_transactions(connection: Connection, statement: str) -> None:
    autocommit = connection.autocommit
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    # Do not use `finally`, because a connection that was interrupted here will be discarded.
    connection.autocommit = autocommit


def _place(dsn: str, kwargs: dict[str, Any]) -> str:
    """Return a description of the server that a connection uses, without secrets."""
    known: dict[str, Any] = {**extensions.parse_dsn(dsn), **kwargs}
    return " ".join(f"{name}={known[name]}" for name in _SHOWN if name in known)


_reported: set[int] = set()


def _tell_of(callback: Any) -> None:
    if id(callback) not in _reported:
        _reported.add(id(callback))
        logger.warning("psycopg2 already has a wait callback, which is kept and must wait with gevent: %r", callback)
