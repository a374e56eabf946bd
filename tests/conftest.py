"""What tests of the pool and of HTTP share: balancers and servers that are always stopped, and a bounded patience."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, settings

from intralb_gevent import LoadBalancer, Options, WSGIServer

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

PATIENCE = 10.0
"""Seconds after which something awaited is taken to be lost."""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test of greenlets hangs: it fails with the place at which it waited."""
    with gevent.Timeout(30, AssertionError("the test has hung")):
        yield


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Give the hub turns until a condition holds, and return what it returned."""

    def wait(condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert time.monotonic() < end, f"{condition} did not come true"
            gevent.sleep(0.001)
        return result

    return wait


@pytest.fixture
def balance() -> Iterator[Callable[..., LoadBalancer]]:
    """Make balancers that are drained when the test is over."""
    made: list[LoadBalancer] = []

    def make(application: Any, **options: Any) -> LoadBalancer:
        made.append(LoadBalancer(application, Options(**options)))
        return made[-1]

    yield make
    for balancer in made:
        balancer.drain(0)


@pytest.fixture
def serve() -> Iterator[Callable[..., WSGIServer]]:
    """Start servers on a free port that are stopped when the test is over."""
    made: list[WSGIServer] = []

    def start(application: Any, **options: Any) -> WSGIServer:
        server = WSGIServer(("127.0.0.1", 0), LoadBalancer(application, Options(**options)))
        server.start()
        made.append(server)
        return server

    yield start
    for server in made:
        server.stop(0)
