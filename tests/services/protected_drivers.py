"""Applications that hold a connection in legacy ways, for test_protection.py; `intralb-gevent serve` runs them.

The environment variable DRIVER is psycopg, psycopg2 or pymysql; WAY selects how the connection is held.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.orm import scoped_session, sessionmaker

DRIVER, WAY, TABLE = os.environ["DRIVER"], os.environ["WAY"], os.environ["TABLE"]
DIALECT = "mysql" if DRIVER == "pymysql" else "postgresql"
SLEEP = "select sleep(30)" if DRIVER == "pymysql" else "select pg_sleep(30)"
PID = "select connection_id()" if DRIVER == "pymysql" else "select pg_backend_pid()"

url = sqlalchemy.make_url(os.environ["DATABASE"]).set(drivername=f"{DIALECT}+{DRIVER}")
if DRIVER == "pymysql":
    url = url.update_query_dict({"ssl_disabled": "true"})
engine = sqlalchemy.create_engine(url)
sessions = scoped_session(sessionmaker(bind=engine))
local = threading.local()
CONNECTIONS: dict[int, Any] = {}

# Disable the garbage collector, because the release of a connection must not depend on it.
gc.disable()


def plain() -> tuple[Callable[[str], Any], Callable[[], object]]:
    if not hasattr(local, "plain"):
        local.plain = connect()
    return steps(local.plain)


def by_ident() -> tuple[Callable[[str], Any], Callable[[], object]]:
    ident = threading.get_ident()
    if ident not in CONNECTIONS:
        CONNECTIONS[ident] = connect()
    return steps(CONNECTIONS[ident])


def shared() -> tuple[Callable[[str], Any], Callable[[], object]]:
    if 0 not in CONNECTIONS:
        CONNECTIONS[0] = connect()
        another = threading.Thread(target=steps(CONNECTIONS[0])[0], args=("select 1",))
        another.start()
        another.join()
    return steps(CONNECTIONS[0])


def connect() -> Any:
    arguments, keywords = engine.dialect.create_connect_args(url)
    return engine.dialect.dbapi.connect(*arguments, **keywords)


def steps(connection: Any) -> tuple[Callable[[str], Any], Callable[[], object]]:
    def execute(statement: str) -> Any:
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None

    return execute, connection.commit


def scoped() -> tuple[Callable[[str], Any], Callable[[], object]]:
    return lambda statement: first(sessions.execute(text(statement))), sessions.commit


def held() -> tuple[Callable[[str], Any], Callable[[], object]]:
    if not hasattr(local, "held"):
        local.held = engine.connect()
    return lambda statement: first(local.held.execute(text(statement))), local.held.commit


def first(result: Any) -> Any:
    return result.scalar() if result.returns_rows else None


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    execute, commit = globals()[WAY]()
    execute(f"update {TABLE} set number = number + 1")
    pid = execute(PID)
    if environ["PATH_INFO"] != "/":
        with open(os.environ["PID_FILE"], "w") as file:
            file.write(str(pid))
        if environ["PATH_INFO"] == "/python":
            time.sleep(30)
        execute(SLEEP)
    number = execute(f"select number from {TABLE}")
    commit()
    start_response("200 OK", [])
    return [str(number).encode()]
