"""In applications without code for this server, a cut request leaves no statement or transaction in the database."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import make_url

HERE = pathlib.Path(__file__).parent
FLAGS = ("--max-workers=1", "--max-concurrent-per-router=1", "--request-timeout-seconds=0.5")
TABLE = f"protected_{os.getpid()}"
NAME = f"intralb_{TABLE}"


class Server:
    """A database server, observed from outside."""

    def __init__(self, url: str) -> None:
        parts = make_url(url)
        self.url, self.is_postgresql = url, parts.get_backend_name() == "postgresql"
        address = {"host": parts.host, "port": parts.port, "user": parts.username, "password": parts.password or ""}
        if self.is_postgresql:
            self._connection: Any = psycopg.connect(**address, dbname=parts.database, autocommit=True)
        else:
            self._connection = pymysql.connect(**address, database=parts.database, autocommit=True, ssl_disabled=True)

    def execute(self, statement: str) -> list[Any]:
        cursor = self._connection.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    def has(self, pid: int) -> bool:
        seen = "pg_stat_activity where pid" if self.is_postgresql else "information_schema.processlist where id"
        return bool(self.execute(f"select 1 from {seen} = {pid}"))

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def database(request) -> Iterator[Callable[[str], Server]]:
    """Return a function that connects to a server, and creates a table that contains the number 0."""
    made: list[Server] = []

    def connect(name: str) -> Server:
        made.append(Server(request.getfixturevalue(name)))
        made[-1].execute(f"create table {TABLE} (number int)")
        made[-1].execute(f"insert into {TABLE} values (0)")
        return made[-1]

    yield connect
    for server in made:
        server.execute(f"drop table {TABLE}")
        server.close()


# Django.


@pytest.fixture
def on_postgresql(database) -> Server:
    return database("postgresql")


@pytest.fixture
def project(on_postgresql, serve_program) -> Callable[..., Any]:
    module = (HERE / "protected_django.py").read_text()
    variables = {"APPLICATION_NAME": NAME, "TABLE": TABLE, "DATABASE": on_postgresql.url}
    return lambda *flags: serve_program(module, *FLAGS, *flags, **variables)


LEFT = f"""
    select query from pg_stat_activity where application_name = '{NAME}' and state <> 'idle'
    union all
    select 'advisory lock' from pg_locks join pg_stat_activity using (pid)
    where locktype = 'advisory' and application_name = '{NAME}'
"""


@pytest.mark.parametrize("where", ["python", "database"])
def test_django_unchanged_finds_nothing_of_a_cut_request(project, on_postgresql, where) -> None:
    server = project()
    for view in ("atomic", "manual", "advisory", "tenant"):
        assert server.get(f"/{view}?where={where}")[0] == 504
        seen = [server.get("/state") for _ in range(3)]
        clean = json.dumps([0, '"$user", public', True, False])
        assert seen == [(200, clean)] * 3, view
        server.wait_until(lambda: not on_postgresql.execute(LEFT))
    assert "protecting Django, psycopg" in server.said


def test_django_is_protected_beside_a_session_of_the_project_s_own(project, on_postgresql) -> None:
    server = project("--db-init-func=myapp:Session")
    assert server.get("/advisory?where=database")[0] == 504
    assert server.get("/state")[0] == 200
    server.wait_until(lambda: not on_postgresql.execute(LEFT))


def test_a_transaction_that_a_view_leaves_open_does_not_reach_the_next_request(project) -> None:
    server = project()
    assert server.get("/leave_open")[0] == 200
    assert json.loads(server.get("/state")[1]) == [0, '"$user", public', True, False]


def test_conn_max_age_is_honoured_and_connections_are_closed_at_the_end(project, on_postgresql) -> None:
    server = project()
    pids = {server.get("/pid") for _ in range(3)}
    assert len(pids) == 1
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert not on_postgresql.has(int(pids.pop().body))


def test_without_integrations_django_is_left_alone(project, on_postgresql) -> None:
    server = project("--no-integrations")
    assert server.get("/advisory?where=database")[0] == 504
    assert "protecting" not in server.said
    assert on_postgresql.execute(LEFT)


# Thread-locals.

DRIVERS = {"psycopg": "postgresql", "psycopg2": "postgresql", "pymysql": "mariadb"}


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_statement_ends_although_the_server_accepts_no_more_connections(
    on_postgresql, serve_program, driver, tmp_path
) -> None:
    role, pid_file = f"few_{os.getpid()}", tmp_path / "pid"
    on_postgresql.execute(f"create role {role} login connection limit 1")
    try:
        on_postgresql.execute(f"grant all on {TABLE} to {role}")
        url = make_url(on_postgresql.url).set(username=role).render_as_string(hide_password=False)
        variables = {"DRIVER": driver, "WAY": "plain", "TABLE": TABLE, "DATABASE": url, "PID_FILE": str(pid_file)}
        server = serve_program((HERE / "protected_drivers.py").read_text(), *FLAGS, **variables)
        assert server.get("/database")[0] == 504
        began = time.monotonic()
        server.wait_until(lambda: not on_postgresql.has(int(pid_file.read_text())))
        assert time.monotonic() - began < 20, "the statement has ended by itself"
        server.process.kill()
        server.process.wait()
    finally:
        on_postgresql.execute(f"revoke all on {TABLE} from {role}")
        on_postgresql.execute(f"drop role {role}")


@pytest.mark.parametrize("way", ["plain", "scoped", "held"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_cut_request_leaves_nothing_on_the_server(database, serve_program, driver, way, tmp_path) -> None:
    at = database(DRIVERS[driver])
    variables = {"DRIVER": driver, "WAY": way, "TABLE": TABLE, "DATABASE": at.url}
    server = serve_program(
        (HERE / "protected_drivers.py").read_text(), *FLAGS, PID_FILE=str(tmp_path / "pid"), **variables
    )
    for number, where in enumerate(("/python", "/database")):
        assert server.get(where)[0] == 504
        # The row of the cut request is unlocked, and its change is not visible.
        assert server.get("/") == (200, str(number + 1))
        server.wait_until(lambda: not at.has(int((tmp_path / "pid").read_text())))


@pytest.fixture
def program(database, serve_program, tmp_path) -> Callable[[str, str], Any]:
    def serve(driver: str, way: str) -> Any:
        variables = {"DRIVER": driver, "WAY": way, "TABLE": TABLE, "DATABASE": database(DRIVERS[driver]).url}
        module = (HERE / "protected_drivers.py").read_text()
        return serve_program(module, *FLAGS, PID_FILE=str(tmp_path / "pid"), **variables)

    return serve


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_connection_kept_by_thread_id_is_rolled_back_after_its_request_was_cut(program, driver) -> None:
    server = program(driver, "by_ident")
    for number, where in enumerate(("/python", "/database")):
        assert server.get(where)[0] == 504
        # The row of the cut request is unlocked, and its change is not visible.
        assert server.get("/") == (200, str(number + 1))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_connection_that_another_thread_uses_too_is_left_alone(program, driver) -> None:
    server = program(driver, "shared")
    assert server.get("/python")[0] == 504
    assert server.get("/") == (200, "2")


OWN_CALLBACK = """
from gevent.socket import wait_read, wait_write
from psycopg2 import extensions

CALLS = []

def wait(connection):
    CALLS.append(connection)
    while (state := connection.poll()) != extensions.POLL_OK:
        (wait_read if state == extensions.POLL_READ else wait_write)(connection.fileno())

extensions.set_wait_callback(wait)
"""


def test_a_wait_callback_of_the_application_goes_on_to_be_called(database, serve_program, tmp_path) -> None:
    at = database("postgresql")
    variables = {"DRIVER": "psycopg2", "WAY": "plain", "TABLE": TABLE, "DATABASE": at.url}
    module = (HERE / "protected_drivers.py").read_text().replace("import gc\n", f"import gc\n{OWN_CALLBACK}")
    module += "\n\nunseen = app\n\n\ndef app(environ, start_response):\n"
    module += "    unseen(environ, start_response)\n    return [str(bool(CALLS)).encode()]\n"
    server = serve_program(module, *FLAGS, PID_FILE=str(tmp_path / "pid"), **variables)
    assert server.get("/database")[0] == 504
    assert server.get("/") == (200, "True")
    server.wait_until(lambda: not at.has(int((tmp_path / "pid").read_text())))


# Pools.

POOLED = """
import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["DATABASE"], min_size=1, max_size=1, open=True)
pool.wait(20)
held = []


def app(environ, start_response):
    if environ["PATH_INFO"] == "/take":
        held.append(pool.getconn())
    elif environ["PATH_INFO"] == "/return":
        pool.putconn(held.pop())
    else:
        with pool.connection() as connection:
            connection.execute("select 1")
    start_response("200 OK", [])
    return [b"done"]
"""


def test_a_request_cut_while_it_waits_for_a_connection_of_a_pool_gets_none(postgresql, serve_program) -> None:
    pytest.importorskip("psycopg_pool")
    server = serve_program(POOLED, *FLAGS, DATABASE=postgresql)
    assert server.get("/take")[0] == 200
    assert server.get("/database")[0] == 504
    assert server.get("/return")[0] == 200
    assert server.get("/") == (200, "done")
    assert "protecting psycopg, psycopg_pool" in server.said


READING_ROWS = """
import os, threading
import pymysql, pymysql.cursors
from pymysql.constants import CLIENT
from sqlalchemy import make_url

url = make_url(os.environ["DATABASE"])
lock = threading.Lock()
connection = pymysql.connect(
    host=url.host, port=url.port or 3306, user=url.username, password=url.password or "",
    cursorclass=getattr(pymysql.cursors, os.environ["CURSOR"]), client_flag=CLIENT.MULTI_STATEMENTS,
)
COLLATIONS = "information_schema.collations"

def first(statement):
    with lock:
        if not connection.open:
            connection.ping(reconnect=True)
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()[0][0]

def app(environ, start_response):
    while environ["PATH_INFO"] == "/read":
        first(f"select 'read' from {COLLATIONS} a, {COLLATIONS} b limit 5000; select 'more'")
    found = first(f"select '{environ['PATH_INFO']}'")
    start_response("200 OK", [])
    return [found.encode()]
"""


@pytest.mark.parametrize("cleanup", ["0.01", "1"])
@pytest.mark.parametrize("cursor", ["Cursor", "SSCursor"])
def test_no_other_request_reads_the_rows_of_a_request_that_was_cut_while_it_read_them(
    mariadb, serve_program, cursor, cleanup
) -> None:
    server = serve_program(READING_ROWS, *FLAGS, f"--cleanup-seconds={cleanup}", DATABASE=mariadb, CURSOR=cursor)
    for _ in range(5):
        assert server.get("/read")[0] == 504
        assert server.get("/mine") == (200, "/mine"), server.said
