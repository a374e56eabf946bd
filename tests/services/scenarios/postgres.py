"""Queries for the scenarios of both PostgreSQL drivers, made on a separate connection outside of the storm."""

from __future__ import annotations

import os
from typing import Any

import psycopg

ADDRESS = os.environ["INTRALB_TEST_POSTGRESQL"]


def asked(statement: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(ADDRESS, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def table(run: str) -> str:
    return '"' + run.replace("-", "_") + '"'


def prepare(run: str) -> None:
    asked(f"create table {table(run)} (number int)")


def clean(run: str) -> None:
    asked(f"drop table {table(run)}")


def connections(run: str) -> int:
    ((count,),) = asked("select count(*) from pg_stat_activity where application_name = %s", run)
    return int(count)


def verify(run: str, answered: list[int]) -> list[str]:
    """Return the jobs that were answered although their row is missing."""
    written = {number for (number,) in asked(f"select number from {table(run)}")}
    lost = set(answered) - written
    return [f"{len(lost)} jobs were answered, but what they have committed is not there"] if lost else []
