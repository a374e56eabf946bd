"""Support for PyMySQL, with MariaDB and MySQL: sessions, protection of other connections, cancellation of statements.

PyMySQL uses Python's sockets, so PyMySQL waits cooperatively once gevent has patched the sockets.
"""

from __future__ import annotations

import logging
import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import cache
from time import monotonic
from typing import Any, NamedTuple

import gevent
import pymysql
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import ER, SERVER_STATUS

from ..pool.guards import register
from ..sessionsource import SessionSource
from .drivers import cancelling, end_statement, interrupts
from .transactions import TransactionGuard

__all__ = ["PyMySQLSessions", "cancel_statement", "protect"]

CANCEL_SECONDS = 2.0
"""Maximum number of seconds to connect to the server, and to wait for each response, when a statement is cancelled."""

MOST_CANCELLING = 2
"""Maximum number of connections that cancel statements at the same time; more would not cancel statements faster."""

RETRY_SECONDS = 60.0
LONGEST_PAUSE = 4.0
"""Seconds for which the attempts to cancel a statement are repeated, and the longest pause between two attempts."""

LONGEST_TIMEOUT = 31_536_000.0
"""MariaDB's maximum statement timeout, in seconds."""

logger = logging.getLogger("intralb_gevent")

_poll = get_original("select", "poll")
# Limit the connections that cancel statements, because aborts occur in bursts, and a server limits its connections.
_cancelling = BoundedSemaphore(MOST_CANCELLING)


class SlotConnection(Connection):  # type: ignore[misc]  # the driver has no types
    """A slot's PyMySQL connection; an interrupted write closes it, as an interrupted read does in PyMySQL itself."""

    def __init__(self, **arguments: Any) -> None:
        self.connected_at = monotonic()
        self.at_rest = False
        """True if no statement of the connection runs on the server, because the server has confirmed a rollback."""
        super().__init__(**arguments)
        self.autocommit_at_first: bool = self.get_autocommit()

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        # Without TLS arguments, share one context between all connections. The driver would create a context for each
        # connection and load the CA certificates, which blocks the process for tens of milliseconds. The certificates
        # are not used, because a context without TLS arguments does not verify the server.
        return super()._create_ssl_ctx(sslp) if sslp else _default_context()

    def _write_bytes(self, data: bytes) -> None:
        try:
            super()._write_bytes(data)
        except BaseException:
            # The packet may have been sent in part; the server would read the next packet as the rest of this packet.
            self._force_close()
            raise


@cache
def _default_context() -> Any:
    return Connection._create_ssl_ctx(None, {})


class PyMySQLSessions(SessionSource):
    """A source of PyMySQL connections, one for each slot: `Options(db_init_func=PyMySQLSessions(host=..., user=...))`.

    The arguments are those of `pymysql.connect`. After each request, the transaction is rolled back, and the initial
    autocommit mode is restored. Other session state (variables, temporary tables, GET_LOCK locks) remains for the next
    request. After an abort, the connection is closed, and its statement is ended from a second, short-lived connection
    with the same arguments; `cancel_statement` describes the limits.

    With `statement_timeout`, the server's time limit for statements is set to the request's remaining time, before the
    request uses its session. The server thus ends a statement at the deadline even if this process has died. Setting
    the time limit costs one more round trip for each request that uses its session. MariaDB limits all statements
    (`max_statement_time`), and MySQL limits only SELECT (`max_execution_time`).
    """

    def __init__(self, *, statement_timeout: bool = False, **connect: Any) -> None:
        self.statement_timeout = statement_timeout
        self._connect = connect

    def __repr__(self) -> str:
        known = {name: self._connect.get(name) for name in ("user", "host", "port", "unix_socket", "database")}
        where = " ".join(f"{name}={value!r}" for name, value in known.items() if value is not None)
        return f"<PyMySQLSessions {where} statement_timeout={self.statement_timeout}>"

    def open(self, worker_id: int) -> Connection:
        """Return a new connection; raises `pymysql.Error` if connecting fails."""
        return SlotConnection(**self._connect)

    def check(self, session: SlotConnection) -> bool:
        """Return True if neither end has closed the connection, without sending anything to the server."""
        # No query is pending, so a readable socket means that the server has closed the connection.
        return session.open and not _readable(session)

    def begin(self, session: SlotConnection, seconds: float) -> None:
        """Set the server's statement timeout to the request's remaining time, if `statement_timeout` is True."""
        session.at_rest = False
        if self.statement_timeout:
            _execute(session, _limiting(session, seconds))

    def reset(self, session: SlotConnection) -> None:
        """Roll back the transaction, and restore the initial autocommit mode."""
        session.rollback()
        if session.get_autocommit() != session.autocommit_at_first:
            session.autocommit(session.autocommit_at_first)
        session.at_rest = True

    def discard(self, session: SlotConnection) -> None:
        """Close the connection without COM_QUIT, and end its statement on the server if it may still be running."""
        _hang_up(session)
        if not session.at_rest:
            cancel_statement(session)

    def close(self, session: SlotConnection) -> None:
        """Send COM_QUIT and close the connection."""
        session.close()


# Protection of the application's own connections.

_force_close_of_pymysql = Connection._force_close
_write_bytes_of_pymysql = Connection._write_bytes


def _force_close(self: Connection) -> None:
    # PyMySQL calls this method in the `except` block of an interrupted read, and at the end of an orderly close().
    interrupted = self._sock is not None and not self._closed and interrupts(sys.exc_info()[1])
    _force_close_of_pymysql(self)
    if interrupted:
        _drop_result(self)
        end_statement(self)


def _drop_result(connection: Connection) -> None:
    # Otherwise, after `ping(reconnect=True)`, PyMySQL would wait for the rest of this result on the new connection.
    result, connection._result = connection._result, None
    if result is not None:
        result.unbuffered_active = False


def _write_bytes(self: Connection, data: bytes) -> None:
    _GUARD.note_use(self)
    try:
        _write_bytes_of_pymysql(self, data)
    except BaseException as error:
        # The packet may have been sent in part; the server would read the next packet as the rest of this packet.
        if interrupts(error):
            self._force_close()
        raise


def _closing(method: Callable[..., Any], connection_of: Callable[[Any], Connection | None]) -> Callable[..., Any]:
    """Return a method that reads a response, and that closes the connection if it is interrupted."""

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except BaseException as error:
            _close_after(error, connection_of(self))
            raise

    return call


def _close_after(error: BaseException, connection: Connection | None) -> None:
    """Close a connection whose current response has not been read completely, because an abort has interrupted the
    reading; the next statement would receive the rest of this response."""
    if connection is not None and interrupts(error):
        connection._force_close()


_READING: tuple[tuple[type, str, Callable[[Any], Connection | None]], ...] = (
    (Connection, "query", lambda connection: connection),
    (Connection, "next_result", lambda connection: connection),
    (MySQLResult, "_read_rowdata_packet_unbuffered", lambda result: result.connection),
    (MySQLResult, "_finish_unbuffered_query", lambda result: result.connection),
)
"""The methods of PyMySQL that read a response, each with the way to its connection."""

_METHODS = {(owner, name): getattr(owner, name) for owner, name, _ in _READING}
"""PyMySQL's own methods, so that a second call of `protect` changes nothing."""


def protect() -> None:
    """From now on, if a call of any PyMySQL connection is interrupted, end its statement on the server.

    PyMySQL itself closes a connection only if a wait for the server is interrupted, and the statement continues to run
    and holds its locks. A connection is also closed if the interrupted call was CPU-bound, for example while reading
    many rows. A transaction that an aborted request has left open is rolled back if no other slot has used the
    connection.
    """
    Connection._force_close = _force_close
    Connection._write_bytes = _write_bytes
    for owner, name, connection_of in _READING:
        setattr(owner, name, _closing(_METHODS[owner, name], connection_of))
    register(_GUARD)


def _in_transaction(connection: Connection) -> bool:
    # After commit(), the status is still that of the preceding statement; this causes an unnecessary but harmless
    # rollback.
    return connection.open and bool(connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)


_GUARD = TransactionGuard("PyMySQL", _in_transaction)


# Ending statements on the server.


def cancel_statement(connection: Connection) -> bool:
    """End the statement of `connection` on the server; return True if the statement is no longer running there.

    Call this function for a PyMySQL connection whose wait was interrupted, even if the driver has already closed the
    connection; the connection is unusable afterwards. The function opens a second connection with the same arguments,
    including the password and the TLS context, and asks the server to kill the first connection. At most two callers
    cancel statements at the same time; other callers wait.

    If the server is unreachable or refuses the request, the error is logged, False is returned, and further attempts
    are made in the background; each step takes at most 2 seconds. If the server was restarted after the first
    connection was opened, no connection is killed, because the same thread id may now belong to another connection. A
    proxy that assigns its own thread ids must translate the thread id of a KILL.
    """
    thread_id = _thread_id(connection)
    if thread_id is None:
        return True
    # Record the thread id and the arguments now, because the application may connect the same object again meanwhile.
    statement = _Statement(thread_id, getattr(connection, "connected_at", monotonic()), _another(connection))
    try:
        statement.kill()
    except (OSError, pymysql.Error) as error:
        logger.warning(
            "could not cancel the statement of thread %s on %s: %s; the statement may continue to run on the server",
            *(thread_id, _address(connection), error),
        )
        gevent.spawn(statement.kill_later)
        return False
    if _thread_id(connection) == thread_id:
        # A pool or an ORM may discard the connection again, and KILL must be sent only once.
        connection.server_thread_id = None
    return True


class _Statement(NamedTuple):
    """The statement of an interrupted connection, and an unconnected copy of the connection that can end it."""

    thread_id: int
    connected_at: float
    """Monotonic time at which the connection was open."""
    killer: Connection

    def kill(self) -> None:
        """End the statement on the server; raises OSError or `pymysql.Error` if that fails."""
        with cancelling(), _cancelling:
            try:
                self.killer.connect()
                if not self._of_earlier_server():
                    _execute(self.killer, f"KILL CONNECTION {self.thread_id:d}")
            except pymysql.Error as error:
                if error.args[0] != ER.NO_SUCH_THREAD:
                    raise
            finally:
                _hang_up(self.killer)

    def kill_later(self) -> None:
        """Repeat `kill` until it succeeds, for at most `RETRY_SECONDS`."""
        until, pause = monotonic() + RETRY_SECONDS, CANCEL_SECONDS / 4
        while monotonic() < until:
            gevent.sleep(pause)
            with suppress(OSError, pymysql.Error):
                self.kill()
                return
            pause = min(2 * pause, LONGEST_PAUSE)

    def _of_earlier_server(self) -> bool:
        """Return True if the server was started after the connection of the statement was opened."""
        if _thread_id(self.killer) < self.thread_id:  # type: ignore[operator]  # the killer is connected
            return True
        with self.killer.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Uptime'")
            uptime = int(cursor.fetchone()[1])
        # Add one second, because the server reports its uptime in whole seconds.
        return bool(monotonic() - self.connected_at > uptime + 1)


def _thread_id(connection: Connection) -> int | None:
    """Return the server's id of a connection, or None if the connection never received one."""
    number = getattr(connection, "server_thread_id", None)
    return number[0] if number else None


def _address(connection: Connection) -> str:
    return connection.unix_socket or f"{connection.host}:{connection.port}"


def _another(connection: Connection) -> Connection:
    """Return an unconnected copy of a connection, with the same arguments."""
    other = copy(connection)
    # Clear the copy's socket first; otherwise, freeing either object would close the socket to which both refer.
    other._sock = other._rfile = other._result = None
    other.init_command = other.sql_mode = other.autocommit_mode = None
    other.connect_timeout = other._read_timeout = other._write_timeout = CANCEL_SECONDS
    return other


def _execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _limiting(connection: Connection, seconds: float) -> str:
    """Return the SQL statement that limits later statements to `seconds`."""
    # Set at least one millisecond, because zero would mean no limit.
    milliseconds = max(1, int(min(seconds, LONGEST_TIMEOUT) * 1000))
    if "MariaDB" in connection.server_version:
        return f"SET SESSION max_statement_time = {milliseconds / 1000:.3f}"
    return f"SET SESSION max_execution_time = {milliseconds}"


def _readable(connection: Connection) -> bool:
    poll = _poll()
    poll.register(connection._sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _hang_up(connection: Connection) -> None:
    """Close the socket of a connection immediately, even while another greenlet waits on it."""
    with suppress(Exception):
        connection._sock.shutdown(socket.SHUT_RDWR)
    with suppress(Exception):
        connection._force_close()
