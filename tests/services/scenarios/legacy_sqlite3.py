"""Storm scenario with a thread-local sqlite3 connection; each run has its own file."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from typing import Any

from .ledger import STAGES, TABLES, faults_of

__all__ = ["APPLICATION", "STAGES", "clean", "left", "prepare", "verify"]

APPLICATION = "legacy.with_sqlite3:application"


def path(run: str) -> str:
    return os.path.join(tempfile.gettempdir(), f"{run}.sqlite3")


def prepare(run: str) -> dict[str, str]:
    with closing(sqlite3.connect(path(run))) as connection:
        connection.execute("pragma journal_mode = wal")
        for statement in TABLES:
            connection.execute(statement)
        connection.commit()
    return {"LEGACY_SQLITE": path(run)}


def clean(run: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.remove(path(run) + suffix)


def left(server: Any) -> list[str]:
    """Report a lock that is still held, and connections in excess of twice the number of slots."""
    found = []
    with closing(sqlite3.connect(path(server.run), timeout=0)) as connection:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError as error:
            found.append(f"a lock: {error}")
    # SQLite keeps a closed connection's file open while another connection has a lock, and reuses the file later.
    return found + ["one connection more than twice the slots"] * (opened(server) - 2 * server.slots)


def opened(server: Any) -> int:
    """Count how often the server has the file open: once for each connection."""
    folder = f"/proc/{server.process.pid}/fd"
    links = (os.path.join(folder, number) for number in os.listdir(folder))
    return sum(os.path.realpath(link) == path(server.run) for link in links)


def verify(server: Any, requests: list[Any]) -> list[str]:
    with closing(sqlite3.connect(path(server.run))) as connection:
        accounts = connection.execute("select id, balance from account").fetchall()
        ledger = connection.execute("select number, account, amount from ledger").fetchall()
    return faults_of(accounts, ledger, requests)
