"""Protect Django's database connections (`protect`), and use them as the slots' sessions (`DjangoSessions`).

Django keeps separate connections for each greenlet. This module closes a slot's connections after an interrupted
request, and when the slot ends. Django itself opens the connections, limits their age and checks them (`CONN_MAX_AGE`,
`CONN_HEALTH_CHECKS`). `drivers.py` cancels the connections' statements on the server.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakSet

from django.core.signals import request_started
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.utils import DatabaseErrorWrapper
from gevent import getcurrent

from ..errors import NoCurrentJob
from ..hub.forks import FORKS, detach, when_isolated
from ..pool.guards import Guard, register, watch_slot
from ..pool.session import current_session
from ..sessionsource import SessionSource
from . import django_async
from .drivers import end_statement, interrupts, make_cooperative

__all__ = ["DjangoSessions", "SlotConnections", "protect"]

_KEPT = "intralb_django_connections"
"""Attribute of a slot's greenlet that lists the Django connections opened in it."""


def protect() -> None:
    """Protect Django's connections in all slots, with or without a `db_init_func`; a second call changes nothing.

    When a request is interrupted, its current statement is cancelled on the server, and the connections of its slot are
    closed. The connections are also closed if a request ends within a transaction, and when the slot ends. In all other
    cases, Django itself closes its connections.
    """
    connection_created.connect(_guard, dispatch_uid=__name__)
    register(_GUARD)
    django_async.protect()
    _make_drivers_cooperative()


class _DjangoGuard(Guard):
    """Cleans up the Django connections that belong to a slot's greenlet."""

    def __repr__(self) -> str:
        return "Django's guard"

    def dirty(self) -> bool:
        """Return True if a request has left a transaction open on a connection."""
        for database in vars(getcurrent()).get(_KEPT, ()):
            if database.in_atomic_block or database.closed_in_transaction:
                return True
        return False

    def abandon(self) -> None:
        """Cancel the statements of the slot's connections on their servers, and close the connections."""
        _give_up_all()

    def leave(self) -> None:
        """Close the slot's connections."""
        _close_all()


_GUARD = _DjangoGuard()


class SlotConnections:
    """The session that `current_session()` returns; `session[alias]` is Django's connection with that alias."""

    def __init__(self, worker_id: int) -> None:
        self.worker_id = worker_id

    def __repr__(self) -> str:
        connected = [database.alias for database in _known() if database.connection is not None]
        return f"<SlotConnections worker={self.worker_id} connected to {connected}>"

    def __getitem__(self, alias: str) -> Any:
        return connections[alias]


class DjangoSessions(SessionSource):
    """Sessions that are Django's own connections: `Options(db_init_func=DjangoSessions())`.

    The application needs no changes: it uses Django's connections as before, and these connections are the session of
    each Django request. When a request is interrupted, its current statement is cancelled on the server, and the
    connections of its slot are closed, which ends all their transactions. Connections that belong to other greenlets of
    a view stay open. Django's settings apply: with `CONN_MAX_AGE`, a slot keeps its connections between requests; with
    `CONN_HEALTH_CHECKS`, no request fails because a database server was restarted.
    """

    def __init__(self) -> None:
        # Django's signals refer to receivers weakly, so `_on_request` is called only while this object exists.
        request_started.connect(self._on_request)
        connection_created.connect(_guard, dispatch_uid=__name__)

    def __repr__(self) -> str:
        return f"<DjangoSessions {list(connections)}>"

    def _on_request(self, **event: object) -> None:
        """Mark the current slot's session as used, because its request may use Django's connections."""
        # Outside of a slot, as with Django's test client, there is no session to mark.
        with suppress(NoCurrentJob):
            current_session()

    def sized_for(self, sessions: int) -> None:
        """Make the database drivers cooperative, so that no driver blocks the whole process while it waits."""
        _make_drivers_cooperative()

    def open(self, worker_id: int) -> SlotConnections:
        """Return an object for the slot's connections; Django opens each connection at its first use."""
        return SlotConnections(worker_id)

    def reset(self, session: SlotConnections) -> None:
        """Close connections that a request has left in a transaction; Django itself handles all other connections."""
        for database in _known():
            if database.in_atomic_block or database.closed_in_transaction:
                _give_up(database)

    def discard(self, session: SlotConnections) -> None:
        """Cancel the statements of the slot's connections on their servers, and close the connections."""
        _give_up_all()

    def close(self, session: SlotConnections) -> None:
        """Close the slot's connections."""
        _close_all()


class _Watch(DatabaseErrorWrapper):  # type: ignore[misc]  # Django has no types
    """Extends Django's wrapper for driver calls: it also closes the connection when a driver call is interrupted."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if kind is None:
            return
        if interrupts(error):
            # Cancel the statement before the exception reaches an atomic block, which would close the connection while
            # the statement still runs.
            _abandon(self.wrapper)
            # Prevent the atomic block from opening a new connection.
            self.wrapper.closed_in_transaction = True
        super().__exit__(kind, error, traceback)


_GUARDED: WeakSet[Any] = WeakSet()
"""The Django connections of all greenlets."""


def _guard(connection: Any, **event: object) -> None:
    connection.wrap_database_errors = _Watch(connection)
    _GUARDED.add(connection)
    current = getcurrent()
    if hasattr(current, "intralb_slot"):
        kept = vars(current).setdefault(_KEPT, [])
        if connection not in kept:
            kept.append(connection)
        watch_slot()


def _make_drivers_cooperative() -> None:
    for database in connections.all():
        make_cooperative(database.Database.__name__)


def _known() -> list[Any]:
    """Return the current greenlet's Django connections, open or closed."""
    # Do not use `connections.all()`, because its parameters differ between versions of Django.
    return [connections[alias] for alias in connections if hasattr(connections._connections, alias)]


def _close_all() -> None:
    for database in _known():
        database.close()


def _give_up_all() -> None:
    for database in _known():
        _give_up(database)


def _give_up(database: Any) -> None:
    """Close a connection, and remove it from Django's connections, so that Django opens a new one when needed."""
    _abandon(database)
    del connections[database.alias]
    kept = vars(getcurrent()).get(_KEPT, [])
    if database in kept:
        kept.remove(database)


def _abandon(database: Any) -> None:
    """Cancel a connection's statement on its server, and close the connection."""
    connection = database.connection
    if connection is not None:
        end_statement(connection)
        with suppress(Exception):
            # Close the driver's connection first; otherwise, Django's pool would reuse the driver's connection.
            connection.close()
        with suppress(Exception):
            database.close()


def _isolate() -> None:
    """In a forked child, detach all connections, and drop those of this greenlet, so that Django opens new ones."""
    for database in _GUARDED:
        detach(database.connection)
    for database in _known():
        FORKS.keep(database)
        del connections[database.alias]
    vars(getcurrent()).pop(_KEPT, None)


when_isolated(_isolate)
