"""Transfers between two accounts in one SQLite file: every reader sees the same sum."""

from __future__ import annotations

import sqlite3
from typing import Any

import gevent

from .sqlite3 import PLACES, clean, connections, linger, path, source

__all__ = ["PLACES", "clean", "connections", "linger", "prepare", "source", "verify", "work"]

SUM = 2_000_000


def prepare(run: str) -> None:
    connection = sqlite3.connect(path(run))
    connection.execute("create table accounts (account integer primary key, balance, transfers default 0)")
    half = SUM // 2
    connection.execute("insert into accounts (account, balance) values (1, ?), (2, ?)", (half, half))
    connection.commit()
    connection.close()


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    amount = abs(question.number) % 97 + 1
    with stage("statement"):
        session.execute("begin immediate")
    with stage("statement"):
        look = "select ?, length(?), sum(balance) from accounts"
        number, length, total = session.execute(look, (question.number, question.payload)).fetchone()
    assert total == SUM
    for account, change in ((1, -amount), (2, amount)):
        with stage("statement"):
            move = "update accounts set balance = balance + ?, transfers = transfers + 1 where account = ?"
            session.execute(move, (change, account))
        gevent.sleep(0.0005)
    with stage("commit"):
        session.commit()
    return number, length


def verify(run: str, answered: list[int]) -> list[str]:
    """Return faults: lost or created money, and transfers that were answered but not made."""
    connection = sqlite3.connect(path(run))
    rows = connection.execute("select balance, transfers from accounts").fetchall()
    connection.close()
    total, (taken, given) = sum(balance for balance, _ in rows), (transfers for _, transfers in rows)
    faults = [f"the sum is {total} in place of {SUM}"] if total != SUM else []
    if taken != given or taken < len(answered):
        faults.append(f"{taken} were taken and {given} given, {len(answered)} transfers were answered for")
    return faults
