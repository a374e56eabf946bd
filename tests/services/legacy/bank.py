"""A sample application, a bank, on a relational database; each thread opens its own connection when it needs one.

A page commits at its end, or rolls back after an `Exception`. A payment takes the user's lock in the database, changes
both accounts in the order of their numbers, and writes both changes to the ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .web import LONG, Page, Request, stage

__all__ = ["Bank"]


class Bank:
    """The sample bank. `connect` opens a connection; each `?` in a statement is replaced by the driver's `mark`."""

    def __init__(self, connect: Callable[[], Any], mark: str, lock: str, unlock: str, slow: str) -> None:
        self._connect, self._mark = connect, mark
        self._lock, self._unlock, self._slow = lock, unlock, slow
        self._local = threading.local()

    def connection(self) -> Any:
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self._connect()
        return self._local.connection

    def rows(self, statement: str, *parameters: object) -> Any:
        cursor = self.connection().cursor()
        cursor.execute(statement.replace("?", self._mark), parameters)
        return cursor.fetchall() if cursor.description else ()

    def wait(self) -> None:
        """Wait in the database by running slow statements one after another."""
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            self.rows(self._slow)

    @contextmanager
    def locked(self, user: int) -> Iterator[None]:
        self.rows(self._lock, user)
        try:
            yield
        finally:
            self.rows(self._unlock, user)

    def in_transaction(self, page: Page) -> Page:
        def committed(request: Request) -> dict[str, Any]:
            stage(request, "connect", self.wait)
            connection = self.connection()
            try:
                answer = page(request)
                stage(request, "commit", self.wait)
                connection.commit()
                stage(request, "committed", self.wait)
            except Exception:
                connection.rollback()
                raise
            return answer

        return committed

    def look(self, request: Request) -> dict[str, Any]:
        stage(request, "look", self.wait)
        number, owner = self.rows("select ?, owner from account where id = ?", request.number, request.user)[0]
        return {"numbers": [number], "owners": [owner]}

    def pay(self, request: Request) -> dict[str, Any]:
        answer = self.look(request)
        with self.locked(request.user):
            stage(request, "locked", self.wait)
            for account, change in sorted({request.user: -request.amount, request.other: request.amount}.items()):
                self.rows("update account set balance = balance + ? where id = ?", change, account)
                self.rows("insert into ledger values (?, ?, ?)", request.number, account, change)
                time.sleep(0.0005)
                stage(request, "half", self.wait)
            number, owner = self.rows("select ?, owner from account where id = ?", request.number, request.user)[0]
        return {"numbers": [*answer["numbers"], number], "owners": [*answer["owners"], owner]}
