"""Django: the database connections that it keeps for each slot's greenlet, as that slot's session.

Decides what becomes of them when a request was interrupted, and that they end with their slot. When they are opened,
how old they may get and whether they are checked stays Django's (`CONN_MAX_AGE`, `CONN_HEALTH_CHECKS`). It must not
know drivers: `drivers.py` finds out how a statement of theirs is ended.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.core.signals import request_started
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.utils import DatabaseErrorWrapper

from ..errors import NoCurrentJob
from ..pool.session import current_session
from ..sessionsource import SessionSource
from .drivers import end_statement, interrupts, make_cooperative

__all__ = ["DjangoSessions", "SlotConnections"]


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
        for database in connections.all():
            make_cooperative(database.Database.__name__)

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
        for database in _known():
            _give_up(database)

    def close(self, session: SlotConnections) -> None:
        """Close the connections."""
        connections.close_all()


class _Guard(DatabaseErrorWrapper):  # type: ignore[misc]  # Django has no types
    """What Django lets every call of a driver go through; this one knows when a call has been interrupted, too."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if interrupts(error):
            # Now, for an atomic block on the way out closes the connection, and nobody knows then what it was doing.
            _abandon(self.wrapper)
            # So that the block does not open another one.
            self.wrapper.closed_in_transaction = True
        super().__exit__(kind, error, traceback)


def _guard(connection: Any, **event: object) -> None:
    connection.wrap_database_errors = _Guard(connection)


def _known() -> list[Any]:
    """Return Django's connections of the present greenlet, open or not."""
    found: list[Any] = connections.all(initialized_only=True)
    return found


def _give_up(database: Any) -> None:
    """Close a connection and forget it, with all that it knows of transactions."""
    _abandon(database)
    del connections[database.alias]


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
