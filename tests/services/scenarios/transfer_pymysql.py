"""Transfers between two accounts in MariaDB, through PyMySQL: every reader sees the same sum."""

from __future__ import annotations

from typing import Any

import gevent

from intralb_gevent import SessionSource
from intralb_gevent.integrations.pymysql import PyMySQLSessions

from .pymysql import ADDRESS, asked, clean, connections, hold, linger

__all__ = ["PLACES", "SIZE", "clean", "connections", "linger", "prepare", "source", "verify", "work"]

PLACES = {"receive", "between", "commit"}
SIZE = (2, 2)
SUM = 2_000_000


def source(run: str) -> SessionSource:
    return PyMySQLSessions(**ADDRESS, database=run)


def prepare(run: str) -> None:
    hold(run)
    asked(f"create database `{run}`")
    asked(f"create table `{run}`.accounts (account int primary key, balance bigint, transfers bigint default 0)")
    asked(f"insert into `{run}`.accounts (account, balance) values (1, {SUM // 2}), (2, {SUM // 2})")


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    amount = abs(question.number) % 97 + 1
    with session.cursor() as cursor:
        with stage("statement"):
            look = "select %s, length(%s), cast(sum(balance) as signed) from accounts"
            cursor.execute(look, (question.number, question.payload))
        number, length, total = cursor.fetchone()
        assert total == SUM
        for account, change in ((1, -amount), (2, amount)):
            with stage("statement"):
                move = "update accounts set balance = balance + %s, transfers = transfers + 1 where account = %s"
                cursor.execute(move, (change, account))
            gevent.sleep(0.0005)
    with stage("commit"):
        session.commit()
    return number, length


def verify(run: str, answered: list[int]) -> list[str]:
    """Return faults: lost or created money, and transfers that were answered but not made."""
    rows = asked(f"select balance, transfers from `{run}`.accounts")
    total, (taken, given) = sum(balance for balance, _ in rows), (transfers for _, transfers in rows)
    faults = [f"the sum is {total} in place of {SUM}"] if total != SUM else []
    if taken != given or taken < len(answered):
        faults.append(f"{taken} were taken and {given} given, {len(answered)} transfers were answered for")
    return faults
