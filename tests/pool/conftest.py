"""Applications whose progress a test decides, and requests to a balancer as an outer WSGI server makes them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import LoadBalancer


class Gate:
    """An application that counts its calls and answers when the test opens the gate."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = 0
        self.most_running = 0
        self.gate = Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls.append(environ["PATH_INFO"])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            self.gate.wait()
        finally:
            self.running -= 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]


class Answered:
    """A response as the outer server saw it."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = dict(headers)
        self.body = body

    def __repr__(self) -> str:
        return f"<Answered {self.status} {self.body!r}>"


def request(balancer: LoadBalancer, path: str = "/", **environ: Any) -> Answered:
    """Make a request and return its response, both checked by wsgiref.validate."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": path, "QUERY_STRING": ""}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        heads.append((status, headers))
        return lambda data: None

    # The validator is for one request at a time; each gets its own.
    result = validator(balancer)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        result.close()
    return Answered(*heads[-1], body)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: of all tests before it takes its time, and calls what they have left behind."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def asking() -> Callable[..., list[gevent.Greenlet]]:
    """Make requests at once, each in a greenlet, and give the slots that are free their jobs."""

    def start(balancer: LoadBalancer, *paths: str) -> list[gevent.Greenlet]:
        greenlets = [gevent.spawn(request, balancer, "/" + path.removeprefix("/")) for path in paths]
        for _ in range(5):
            gevent.sleep(0)
        return greenlets

    return start


@pytest.fixture
def ask() -> Callable[..., Answered]:
    """Make one request and wait for its response."""
    return request
