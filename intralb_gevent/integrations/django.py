"""Django: the database connections that it keeps for each slot's greenlet, protected or as that slot's session.

Decides what becomes of them when a request was interrupted, and that they end with their slot. When they are opened,
how old they may get and whether they are checked stays Django's (`CONN_MAX_AGE`, `CONN_HEALTH_CHECKS`). It must not
know drivers: `drivers.py` finds out how a statement of theirs is ended.
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
from ..pool.forks import FORKS, detach, when_isolated
from ..pool.guards import Guard, register, watch_slot
from ..pool.session import current_session
from ..sessionsource import SessionSource
from .drivers import end_statement, interrupts, make_cooperative

__all__ = ["DjangoSessions", "SlotConnections", "protect"]

_KEPT = "intralb_django_connections"
"""The attribute of a slot's greenlet that lists Django's connections which were opened in it."""


def protect() -> None:
    """Look after Django's connections in all slots, with or without other sessions; a second call changes nothing.

    When a request is interrupted, the statement that it waits for is ended on the server, and the connections of its
    slot are closed. So are they when a request ends within a transaction, and with the slot. All else is Django's.
    """
    connection_created.connect(_guard, dispatch_uid=__name__)
    register(_GUARD)
    _make_drivers_cooperative()


class _DjangoGuard(Guard):
    """Looks after Django's connections of a slot's greenlet."""

    def __repr__(self) -> str:
        return "Django's guard"

    def dirty(self) -> bool:
        """Say whether a request has left a connection within a transaction."""
        for database in vars(getcurrent()).get(_KEPT, ()):
            if database.in_atomic_block or database.closed_in_transaction:
                return True
        return False

    def abandon(self) -> None:
        """End what the connections do on their servers, and close them."""
        _give_up_all()

    def leave(self) -> None:
        """Close the connections."""
        _close_all()


_GUARD = _DjangoGuard()


class SlotConnections:
    """Django's connections of one slot: what `current_session()` returns. `session["default"]` is one of them."""

    def __init__(self, worker_id: int) -> None:
        self.worker_id = worker_id

    def __repr__(self) -> str:
        connected = [database.alias for database in _known() if database.connection is not None]
        return f"<SlotConnections worker={self.worker_id} connected to {connected}>"

    def __getitem__(self, alias: str) -> Any:
        return connections[alias]


class DjangoSessions(SessionSource):
    """Looks after Django's own connections: `Options(db_init_func=DjangoSessions())` is all that is needed.

    Nothing changes in the application: it uses Django's connections as before, and each request of Django's has them
    for its session. When a request is interrupted, the statement that it waits for is ended on the server, the
    connections of its slot are closed, and so is every transaction. Those of other greenlets that a view starts are not
    closed for it. Django's settings hold: with `CONN_MAX_AGE` a slot keeps its connections between requests, and with
    `CONN_HEALTH_CHECKS` a restarted server costs no request.
    """

    def __init__(self) -> None:
        # Django refers to them weakly: they are called as long as these sessions are in use.
        request_started.connect(self._on_request)
        connection_created.connect(_guard, dispatch_uid=__name__)

    def __repr__(self) -> str:
        return f"<DjangoSessions {list(connections)}>"

    def _on_request(self, **event: object) -> None:
        """Have the slot know that its request may use Django's connections."""
        # Elsewhere than in a slot, as in a test client, there is nothing to do.
        with suppress(NoCurrentJob):
            current_session()

    def sized_for(self, sessions: int) -> None:
        """See to it that none of the drivers stops the whole process while it waits."""
        _make_drivers_cooperative()

    def open(self, worker_id: int) -> SlotConnections:
        """Return what stands for the connections; Django opens each when it is used."""
        return SlotConnections(worker_id)

    def reset(self, session: SlotConnections) -> None:
        """Give up connections that a request has left in a transaction; Django keeps or closes the others."""
        for database in _known():
            if database.in_atomic_block or database.closed_in_transaction:
                _give_up(database)

    def discard(self, session: SlotConnections) -> None:
        """End what the connections do on their servers, and close them."""
        _give_up_all()

    def close(self, session: SlotConnections) -> None:
        """Close the connections."""
        _close_all()


class _Watch(DatabaseErrorWrapper):  # type: ignore[misc]  # Django has no types
    """What Django lets every call of a driver go through; this one knows when a call has been interrupted, too."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if kind is None:
            return
        if interrupts(error):
            # Now, for an atomic block on the way out closes the connection, and nobody knows then what it was doing.
            _abandon(self.wrapper)
            # So that the block does not open another one.
            self.wrapper.closed_in_transaction = True
        super().__exit__(kind, error, traceback)


_GUARDED: WeakSet[Any] = WeakSet()
"""Django's connections of all greenlets."""


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
    """Return Django's connections of the present greenlet, open or not."""
    # Django's own way to ask for them differs between its versions.
    return [connections[alias] for alias in connections if hasattr(connections._connections, alias)]


def _close_all() -> None:
    for database in _known():
        database.close()


def _give_up_all() -> None:
    for database in _known():
        _give_up(database)


def _give_up(database: Any) -> None:
    """Close a connection and forget it, with all that it knows of transactions."""
    _abandon(database)
    del connections[database.alias]
    kept = vars(getcurrent()).get(_KEPT, [])
    if database in kept:
        kept.remove(database)


def _abandon(database: Any) -> None:
    """End what a connection does on its server, and close it."""
    connection = database.connection
    if connection is not None:
        end_statement(connection)
        with suppress(Exception):
            # First the driver's, lest a pool of Django's takes it back.
            connection.close()
        with suppress(Exception):
            database.close()


def _isolate() -> None:
    """Forget the connections of the greenlet that has forked; Django opens others when they are used."""
    for database in _GUARDED:
        detach(database.connection)
    for database in _known():
        FORKS.keep(database)
        del connections[database.alias]
    vars(getcurrent()).pop(_KEPT, None)


when_isolated(_isolate)
