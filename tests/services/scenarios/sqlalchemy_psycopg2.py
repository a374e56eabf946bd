"""Storm scenario for SQLAlchemy with psycopg2."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from intralb_gevent import SessionSource

from . import sqlalchemy_common
from .postgres import ADDRESS, clean, connections, prepare, table, verify
from .psycopg2 import sending

__all__ = ["PLACES", "clean", "connections", "linger", "prepare", "sending", "source", "verify", "work"]

INSERT = ""
# Leave out "send": the driver encodes a statement without waiting, and hardly ever waits while sending.
PLACES = {"connect", "receive", "commit", "between"}


def source(run: str) -> SessionSource:
    global INSERT
    INSERT = f"insert into {table(run)}"
    address = ADDRESS.replace("postgresql://", "postgresql+psycopg2://")
    return sqlalchemy_common.sessions(address, application_name=run)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    return sqlalchemy_common.work(session, question, stage, INSERT)


def linger(session: Any) -> None:
    session.execute(text("select pg_sleep(30)"))
