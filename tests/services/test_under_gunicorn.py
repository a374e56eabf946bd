"""Tests of an application's database under gunicorn: statements of aborted requests, and sessions at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.under_gunicorn.conftest import Gunicorn, start

__all__ = ["start"]

NAME = f"intralb_gunicorn_{os.getpid()}"
APPLICATION = """
import os, psycopg
from intralb_gevent import current_session

def connect(worker_id=0):
    return psycopg.connect(os.environ["DATABASE"], application_name=os.environ["NAME"])

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        with connect() as connection:
            connection.execute("select pg_sleep(30)")
    current_session().execute("select 1")
    start_response("200 OK", [])
    return [b"hello"]
"""


@pytest.fixture
def sessions(postgresql: str) -> Any:
    """Return a function that counts the application's sessions on the server: all, or those that run a statement."""
    with psycopg.connect(postgresql, autocommit=True) as connection:

        def count(state: str = "%") -> int:
            query = "select count(*) from pg_stat_activity where application_name = %s and state like %s"
            return int(connection.execute(query, (NAME, state)).fetchone()[0])

        yield count


def test_statements_end_with_their_request_and_sessions_with_the_worker(
    start: Callable[..., Gunicorn],
    sessions: Callable[..., int],
    postgresql: str,
) -> None:
    variables = {"NAME": NAME, "DATABASE": postgresql, "INTRALB_DB_INIT_FUNC": "myapp:connect"}
    served = start(application=APPLICATION, settings="request_timeout_seconds = 1", **variables).serves()
    assert "protecting psycopg" in served.said
    assert served.get("/").status == 200
    assert served.get("/slow").status == 504
    served.until(lambda: sessions("active") == 0)
    assert sessions() >= 1
    served.stop()
    served.until(lambda: sessions() == 0)
