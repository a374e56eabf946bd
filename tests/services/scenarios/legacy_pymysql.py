"""Storm scenario with a thread-local PyMySQL connection; each run has its own database."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import pymysql

from .ledger import STAGES, TABLES, USERS, faults_of

__all__ = ["APPLICATION", "STAGES", "clean", "connections", "left", "prepare", "verify"]

APPLICATION = "legacy.with_pymysql:application"
ADDRESS = os.environ["INTRALB_TEST_MARIADB"]
URL = urlsplit(ADDRESS)


def asked(*statements: str, database: str | None = None) -> list[Any]:
    """Run statements on a separate connection, and return the rows of the last one."""
    address = {"host": URL.hostname, "port": URL.port or 3306, "user": URL.username, "password": URL.password or ""}
    with pymysql.connect(**address, database=database, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def prepare(run: str) -> dict[str, str]:
    asked(f"create database {run}")
    asked(*TABLES, database=run)
    return {"LEGACY_MARIADB": ADDRESS}


def clean(run: str) -> None:
    for (process,) in asked(f"select id from information_schema.processlist where db = '{run}'"):
        asked(f"kill {process}")
    asked(f"drop database if exists {run}")


def connections(run: str) -> int:
    return int(asked(f"select count(*) from information_schema.processlist where db = '{run}'")[0][0])


def left(server: Any) -> list[str]:
    """Return open transactions, running statements, held locks, and connections beyond one for each slot."""
    run = server.run
    running = asked(f"select info from information_schema.processlist where db = '{run}' and command <> 'Sleep'")
    transactions = asked(
        "select trx_state from information_schema.innodb_trx join information_schema.processlist "
        f"on trx_mysql_thread_id = id where db = '{run}'"
    )
    locked = asked(" union all ".join(f"select is_used_lock('{run}{user}')" for user in USERS))
    found = [f"a statement: {statement}" for (statement,) in running]
    found += [f"a transaction: {state}" for (state,) in transactions]
    found += ["a user's lock"] * sum(owner is not None for (owner,) in locked)
    return found + ["one connection more than slots"] * (connections(run) - server.slots)


def verify(server: Any, requests: list[Any]) -> list[str]:
    accounts = asked("select id, balance from account", database=server.run)
    return faults_of(accounts, asked("select number, account, amount from ledger", database=server.run), requests)
