"""Storm scenario for psycopg 3: a query, a pause, an insert and a commit."""

from __future__ import annotations

import select
import traceback
from types import TracebackType
from typing import Any

import gevent

from intralb_gevent import SessionSource
from intralb_gevent.integrations.psycopg import PsycopgSessions

from .postgres import ADDRESS, clean, connections, prepare, table, verify

__all__ = ["clean", "connections", "linger", "prepare", "sending", "source", "verify", "work"]

INSERT = ""


def source(run: str) -> SessionSource:
    global INSERT
    INSERT = f"insert into {table(run)} values (%s)"
    return PsycopgSessions(ADDRESS, application_name=run)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    with stage("statement"):
        answer = session.execute("select %s::int, length(%s)", (question.number, question.payload)).fetchone()
    gevent.sleep(0.001)
    with stage("statement"):
        session.execute(INSERT, (question.number,))
    with stage("commit"):
        session.commit()
    return answer


def linger(session: Any) -> None:
    session.execute("select pg_sleep(30)")


def sending(tb: TracebackType) -> bool:
    """Return True if a send was interrupted: psycopg then waits until its socket is readable or writable."""
    masks = [frame.f_locals["evmask"] for frame, _ in traceback.walk_tb(tb) if frame.f_code.co_name == "wait_poll"]
    return any(mask & select.POLLOUT for mask in masks)
