"""Storm scenario for psycopg2: a query, a pause, an insert and a commit."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

import gevent
from psycopg2 import extensions
from slowline import SlowLine, keep_little

from intralb_gevent import SessionSource
from intralb_gevent.integrations.psycopg2 import Psycopg2Sessions

from .postgres import ADDRESS, clean, connections, prepare, table, verify

__all__ = ["LARGE", "clean", "connections", "linger", "prepare", "sending", "source", "verify", "work"]

INSERT = ""
LARGE = 1_000_000


class SlowForSome(Psycopg2Sessions):
    """A session source that connects the first worker's sessions through a `SlowLine`."""

    def __init__(self, address: str, **kwargs: Any) -> None:
        super().__init__(address, **kwargs)
        self.slow = Psycopg2Sessions(SlowLine(address).url, **kwargs)

    def open(self, worker_id: int) -> Any:
        if worker_id != 1:
            return super().open(worker_id)
        session = self.slow.open(worker_id)
        keep_little(session.fileno())
        return session


def source(run: str) -> SessionSource:
    global INSERT
    INSERT = f"insert into {table(run)} values (%s)"
    return SlowForSome(ADDRESS, application_name=run)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    cursor = session.cursor()
    with stage("statement"):
        cursor.execute("select %s, length(%s)", (question.number, question.payload))
    answer = cursor.fetchone()
    gevent.sleep(0.001)
    with stage("statement"):
        cursor.execute(INSERT, (question.number,))
    with stage("commit"):
        session.commit()
    return answer


def linger(session: Any) -> None:
    session.cursor().execute("select pg_sleep(30)")


def sending(tb: TracebackType) -> bool:
    """Return True if a send was interrupted: the wait callback was then waiting until the socket is writable."""
    states = [frame.f_locals["state"] for frame, _ in traceback.walk_tb(tb) if frame.f_code.co_name == "_wait"]
    return extensions.POLL_WRITE in states
