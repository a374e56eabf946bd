"""Tests of redis-py: state that a request leaves on its connection, and the effects of aborts and outages."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis

from intralb_gevent import Route, current_session
from intralb_gevent.integrations.redis import RedisSessions
from intralb_gevent.policy.deadline import ProxyTiming

RUNS = itertools.count(time.time_ns())
OK, FAILED, NO_SESSION, LATE = "200 OK", "500 Internal Server Error", "503 Service Unavailable", "504 Gateway Timeout"


def test_aborts_at_random_instants(redis_server, storm) -> None:
    storm("redis")


class Administrator:
    """Lists and ends the connections with a name that only this test sets."""

    def __init__(self, url: str) -> None:
        self.name = f"test-{next(RUNS)}"
        self.client = redis.Redis.from_url(url)

    def seen(self) -> list[dict[str, str]]:
        return [one for one in self.client.client_list() if one["name"] == self.name]

    def kill_all(self) -> None:
        for one in self.seen():
            self.client.client_kill_filter(_id=one["id"])

    def close(self) -> None:
        for key in self.client.scan_iter(f"{self.name}*"):
            self.client.delete(key)
        self.client.close()


@pytest.fixture
def administrator(patched, redis_server) -> Iterator[Administrator]:
    one = Administrator(redis_server)
    yield one
    one.close()


class Served:
    """A balancer whose requests call the function `work` with their session and path."""

    def __init__(self, balancer: Any, ask: Any) -> None:
        self.balancer = balancer
        self._ask = ask

    def ask(self, path: str = "", **environ: Any) -> tuple[str, str]:
        status, body = self._ask(self.balancer, path, **environ)
        return status, body.decode()

    def crowd(self, count: int) -> list[tuple[str, str]]:
        greenlets = [gevent.spawn(self.ask) for _ in range(count)]
        return [greenlet.get() for greenlet in greenlets]


def number(session: redis.Redis, path: str) -> str:
    """Hold the session for a moment, and respond with the session's number."""
    gevent.sleep(0.02)
    return str(session.client_id())


@pytest.fixture
def serve(balance, ask, administrator, redis_server) -> Callable[..., Served]:
    def start(work: Callable[..., Any] = number, url: str = redis_server, **options: Any) -> Served:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            body = work(current_session(), environ["PATH_INFO"])
            start_response(OK, [("Content-Type", "text/plain")])
            return [str(body).encode()]

        options = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 10} | options
        source = RedisSessions(url, client_name=administrator.name, decode_responses=True)
        return Served(balance(application, db_init_func=source, **options), ask)

    return start


def within_a_second(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 1
    while not condition():
        assert time.monotonic() < end, "it has taken more than a second"
        gevent.sleep(0.01)


def told(seconds: float) -> dict[str, Any]:
    return {"intralb.proxy_timing": ProxyTiming(left=seconds)}


# State that a request leaves.


def test_a_slot_keeps_its_connection(serve, administrator) -> None:
    served = serve()
    assert served.ask() == served.ask()
    assert len(administrator.seen()) == 1


def test_an_abort_ends_what_waits_on_the_server_and_the_connection_is_not_used_again(serve, administrator) -> None:
    def work(session: redis.Redis, path: str) -> Any:
        return session.blpop(f"{administrator.name}:never", 4) if path == "/wait" else session.client_id()

    served = serve(work)
    _, before = served.ask()
    late = gevent.spawn(served.ask, "/wait", **told(0.3))
    within_a_second(lambda: [one["cmd"] for one in administrator.seen()] == ["blpop"])
    assert late.get()[0] == LATE
    within_a_second(lambda: not administrator.seen())
    # If a client disconnects while it waits for an item, the item stays in the list.
    administrator.client.rpush(f"{administrator.name}:never", "kept")
    _, after = served.ask()
    assert after != before
    assert administrator.client.lpop(f"{administrator.name}:never") == b"kept"


def test_an_answer_that_nobody_waited_for_reaches_nobody(serve, administrator) -> None:
    def work(session: redis.Redis, path: str) -> Any:
        if path == "/slow":
            with gevent.Timeout(0.05, False):
                return session.blpop(f"{administrator.name}:queue", 4)
            administrator.client.rpush(f"{administrator.name}:queue", "wrong")
        return session.echo(path)

    served = serve(work)
    assert [served.ask(path)[1] for path in ("/a", "/slow", "/b", "/c")] == ["/a", "/slow", "/b", "/c"]


LEFT: dict[str, Callable[[redis.Redis], Any]] = {
    "a transaction": lambda session: session.execute_command("MULTI"),
    "a watched key": lambda session: session.execute_command(b"watch", "key"),
    "another database": lambda session: session.select(3),
    "a pipeline that watches": lambda session: KEPT.append(session.pipeline()) or KEPT[-1].watch("key"),
    "another database from a pipeline": lambda session: session.pipeline(False).execute_command("SELECT", 3).execute(),
    "a subscription": lambda session: KEPT.append(session.pubsub()) or KEPT[-1].subscribe("channel"),
    "another name": lambda session: session.client_setname("x"),
}
KEPT: list[Any] = []


@pytest.mark.parametrize("what", LEFT)
def test_nothing_is_left_for_the_next_request(serve, administrator, what) -> None:
    def work(session: redis.Redis, path: str) -> Any:
        if path == "/leave":
            return LEFT[what](session) and ""
        return session.echo("clean")

    served = serve(work)
    served.ask()
    assert served.ask("/leave")[0] == OK
    within_a_second(lambda: not administrator.seen())
    assert served.ask("/again") == (OK, "clean")
    (seen,) = administrator.seen()
    assert {name: seen[name] for name in ("db", "sub", "multi")} == {"db": "0", "sub": "0", "multi": "-1"}
    while KEPT:
        KEPT.pop().reset()
    assert len(administrator.seen()) == 1


def test_a_connection_that_is_as_it_was_is_kept(serve) -> None:
    def work(session: redis.Redis, path: str) -> Any:
        with session.pipeline() as pipeline:
            pipeline.watch("key")
            pipeline.multi()
            pipeline.client_id()
            (number,) = pipeline.execute()
        with session.pipeline() as pipeline:
            pipeline.watch("key")
        return number

    served = serve(work)
    assert served.ask() == served.ask()


def test_who_keeps_a_session_beyond_its_request_cannot_go_on_with_it(serve, administrator) -> None:
    kept: list[redis.Redis] = []
    ended: list[str] = []

    def listen(session: redis.Redis) -> None:
        while "belonged to a request that has ended" not in "".join(ended):
            try:
                session.blpop("never", 4)
            except Exception as error:
                ended.append(str(error))

    def work(session: redis.Redis, path: str) -> Any:
        kept.append(gevent.spawn(listen, session))
        gevent.sleep(30)

    assert serve(work).ask(**told(0.2))[0] == LATE
    assert gevent.joinall(kept, timeout=1)
    within_a_second(lambda: not administrator.seen())


# Servers that are unavailable.


def test_connections_that_the_server_has_ended_while_idle_cost_no_error(serve, administrator) -> None:
    served = serve(max_concurrent_per_router=4)
    assert {status for status, _ in served.crowd(4)} == {OK}
    administrator.kill_all()
    within_a_second(lambda: not administrator.seen())
    assert {status for status, _ in served.crowd(4)} == {OK}


def test_one_that_is_ended_while_it_is_used_costs_that_request_only(serve, administrator) -> None:
    def work(session: redis.Redis, path: str) -> Any:
        return session.blpop("never", 4) if path == "/wait" else "yes"

    served = serve(work)
    running = gevent.spawn(served.ask, "/wait")
    within_a_second(lambda: [one["cmd"] for one in administrator.seen()] == ["blpop"])
    administrator.kill_all()
    assert running.get()[0] == FAILED
    assert served.ask() == (OK, "yes")


def test_a_server_that_goes_away_and_comes_back_costs_errors_only_meanwhile(serve, forwarder, redis_server) -> None:
    way = forwarder(redis_server)
    served = serve(url=way.url, max_concurrent_per_router=4)
    assert {status for status, _ in served.crowd(4)} == {OK}
    way.go_away()
    for _ in range(3):
        assert {status for status, _ in served.crowd(4)} == {NO_SESSION}
    way.come_back()
    assert {status for status, _ in served.crowd(4)} == {OK}


def test_its_representation_shows_where_it_connects_but_no_password() -> None:
    assert (
        repr(RedisSessions("redis://me:secret@db.example:1/2?password=secret"))
        == "<RedisSessions redis://db.example:1/2>"
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # redis-py drops the socket when a connect is cut
def test_a_client_that_requests_share_receives_its_own_answers_after_aborts(
    patched, redis_server, balance, ask
) -> None:
    """redis-py drops a connection if a command is aborted while it waits, but not while responses are parsed."""
    client = redis.Redis.from_url(redis_server)
    numbers = itertools.count()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(OK, [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/many":
            pipeline = client.pipeline(transaction=False)
            for number in range(8000):
                pipeline.echo(f"many {number}")
            pipeline.execute()
        number = f"one {next(numbers)}"
        return [b"right" if client.echo(number).decode() == number else b"wrong"]

    balancer = balance(application)
    began = time.monotonic()
    assert ask(balancer, "/many")[0] == OK
    took = time.monotonic() - began
    # Use deadlines that pass between the first response and the last one.
    limits = [Route("/many", request_timeout_seconds=took * step / 8) for step in range(2, 8)]
    statuses = set()
    for limit in limits:
        balancer = balance(application, routes=[limit], max_workers=1)
        for _ in range(12):
            statuses.add(ask(balancer, "/many")[0])
            assert ask(balancer, "/one")[1] == b"right"
    client.close()
    assert LATE in statuses
