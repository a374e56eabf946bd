"""A transfer between two accounts, with any driver: every reader sees the same sum.

This module defines the statements and the invariants. A scenario for a driver calls `transfer` with a function that
executes a statement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from .postgres import asked, connections, table

__all__ = ["PLACES", "SIZE", "clean", "connections", "prepare", "transfer", "verify"]

PLACES = {"receive", "between", "commit"}
# Use few slots: only one transfer proceeds at a time, so with more slots, nearly every abort would hit a waiting job.
SIZE = (2, 2)
SUM = 2_000_000
LEDGER = {"name": ""}


def prepare(run: str) -> None:
    LEDGER["name"] = table(run)
    asked(f"create table {table(run)} (account int primary key, balance bigint, transfers bigint default 0)")
    asked(f"insert into {table(run)} values (1, {SUM // 2}), (2, {SUM // 2})")


def clean(run: str) -> None:
    asked(f"drop table {table(run)}")


def verify(run: str, answered: list[int]) -> list[str]:
    """Return faults: lost or created money, and transfers that were answered but not made."""
    rows = asked(f"select balance, transfers from {table(run)}")
    total, (taken, given) = sum(balance for balance, _ in rows), (transfers for _, transfers in rows)
    faults = [f"the sum is {total} in place of {SUM}"] if total != SUM else []
    if taken != given or taken < len(answered):
        faults.append(f"{taken} were taken and {given} given, {len(answered)} transfers were answered for")
    return faults


def transfer(execute: Callable[..., Any], commit: Callable[[], object], question: Any, stage: Any) -> tuple[int, int]:
    """Read both accounts, and move an amount from one to the other; `execute` returns the first row."""
    ledger, amount = LEDGER["name"], abs(question.number) % 97 + 1
    with stage("statement"):
        look = f"select %s::int, length(%s), sum(balance)::bigint from {ledger}"
        number, length, total = execute(look, (question.number, question.payload))
    assert total == SUM
    for account, change in ((1, -amount), (2, amount)):
        with stage("statement"):
            change_it = f"update {ledger} set balance = balance + %s, transfers = transfers + 1 where account = %s"
            execute(change_it + " returning balance", (change, account))
        gevent.sleep(0.0005)
    with stage("commit"):
        commit()
    return number, length
