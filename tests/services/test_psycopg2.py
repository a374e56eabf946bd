"""Tests of psycopg2: the storm, the wait callback, and which server process is ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import gevent
import psycopg2
import pytest
from gevent.socket import wait_read, wait_write
from psycopg2 import extensions

from intralb_gevent.integrations import psycopg2 as adapter
from intralb_gevent.integrations import psycopg2_endings as endings


def test_aborts_at_random_instants(postgresql, storm) -> None:
    storm("psycopg2")


@pytest.fixture
def no_callback(patched) -> Iterator[None]:
    """Remove the wait callback before and after the test."""
    extensions.set_wait_callback(None)
    yield
    extensions.set_wait_callback(None)


def another_callback(connection: Any) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:
        (wait_read if state == extensions.POLL_READ else wait_write)(connection.fileno())


def asked(postgresql: str, statement: str, *parameters: Any) -> Any:
    connection = psycopg2.connect(postgresql)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchone()
    finally:
        connection.close()


def is_there(postgresql: str, pid: int) -> bool:
    return bool(asked(postgresql, "select count(*) from pg_stat_activity where pid = %s", pid)[0])


def interrupted(connection: Any) -> int:
    """Interrupt a connection in the middle of a statement; return the pid of the connection's server process."""
    pid = connection.info.backend_pid
    with gevent.Timeout(0.1, False):
        connection.cursor().execute("select pg_sleep(30)")
    assert connection.closed
    return int(pid)


def test_only_the_greenlet_that_waits_is_stopped(no_callback, postgresql) -> None:
    connection = adapter.Psycopg2Sessions(postgresql).open(1)
    assert extensions.get_wait_callback() is not None
    waiting = gevent.spawn(connection.cursor().execute, "select pg_sleep(0.3)")
    gevent.sleep(0.01)
    assert not waiting.ready()
    waiting.get()
    connection.close()


def test_a_statement_of_a_connection_that_has_closed_itself_is_ended(no_callback, postgresql, eventually) -> None:
    adapter.install_wait_callback()
    connection = psycopg2.connect(postgresql)
    pid = interrupted(connection)
    assert is_there(postgresql, pid)
    began = time.monotonic()
    adapter.cancel_statement(connection)
    eventually(lambda: not is_there(postgresql, pid))
    assert time.monotonic() - began < 1


def test_another_wait_callback_is_kept_and_told_of_once(no_callback, postgresql, eventually, caplog) -> None:
    extensions.set_wait_callback(another_callback)
    source = adapter.Psycopg2Sessions(postgresql)
    with caplog.at_level(logging.WARNING):
        connection = source.open(1)
        source.close(source.open(1))
    assert extensions.get_wait_callback() is another_callback
    assert caplog.text.count("must wait with gevent") == 1
    pid = interrupted(connection)
    source.discard(connection)
    eventually(lambda: not is_there(postgresql, pid))


def test_a_connection_that_is_in_order_or_was_closed_has_nothing_ended(no_callback, postgresql) -> None:
    source = adapter.Psycopg2Sessions(postgresql)
    connection = source.open(1)
    adapter.cancel_statement(connection)
    assert not connection.closed
    pid = connection.info.backend_pid
    assert is_there(postgresql, pid)
    source.close(connection)
    adapter.cancel_statement(connection)


def test_a_process_that_has_got_the_number_of_another_is_left_alone(no_callback, postgresql, eventually) -> None:
    adapter.install_wait_callback()
    a_minute_ago = time.monotonic() - 60
    younger = psycopg2.connect(postgresql)
    parameters, pid = {"dsn": postgresql}, younger.info.backend_pid
    ending = endings.end_backend(endings.Backend(pid, a_minute_ago, parameters))
    assert ending.tried.wait(10)
    assert is_there(postgresql, pid)
    endings.end_backend(endings.Backend(pid, time.monotonic(), parameters))
    eventually(lambda: not is_there(postgresql, pid))
    younger.close()


def test_a_server_that_does_not_answer_is_given_up(
    no_callback, postgresql, forwarder, monkeypatch, caplog, eventually
) -> None:
    monkeypatch.setattr(adapter, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(endings, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(endings, "RETRY_SECONDS", 0.0)
    way = forwarder(postgresql)
    source = adapter.Psycopg2Sessions(way.url)
    connection = source.open(1)
    pid = interrupted(connection)
    way.hold()
    source.discard(connection)
    eventually(lambda: "could not be ended on the server, and may continue to run there" in caplog.text)
    assert "the server does not answer" in caplog.text
    asked(postgresql, "select pg_terminate_backend(%s)", pid)


def test_a_statement_is_ended_when_the_server_accepts_connections_again(
    no_callback, postgresql, forwarder, eventually
) -> None:
    way = forwarder(postgresql)
    source = adapter.Psycopg2Sessions(way.url)
    connections = [source.open(1) for _ in range(5)]
    pids = [interrupted(connection) for connection in connections]
    way.refuse()
    for connection in connections:
        source.discard(connection)
    assert all(is_there(postgresql, pid) for pid in pids)
    way.come_back()
    eventually(lambda: not any(is_there(postgresql, pid) for pid in pids))


def test_a_server_that_does_not_answer_blocks_no_other_greenlet(
    no_callback, postgresql, forwarder, monkeypatch, eventually
) -> None:
    monkeypatch.setattr(adapter, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(endings, "CONNECT_SECONDS", 0.4)
    monkeypatch.setattr(endings, "RETRY_SECONDS", 0.0)
    way = forwarder(postgresql)
    connection = adapter.Psycopg2Sessions(way.url).open(1)
    pid = connection.info.backend_pid
    # A handler that has swallowed all aborts still waits for its statement when its slot is abandoned.
    handler = gevent.spawn(connection.cursor().execute, "select pg_sleep(30)")
    eventually(lambda: connection.info.transaction_status == extensions.TRANSACTION_STATUS_ACTIVE)
    way.hold()
    adapter.cancel_statement(connection)
    assert is_there(postgresql, pid)
    handler.kill()
    asked(postgresql, "select pg_terminate_backend(%s)", pid)


SLEEPING = """
import os, psycopg2

connection = psycopg2.connect(os.environ["DATABASE"])

def app(environ, start_response):
    connection.cursor().execute("select pg_sleep(5)")
"""


@pytest.mark.parametrize("grace", ["1", "5"])
def test_a_server_that_does_not_answer_does_not_make_the_exit_fail(
    no_callback, postgresql, forwarder, serve_program, grace
) -> None:
    way = forwarder(postgresql)
    flags = ("--request-timeout-seconds=0.5", f"--graceful-timeout-seconds={grace}")
    server = serve_program(SLEEPING, *flags, DATABASE=way.url)
    way.hold()
    assert server.get("/")[0] == 504
    server.process.terminate()
    assert server.process.wait(20) == 0, server.said
    assert "exits before it could end all statements of aborted requests" in server.said


def test_each_statement_is_ended_at_once_if_a_single_connection_ends_statements(
    no_callback, postgresql, monkeypatch, eventually
) -> None:
    monkeypatch.setattr(endings, "MOST_CANCELLING", 1)
    source = adapter.Psycopg2Sessions(postgresql)
    connections = [source.open(1) for _ in range(2)]
    pids = [interrupted(connection) for connection in connections]
    for connection in connections:
        source.discard(connection)
    eventually(lambda: not any(is_there(postgresql, pid) for pid in pids))


def test_many_aborts_at_once_need_few_connections_more(no_callback, postgresql, forwarder, eventually) -> None:
    way = forwarder(postgresql)
    source = adapter.Psycopg2Sessions(way.url)
    connections = [source.open(1) for _ in range(30)]
    interrupting = [gevent.spawn(interrupted, connection) for connection in connections]
    pids = [greenlet.get() for greenlet in interrupting]
    eventually(lambda: not way.open)
    way.most = 0
    gevent.joinall([gevent.spawn(source.discard, connection) for connection in connections], raise_error=True)
    assert 0 < way.most <= endings.MOST_CANCELLING
    eventually(lambda: not any(is_there(postgresql, pid) for pid in pids))
