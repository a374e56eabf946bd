"""The common code of the SQLAlchemy scenarios: a query, a pause, an insert and a commit in a session."""

from __future__ import annotations

from typing import Any

import gevent
from sqlalchemy import URL, text

from intralb_gevent.integrations.sqlalchemy import SQLAlchemySessions


def sessions(address: str | URL, **connect_args: Any) -> SQLAlchemySessions:
    # Use a short timeout: there is a connection for each slot, so a wait for a connection means that one was lost.
    return SQLAlchemySessions(address, engine_options={"connect_args": connect_args, "pool_timeout": 5})


def work(session: Any, question: Any, stage: Any, insert: str) -> tuple[int, int]:
    asked = {"number": question.number, "payload": question.payload}
    with stage("connect"):
        session.connection()
    with stage("statement"):
        number, length = session.execute(text("select :number + 0, length(:payload)"), asked).one()
    gevent.sleep(0.001)
    with stage("statement"):
        session.execute(text(f"{insert} values (:number)"), asked)
    with stage("commit"):
        session.commit()
    return int(number), length
