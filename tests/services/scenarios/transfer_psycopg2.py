"""Storm scenario for transfers with psycopg2."""

from __future__ import annotations

from typing import Any

from intralb_gevent import SessionSource
from intralb_gevent.integrations.psycopg2 import Psycopg2Sessions

from .postgres import ADDRESS
from .psycopg2 import linger, sending
from .transfer import PLACES, SIZE, clean, connections, prepare, transfer, verify

__all__ = ["PLACES", "SIZE", "clean", "connections", "linger", "prepare", "sending", "source", "verify", "work"]


def source(run: str) -> SessionSource:
    return Psycopg2Sessions(ADDRESS, application_name=run)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    def execute(statement: str, parameters: tuple[Any, ...]) -> Any:
        cursor = session.cursor()
        cursor.execute(statement, parameters)
        return cursor.fetchone()

    return transfer(execute, session.commit, question, stage)
