"""With both PostgreSQL drivers, an aborted request leaves nothing behind, and an outage has no lasting effects."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import psycopg
import pytest

from intralb_gevent import current_session
from intralb_gevent.integrations.psycopg import PsycopgSessions
from intralb_gevent.integrations.psycopg2 import Psycopg2Sessions
from intralb_gevent.policy.deadline import ProxyTiming

pytestmark = pytest.mark.usefixtures("patched")

RUNS = itertools.count(time.time_ns())
OK, FAILED, NO_SESSION, LATE = "200 OK", "500 Internal Server Error", "503 Service Unavailable", "504 Gateway Timeout"


def run(session: Any, statement: str) -> str:
    """Execute a statement with either driver, and return the first value of the result."""
    cursor = session.cursor()
    cursor.execute(statement)
    return str(cursor.fetchone()[0]) if cursor.description else ""


class Served:
    """A balancer whose requests run the statement in their query string. `seen` reports its connections."""

    def __init__(self, balance: Any, ask: Any, administrator: psycopg.Connection, source: Any, **options: Any) -> None:
        self.name = f"test-{next(RUNS)}"
        self.administrator = administrator
        self.source = source(application_name=self.name)
        self._ask = ask
        options = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 10} | options
        self.balancer = balance(self.application, db_init_func=self.source, **options)

    def application(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = self.work(current_session(), environ["QUERY_STRING"])
        start_response(OK, [("Content-Type", "text/plain")])
        return [body.encode()]

    work = staticmethod(run)

    def ask(self, statement: str = "select 'yes'", **environ: Any) -> tuple[str, str]:
        status, body = self._ask(self.balancer, QUERY_STRING=statement, **environ)
        return status, body.decode()

    def crowd(self, count: int, statement: str = "select 'yes' from pg_sleep(0.05)") -> list[tuple[str, str]]:
        """Send `count` requests at the same time, so that as many sessions are in use."""
        greenlets = [gevent.spawn(self.ask, statement) for _ in range(count)]
        return [greenlet.get() for greenlet in greenlets]

    def seen(self, condition: str = "true") -> list[str]:
        """Return the states of this balancer's connections, as the database server reports them."""
        statement = f"select state from pg_stat_activity where application_name = %s and {condition}"
        return [state for (state,) in self.administrator.execute(statement, (self.name,))]

    def terminate_all(self) -> None:
        statement = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s"
        self.administrator.execute(statement, (self.name,))


@pytest.fixture
def administrator(postgresql) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgresql, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=[PsycopgSessions, Psycopg2Sessions], ids=["psycopg", "psycopg2"])
def serve(request, postgresql, balance, ask, administrator) -> Callable[..., Served]:
    """Return a function that creates a `Served` for either driver; it takes options for sessions and balancer."""

    def start(address: str = postgresql, sessions: dict[str, Any] | None = None, **options: Any) -> Served:
        def source(**more: Any) -> Any:
            return request.param(address, **(sessions or {}), **more)

        return Served(balance, ask, administrator, source, **options)

    return start


def within_a_second(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 1
    while not condition():
        assert time.monotonic() < end, "it has taken more than a second"
        gevent.sleep(0.01)


def test_an_abort_ends_the_statement_on_the_server_and_the_connection_is_not_used_again(serve) -> None:
    served = serve()
    _, before = served.ask("select pg_backend_pid()")
    late = gevent.spawn(served.ask, "select pg_sleep(30)", **{"intralb.proxy_timing": ProxyTiming(left=0.3)})
    within_a_second(lambda: served.seen("query like '%%pg_sleep%%'") == ["active"])
    assert late.get()[0] == LATE
    within_a_second(lambda: not served.seen())
    _, after = served.ask("select pg_backend_pid()")
    assert after != before
    assert len(served.seen()) == served.balancer.snapshot().sessions == 1


def test_a_request_that_catches_a_timeout_of_its_own_leaves_nothing_running_either(serve) -> None:
    def work(session: Any, statement: str) -> str:
        with gevent.Timeout(0.2, False):
            return run(session, statement)
        return "gave up"

    served = serve()
    served.work = work
    _, before = served.ask("select pg_backend_pid()")
    assert served.ask("select pg_sleep(30)") == (OK, "gave up")
    within_a_second(lambda: not served.seen("state = 'active'"))
    _, after = served.ask("select pg_backend_pid()")
    assert after != before


def test_what_is_not_committed_is_rolled_back_before_the_next_request(serve) -> None:
    served = serve()
    _, first = served.ask("select pg_backend_pid()")
    served.ask("create table never_committed (number int)")
    within_a_second(lambda: served.seen() == ["idle"])
    assert served.ask("select to_regclass('never_committed') is null") == (OK, "True")
    assert served.ask("select 1 / 0")[0] == FAILED
    assert served.ask("select pg_backend_pid()") == (OK, first)


def test_connections_that_the_server_has_ended_while_idle_cost_no_error(serve) -> None:
    served = serve(max_concurrent_per_router=4)
    assert served.crowd(4) == [(OK, "yes")] * 4
    served.terminate_all()
    within_a_second(lambda: not served.seen())
    assert served.crowd(4) == [(OK, "yes")] * 4


def test_one_that_is_ended_while_it_is_used_costs_that_request_only(serve) -> None:
    served = serve()
    running = gevent.spawn(served.ask, "select pg_sleep(30)")
    within_a_second(lambda: served.seen() == ["active"])
    served.terminate_all()
    assert running.get()[0] == FAILED
    assert served.ask() == (OK, "yes")


def test_a_server_that_goes_away_and_comes_back_costs_errors_only_meanwhile(serve, forwarder, postgresql) -> None:
    way = forwarder(postgresql)
    served = serve(way.url, max_concurrent_per_router=4)
    assert served.crowd(4) == [(OK, "yes")] * 4
    way.go_away()
    for _ in range(3):
        assert {status for status, _ in served.crowd(4)} == {NO_SESSION}
    way.come_back()
    assert served.crowd(4) == [(OK, "yes")] * 4


def test_an_abort_while_the_server_is_away_is_an_abort_like_any_other(serve, forwarder, postgresql) -> None:
    way = forwarder(postgresql)
    served = serve(way.url)
    late = gevent.spawn(served.ask, "select pg_sleep(30)", **{"intralb.proxy_timing": ProxyTiming(left=0.3)})
    within_a_second(lambda: served.seen() == ["active"])
    # The statement's connection stays open, but no other connection can be opened to end the statement.
    way.refuse()
    assert late.get()[0] == LATE
    way.come_back()
    assert served.ask() == (OK, "yes")
    served.terminate_all()


def test_the_statement_timeout_follows_the_deadline(serve) -> None:
    served = serve(sessions={"statement_timeout": True})
    for left in (5, 2):
        status, shown = served.ask(
            "select setting from pg_settings where name = 'statement_timeout'",
            **{"intralb.proxy_timing": ProxyTiming(left=left)},
        )
        assert status == OK
        assert (left - 1) * 1000 < int(shown) <= left * 1000


def test_it_survives_a_rollback_and_leaves_the_connection_without_a_transaction(serve) -> None:
    def work(session: Any, statement: str) -> str:
        # Both drivers reject this setting within a transaction.
        session.autocommit = False
        run(session, "select 1")
        session.rollback()
        return run(session, "show statement_timeout")

    served = serve(sessions={"statement_timeout": True})
    served.work = work
    status, shown = served.ask()
    assert (status, shown == "0") == (OK, False)


def test_without_being_asked_for_it_stays_as_the_server_has_it(serve, administrator) -> None:
    (servers,) = administrator.execute("show statement_timeout").fetchone()
    assert serve().ask("show statement_timeout") == (OK, servers)


def test_connect_options_are_handed_on(serve) -> None:
    served = serve(sessions={"options": "-c search_path=pg_catalog"})
    assert served.ask("show search_path") == (OK, "pg_catalog")


def test_its_representation_shows_where_it_connects_and_how_many_are_open_but_no_password(serve) -> None:
    address = "postgresql://somebody:secret1@127.0.0.1:1/nothing"
    shown = repr(serve(address, sessions={"password": "secret2"}).source)
    assert "host=127.0.0.1 port=1 dbname=nothing user=somebody open=0" in shown
    assert "secret" not in shown
