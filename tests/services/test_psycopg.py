"""Tests of psycopg 3: the storm, an unpatched process, and a libpq that cannot cancel without blocking."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import gevent
import psycopg
import pytest

from intralb_gevent import OptionError
from intralb_gevent.integrations import psycopg as adapter

IMPORTED_TOO_EARLY = """
import psycopg
from gevent import monkey
monkey.patch_all()
from intralb_gevent.integrations.psycopg import PsycopgSessions
PsycopgSessions()
"""


def test_aborts_at_random_instants(postgresql, storm) -> None:
    storm("psycopg")


def test_it_is_refused_where_it_would_block_the_process() -> None:
    with pytest.raises(OptionError, match="patch_all"):
        adapter.PsycopgSessions()
    ended = subprocess.run([sys.executable, "-c", IMPORTED_TOO_EARLY], capture_output=True, text=True, timeout=20)
    assert "OptionError: db_init_func: psycopg would block the whole server" in ended.stderr


def interrupted(connection: psycopg.Connection, statement: str) -> None:
    """Leave a connection in the middle of a statement that runs on the server."""
    with gevent.Timeout(0.1, False):
        connection.execute(statement)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE


def seen(postgresql: str, connection: psycopg.Connection) -> str:
    with psycopg.connect(postgresql) as other:
        statement = "select state from pg_stat_activity where pid = %s"
        return other.execute(statement, (connection.info.backend_pid,)).fetchone()[0]


@pytest.mark.parametrize("without_blocking", [True, False])
def test_a_statement_is_cancelled(patched, postgresql, monkeypatch, eventually, without_blocking) -> None:
    monkeypatch.setattr(adapter, "_can_cancel_without_blocking", lambda: without_blocking)
    with psycopg.connect(postgresql) as connection:
        interrupted(connection, "select pg_sleep(30)")
        began = time.monotonic()
        adapter.cancel_statement(connection)
        eventually(lambda: seen(postgresql, connection) == "idle in transaction (aborted)")
        assert time.monotonic() - began < 1
        connection.close()


def test_one_that_has_ended_by_itself_needs_no_cancelling(patched, postgresql) -> None:
    with psycopg.connect(postgresql) as connection:
        connection.execute("select 1")
        adapter.cancel_statement(connection)
        assert connection.execute("select 2").fetchone() == (2,)
        connection.close()
        adapter.cancel_statement(connection)


CLOSED_MEANWHILE = """
from gevent import monkey; monkey.patch_all()
import os, gevent, psycopg
from intralb_gevent.integrations import psycopg as adapter
connection = psycopg.connect(os.environ["DATABASE"])
# The event loop is made to watch it just before it is closed.
waiting = gevent.spawn(adapter._is_answered, connection)
gevent.spawn(connection.close)
waiting.join()
print("alive")
"""


def test_a_connection_may_be_closed_while_its_statement_is_being_cancelled(postgresql) -> None:
    environ = {**os.environ, "DATABASE": postgresql}
    command = [sys.executable, "-c", CLOSED_MEANWHILE]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr
