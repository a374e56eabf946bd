"""Tests of PyMySQL: effects of aborts, outages and deadlines on connections and on statements on the server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import gevent
import pymysql
import pytest

from intralb_gevent import current_session
from intralb_gevent.integrations import pymysql as adapter
from intralb_gevent.integrations.pymysql import PyMySQLSessions, cancel_statement
from intralb_gevent.policy.deadline import ProxyTiming

RUNS = itertools.count(time.time_ns())
OK, FAILED, NO_SESSION, LATE = "200 OK", "500 Internal Server Error", "503 Service Unavailable", "504 Gateway Timeout"


def test_aborts_at_random_instants(mariadb, storm) -> None:
    storm("pymysql")


def test_the_sum_of_two_accounts_never_changes(mariadb, storm) -> None:
    storm("transfer_pymysql", aborted=300, normal=600)


def arguments(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    password = parts.password or ""
    return {"host": parts.hostname, "port": parts.port or 3306, "user": parts.username, "password": password}


def run(session: Any, statement: str) -> str:
    with session.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
    return str(row[0]) if row else ""


class Administrator:
    """Lists and kills the connections of one database, which only this test uses."""

    def __init__(self, url: str, database: str) -> None:
        self.database = database
        self.connection = pymysql.connect(**arguments(url), autocommit=True)
        self.ask(f"create database `{database}`")

    def ask(self, statement: str, *parameters: Any) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall()

    def seen(self) -> list[tuple[int, str]]:
        """Return the ids and statements of the connections that the server reports."""
        statement = "select id, coalesce(info, '') from information_schema.processlist where db = %s"
        return list(self.ask(statement, self.database))

    def running(self) -> list[str]:
        return [statement for _, statement in self.seen() if statement]

    def kill_all(self) -> None:
        for number, _ in self.seen():
            self.ask(f"kill {number}")

    def close(self) -> None:
        self.ask(f"drop database `{self.database}`")
        self.connection.close()


@pytest.fixture
def administrator(patched, mariadb) -> Iterator[Administrator]:
    one = Administrator(mariadb, f"test_{next(RUNS)}")
    yield one
    one.close()


@pytest.fixture
def sessions(mariadb, administrator) -> Callable[..., PyMySQLSessions]:
    return lambda url=mariadb, **more: PyMySQLSessions(**arguments(url), database=administrator.database, **more)


class Served:
    """A balancer whose requests run the statement in their query string."""

    def __init__(self, balancer: Any, ask: Any) -> None:
        self.balancer = balancer
        self._ask = ask

    def ask(self, statement: str = "select 'yes'", **environ: Any) -> tuple[str, str]:
        status, body = self._ask(self.balancer, QUERY_STRING=statement, **environ)
        return status, body.decode()

    def crowd(
        self, count: int, statement: str = "select 'yes' from (select sleep(0.05)) as s"
    ) -> list[tuple[str, str]]:
        greenlets = [gevent.spawn(self.ask, statement) for _ in range(count)]
        return [greenlet.get() for greenlet in greenlets]


@pytest.fixture
def serve(balance, ask) -> Callable[..., Served]:
    def start(source: PyMySQLSessions, work: Callable[..., str] = run, **options: Any) -> Served:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            body = work(current_session(), environ["QUERY_STRING"])
            start_response(OK, [("Content-Type", "text/plain")])
            return [body.encode()]

        options = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 10} | options
        return Served(balance(application, db_init_func=source, **options), ask)

    return start


def within_a_second(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 1
    while not condition():
        assert time.monotonic() < end, "it has taken more than a second"
        gevent.sleep(0.01)


def told(seconds: float) -> dict[str, Any]:
    return {"intralb.proxy_timing": ProxyTiming(left=seconds)}


# Tests of state that a request leaves.


def test_an_abort_ends_the_statement_on_the_server_and_the_connection_is_not_used_again(
    serve, sessions, administrator
) -> None:
    served = serve(sessions())
    _, before = served.ask("select connection_id()")
    late = gevent.spawn(served.ask, "select sleep(30)", **told(0.3))
    within_a_second(lambda: administrator.running() == ["select sleep(30)"])
    assert late.get()[0] == LATE
    within_a_second(lambda: not administrator.seen())
    _, after = served.ask("select connection_id()")
    assert after != before
    assert len(administrator.seen()) == served.balancer.snapshot().sessions == 1


def test_a_statement_that_ignores_that_its_client_is_gone_is_ended_too(serve, sessions, administrator) -> None:
    statement = "select benchmark(1000000000, md5('x'))"
    served = serve(sessions())
    late = gevent.spawn(served.ask, statement, **told(0.3))
    within_a_second(lambda: administrator.running() == [statement])
    assert late.get()[0] == LATE
    within_a_second(lambda: not administrator.seen())


def test_an_abort_within_a_transaction_rolls_it_back_at_once(serve, sessions, administrator) -> None:
    table = f"`{administrator.database}`.account"
    administrator.ask(f"create table {table} (balance int) engine = innodb")
    administrator.ask(f"insert into {table} values (5)")

    def work(session: Any, statement: str) -> str:
        run(session, f"update {table} set balance = 0")
        gevent.sleep(30)
        return ""

    assert serve(sessions(), work).ask(**told(0.2))[0] == LATE
    administrator.ask("set innodb_lock_wait_timeout = 1")
    administrator.ask(f"update {table} set balance = balance + 1")
    assert administrator.ask(f"select balance from {table}") == ((6,),)


def test_a_request_that_catches_a_timeout_of_its_own_leaves_nothing_running_either(
    serve, sessions, administrator
) -> None:
    def work(session: Any, statement: str) -> str:
        with gevent.Timeout(0.2, False):
            return run(session, statement)
        return "gave up"

    served = serve(sessions(), work)
    assert served.ask("select sleep(30)") == (OK, "gave up")
    within_a_second(lambda: not administrator.running())
    assert served.ask("select 'next'") == (OK, "next")


def test_a_statement_sent_by_half_is_not_continued_with_the_next_one(serve, sessions, forwarder, mariadb) -> None:
    way = forwarder(mariadb)

    def work(session: Any, statement: str) -> str:
        if statement != "half":
            return run(session, statement)
        large = "select length('" + "x" * 15_000_000 + "')"
        # The forwarder, too, runs only for these 3 ms, so it forwards only a part of the statement.
        with gevent.Timeout(0.003, False):
            run(session, large)
        return "gave up"

    served = serve(sessions(way.url), work)
    assert served.ask("half") == (OK, "gave up")
    # Set a timeout, because the server might wait for the rest of the statement.
    with gevent.Timeout(3):
        assert served.ask("select 'next'") == (OK, "next")


def test_what_is_not_committed_is_rolled_back_and_autocommit_is_as_before(serve, sessions, administrator) -> None:
    def work(session: Any, statement: str) -> str:
        if statement == "autocommit":
            session.autocommit(True)
            return ""
        run(session, f"insert into `{administrator.database}`.n values (1)")
        return run(session, f"select count(*) from `{administrator.database}`.n")

    administrator.ask(f"create table `{administrator.database}`.n (n int) engine = innodb")
    served = serve(sessions(), work)
    assert [served.ask(what)[1] for what in ("insert", "autocommit", "insert", "insert")] == ["1", "", "1", "1"]


# Servers that are unavailable.


def test_connections_that_the_server_has_ended_while_idle_cost_no_error(serve, sessions, administrator) -> None:
    served = serve(sessions(), max_concurrent_per_router=4)
    assert served.crowd(4) == [(OK, "yes")] * 4
    administrator.kill_all()
    within_a_second(lambda: not administrator.seen())
    assert served.crowd(4) == [(OK, "yes")] * 4


def test_one_that_is_ended_while_it_is_used_costs_that_request_only(serve, sessions, administrator) -> None:
    served = serve(sessions())
    running = gevent.spawn(served.ask, "select sleep(30)")
    within_a_second(administrator.running)
    administrator.kill_all()
    assert running.get()[0] == FAILED
    assert served.ask() == (OK, "yes")


def test_a_server_that_goes_away_and_comes_back_costs_errors_only_meanwhile(
    serve, sessions, forwarder, mariadb
) -> None:
    way = forwarder(mariadb)
    served = serve(sessions(way.url), max_concurrent_per_router=4)
    assert served.crowd(4) == [(OK, "yes")] * 4
    way.go_away()
    for _ in range(3):
        assert {status for status, _ in served.crowd(4)} == {NO_SESSION}
    way.come_back()
    assert served.crowd(4) == [(OK, "yes")] * 4


@pytest.mark.parametrize("way_out", ["refuse", "hold"])
def test_an_abort_while_the_server_is_away_is_an_abort_like_any_other(
    serve, sessions, forwarder, mariadb, administrator, caplog, monkeypatch, way_out
) -> None:
    monkeypatch.setattr(adapter, "CANCEL_SECONDS", 0.2)
    way = forwarder(mariadb)
    served = serve(sessions(way.url))
    late = gevent.spawn(served.ask, "select sleep(30)", **told(0.3))
    within_a_second(administrator.running)
    # The statement's connection stays open, but no other connection can be opened to end the statement.
    getattr(way, way_out)()
    assert late.get()[0] == LATE
    within_a_second(lambda: "could not cancel the statement of thread" in caplog.text)
    way.refuse()
    way.come_back()
    assert served.ask() == (OK, "yes")
    administrator.kill_all()


# Deadlines.


def test_the_statement_timeout_follows_the_deadline(serve, sessions) -> None:
    served = serve(sessions(statement_timeout=True))
    for left in (5, 2):
        status, shown = served.ask("select @@max_statement_time", **told(left))
        assert status == OK
        assert left - 1 < float(shown) <= left


def test_the_server_ends_a_statement_by_itself_then(sessions) -> None:
    source = sessions(statement_timeout=True)
    session = source.open(1)
    source.begin(session, 0.2)
    began = time.monotonic()
    with pytest.raises(pymysql.err.OperationalError, match="max_statement_time exceeded"):
        run(session, "select sleep(30)")
    assert time.monotonic() - began < 5
    source.reset(session)
    source.begin(session, -1)
    with pytest.raises(pymysql.err.OperationalError, match="max_statement_time exceeded"):
        run(session, "select sleep(30)")
    source.close(session)


def test_without_being_asked_for_it_stays_as_the_server_has_it(serve, sessions) -> None:
    assert float(serve(sessions()).ask("select @@max_statement_time")[1]) == 0


# Any connection that the driver has opened.


def interrupted(connection: Any, statement: str = "select sleep(30)") -> None:
    with gevent.Timeout(0.1, False):
        run(connection, statement)
    assert not connection.open


def test_it_cancels_what_a_connection_ran_that_the_driver_has_closed(mariadb, administrator) -> None:
    connection = pymysql.connect(**arguments(mariadb), database=administrator.database)
    interrupted(connection)
    assert administrator.running()
    assert cancel_statement(connection)
    within_a_second(lambda: not administrator.seen())
    # The call succeeds, because no statement is left to be cancelled.
    assert cancel_statement(connection)


def test_it_has_the_password_from_the_connection(mariadb, administrator) -> None:
    user = f"{administrator.database}@'%'"
    administrator.ask(f"create user {user} identified by 'secret'")
    try:
        administrator.ask(f"grant all on `{administrator.database}`.* to {user}")
        whose = {"user": administrator.database, "password": "secret", "database": administrator.database}
        connection = pymysql.connect(**arguments(mariadb) | whose)
        interrupted(connection)
        assert cancel_statement(connection)
        within_a_second(lambda: not administrator.seen())
    finally:
        administrator.ask(f"drop user {user}")


def test_it_does_not_end_what_a_restarted_server_calls_by_the_same_number(mariadb, administrator) -> None:
    victim = pymysql.connect(**arguments(mariadb), database=administrator.database)
    old = PyMySQLSessions(**arguments(mariadb)).open(1)
    ((_, uptime),) = administrator.ask("show global status like 'Uptime'")
    # Simulate a connection that was opened before the server's last start and has the victim's id.
    old.connected_at -= int(uptime) + 10
    old.server_thread_id = victim.server_thread_id
    cancel_statement(old)
    assert run(victim, "select 'alive'") == "alive"
    old.close()
    victim.close()


def test_a_statement_is_ended_when_the_server_accepts_connections_again(
    mariadb, administrator, forwarder, eventually
) -> None:
    way = forwarder(mariadb)
    at = arguments(mariadb) | {"host": "127.0.0.1", "port": urlsplit(way.url).port}
    connection = pymysql.connect(**at, database=administrator.database)
    way.refuse()
    interrupted(connection)
    assert not cancel_statement(connection)
    assert administrator.running()
    way.come_back()
    # The object is used again, as a pool does, before the statement of its former connection is ended.
    connection.connect()
    eventually(lambda: not administrator.running())
    assert run(connection, "select 'alive'") == "alive"
    connection.close()


def test_a_connection_that_was_never_made_has_nothing_to_cancel(mariadb) -> None:
    assert cancel_statement(pymysql.connect(**arguments(mariadb), defer_connect=True))


def test_a_storm_of_aborts_takes_few_connections_for_itself(serve, sessions, administrator) -> None:
    lock = administrator.database
    administrator.ask(f"select get_lock('{lock}', 0)")
    served = serve(sessions(), max_concurrent_per_router=40, queue_size=40)
    late = [gevent.spawn(served.ask, f"select get_lock('{lock}', 30)", **told(0.7)) for _ in range(40)]
    most = 0
    while not all(one.ready() for one in late):
        most = max(most, len(administrator.seen()))
        gevent.sleep(0.002)
    assert {one.get()[0] for one in late} == {LATE}
    within_a_second(lambda: not administrator.seen())
    assert most <= 40 + adapter.MOST_CANCELLING


def test_its_representation_shows_where_it_connects_but_no_password() -> None:
    shown = repr(PyMySQLSessions(host="db.example", user="me", passwd="secret1", password="secret2", database="d"))
    assert shown == "<PyMySQLSessions user='me' host='db.example' database='d' statement_timeout=False>"
