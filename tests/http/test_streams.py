"""Streamed responses over connections: how many there may be, and how one ends at its deadline."""

from __future__ import annotations

import pytest
from gevent.event import Event

from intralb_gevent import Route

TIMEOUT = 0.05
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Streaming:
    """An application that sends a part, and the rest when the test says so."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.closed = 0

    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            yield b"begun"
            self.go_on.wait()
            yield b"ended"
        finally:
            self.closed += 1


@pytest.fixture
def streaming() -> Streaming:
    return Streaming()


def test_one_too_many_is_refused_and_the_others_go_on(serve, connect, streaming, eventually) -> None:
    server = serve(streaming, request_timeout_seconds=20, max_streams=1)
    first, second = connect(server), connect(server)
    first.send(REQUEST)
    eventually(lambda: server.balancer.snapshot().streams == 1)
    refused = second.get()
    assert (refused.status, refused.headers["x-intralb-reason"]) == (503, "streams")
    streaming.go_on.set()
    assert first.reply().body == b"begunended"
    assert second.get().body == b"begunended"


def test_one_that_is_sent_for_ever_and_read_fast_is_cut(serve, connect) -> None:
    def endless():
        while True:
            yield b"x" * 1024

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return endless() if environ["PATH_INFO"] == "/endless" else [b"done"]

    routes = [Route("/endless", request_timeout_seconds=4 * TIMEOUT)]
    server = serve(application, request_timeout_seconds=20, routes=routes)
    endless_one, other = connect(server), connect(server)
    endless_one.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    assert other.get().body == b"done"
    assert len(endless_one.rest()) > 1024
    assert server.balancer.snapshot().outcomes["timed_out"] == 1


def test_a_stream_cut_at_its_deadline_has_one_outcome(serve, connect, streaming, eventually) -> None:
    server = serve(streaming, request_timeout_seconds=TIMEOUT, cancel_on_disconnect=True)
    client = connect(server)
    client.send(REQUEST)
    assert client.rest().endswith(b"begun\r\n")
    eventually(lambda: streaming.closed)
    outcomes = server.balancer.snapshot().outcomes
    assert (outcomes["timed_out"], outcomes["disconnected"], outcomes["failed"]) == (1, 0, 0)
