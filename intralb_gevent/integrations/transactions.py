"""Transactions that an aborted request has left open on a connection of the application's own.

An application that keeps connections by `threading.get_ident()` does not find that of an aborted request again, and its
locks would be held for ever. Decides which connections are rolled back: those that only the request's slot has used.
Another request may be using any other one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from gevent import getcurrent

from ..pool.guards import Guard

__all__ = ["TransactionGuard"]


class TransactionGuard(Guard):
    """Rolls back connections of one driver; `in_transaction` says of a connection whether that may be needed."""

    def __init__(self, driver: str, in_transaction: Callable[[Any], bool]) -> None:
        self._driver = driver
        self._in_transaction = in_transaction
        self._users: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"the guard of {self._driver}'s transactions"

    def note_use(self, connection: Any) -> None:
        """Note that the current greenlet uses a connection; never waits."""
        slot = getattr(getcurrent(), "intralb_slot", None)
        if self._users.setdefault(connection, slot) is not slot:
            self._users[connection] = None

    def abandon(self) -> None:
        """Roll back the connections that only this slot has used, and close those that cannot be rolled back."""
        slot = getattr(getcurrent(), "intralb_slot", None)
        own = [connection for connection, user in list(self._users.items()) if user is slot and user is not None]
        for connection in filter(self._in_transaction, own):
            _roll_back(connection)


def _roll_back(connection: Any) -> None:
    try:
        connection.rollback()
    except Exception:
        with suppress(Exception):
            connection.close()
