"""Storm scenario for sqlite3: a query, a pause in a transaction for which other jobs wait, and a commit."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import suppress
from typing import Any

import gevent

from intralb_gevent import SessionSource
from intralb_gevent.integrations.sqlite3 import SQLiteSessions

# There is no server. Aborts are raised while a job waits for the lock or the commit, in a long-running statement, and
# between calls.
PLACES = {"receive", "between"}
NEVER_ENDING = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"


def path(run: str) -> str:
    return os.path.join(tempfile.gettempdir(), f"{run}.sqlite3")


class QuickSessions(SQLiteSessions):
    """A session source whose connections do not wait for the disk at each commit."""

    def open(self, worker_id: int) -> sqlite3.Connection:
        connection = super().open(worker_id)
        connection.execute("pragma synchronous = off")
        return connection


def source(run: str) -> SessionSource:
    return QuickSessions(path(run), timeout=60)


def prepare(run: str) -> None:
    connection = sqlite3.connect(path(run))
    connection.execute("create table answered (number integer primary key)")
    connection.execute("pragma journal_mode = wal")
    connection.close()


def clean(run: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.remove(path(run) + suffix)


def connections(run: str) -> int:
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(link) and os.readlink(link).startswith(path(run)) for link in links)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    with stage("statement"):
        answer = session.execute("select ?, length(?)", (question.number, question.payload)).fetchone()
    with stage("statement"):
        session.execute("insert or replace into answered values (?)", (question.number,))
    if question.aborted:
        # Hold the lock during this pause.
        gevent.sleep(0.001)
    with stage("commit"):
        session.commit()
    return answer


def linger(session: Any) -> None:
    session.execute(NEVER_ENDING)


def verify(run: str, answered: list[int]) -> list[str]:
    """Return the jobs that were answered although their row is missing."""
    connection = sqlite3.connect(path(run))
    lost = set(answered) - {number for (number,) in connection.execute("select number from answered")}
    connection.close()
    return [f"{len(lost)} jobs were answered, but what they have committed is not there"] if lost else []
