"""Storm scenario for SQLAlchemy with PyMySQL."""

from __future__ import annotations

import os
from typing import Any

from slowline import keep_little
from sqlalchemy import Engine, event, make_url, text

from intralb_gevent import SessionSource

from . import pymysql, sqlalchemy_common
from .pymysql import clean, connections, prepare, verify

__all__ = ["clean", "connections", "linger", "prepare", "source", "verify", "work"]


def source(run: str) -> SessionSource:
    address = make_url(os.environ["INTRALB_TEST_MARIADB"]).set(drivername="mysql+pymysql", database=run)
    # Disable TLS; otherwise, each connection would first read the system's certificates.
    # Send little at a time, so that aborts can be raised while a connection sends. Listen to every engine, because the
    # sessions' own is created later.
    event.listen(Engine, "connect", lambda connection, record: keep_little(connection._sock.fileno()))
    return sqlalchemy_common.sessions(address, read_timeout=60, ssl_disabled=True)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    return sqlalchemy_common.work(session, question, stage, "replace into answered")


def linger(session: Any) -> None:
    # Do not use SLEEP(), for the reason given in pymysql.py.
    session.execute(text("select get_lock(:lock, 30)"), {"lock": pymysql.LOCK})
