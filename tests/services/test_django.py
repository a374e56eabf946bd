"""Tests of Django over psycopg 3 and PyMySQL: a slot's connections after a request has ended or was interrupted."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import gevent
import psycopg
import pymysql
import pytest
from django.conf import settings
from django.core.signals import request_started
from django.core.wsgi import get_wsgi_application
from django.db import connections, transaction
from django.db.backends.signals import connection_created
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

from intralb_gevent import Options, current_session
from intralb_gevent.integrations.django import DjangoSessions

ENGINES = {"postgresql": "django.db.backends.postgresql", "mariadb": "django.db.backends.mysql"}
PID = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}
SLEEP = {"postgresql": "select pg_sleep(30)", "mariadb": "select sleep(30)"}
THERE = {
    "postgresql": "select state from pg_stat_activity where pid = %s",
    "mariadb": "select command from information_schema.processlist where id = %s",
}
"""Queries for the state of a connection, by database; the result is empty if the connection is closed."""


def test_aborts_at_random_instants(postgresql, storm) -> None:
    storm("django_psycopg")


# The project.

PIDS: list[int] = []
SLOW_COMMIT = f"slow_commit_{os.getpid()}"


def pid(alias: str = "default") -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute(PID[settings.SERVER])
        return int(cursor.fetchone()[0])


def sleep() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(SLEEP[settings.SERVER])


def show_pid(request: Any) -> HttpResponse:
    return HttpResponse(pid())


def slow(request: Any) -> HttpResponse:
    PIDS.append(pid())
    sleep()
    return HttpResponse()


@transaction.atomic
def slow_in_a_block(request: Any) -> HttpResponse:
    PIDS.append(pid())
    with transaction.atomic():
        sleep()
    return HttpResponse()


def slow_cursor(request: Any) -> HttpResponse:
    """Run a statement in a transaction; the statement runs when its first row is fetched."""
    with transaction.atomic():
        PIDS.append(pid())
        with connections["default"].chunked_cursor() as cursor:
            cursor.execute("select pg_sleep(30)")
            cursor.fetchmany(1)
    return HttpResponse()


def slow_commit(request: Any) -> HttpResponse:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        PIDS.append(pid())
        cursor.execute(f"insert into {SLOW_COMMIT} values (1)")
    return HttpResponse()


def between(request: Any) -> HttpResponse:
    with transaction.atomic():
        PIDS.append(pid())
        gevent.sleep(30)
    return HttpResponse()


def stream(request: Any) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        with transaction.atomic():
            PIDS.append(pid())
            yield "first"
            sleep()

    return StreamingHttpResponse(lines())


def timed(request: Any) -> HttpResponse:
    """Interrupt a statement by a time limit that the view sets, and continue."""
    PIDS.append(pid())
    with gevent.Timeout(0.1, False):
        sleep()
    return HttpResponse(pid())


def leave_open(request: Any) -> HttpResponse:
    transaction.atomic().__enter__()
    PIDS.append(pid())
    return HttpResponse()


def in_a_block(request: Any) -> HttpResponse:
    return HttpResponse(connections["default"].in_atomic_block)


def two(request: Any) -> HttpResponse:
    PIDS.extend([pid(), pid("other")])
    sleep()
    return HttpResponse()


def file(request: Any) -> FileResponse:
    pid()
    return FileResponse(open(__file__, "rb"))  # the response closes it


VIEWS = [
    show_pid,
    slow,
    slow_in_a_block,
    slow_cursor,
    slow_commit,
    between,
    stream,
    timed,
    leave_open,
    in_a_block,
    two,
    file,
]
urlpatterns = [path(view.__name__, view) for view in [*VIEWS, two, file]]


# Common parts of the tests.


class Project:
    """A database server in Django's settings."""

    def __init__(self, server: str, address: str) -> None:
        self.server, self._url = server, urlsplit(address)

    def database(self, **more: Any) -> dict[str, Any]:
        url = self._url
        return {
            "ENGINE": ENGINES[self.server],
            "NAME": url.path.lstrip("/"),
            "USER": url.username,
            "PASSWORD": url.password or "",
            "HOST": url.hostname,
            "PORT": url.port,
            "CONN_MAX_AGE": 60,
            **more,
        }

    def asked(self, pid: int) -> list[Any]:
        connect, name = (psycopg.connect, "dbname") if self.server == "postgresql" else (pymysql.connect, "database")
        database = self.database()
        address = {"host": database["HOST"], "port": database["PORT"], "user": database["USER"], name: database["NAME"]}
        connection = connect(**address, password=database["PASSWORD"])
        try:
            cursor = connection.cursor()
            cursor.execute(THERE[self.server], (pid,))
            return [row[0] for row in cursor.fetchall()]
        finally:
            connection.close()

    def is_there(self, pid: int) -> bool:
        return bool(self.asked(pid))


@pytest.fixture(params=ENGINES)
def project(request, patched) -> Project:
    return Project(request.param, request.getfixturevalue(request.param))


@pytest.fixture
def on_postgresql(patched, postgresql) -> Project:
    return Project("postgresql", postgresql)


@pytest.fixture
def serving(patched, balance, ask) -> Callable[..., Callable[[str], tuple[str, str]]]:
    """Return a function that serves a project with the given database settings, in one slot.

    It returns a function that requests a page.
    """
    environ = {"SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO()}
    if not settings.configured:
        pymysql.install_as_MySQLdb()
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, LOGGING_CONFIG=None, SECRET_KEY="for tests")

    def serve(project: Project, options: dict[str, Any] | None = None, **more: Any) -> Callable[[str], tuple[str, str]]:
        settings.SERVER = project.server
        connections.settings = connections.configure_settings(
            {"default": project.database(**more), "other": project.database(**more)}
        )
        slot = {
            "max_workers": 1,
            "max_concurrent_per_router": 1,
            "request_timeout_seconds": 1,
            "stream_idle_timeout_seconds": 1,
        }
        balancer = balance(get_wsgi_application(), **{**slot, **(options or {})}, db_init_func=DjangoSessions())

        def get(page: str) -> tuple[str, str]:
            status, body = ask(balancer, f"/{page}", **environ)
            return status[:3], body.decode()

        return get

    PIDS.clear()
    return serve


@pytest.mark.parametrize("page", ["slow", "slow_in_a_block"])
def test_an_aborted_statement_is_gone_from_the_server(serving, project, eventually, page) -> None:
    get = serving(project)
    running = gevent.spawn(get, page)
    eventually(lambda: PIDS and project.asked(PIDS[0]) in (["active"], ["Query"]))
    assert running.get()[0] == "504"
    ended = time.monotonic()
    eventually(lambda: not project.is_there(PIDS[0]))
    assert time.monotonic() - ended < 1
    assert get("in_a_block") == ("200", "False")
    status, following = get("show_pid")
    assert (status, int(following) != PIDS[0]) == ("200", True)


@pytest.mark.parametrize("page", ["slow_cursor", "between"])
def test_wherever_it_was_aborted_nothing_of_it_is_left(serving, on_postgresql, eventually, page) -> None:
    get = serving(on_postgresql)
    assert get(page)[0] == "504"
    ended = time.monotonic()
    eventually(lambda: not on_postgresql.is_there(PIDS[0]))
    assert time.monotonic() - ended < 1
    assert get("in_a_block") == ("200", "False")


@pytest.fixture
def slow_to_commit(postgresql) -> Iterator[None]:
    """Create a table whose transactions take 30 seconds to commit."""
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"create table {SLOW_COMMIT} (number int)")
        connection.execute(
            f"create function {SLOW_COMMIT}() returns trigger language plpgsql "
            "as 'begin perform pg_sleep(30); return null; end'"
        )
        connection.execute(
            f"create constraint trigger slow after insert on {SLOW_COMMIT} deferrable initially deferred "
            f"for each row execute function {SLOW_COMMIT}()"
        )
        yield
        connection.execute(f"drop table {SLOW_COMMIT}")
        connection.execute(f"drop function {SLOW_COMMIT}")


def test_nor_of_a_commit_after_which_django_does_not_connect_again(
    serving, on_postgresql, slow_to_commit, eventually
) -> None:
    get, connected = serving(on_postgresql), []
    receiver = lambda **event: connected.append(event)  # noqa: E731
    connection_created.connect(receiver)
    assert get("slow_commit")[0] == "504"
    ended = time.monotonic()
    eventually(lambda: not on_postgresql.is_there(PIDS[0]))
    # A commit at the end of a `with` block is allowed to take cleanup_seconds, which is 1.
    assert time.monotonic() - ended < 2
    assert get("in_a_block") == ("200", "False")
    assert len(connected) == 1


def test_a_stream_that_is_aborted_leaves_nothing_either(serving, on_postgresql, eventually) -> None:
    get = serving(on_postgresql)
    with pytest.raises(Exception, match="deadline"):
        get("stream")
    eventually(lambda: not on_postgresql.is_there(PIDS[0]))
    assert get("in_a_block") == ("200", "False")


def test_all_connections_of_the_slot_are_closed(serving, on_postgresql, eventually) -> None:
    get = serving(on_postgresql)
    assert get("two")[0] == "504"
    eventually(lambda: not any(map(on_postgresql.is_there, PIDS)))


def test_a_view_that_limits_its_own_time_goes_on_with_another_connection(serving, project, eventually) -> None:
    status, following = serving(project)("timed")
    assert (status, int(following) != PIDS[0]) == ("200", True)
    eventually(lambda: not project.is_there(PIDS[0]))


def test_a_transaction_that_a_view_leaves_open_does_not_reach_the_next(serving, on_postgresql, eventually) -> None:
    get = serving(on_postgresql)
    assert get("leave_open")[0] == "200"
    assert get("in_a_block") == ("200", "False")
    eventually(lambda: not on_postgresql.is_there(PIDS[0]))


def test_conn_max_age_is_honoured(serving, project) -> None:
    get = serving(project, CONN_MAX_AGE=60)
    assert len({get("show_pid") for _ in range(3)}) == 1
    get = serving(project, CONN_MAX_AGE=0)
    assert len({get("show_pid") for _ in range(3)}) == 3


def test_a_file_is_served(serving, on_postgresql) -> None:
    with open(__file__) as this:
        assert serving(on_postgresql)("file") == ("200", this.read())


def test_connections_are_closed_with_their_slot_or_when_it_is_idle(serving, on_postgresql, eventually) -> None:
    get = serving(on_postgresql, {"session_max_idle_seconds": 0.1})
    number = int(get("show_pid")[1])
    assert on_postgresql.is_there(number)
    eventually(lambda: not on_postgresql.is_there(number))
    assert get("show_pid")[0] == "200"


def test_an_outage_costs_errors_only_while_it_lasts(serving, on_postgresql, forwarder, postgresql) -> None:
    way = forwarder(postgresql)
    get = serving(Project("postgresql", way.url), CONN_HEALTH_CHECKS=True)
    first = get("show_pid")
    way.go_away()
    assert [get("show_pid")[0] for _ in range(2)] == ["500", "500"]
    way.come_back()
    second = get("show_pid")
    assert (first[0], second[0], first[1] != second[1]) == ("200", "200", True)


def test_elsewhere_than_in_a_slot_it_does_nothing(patched) -> None:
    source = DjangoSessions()
    Options(db_init_func=source)
    assert request_started.send(None)
    with pytest.raises(Exception, match="no running request"):
        current_session()
