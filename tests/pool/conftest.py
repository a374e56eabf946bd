"""Applications that a test controls, and functions that call a balancer as an outer WSGI server would."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import LoadBalancer, Priority
from intralb_gevent.pool.channel import Channel
from intralb_gevent.pool.job import Job

_ROUTE = LoadBalancer(lambda environ, start_response: []).intake.mounts.find({})


def waiting_job(priority: Priority, client: str | None = None, arrived: float = 0.0) -> Job:
    """Return a job that belongs to no balancer; compiled code accepts only real `Job` objects."""
    job = Job({}, Channel(lambda *args: lambda data: None), arrived, 0.0, _ROUTE)
    job.priority, job.client = priority, client
    return job


class Gate:
    """An application that counts its calls, and responds once the test sets its gate."""

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
    """A response that the outer server has received."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = dict(headers)
        self.body = body

    def __repr__(self) -> str:
        return f"<Answered {self.status} {self.body!r}>"


def request(balancer: LoadBalancer, path: str = "/", **environ: Any) -> Answered:
    """Make a request and return its response; wsgiref.validate checks both."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": path, "QUERY_STRING": ""}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        heads.append((status, headers))
        return lambda data: None

    # Create a validator for each request, because a validator supports one request at a time.
    result = validator(balancer)(environ, start_response)
    try:
        body = b"".join(result)
    finally:
        result.close()
    return Answered(*heads[-1], body)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Disable garbage collection, because collecting garbage from earlier tests takes time and runs finalizers."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def python_reports_errors_of_finalizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Python itself report errors of finalizers, as in a server.

    pytest's report runs in the request's greenlet, too, and formats a traceback there for longer than the time between
    two aborts. The next abort would then be raised in pytest's code instead of the finalizer's.
    """
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def asking() -> Callable[..., list[gevent.Greenlet]]:
    """Return a function that starts requests in free slots at the same time, each from its own greenlet."""

    def start(balancer: LoadBalancer, *paths: str) -> list[gevent.Greenlet]:
        greenlets = [gevent.spawn(request, balancer, "/" + path.removeprefix("/")) for path in paths]
        for _ in range(5):
            gevent.sleep(0)
        return greenlets

    return start


@pytest.fixture
def ask() -> Callable[..., Answered]:
    """Return a function that makes one request, and waits for its response."""
    return request
