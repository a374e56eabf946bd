"""Tests of streamed responses: their time limits, and their maximum number."""

from __future__ import annotations

import logging

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import Route
from intralb_gevent.policy.limiters import Window

TIMEOUT = 0.1


class Streams:
    """An application that sends the first part of a body immediately, and the rest when the test allows it."""

    def __init__(self, headers: list[tuple[str, str]] | None = None) -> None:
        self.go_on = Event()
        self.closed = 0
        self.headers = headers or [("Content-Type", "text/plain")]

    def __call__(self, environ, start_response):
        start_response("200 OK", self.headers)
        return self.parts()

    def parts(self):
        try:
            yield b"begun "
            self.go_on.wait()
            yield b"ended"
        finally:
            self.closed += 1


class Recorder:
    """A limiter that keeps the windows in which requests have ended."""

    limit = 100

    def __init__(self) -> None:
        self.windows: list[Window] = []

    def observe(self, window: Window) -> None:
        if window.ended:
            self.windows.append(window)

    def resize(self, most: int) -> None:
        """Do nothing."""


@pytest.fixture
def streams() -> Streams:
    return Streams()


def test_a_stream_goes_on_after_the_deadline_of_its_request(balance, asking, streams, eventually) -> None:
    balancer = balance(streams, request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "/")
    gevent.sleep(2 * TIMEOUT)
    assert balancer.snapshot().streams == 1
    streams.go_on.set()
    assert request.get().body == b"begun ended"
    eventually(lambda: balancer.snapshot().streams == 0)


def test_a_stream_can_have_an_end_of_its_own_by_route(balance, asking, streams) -> None:
    routes = [Route("/events/*", stream_timeout_seconds=TIMEOUT)]
    balancer = balance(streams, request_timeout_seconds=20, routes=routes)
    cut, goes_on = asking(balancer, "/events/1", "/other")
    with pytest.raises(Exception, match="the response was cut"):
        cut.get()
    assert not goes_on.ready()
    streams.go_on.set()
    assert goes_on.get().body == b"begun ended"
    assert balancer.snapshot().outcomes["timed_out"] == 1


def test_until_it_begins_the_deadline_of_the_request_holds(balance, asking) -> None:
    balancer = balance(lambda environ, sr: Event().wait(), request_timeout_seconds=TIMEOUT, stream_timeout_seconds=20)
    assert asking(balancer, "/")[0].get().status == "504 Gateway Timeout"


def test_no_more_than_so_many_are_streamed_at_once(balance, asking, streams, eventually, caplog) -> None:
    caplog.set_level(logging.INFO, "intralb_gevent.jobs")
    balancer = balance(streams, request_timeout_seconds=20, max_streams=2, enable_logging=True)
    first, second, third = asking(balancer, *"123")
    refused = third.get()
    assert (refused.status[:3], refused.headers["X-Intralb-Reason"]) == ("503", "streams")
    eventually(lambda: "503 failed reason=streams" in caplog.text)
    assert streams.closed == 1
    streams.go_on.set()
    assert [request.get().status for request in (first, second)] == ["200 OK"] * 2
    eventually(lambda: balancer.snapshot().streams == 0)
    assert asking(balancer, "4")[0].get().status == "200 OK"


@pytest.mark.parametrize(
    "application",
    [
        Streams([("Content-Type", "text/plain"), ("Content-Length", "11")]),
        lambda environ, start_response: [start_response("200 OK", [("Content-Type", "text/plain")]) and b"a", b"b"],
    ],
    ids=["length told", "list"],
)
def test_what_is_known_as_a_whole_is_no_stream(balance, asking, application) -> None:
    if isinstance(application, Streams):
        application.go_on.set()
    balancer = balance(application, max_streams=1)
    requests = asking(balancer, *"12345")
    assert [request.get().status for request in requests] == ["200 OK"] * 5


def test_the_limiter_counts_only_the_run_time_up_to_the_first_part_of_a_long_stream(
    balance, asking, streams, eventually
) -> None:
    recorder = Recorder()
    balancer = balance(streams, limiter=lambda most: recorder)
    (request,) = asking(balancer, "/")
    eventually(lambda: balancer.intake.lanes[0].pool.long_streams == 1)
    streams.go_on.set()
    assert request.get().body == b"begun ended"
    (window,) = eventually(lambda: recorder.windows)
    assert window.mean_run_time < 0.9
