"""Storm scenario for transfers with psycopg 3."""

from __future__ import annotations

from typing import Any

from intralb_gevent import SessionSource
from intralb_gevent.integrations.psycopg import PsycopgSessions

from .postgres import ADDRESS
from .psycopg import linger, sending
from .transfer import PLACES, SIZE, clean, connections, prepare, transfer, verify

__all__ = ["PLACES", "SIZE", "clean", "connections", "linger", "prepare", "sending", "source", "verify", "work"]


def source(run: str) -> SessionSource:
    return PsycopgSessions(ADDRESS, application_name=run)


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    def execute(statement: str, parameters: tuple[Any, ...]) -> Any:
        return session.execute(statement, parameters).fetchone()

    return transfer(execute, session.commit, question, stage)
