"""Tests of lanes whose event loop is kept busy by the jobs of other lanes of the same process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from intralb_gevent import LoadBalancer, Route

COMPUTING, WAITING = 6, 16
"""Numbers of clients."""

SLOTS = {"max_workers": 1, "max_concurrent_per_router": 20}


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Wait ten times, as a page with ten queries does; `/renders` computes for 1 ms after each wait. `/computes`
    computes for 20 ms instead, `/spawns` does so in another greenlet, and the paths below `/shares` compute for 40 ms,
    and let other requests run after each 4 ms."""
    path = environ["PATH_INFO"]
    if path == "/computes":
        compute(0.02)
    elif path == "/spawns":
        gevent.spawn(compute, 0.02).join()
    else:
        for _ in range(10):
            gevent.sleep(0 if path.startswith("/shares") else 0.01)
            compute(0.004 if path.startswith("/shares") else 0.001 if path == "/renders" else 0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


def compute(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.fixture
def clients(ask) -> Iterator[Callable[..., None]]:
    """Return a function that starts clients which wait for each response before they send the next request."""
    begun: list[gevent.Greenlet] = []
    stop: list[bool] = []

    def client(balancer: LoadBalancer, path: str) -> None:
        while not stop:
            assert ask(balancer, path).status == "200 OK"

    def begin(balancer: LoadBalancer, path: str, count: int) -> None:
        begun.extend(gevent.spawn(client, balancer, path) for _ in range(count))

    yield begin
    stop.append(True)
    gevent.joinall(begun, raise_error=True)


def limits(balancer: LoadBalancer) -> list[int]:
    return [lane.limit for lane in balancer.snapshot().lanes]


def request(balancer: LoadBalancer, path: str, count: int, ask: Callable[..., Any]) -> None:
    """Make requests, one after the other."""
    for _ in range(count):
        assert ask(balancer, path).status == "200 OK"


def test_a_lane_that_mostly_waits_is_not_limited_because_another_lane_computes(balance, ask, clients) -> None:
    balancer = balance(application, **SLOTS, routes=[Route("/computes", max_workers=1)])
    clients(balancer, "/computes", COMPUTING)
    clients(balancer, "/waits", WAITING)
    request(balancer, "/computes", 20, ask)
    assert limits(balancer)[0] >= WAITING


def test_a_balancer_that_mostly_waits_is_not_limited_because_another_one_computes(balance, ask, clients) -> None:
    computing, waiting = balance(application, **SLOTS), balance(application, **SLOTS)
    clients(computing, "/computes", COMPUTING)
    clients(waiting, "/waits", WAITING)
    request(computing, "/computes", 20, ask)
    assert limits(waiting)[0] >= WAITING


def test_two_lanes_that_compute_are_both_limited(balance, ask, clients) -> None:
    balancer = balance(application, **SLOTS, routes=[Route("/shares/1", max_workers=1)])
    for path in ("/shares/1", "/shares/2"):
        clients(balancer, path, COMPUTING)
    request(balancer, "/shares/1", 5, ask)
    assert max(limits(balancer)) <= COMPUTING


def test_a_lane_whose_requests_compute_in_other_greenlets_is_limited_and_no_other_lane(balance, ask, clients) -> None:
    balancer = balance(application, **SLOTS, routes=[Route("/spawns", max_workers=1)])
    clients(balancer, "/spawns", COMPUTING)
    clients(balancer, "/renders", WAITING)
    request(balancer, "/spawns", 30, ask)
    renders, spawns = limits(balancer)
    assert renders >= WAITING
    assert spawns <= COMPUTING
