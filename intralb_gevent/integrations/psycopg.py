"""Support for psycopg 3: connections as sessions, protection of other connections, and cancellation of statements."""

from __future__ import annotations

import functools
import logging
import math
import os
import select
import selectors
from typing import Any

import psycopg
from gevent import monkey
from gevent.select import poll
from psycopg import conninfo, waiting
from psycopg.pq import TransactionStatus

from ..errors import OptionError
from ..pool.guards import register
from ..sessionsource import SessionSource
from .drivers import cancelling, end_statement, interrupts
from .transactions import TransactionGuard

__all__ = ["PsycopgSessions", "cancel_statement", "protect"]

Connection = psycopg.Connection[Any]

logger = logging.getLogger("intralb_gevent")

# Use the original poll(), because gevent's poll() would yield to the hub even with a timeout of 0.
_poll_at_once = monkey.get_original("select", "poll")

CANCEL_SECONDS = 2.0
"""Maximum number of seconds for the server to accept a cancel request."""

MOST_CANCELS = 3
"""Maximum number of cancel requests that are sent for one statement."""

_ANSWER_MILLISECONDS = 300
_LONGEST_TIMEOUT = 2_147_483_647
_SHOWN = ("host", "port", "dbname", "user")


class PsycopgSessions(SessionSource):
    """A source that opens a `psycopg.Connection` for each slot whose requests use the database.

    `conninfo` and the keyword arguments are those of `psycopg.connect`. With `statement_timeout=True`, the server's
    `statement_timeout` is set to the request's remaining time before the request uses its connection; setting the
    timeout costs a round trip. A transaction that a request leaves open is rolled back.

    A connection that has received data while idle is replaced, because a server sends data when it closes a connection.
    Therefore, this class does not work for connections that LISTEN.

    Raises `psycopg.ProgrammingError` if `conninfo` is malformed. Raises `OptionError` if psycopg was imported before
    gevent has patched the process, because psycopg would then block the whole process while it waits.
    """

    def __init__(self, conninfo: str = "", *, statement_timeout: bool = False, **kwargs: Any) -> None:
        _require_cooperation()
        self._conninfo = conninfo
        self._kwargs = kwargs
        self._statement_timeout = statement_timeout
        self._place = _place(conninfo, kwargs)
        self._open = 0

    def __repr__(self) -> str:
        return f"<PsycopgSessions {self._place} open={self._open}>"

    def open(self, worker_id: int) -> Connection:
        """Return a new connection; raises `psycopg.OperationalError` if connecting fails."""
        connection = psycopg.connect(self._conninfo, **self._kwargs)
        self._open += 1
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
        """Roll back an open transaction; raises `psycopg.Error` if the connection is not idle afterwards."""
        if session.info.transaction_status != TransactionStatus.IDLE:
            session.rollback()
        if session.info.transaction_status != TransactionStatus.IDLE:
            raise psycopg.OperationalError(f"{session!r} is not idle after a rollback")

    def discard(self, session: Connection) -> None:
        """Cancel the connection's statement on the server, and close the connection."""
        try:
            cancel_statement(session)
        finally:
            self.close(session)

    def close(self, session: Connection) -> None:
        """Close the connection; the server rolls back an open transaction."""
        self._open -= 1
        session.close()


# Protection of the application's own connections.

_wait_for_psycopg = psycopg.Connection.wait


@functools.wraps(_wait_for_psycopg)
def _wait(self: Connection, *args: Any, **kwargs: Any) -> Any:
    _GUARD.note_use(self)
    try:
        return _wait_for_psycopg(self, *args, **kwargs)
    except BaseException as error:
        # Keep a connection that was only waiting for notifications, because it is still usable.
        if interrupts(error) and _is_active(self):
            end_statement(self)
            self.close()
        raise


def protect() -> None:
    """From now on, if the wait of a psycopg connection is interrupted, cancel the statement and close the connection.

    psycopg itself cancels a statement only after KeyboardInterrupt. After other exceptions, the statement continues to
    run on the server, and the connection is unusable. A transaction that an aborted request has left open is rolled
    back if no other slot has used the connection.
    """
    psycopg.Connection.wait = _wait  # type: ignore[method-assign]
    register(_GUARD)


def _in_transaction(connection: Connection) -> bool:
    return not connection.closed and connection.info.transaction_status in _OPEN_TRANSACTION


_OPEN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_GUARD = TransactionGuard("psycopg", _in_transaction)


# Cancelling statements on the server.


def cancel_statement(connection: Connection) -> None:
    """Cancel the statement that an interrupted connection still runs on the server.

    This function waits for at most a few seconds, without blocking the hub. If the server cannot be reached, the error
    is logged, not raised. The caller must close the connection afterwards.
    """
    try:
        with cancelling():
            _cancel_until_answered(connection)
    except psycopg.Error as error:
        logger.warning("a statement could not be cancelled on the server: %s", error)


def _cancel_until_answered(connection: Connection) -> None:
    for _ in range(MOST_CANCELS):
        if not _is_active(connection):
            break
        _cancel(connection)
        # Wait for the server's answer, because a cancel request that overtakes its statement has no effect.
        if _is_answered(connection):
            break


def _is_active(connection: Connection) -> bool:
    return not connection.closed and connection.info.transaction_status == TransactionStatus.ACTIVE


def _cancel(connection: Connection) -> None:
    if _can_cancel_without_blocking():
        connection.cancel_safe(timeout=CANCEL_SECONDS)
    else:
        _cancel_from_another(connection)


def _can_cancel_without_blocking() -> bool:
    # `cancel_safe()` needs psycopg 3.2 and libpq 17; the older `cancel()` waits in C, which blocks the process.
    capabilities = getattr(psycopg, "capabilities", None)
    return capabilities is not None and capabilities.has_cancel_safe()


def _cancel_from_another(connection: Connection) -> None:
    info = connection.info
    seconds = math.ceil(CANCEL_SECONDS)
    with psycopg.connect(info.dsn, password=info.password, connect_timeout=seconds, autocommit=True) as other:
        other.execute("select pg_cancel_backend(%s)", (info.backend_pid,))


def _has_something_to_read(connection: Connection) -> bool:
    look = _poll_at_once()
    look.register(connection.fileno(), select.POLLIN)
    return bool(look.poll(0))


def _is_answered(connection: Connection) -> bool:
    # Watch a copy of the descriptor, because libev aborts the process if it watches a closed descriptor. A caller of
    # `end_statement` waits only for a limited time, so the caller may close the connection before this wait ends.
    descriptor = os.dup(connection.fileno())
    try:
        look = poll()
        look.register(descriptor, select.POLLIN)
        return bool(look.poll(_ANSWER_MILLISECONDS))
    finally:
        os.close(descriptor)


def _outside_of_transactions(connection: Connection, statement: str) -> None:
    autocommit = connection.autocommit
    connection.autocommit = True
    connection.execute(statement)
    # Do not use `finally`, because a connection that was interrupted here is busy, and will be discarded.
    connection.autocommit = autocommit


def _place(text: str, kwargs: dict[str, Any]) -> str:
    """Return a description of the server that a connection uses, without secrets."""
    known: dict[str, Any] = {**conninfo.conninfo_to_dict(text), **kwargs}
    return " ".join(f"{name}={known[name]}" for name in _SHOWN if name in known)


def _require_cooperation() -> None:
    if not monkey.is_module_patched("select") or _waits_in_c():
        raise OptionError(
            "db_init_func: psycopg would block the whole server while it waits, because it was imported before gevent "
            "patched the process; serve with `intralb-gevent serve`, or call gevent.monkey.patch_all() before "
            "anything else is imported"
        )


def _waits_in_c() -> bool:
    """Return True if psycopg has selected its function for waiting before gevent could replace it."""
    chosen = vars(waiting)
    ours = selectors.DefaultSelector
    return chosen["wait"] is chosen.get("wait_c") or chosen.get("DefaultSelector", ours) is not ours
