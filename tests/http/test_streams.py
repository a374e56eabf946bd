"""Tests of streamed responses over connections: their maximum number, and their end at a deadline."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent import Route

TIMEOUT = 0.1
TEXT = [("Content-Type", "text/plain")]
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Streaming:
    """An application that sends one part, and the rest when the test allows it."""

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

    routes = [Route("/endless", stream_timeout_seconds=4 * TIMEOUT)]
    server = serve(application, request_timeout_seconds=20, routes=routes)
    endless_one, other = connect(server), connect(server)
    endless_one.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    assert other.get().body == b"done"
    assert len(endless_one.rest()) > 1024
    assert server.balancer.snapshot().outcomes["timed_out"] == 1


def test_a_stream_cut_at_its_deadline_has_one_outcome(serve, connect, streaming, eventually) -> None:
    server = serve(streaming, stream_idle_timeout_seconds=TIMEOUT, cancel_on_disconnect=True)
    client = connect(server)
    client.send(REQUEST)
    assert client.rest().endswith(b"begun\r\n")
    eventually(lambda: streaming.closed)
    outcomes = server.balancer.snapshot().outcomes
    assert (outcomes["timed_out"], outcomes["disconnected"], outcomes["failed"]) == (1, 0, 0)


# Time limits.


def told(parts: int, size: int) -> Callable[[dict[str, Any], Any], Iterator[bytes]]:
    """Return an application that sends `parts` parts of `size` bytes, in the way that the path selects."""

    body = b"x" * (parts * size)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        kind = environ["PATH_INFO"][1:]
        length = [] if kind == "generator" else [("Content-Length", str(parts * size))]
        write = start_response("200 OK", [*TEXT, *length])
        if kind == "write":
            for _ in range(parts):
                write(b"x" * size)
            return []
        if kind == "file":
            return environ["wsgi.file_wrapper"](io.BytesIO(body), size)
        if kind == "list":
            return [b"x" * size] * parts
        return (b"x" * size for _ in range(parts))

    return application


KINDS = ["generator", "known", "write", "file", "list"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "list"])
def test_a_stream_of_any_kind_outlives_the_deadline_of_its_request(serve, connect, eventually, kind) -> None:
    go_on = Event()

    class Waiting(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                go_on.wait()
            return super().read(size)

    def parts():
        yield b"begun"
        go_on.wait()
        yield b"ended"

    def application(environ, start_response):
        length = [] if kind == "generator" else [("Content-Length", "10")]
        write = start_response("200 OK", [*TEXT, *length])
        if kind == "write":
            for part in parts():
                write(part)
            return []
        return environ["wsgi.file_wrapper"](Waiting(b"begunended"), 5) if kind == "file" else parts()

    server = serve(application, request_timeout_seconds=TIMEOUT)
    client = connect(server)
    client.send(REQUEST)
    (slot,) = eventually(lambda: [slot for slot in server.balancer.intake.lanes[0].pool.slots if slot.job])
    late_at = slot.job.arrived + 2 * TIMEOUT
    eventually(lambda: time.monotonic() > late_at)
    go_on.set()
    assert client.reply().body == b"begunended"
    assert client.get().status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_client_does_not_cost_the_handler_its_time(serve, connect, eventually, kind) -> None:
    size, parts = 1_000_000, 30
    limits = {"request_timeout_seconds": 4 * TIMEOUT, "stream_idle_timeout_seconds": 4 * TIMEOUT}
    server = serve(told(parts, size), **limits)
    client = connect(server)
    client.send(f"GET /{kind} HTTP/1.1\r\nHost: x\r\n\r\n")
    (connection,) = eventually(lambda: server.connections)
    eventually(lambda: connection.output.far_behind)
    behind_since = time.monotonic()
    eventually(lambda: time.monotonic() > behind_since + 6 * TIMEOUT)
    assert len(client.reply().body) == size * parts
    assert server.balancer.snapshot().outcomes["timed_out"] == 0


def test_a_handler_that_is_slow_for_a_slow_client_is_still_cut(serve, connect, eventually) -> None:
    def parts():
        yield from (b"x" * 1_000_000 for _ in range(40))
        Event().wait()

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return parts()

    server = serve(application, stream_idle_timeout_seconds=TIMEOUT)
    client = connect(server)
    client.send(REQUEST)
    (connection,) = eventually(lambda: server.connections)
    eventually(lambda: connection.output.far_behind)
    received = 0
    while part := client.socket.recv(1_000_000):
        received += len(part)
    assert 40_000_000 <= received < 41_000_000
    assert server.balancer.snapshot().outcomes["timed_out"] == 1


def test_the_deadline_of_a_stream_is_until_its_next_part(serve, connect) -> None:
    def application(environ, start_response):
        remaining = environ["intralb.deadline"].remaining
        start_response("200 OK", TEXT)
        for _ in range(3):
            yield f"{remaining():.0f} ".encode()

    server = serve(application, request_timeout_seconds=20, stream_idle_timeout_seconds=40)
    assert connect(server).get().body == b"20 40 40 "


# Number of streams.


class Pages:
    """An application with long streams, with pages in parts, and with plain pages."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        start_response("200 OK", TEXT)
        if path == "/":
            return [b"plain"]
        return self.parts(path)

    def parts(self, path: str) -> Iterator[bytes]:
        try:
            yield b"begun "
            if path == "/stream":
                self.go_on.wait()
            elif path == "/large":
                yield from (b"x" * 100_000 for _ in range(10))
            elif path == "/waits":
                gevent.sleep(0.01)
            yield b"ended"
        finally:
            self.closed += 1


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    yield made
    made.go_on.set()


SMALL = {"max_workers": 1, "max_concurrent_per_router": 4}


def begin(connect, server, count: int, eventually) -> list[Any]:
    clients = [connect(server) for _ in range(count)]
    for client in clients:
        client.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().streams == count)
    return clients


@pytest.mark.parametrize("more", [{}, {"max_streams": 3}], ids=["by default", "max_streams"])
def test_streams_leave_a_quarter_of_the_slots_to_others(serve, connect, pages, eventually, more) -> None:
    server = serve(pages, **SMALL, **more)
    clients = begin(connect, server, 3, eventually)
    for _ in range(3):
        refused = connect(server).get("/stream")
        assert (refused.status, refused.headers["x-intralb-reason"]) == (503, "streams")
        assert refused.body.endswith(b"Please try again.\n")
    assert connect(server).get("/").body == b"plain"
    eventually(lambda: pages.closed == 3)
    assert server.balancer.snapshot().streams == 3
    pages.go_on.set()
    assert [client.reply().body for client in clients] == [b"begun ended"] * 3
    eventually(lambda: server.balancer.snapshot().streams == 0)
    assert connect(server).get("/stream").body == b"begun ended"


@pytest.mark.parametrize("path", ["/page", "/waits"])
def test_a_page_in_parts_is_answered_as_long_as_a_slot_is_free(serve, connect, pages, eventually, path) -> None:
    server = serve(pages, **SMALL)
    begin(connect, server, 3, eventually)
    client = connect(server)
    assert [client.get(path).body for _ in range(3)] == [b"begun ended"] * 3
    assert server.balancer.snapshot().streams == 3


def test_one_that_is_too_large_for_a_page_is_refused_at_once(serve, connect, pages, eventually) -> None:
    server = serve(pages, **SMALL)
    begin(connect, server, 3, eventually)
    assert connect(server).get("/large").status == 503


def test_one_that_is_kept_back_goes_on_when_another_has_ended(serve, connect, pages, eventually) -> None:
    server = serve(pages, **SMALL)
    begin(connect, server, 3, eventually)
    client = connect(server)
    client.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().running == 4)
    slots = server.balancer.intake.lanes[0].pool.slots
    leaving_slot = min((slot for slot in slots if slot.job.streams_since), key=lambda slot: slot.job.arrived)
    leaving_slot.greenlet.kill(block=False)
    eventually(lambda: server.balancer.snapshot().streams == 2)
    eventually(lambda: server.balancer.snapshot().streams == 3)
    pages.go_on.set()
    assert client.reply().body == b"begun ended"


def test_streams_of_one_lane_take_nothing_from_another(serve, connect, pages, eventually) -> None:
    routes = [Route("/stream", max_workers=1, max_concurrent_per_router=2)]
    server = serve(pages, **SMALL, routes=routes)
    begin(connect, server, 1, eventually)
    assert connect(server).get("/stream").status == 503
    assert connect(server).get("/waits").body == b"begun ended"


def test_streams_that_last_do_not_count_where_only_so_many_may_run(serve, connect, pages, eventually) -> None:
    """Long streams do not count for the limiter, because requests that wait do not make the event loop late."""

    class One:
        limit = 1

        def __init__(self, most: int) -> None:
            pass

        def observe(self, window: Any) -> None:
            pass

        def resize(self, most: int) -> None:
            pass

    server = serve(pages, **SMALL, limiter=One)
    for _ in range(2):
        connect(server).send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    # The second stream begins once the first one no longer counts as a stream.
    eventually(lambda: server.balancer.snapshot().streams == 2)
    assert connect(server).get("/").body == b"plain"


def test_how_long_streams_last_says_nothing_of_requests(serve, connect, pages, eventually) -> None:
    server = serve(pages, **SMALL)
    (client,) = begin(connect, server, 1, eventually)
    lane = server.balancer.intake.lanes[0]
    eventually(lambda: lane.pool.lasting)
    pages.go_on.set()
    assert client.reply().body == b"begun ended"
    eventually(lambda: server.balancer.snapshot().outcomes["completed"])
    assert lane.admission.service.mean < 0.5
    assert server.balancer.snapshot().run_time.longest > 0.9


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_memory_and_slots_are_flat_over_two_thousand_streams(serve, version) -> None:
    """Half of the streams complete, a quarter fail, and the clients abandon the last quarter."""

    def parts(path: str) -> Iterator[bytes]:
        yield b"begun"
        if path == "/fails":
            raise ValueError
        if path == "/left":
            while True:
                gevent.sleep(0.001)
                yield b"x" * 100
        yield b"ended"

    def application(environ, start_response):
        start_response("200 OK", TEXT)
        return parts(environ["PATH_INFO"])

    server = serve(application)

    def ask(path: str) -> None:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
            client.sendall(f"GET {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65536) and path != "/left":
                    pass

    def ask_all(count: int) -> Counter[str]:
        for _ in range(count // 20):
            gevent.joinall([gevent.spawn(ask, path) for path in ["/", "/fails", "/", "/left"] * 5], raise_error=True)
        end = time.monotonic() + 10
        while server.balancer.snapshot().running or server.connections:
            assert time.monotonic() < end
            gevent.sleep(0.001)
        gc.collect()
        ours = (type(thing) for thing in gc.get_objects() if str(type(thing).__module__).startswith("intralb_gevent"))
        return Counter(kind.__name__ for kind in ours)

    logger = logging.getLogger("intralb_gevent")
    logger.disabled = True
    try:
        ask_all(100)
        before, files = ask_all(100), len(os.listdir("/proc/self/fd"))
        after = ask_all(1000)
    finally:
        logger.disabled = False
    # Two numbers are allowed to grow, up to a limit: the greenlets of aborted requests are kept, and so is what the
    # limiter has seen in a time.
    assert {kind for kind, count in (after - before).items() if count > 20} <= {"SlotGreenlet", "_Seen"}
    assert len(os.listdir("/proc/self/fd")) <= files
    assert server.balancer.snapshot().streams == 0
    assert sum(worker.slots for worker in server.balancer.snapshot().workers) <= 60


def test_a_client_that_takes_nothing_ends_all_greenlets_that_write_to_it(serve, connect, eventually) -> None:
    ended = []

    def application(environ, start_response):
        write = start_response("200 OK", [("Content-Type", "text/plain")])

        def send():
            try:
                while True:
                    write(b"x" * 1_000_000)
            except BaseException as error:
                ended.append(type(error).__name__)

        greenlets = [gevent.spawn(send) for _ in range(2)]
        send()
        gevent.joinall(greenlets)
        return []

    server = serve(application, write_timeout_seconds=0.3, max_workers=1, max_concurrent_per_router=2)
    client = connect(server)
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: len(ended) == 3)
    eventually(lambda: not server.balancer.snapshot().running)
    assert server.balancer.snapshot().streams == 0
