"""The PostgreSQL schema of legacy applications, and checks for leftovers in it; each run has its own schema.

The scenario for each driver only adds the reference to its application.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import psycopg

from .ledger import TABLES, faults_of

__all__ = ["asked", "clean", "connections", "left", "locks", "make", "prepare", "verify"]

ADDRESS = os.environ["INTRALB_TEST_POSTGRESQL"]


def asked(statement: str, *parameters: Any, schema: str = "public") -> list[Any]:
    with psycopg.connect(ADDRESS, autocommit=True, options=f"-c search_path={schema}") as connection:
        cursor = connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def locks(run: str) -> int:
    """Return the first of the two numbers that identify an advisory lock of this run."""
    return zlib.crc32(run.encode()) >> 1


def make(schema: str, statements: list[str]) -> None:
    asked(f"create schema {schema}")
    for statement in statements:
        asked(statement, schema=schema)


def prepare(run: str) -> dict[str, str]:
    make(run, TABLES)
    return {"LEGACY_POSTGRESQL": ADDRESS, "LEGACY_LOCKS": str(locks(run))}


def clean(run: str) -> None:
    # End connections that the run has left, because they might hold locks on the schema.
    asked("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", run)
    asked(f"drop schema if exists {run} cascade")


def connections(run: str) -> int:
    return len(asked("select pid from pg_stat_activity where application_name = %s", run))


def left(server: Any) -> list[str]:
    """Return open transactions, running statements, held locks, and connections beyond one for each slot."""
    busy = "select state from pg_stat_activity where application_name = %s and state <> 'idle'"
    held = """select distinct locktype from pg_locks join pg_stat_activity using (pid) where application_name = %s
        and locktype in ('advisory', 'transactionid', 'tuple')"""
    found = [f"a connection that is {state}" for (state,) in asked(busy, server.run)]
    found += [f"a lock: {kind}" for (kind,) in asked(held, server.run)]
    return found + ["one connection more than slots"] * (connections(server.run) - server.slots)


def verify(server: Any, requests: list[Any]) -> list[str]:
    accounts = asked("select id, balance from account", schema=server.run)
    return faults_of(accounts, asked("select number, account, amount from ledger", schema=server.run), requests)
