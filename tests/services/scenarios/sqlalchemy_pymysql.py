"""SQLAlchemy over PyMySQL."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import make_url, text

from intralb_gevent import SessionSource

from . import pymysql, sqlalchemy_common
from .pymysql import clean, connections, prepare, verify

__all__ = ["clean", "connections", "linger", "prepare", "source", "verify", "work"]


def source(run: str) -> SessionSource:
    address = make_url(os.environ["INTRALB_TEST_MARIADB"]).set(drivername="mysql+pymysql", database=run)
    # Else each connection would begin with reading the system's certificates.
    return sqlalchemy_common.sessions(address, read_timeout=60, ssl_disabled=True)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    return sqlalchemy_common.work(session, question, stage, "replace into answered")


def linger(session: Any) -> None:
    # Not SLEEP(), for the reason that is said there.
    session.execute(text("select get_lock(:lock, 30)"), {"lock": pymysql.LOCK})
