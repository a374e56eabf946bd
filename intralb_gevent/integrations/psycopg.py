"""psycopg 3: its connections as sessions, `Options(db_init_func=PsycopgSessions("host=... dbname=..."))`, and others'.

Decides how such a connection is opened, checked, made ready, interrupted on the server and closed. It must not know
when, nor whose request uses it: `pool/session.py` does.
"""

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

# The patched one would go round the hub also when it is not to wait.
_poll_at_once = monkey.get_original("select", "poll")

CANCEL_SECONDS = 2.0
"""How long the server may take to accept that a statement is cancelled."""

MOST_CANCELS = 3
"""How often a statement is cancelled that goes on nevertheless."""

_ANSWER_MILLISECONDS = 300
_LONGEST_TIMEOUT = 2_147_483_647
_SHOWN = ("host", "port", "dbname", "user")


class PsycopgSessions(SessionSource):
    """Opens a `psycopg.Connection` for each slot that uses one.

    `conninfo` and the keyword arguments are those of `psycopg.connect`. With `statement_timeout=True` the server's
    `statement_timeout` is set to the time that is left to each request before it uses its connection, which costs a
    round trip. A request that leaves a transaction open has it rolled back.

    A connection on which something has arrived while it was idle is replaced, since that is how a server says that it
    has closed it; so this is not for connections that LISTEN.

    Raises `OptionError` when psycopg would block the whole process while it waits, because it was imported before
    gevent has patched it, and `psycopg.ProgrammingError` when `conninfo` is malformed.
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
        """Connect; raises `psycopg.OperationalError` if that fails."""
        connection = psycopg.connect(self._conninfo, **self._kwargs)
        self._open += 1
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
        """Roll back what a request has not committed; raises `psycopg.Error` if the connection is not idle then."""
        if session.info.transaction_status != TransactionStatus.IDLE:
            session.rollback()
        if session.info.transaction_status != TransactionStatus.IDLE:
            raise psycopg.OperationalError(f"{session!r} is not idle after a rollback")

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


# Connections of the application's own.

_wait_for_psycopg = psycopg.Connection.wait


@functools.wraps(_wait_for_psycopg)
def _wait(self: Connection, *args: Any, **kwargs: Any) -> Any:
    _GUARD.note_use(self)
    try:
        return _wait_for_psycopg(self, *args, **kwargs)
    except BaseException as error:
        # One that was waiting for notifications is in order, and may go on to be used.
        if interrupts(error) and _is_active(self):
            end_statement(self)
            self.close()
        raise


def protect() -> None:
    """End on the server what any connection of psycopg's is doing when its wait is interrupted, and close it.

    psycopg itself does so for KeyboardInterrupt only; after other exceptions the statement goes on, and the connection
    cannot be used. A transaction that an aborted request has left open is rolled back if no other slot has used the
    connection.
    """
    psycopg.Connection.wait = _wait  # type: ignore[method-assign]
    register(_GUARD)


def _in_transaction(connection: Connection) -> bool:
    return not connection.closed and connection.info.transaction_status in _OPEN_TRANSACTION


_OPEN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
_GUARD = TransactionGuard("psycopg", _in_transaction)


# Ending what runs on the server.


def cancel_statement(connection: Connection) -> None:
    """End what an interrupted connection still runs on the server, if it does; close it afterwards.

    Waits for some seconds at most, without blocking the hub. If the server cannot be reached this is logged, and no
    error.
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
        # One that the statement has overtaken on its way finds nothing to cancel.
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
    # psycopg has it from 3.2 on, and libpq from 17 on; the older way waits in C.
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
    # The connection may be closed meanwhile by a caller of `end_statement`, which waits for a limited time. libev
    # aborts the process when it is to watch a descriptor that has been closed, so it watches a copy.
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
    # Not in a `finally`: a connection that was interrupted here is busy, and given up.
    connection.autocommit = autocommit


def _place(text: str, kwargs: dict[str, Any]) -> str:
    """Say where a connection goes to, without what is secret."""
    known: dict[str, Any] = {**conninfo.conninfo_to_dict(text), **kwargs}
    return " ".join(f"{name}={known[name]}" for name in _SHOWN if name in known)


def _require_cooperation() -> None:
    if not monkey.is_module_patched("select") or _waits_in_c():
        raise OptionError(
            "db_init_func: psycopg would stop the whole server while it waits, because it was imported before gevent "
            "has patched the process; serve with `intralb-gevent serve`, or call gevent.monkey.patch_all() before "
            "anything else is imported"
        )


def _waits_in_c() -> bool:
    """Say whether psycopg has chosen how it waits before gevent could offer its own way."""
    chosen = vars(waiting)
    ours = selectors.DefaultSelector
    return chosen["wait"] is chosen.get("wait_c") or chosen.get("DefaultSelector", ours) is not ours
