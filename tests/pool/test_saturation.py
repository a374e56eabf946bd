"""A balancer measures the saturation of its resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import LoadBalancer, Route, WSGIServer
from intralb_gevent.policy.saturation import Mean


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let means follow within a fraction of a second."""
    monkeypatch.setattr(Mean, "AGE_SECONDS", 0.05)


class Gate:
    """An application whose requests wait until the gate is opened."""

    def __init__(self) -> None:
        self.opened = Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.opened.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]


def environ(path: str = "/") -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1", "wsgi.errors": None}


def ask(balancer: LoadBalancer, path: str = "/") -> gevent.Greenlet[..., Any]:
    return gevent.spawn(balancer, environ(path), lambda status, headers, exc_info=None: lambda data: None)


def of(balancer: LoadBalancer, name: str) -> float:
    return balancer.snapshot().saturation_by_resource[name]


def test_slots_are_half_full_full_and_beyond(
    balance: Callable[..., LoadBalancer], eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    gate = Gate()
    balancer = balance(gate, max_concurrent_per_router=2, max_workers=2, queue_size=2, limiter="fixed")
    asked = [ask(balancer) for _ in range(2)]
    eventually(lambda: of(balancer, "slots") == 0.5)
    assert balancer.snapshot().saturation == 0.5
    asked += [ask(balancer) for _ in range(4)]
    eventually(lambda: of(balancer, "slots") == 1.5)
    asked += [ask(balancer) for _ in range(10)]
    eventually(lambda: of(balancer, "slots") > 2)
    gate.opened.set()
    gevent.joinall(asked)
    eventually(lambda: of(balancer, "slots") < 0.01)


def test_the_most_saturated_lane_counts(
    balance: Callable[..., LoadBalancer], eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    gate = Gate()
    lane = Route("/reports", max_workers=1, max_concurrent_per_router=1)
    balancer = balance(gate, routes=[lane])
    asked = [ask(balancer, "/reports")]
    eventually(lambda: of(balancer, "slots") == 1.0)
    gate.opened.set()
    gevent.joinall(asked)


def test_an_event_loop_that_computes_is_saturated(
    balance: Callable[..., LoadBalancer], eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    def computes(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sum(range(200_000))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    balancer = balance(computes)
    running = True

    def client() -> None:
        while running:
            ask(balancer).join()

    clients = [gevent.spawn(client) for _ in range(3)]
    eventually(lambda: of(balancer, "hub") > 0.6)
    running = False
    gevent.joinall(clients)
    eventually(lambda: of(balancer, "hub") < 0.3)


def test_connections_streams_and_upgrades_count(
    serve: Callable[..., WSGIServer], eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    closed = Event()

    def streams(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        closed.wait()

    server = serve(streams, max_connections=4, max_streams=2)
    with gevent.socket.create_connection(("127.0.0.1", server.server_port)) as client:
        eventually(lambda: of(server.balancer, "connections") == 0.25)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: of(server.balancer, "streams") == 0.5)
        assert server.balancer.snapshot().saturation >= 0.5
        closed.set()
    eventually(lambda: max(of(server.balancer, "streams"), of(server.balancer, "connections")) < 0.01)


def test_rates_count_every_request(
    balance: Callable[..., LoadBalancer], eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    gate = Gate()
    balancer = balance(gate, max_concurrent_per_router=1, max_workers=1, queue_size=0)
    load = balancer.intake.context.load
    assert load.own == load.whole == (0, 0, 0)
    asked = [ask(balancer) for _ in range(4)]
    eventually(lambda: load.own.requests_per_second > load.own.errors_per_second > 0)
    gate.opened.set()
    gevent.joinall(asked)
