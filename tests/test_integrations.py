"""Tests of the automatic protection of database connections: libraries found, the log, and the option to disable it."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
"""

ONE_SLOT_SOON_LATE = ("--max-workers=1", "--max-concurrent-per-router=1", "--request-timeout-seconds=0.3")

USES_SQLITE3 = f"import sqlite3\n{HELLO}"

LEAVES_A_TRANSACTION = """
import gc, threading, time
gc.disable()
local = threading.local()

def connect():
    # Imported with the first request only, as some applications do.
    import sqlite3
    return sqlite3.connect("shared.db", timeout=0, check_same_thread=False)

def app(environ, start_response):
    if not hasattr(HOME, "connection"):
        HOME.connection = connect()
        HOME.connection.execute("create table if not exists notes (text)")
    HOME.connection.execute("insert into notes values ('half')")
    if environ["PATH_INFO"] == "/slow":
        time.sleep(30)
    count = HOME.connection.execute("select count(*) from notes").fetchone()[0]
    HOME.connection.commit()
    start_response("200 OK", [])
    return [str(count).encode()]
"""

RUNS_LONG_STATEMENTS = """
import sqlite3, time

def collation(a, b):
    end = time.perf_counter() + 0.0002
    while time.perf_counter() < end:
        pass
    return (a > b) - (a < b)

def connect():
    connection = sqlite3.connect("indexed.db")
    connection.create_collation("python", collation)
    return connection

def many(connection):
    connection.executemany("insert into words values (?)", [(str(7 * number % 100003),) for number in range(100000)])

def endless(connection):
    connection.execute("with recursive n(x) as (select 1 union all select x + 1 from n) select sum(x) from n")

class Guard:
    exits = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        numbers = "with recursive n(x) as (select 1 union all select x + 1 from n where x < 8000000)"
        self.connection.execute(f"{numbers} select sum(x) from n")
        Guard.exits += 1

def leave(connection):
    with Guard() as guard:
        guard.connection = connection

def exits(connection):
    return Guard.exits

def check(connection):
    connection.create_collation("python", lambda a, b: (a > b) - (a < b))
    return connection.execute("pragma integrity_check").fetchall()

def app(environ, start_response):
    connection = connect()
    try:
        connection.execute("create table if not exists words (word text)")
        connection.execute("create index if not exists sorted on words (word collate python)")
        text = str(globals()[environ["PATH_INFO"][1:]](connection))
    finally:
        connection.commit()
        connection.close()
    start_response("200 OK", [])
    return [text.encode()]
"""


def python(code: str, directory: pathlib.Path) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_line(server) -> str:
    # The server writes this line shortly after the ready file.
    server.wait_until(lambda: " serving " in server.said)
    return server.said.splitlines()[0]


def test_the_start_line_names_what_is_protected(serve_program) -> None:
    assert start_line(serve_program(USES_SQLITE3)).endswith("deadline 30 s, protecting sqlite3")


def test_nothing_is_named_where_nothing_is_found(serve_program) -> None:
    assert start_line(serve_program(HELLO)).endswith("deadline 30 s")


def test_a_flag_or_a_variable_turns_it_off(serve_program) -> None:
    assert "protecting" not in serve_program(USES_SQLITE3, "--no-integrations").said
    assert "protecting" not in serve_program(USES_SQLITE3, INTRALB_INTEGRATIONS="false").said


def test_a_library_that_cannot_be_protected_costs_a_line_of_the_log(serve_program, tmp_path) -> None:
    (tmp_path / "psycopg2").mkdir()
    (tmp_path / "psycopg2" / "__init__.py").write_text("")
    server = serve_program(f"import sys; sys.path.insert(0, '{tmp_path}')\nimport psycopg2\n{USES_SQLITE3}")
    assert server.get("/") == (200, "hello")
    assert re.search(r"WARNING \d+ psycopg2 is not protected: ImportError: .*$", server.said, re.MULTILINE)
    assert "protecting sqlite3\n" in server.said


def test_settings_of_django_that_fail_keep_nothing_from_starting(serve_program, tmp_path) -> None:
    (tmp_path / "django" / "db").mkdir(parents=True)
    (tmp_path / "django" / "__init__.py").write_text("")
    (tmp_path / "django" / "db" / "__init__.py").write_text("")
    server = serve_program(f"import sys; sys.path.insert(0, '{tmp_path}')\nimport django.db\n{HELLO}")
    assert server.get("/") == (200, "hello")


def test_a_transaction_in_a_thread_local_ends_with_the_aborted_request(serve_program) -> None:
    server = serve_program(LEAVES_A_TRANSACTION.replace("HOME", "local"), *ONE_SLOT_SOON_LATE)
    assert server.get("/slow")[0] == 504
    assert [server.get("/") for _ in range(3)] == [(200, "1"), (200, "2"), (200, "3")], server.said


@pytest.mark.parametrize("path", ["/many", "/endless"])
def test_a_statement_of_sqlite_is_ended_at_the_deadline(serve_program, path: str) -> None:
    server = serve_program(RUNS_LONG_STATEMENTS, *ONE_SLOT_SOON_LATE)
    assert server.get(path)[0] == 504
    assert server.get("/check") == (200, "[('ok',)]"), server.said


def test_a_statement_of_an_exit_method_is_not_ended(serve_program) -> None:
    server = serve_program(RUNS_LONG_STATEMENTS, *ONE_SLOT_SOON_LATE, "--cleanup-seconds=20")
    assert server.get("/leave")[0] == 504
    assert server.get("/exits") == (200, "1"), server.said


def test_a_connection_that_requests_share_is_not_closed(serve_program) -> None:
    module = LEAVES_A_TRANSACTION.replace("HOME", "app")
    server = serve_program(module, *ONE_SLOT_SOON_LATE)
    assert server.get("/slow")[0] == 504
    assert server.get("/")[0] == 200, server.said


def test_found_imports_and_changes_nothing(tmp_path) -> None:
    code = """
import sys, intralb_gevent
from intralb_gevent.integrations.protection import found
print(found(), any(name in sys.modules for name in ("django", "sqlalchemy", "psycopg", "psycopg2", "pymysql")))
import sqlite3
connect = sqlite3.connect
print(found(), sqlite3.connect is connect)
"""
    # gevent itself imports none of the libraries.
    assert python(code, tmp_path).splitlines() == ["() False", "('sqlite3',) True"]


def test_a_program_calls_protect_and_may_do_so_again(tmp_path) -> None:
    code = """
from gevent import monkey; monkey.patch_all()
import sys, intralb_gevent
finders = len(sys.meta_path)
print(intralb_gevent.protect())
import sqlite3
print(intralb_gevent.protect(), intralb_gevent.protect(), len(sys.meta_path) - finders)
connection = sqlite3.connect(":memory:")
print(connection.execute("select 1").fetchone(), isinstance(connection, sqlite3.Connection))
"""
    expected = ["()", "('sqlite3',) ('sqlite3',) 1", "(1,) True"]
    assert python(code, tmp_path).splitlines() == expected


# Async views.

ASYNC_VIEWS = """
import asyncio
from asgiref.sync import async_to_sync

async def quick():
    await asyncio.sleep(0.001)

async def slow():
    try:
        await asyncio.sleep(30)
    finally:
        open("cleaned up", "w").close()

async def slow_in_another_task():
    await asyncio.gather(slow(), quick())

def app(environ, start_response):
    async_to_sync(globals()[environ["PATH_INFO"][1:]])()
    start_response("200 OK", [])
    return [b"done"]
"""


@pytest.mark.parametrize("view", ["slow", "slow_in_another_task"])
def test_async_views_of_others_work_after_one_was_cut(serve_program, view: str) -> None:
    server = serve_program(ASYNC_VIEWS, *ONE_SLOT_SOON_LATE)
    assert server.get("/quick").status == 200
    assert server.get(f"/{view}").status == 504
    # Wait until the cancelled coroutine has ended, within some iterations of its event loop.
    server.wait_until(lambda: server.get("/quick").status == 200)


def test_the_coroutine_of_a_request_that_was_cut_cleans_up(serve_app) -> None:
    server = serve_app(ASYNC_VIEWS, flags=ONE_SLOT_SOON_LATE)
    assert server.get("/slow") == 504
    server.until((server.directory / "cleaned up").exists)
