"""Sessions that are PyMySQL connections, for MariaDB and MySQL.

Decides how a connection is checked, made clean and given up, and how what it runs is ended on the server, too. It must
not know when that is asked: `pool/session.py` does.

PyMySQL waits in Python's sockets, so it is cooperative once gevent has patched them.
"""

from __future__ import annotations

import logging
import select
import socket
import sys
from contextlib import suppress
from copy import copy
from functools import cache
from time import monotonic
from typing import Any

import pymysql
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from pymysql.connections import Connection
from pymysql.constants import ER, SERVER_STATUS

from ..pool.guards import register
from ..sessionsource import SessionSource
from .drivers import cancelling, end_statement, interrupts
from .transactions import TransactionGuard

__all__ = ["PyMySQLSessions", "cancel_statement", "protect"]

CANCEL_SECONDS = 2.0
"""How long connecting to the server, and each of its answers, may take when a statement is cancelled."""

MOST_CANCELLING = 2
"""How many connections there are at most, at one time, that cancel statements; more are no faster."""

LONGEST_TIMEOUT = 31_536_000.0
"""The longest statement timeout that MariaDB takes, in seconds."""

logger = logging.getLogger("intralb_gevent")

_poll = get_original("select", "poll")
# Aborts come in storms, and a server has few connections: those that cancel must not take the last of them.
_cancelling = BoundedSemaphore(MOST_CANCELLING)


class SlotConnection(Connection):  # type: ignore[misc]  # the driver has no types
    """A PyMySQL connection that knows a little more of itself, and is closed by an interrupted write as by a read."""

    def __init__(self, **arguments: Any) -> None:
        self.connected_at = monotonic()
        self.at_rest = False
        """Whether nothing of it runs on the server: the last thing it did was a rollback, which was answered."""
        super().__init__(**arguments)
        self.autocommit_at_first: bool = self.get_autocommit()

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        # Where nothing is said of TLS the driver makes a context for each connection, and reading the certificates of
        # the system, which that one does not verify with, takes tens of milliseconds in which nothing else runs.
        return super()._create_ssl_ctx(sslp) if sslp else _default_context()

    def _write_bytes(self, data: bytes) -> None:
        try:
            super()._write_bytes(data)
        except BaseException:
            # Half a packet may have gone; the server would take the next one for the rest of it.
            self._force_close()
            raise


@cache
def _default_context() -> Any:
    return Connection._create_ssl_ctx(None, {})


class PyMySQLSessions(SessionSource):
    """Opens a PyMySQL connection for each slot: `Options(db_init_func=PyMySQLSessions(host=..., user=...))`.

    Takes the arguments of `pymysql.connect`, which are used for each connection. After each request the transaction is
    rolled back and the autocommit mode is as it was at first; whatever else a request leaves on its session (variables,
    temporary tables, locks taken with GET_LOCK) stays there. After an abort the connection is closed, and a second
    one, opened with the same arguments for that moment, ends what it ran; see `cancel_statement` for the limits.

    With `statement_timeout` the server is told at the beginning of each request how long a statement may take: what is
    left until the deadline. It ends a statement then even if this process is gone. That is one more round trip for
    each request that uses its session. MariaDB ends all statements (`max_statement_time`), MySQL ends SELECT only
    (`max_execution_time`).
    """

    def __init__(self, *, statement_timeout: bool = False, **connect: Any) -> None:
        self.statement_timeout = statement_timeout
        self._connect = connect

    def __repr__(self) -> str:
        told = {name: self._connect.get(name) for name in ("user", "host", "port", "unix_socket", "database")}
        where = " ".join(f"{name}={value!r}" for name, value in told.items() if value is not None)
        return f"<PyMySQLSessions {where} statement_timeout={self.statement_timeout}>"

    def open(self, worker_id: int) -> Connection:
        """Return a new connection; raises `pymysql.Error`."""
        return SlotConnection(**self._connect)

    def check(self, session: SlotConnection) -> bool:
        """Say whether it is open and the server has not closed it, without asking the server."""
        # Nobody has asked for anything: what can be read is the server's farewell.
        return session.open and not _readable(session)

    def begin(self, session: SlotConnection, seconds: float) -> None:
        """Let the server end statements when the request must have ended, if `statement_timeout` is set."""
        session.at_rest = False
        if self.statement_timeout:
            _execute(session, _limiting(session, seconds))

    def reset(self, session: SlotConnection) -> None:
        """Roll back, and restore the autocommit mode."""
        session.rollback()
        if session.get_autocommit() != session.autocommit_at_first:
            session.autocommit(session.autocommit_at_first)
        session.at_rest = True

    def discard(self, session: SlotConnection) -> None:
        """Close it without a farewell, and end what it runs on the server."""
        _hang_up(session)
        if not session.at_rest:
            cancel_statement(session)

    def close(self, session: SlotConnection) -> None:
        """Say farewell to the server and close it."""
        session.close()


# Connections of the application's own.

_force_close_of_pymysql = Connection._force_close
_write_bytes_of_pymysql = Connection._write_bytes


def _force_close(self: Connection) -> None:
    # PyMySQL calls this in the `except` block of an interrupted read, and at the end of an orderly close().
    interrupted = self._sock is not None and not self._closed and interrupts(sys.exc_info()[1])
    _force_close_of_pymysql(self)
    if interrupted:
        end_statement(self)


def _write_bytes(self: Connection, data: bytes) -> None:
    _GUARD.note_use(self)
    try:
        _write_bytes_of_pymysql(self, data)
    except BaseException as error:
        # Half a packet may have been sent; the server would take the next one for the rest of it.
        if interrupts(error):
            self._force_close()
        raise


def protect() -> None:
    """End on the server what any connection of PyMySQL's is doing when its wait is interrupted.

    PyMySQL itself closes the connection, but the statement goes on, and keeps its locks. Only what is called when a
    connection is closed or written to is replaced, so reading rows costs nothing more. A transaction that an aborted
    request has left open is rolled back if no other slot has used the connection.
    """
    Connection._force_close = _force_close
    Connection._write_bytes = _write_bytes
    register(_GUARD)


def _in_transaction(connection: Connection) -> bool:
    # After commit() this is still what the statement before it has reported; a rollback too many does no harm.
    return connection.open and bool(connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)


_GUARD = TransactionGuard("PyMySQL", _in_transaction)


# Ending what runs on the server.


def cancel_statement(connection: Connection) -> bool:
    """End on the server what `connection` ran there; say whether nothing of it is left.

    For a connection whose wait was interrupted, whether the driver has closed it or not; it cannot be used afterwards.
    It may be any PyMySQL connection. A second one is opened with the same arguments, for it keeps them all, password
    and TLS context among them, and has the server kill the first. At most 2 do so at the same time; others wait.

    Never raises because the server is away or refuses: that is logged, and False returned, after 2 seconds for each
    step at most. Nothing is killed if the server has been restarted in between, as thread ids begin anew then. Behind
    a proxy that gives thread ids of its own, the proxy must understand KILL.
    """
    try:
        with cancelling(), _cancelling:
            return _kill(connection)
    except (OSError, pymysql.Error) as error:
        logger.warning(
            "could not cancel the statement of thread %s on %s: %s; it runs on until its end or its timeout there",
            *(_thread_id(connection), _address(connection), error),
        )
        return False


def _kill(connection: Connection) -> bool:
    thread_id = _thread_id(connection)
    if thread_id is None:
        return True
    killer = _another(connection)
    try:
        killer.connect()
        if not _restarted(killer, connection):
            _execute(killer, f"KILL CONNECTION {thread_id:d}")
    except pymysql.Error as error:
        if error.args[0] != ER.NO_SUCH_THREAD:
            raise
    finally:
        _hang_up(killer)
    # It may be given up once more, by the pool or the ORM that it belongs to.
    connection.server_thread_id = None
    return True


def _thread_id(connection: Connection) -> int | None:
    """Return the server's number of a connection, or None if it never heard one."""
    number = getattr(connection, "server_thread_id", None)
    return number[0] if number else None


def _address(connection: Connection) -> str:
    return connection.unix_socket or f"{connection.host}:{connection.port}"


def _another(connection: Connection) -> Connection:
    """Return a connection with the arguments of another one, not connected yet."""
    other = copy(connection)
    # First of all: what they both hold is closed when either of them is collected.
    other._sock = other._rfile = other._result = None
    other.init_command = other.sql_mode = other.autocommit_mode = None
    other.connect_timeout = other._read_timeout = other._write_timeout = CANCEL_SECONDS
    return other


def _restarted(killer: Connection, connection: Connection) -> bool:
    """Say whether `connection` is older than the server that `killer` has reached."""
    if _thread_id(killer) < _thread_id(connection):  # type: ignore[operator]  # both have been connected
        return True
    connected_at = getattr(connection, "connected_at", None)
    if connected_at is None:
        return False
    with killer.cursor(pymysql.cursors.Cursor) as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Uptime'")
        uptime = int(cursor.fetchone()[1])
    # The server counts whole seconds.
    return bool(monotonic() - connected_at > uptime + 1)


def _execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _limiting(connection: Connection, seconds: float) -> str:
    """Return the statement that has the server end later ones after so many seconds."""
    # Zero would mean no limit at all.
    milliseconds = max(1, int(min(seconds, LONGEST_TIMEOUT) * 1000))
    if "MariaDB" in connection.server_version:
        return f"SET SESSION max_statement_time = {milliseconds / 1000:.3f}"
    return f"SET SESSION max_execution_time = {milliseconds}"


def _readable(connection: Connection) -> bool:
    poll = _poll()
    poll.register(connection._sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _hang_up(connection: Connection) -> None:
    """Close the socket of a connection at once, even while another greenlet waits on it."""
    with suppress(Exception):
        connection._sock.shutdown(socket.SHUT_RDWR)
    with suppress(Exception):
        connection._force_close()
