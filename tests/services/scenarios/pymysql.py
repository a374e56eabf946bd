"""Storm scenario for PyMySQL: a query, a pause, an insert and a commit; each run has its own database."""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import urlsplit

import gevent
import pymysql

from intralb_gevent import SessionSource
from intralb_gevent.integrations.pymysql import PyMySQLSessions

URL = urlsplit(os.environ["INTRALB_TEST_MARIADB"])
ADDRESS: dict[str, Any] = {
    "host": URL.hostname,
    "port": URL.port or 3306,
    "user": URL.username,
    "password": URL.password or "",
    "read_timeout": 60,
}
HOLDER: Any = None
LOCK = ""


def asked(statement: str, *parameters: Any) -> Any:
    """Run a statement on a separate connection."""
    with pymysql.connect(**ADDRESS, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


class SlowSessions(PyMySQLSessions):
    """A session source whose connections send little data at a time, so that aborts can be raised while they send."""

    def open(self, worker_id: int) -> Any:
        connection = super().open(worker_id)
        connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        return connection


def source(run: str) -> SessionSource:
    return SlowSessions(**ADDRESS, database=run)


def hold(run: str) -> None:
    """Take a lock for which all other connections wait. Its connection is not counted, because it has no database."""
    global HOLDER, LOCK
    HOLDER, LOCK = pymysql.connect(**ADDRESS), run
    with HOLDER.cursor() as cursor:
        cursor.execute("select get_lock(%s, 0)", (LOCK,))


def prepare(run: str) -> None:
    hold(run)
    asked(f"create database `{run}`")
    asked(f"create table `{run}`.answered (number int primary key)")


def clean(run: str) -> None:
    asked(f"drop database `{run}`")
    HOLDER.close()


def connections(run: str) -> int:
    # This number includes the connections that cancel statements, because they use the same database.
    return int(asked("select count(*) from information_schema.processlist where db = %s", run)[0][0])


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    with session.cursor() as cursor:
        with stage("statement"):
            cursor.execute("select %s, length(%s)", (question.number, question.payload))
        answer = cursor.fetchone()
        gevent.sleep(0.001)
        with stage("statement"):
            cursor.execute("replace into answered values (%s)", (question.number,))
    with stage("commit"):
        session.commit()
    return answer


def linger(session: Any) -> None:
    # Do not use SLEEP(): in MariaDB, it has one mutex, so killing many sleeping connections can take two seconds.
    with session.cursor() as cursor:
        cursor.execute("select get_lock(%s, 30)", (LOCK,))


def verify(run: str, answered: list[int]) -> list[str]:
    """Return the jobs that were answered although their row is missing."""
    lost = set(answered) - {number for (number,) in asked(f"select number from `{run}`.answered")}
    return [f"{len(lost)} jobs were answered, but what they have committed is not there"] if lost else []
