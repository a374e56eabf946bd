"""Roll back transactions that an aborted request has left open on the application's own connections.

After an abort, the slot continues in a new greenlet. If an application stores its connections by
`threading.get_ident()`, no later request uses the aborted request's connection, so this connection would hold its locks
forever. Only connections that no other slot has used are rolled back, because another request may be using a shared
connection.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from ..aborts.slotgreenlet import current_slot
from ..pool.guards import Guard

__all__ = ["TransactionGuard"]


class TransactionGuard(Guard):
    """Rolls back the connections of one driver; `in_transaction` returns whether a connection may need a rollback."""

    def __init__(self, driver: str, in_transaction: Callable[[Any], bool]) -> None:
        self._driver = driver
        self._in_transaction = in_transaction
        self._users: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"the guard of {self._driver}'s transactions"

    def note_use(self, connection: Any) -> None:
        """Record that the current slot uses a connection; never waits."""
        slot = current_slot()
        if self._users.setdefault(connection, slot) is not slot:
            self._users[connection] = None

    def abandon(self) -> None:
        """Roll back the connections that only this slot has used; if a rollback fails, close the connection."""
        slot = current_slot()
        own = [connection for connection, user in list(self._users.items()) if user is slot and user is not None]
        for connection in filter(self._in_transaction, own):
            _roll_back(connection)


def _roll_back(connection: Any) -> None:
    try:
        connection.rollback()
    except Exception:
        with suppress(Exception):
            connection.close()
