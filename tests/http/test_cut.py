"""A response that is cut never looks complete, even over TLS, or in HTTP/1.0, where closing ends a response."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket as blocking
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.pywsgi import WSGIHandler

from intralb_gevent import LoadBalancer, Options, Route, WSGIServer

TEXT = [("Content-Type", "text/plain")]
OLD = b"GET %b HTTP/1.0\r\n\r\n"
SILENT_SECONDS = 0.05


def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"row 0\n"
    if environ["PATH_INFO"] == "/fails":
        raise ValueError
    if environ["PATH_INFO"] == "/silent":
        Event().wait()
    yield b"row 1\n"


def end_of(client: Any) -> tuple[bytes, str]:
    """Read until the connection ends; return the data, and how the connection ended."""
    data = b""
    try:
        while part := client.recv(65536):
            data += part
    except (ssl.SSLEOFError, ConnectionResetError) as error:
        return data, type(error).__name__
    return data, "regular"


@pytest.mark.parametrize("path", [b"/fails", b"/silent"])
def test_http_1_0_sees_a_reset_behind_what_was_sent(serve, connect, path: bytes) -> None:
    client = connect(serve(application, stream_idle_timeout_seconds=SILENT_SECONDS)).socket
    client.sendall(OLD % path)
    data, end = end_of(client)
    assert (data.rpartition(b"\r\n\r\n")[2], end) == (b"row 0\n", "ConnectionResetError")


def test_a_whole_response_ends_regularly(serve, connect) -> None:
    client = connect(serve(application)).socket
    client.sendall(OLD % b"/")
    data, end = end_of(client)
    assert (data.rpartition(b"\r\n\r\n")[2], end) == (b"row 0\nrow 1\n", "regular")


STREAMS = """
def application(environ, start_response):
    start_response("200 OK", [])
    yield b"row 0"
    if environ["PATH_INFO"] == "/exits":
        os._exit(3)
    time.sleep(60 if environ["PATH_INFO"] == "/waits" else 0)
    yield b"row 1"

app = application
"""


@pytest.mark.parametrize("path", [b"/waits", b"/exits"])
def test_http_1_0_sees_a_reset_if_the_process_is_killed(serve_app, path: bytes) -> None:
    server = serve_app(STREAMS)
    with blocking.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(OLD % path)
        data = b""
        while not data.endswith(b"row 0"):
            data += client.recv(4096)
        if path == b"/waits":
            server.signal(signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            client.recv(4096)


@pytest.mark.parametrize("size", [1000, 5_000_000])
def test_an_earlier_response_is_delivered_before_the_reset(serve, connect, size: int) -> None:
    def after_another(environ, start_response):
        if environ["PATH_INFO"] == "/fails":
            return application(environ, start_response)
        start_response("200 OK", [*TEXT, ("Content-Length", str(size))])
        return [b"x" * size]

    client = connect(serve(after_another)).socket
    client.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + OLD % b"/fails")
    data, end = end_of(client)
    assert (data.count(b"x" * size), end) == (1, "ConnectionResetError")


def test_a_client_that_reads_nothing_of_the_close_delimited_is_reset(serve, connect, monkeypatch, eventually) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)

    def large(environ, start_response):
        start_response("200 OK", TEXT)
        return (b"x" * 1_000_000 for _ in range(12))

    server = serve(large, write_timeout_seconds=0.1)
    client = connect(server).socket
    client.sendall(OLD % b"/")
    eventually(lambda: server.balancer.snapshot().ended)
    eventually(lambda: not server.connections)
    assert end_of(client)[1] == "ConnectionResetError"


@pytest.fixture
def tls_files(tmp_path: Path) -> dict[str, str]:
    files = {"certfile": str(tmp_path / "cert.pem"), "keyfile": str(tmp_path / "key.pem")}
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", files["keyfile"]]
    command = ["openssl", "req", "-x509", *key, "-out", files["certfile"], "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return files


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("path", "end"), [("/fails", "SSLEOFError"), ("/silent", "SSLEOFError"), ("/", "regular")])
def test_over_tls_only_a_whole_response_ends_with_close_notify(tls_files, version: str, path: str, end: str) -> None:
    options = Options(stream_idle_timeout_seconds=SILENT_SECONDS)
    server = WSGIServer(("127.0.0.1", 0), LoadBalancer(application, options), **tls_files)
    server.start()

    def ask() -> str:
        with blocking.create_connection(("127.0.0.1", server.server_port), timeout=10) as plain:
            context = ssl._create_unverified_context()
            with context.wrap_socket(plain, suppress_ragged_eofs=False) as client:
                client.sendall(f"GET {path} HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                return end_of(client)[1]

    try:
        assert gevent.get_hub().threadpool.apply(ask) == end
    finally:
        server.stop(0)


class Kept(WSGIHandler):
    """A user's own handler class."""


@pytest.fixture
def handled() -> Iterator[Callable[..., WSGIServer]]:
    """Return a function that starts a server with a user's own handler class."""
    with contextlib.ExitStack() as stack:

        def start(application: Any, **options: Any) -> WSGIServer:
            balancer = LoadBalancer(application, Options(**options))
            server = WSGIServer(("127.0.0.1", 0), balancer, handler_class=Kept, log=None, error_log=None)
            server.start()
            stack.callback(server.stop, 0)
            return server

        yield start


@pytest.mark.parametrize(("version", "expected"), [("1.0", "ConnectionResetError"), ("1.1", "regular")])
@pytest.mark.parametrize("path", ["/fails", "/silent"])
def test_with_a_handler_class_too(handled, connect, version: str, expected: str, path: str) -> None:
    client = connect(handled(application, stream_idle_timeout_seconds=SILENT_SECONDS)).socket
    client.sendall(f"GET {path} HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    data, end = end_of(client)
    assert b"row 0\n" in data
    assert b"\r\n0\r\n" not in data
    assert end == expected


@pytest.mark.parametrize("kind", ["stream", "list"])
def test_with_a_handler_class_the_time_of_a_slow_client_does_not_count(handled, connect, eventually, kind) -> None:
    def large(environ, start_response):
        start_response("200 OK", TEXT)
        parts = [b"x" * 100_000] * 300
        return iter(parts) if kind == "stream" else parts

    limits = {"request_timeout_seconds": SILENT_SECONDS, "stream_idle_timeout_seconds": SILENT_SECONDS}
    server = handled(large, **limits)
    client = connect(server)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    slow_since = time.monotonic()
    eventually(lambda: time.monotonic() > slow_since + 3 * SILENT_SECONDS)
    assert len(client.reply().body) == 30_000_000
    assert server.balancer.snapshot().outcomes["completed"] == 1


def test_with_a_handler_class_a_client_that_takes_nothing_gives_its_slot_back(
    handled, connect, eventually, lines
) -> None:
    def large(environ, start_response):
        start_response("200 OK", TEXT)
        return (b"x" * 100_000 for _ in range(300))

    server = handled(large, write_timeout_seconds=0.1)
    client = connect(server).socket
    client.sendall(b"GET /large HTTP/1.0\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().outcomes["disconnected"] == 1)
    (line,) = lines()
    assert line.startswith("GET /large was cut after 0.")
    assert "write_timeout_seconds=0.1" in line
    data, end = end_of(client)
    assert len(data) < 30_000_000
    assert end == "ConnectionResetError"


# The log.


@pytest.fixture
def lines(caplog, eventually) -> Callable[[], list[str]]:
    """Return a function that waits for a warning, and returns all log lines."""
    caplog.set_level(logging.WARNING, "intralb_gevent")
    return lambda: eventually(lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING])


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        ({"stream_idle_timeout_seconds": SILENT_SECONDS}, f"stream_idle_timeout_seconds={SILENT_SECONDS}"),
        ({"stream_timeout_seconds": SILENT_SECONDS}, f"stream_timeout_seconds={SILENT_SECONDS}"),
    ],
)
def test_a_stream_that_is_cut_is_one_line(serve, connect, lines, limits, setting) -> None:
    client = connect(serve(application, **limits))
    client.send("GET /silent?secret HTTP/1.1\r\nHost: x\r\n\r\n")
    sent = client.rest()
    (line,) = lines()
    assert line.startswith("GET /silent was cut after 0.")
    assert f"and {len(sent)} bytes" in line
    assert setting in line


def test_a_request_that_runs_too_long_is_one_line(serve, connect, lines) -> None:
    def slow(environ, start_response):
        Event().wait()

    assert connect(serve(slow, request_timeout_seconds=SILENT_SECONDS)).get("/slow").status == 504
    (line,) = lines()
    assert line.startswith("GET /slow was answered 504 after 0.0")
    assert "(request_timeout_seconds=0.05, request " in line


def test_a_request_whose_time_is_over_in_the_queue_is_one_line(serve, connect, lines, eventually) -> None:
    go_on = Event()

    def busy(environ, start_response):
        go_on.wait()
        start_response("200 OK", TEXT)
        return [b""]

    routes = [Route("/late", request_timeout_seconds=SILENT_SECONDS)]
    server = serve(busy, max_workers=1, max_concurrent_per_router=1, routes=routes)
    first, late = connect(server), connect(server)
    first.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().running)
    assert late.get("/late").status == 503
    (line,) = lines()
    assert line.startswith("GET /late was answered 503 after 0.0")
    assert "in the queue, and not run" in line
    go_on.set()
    assert first.reply().status == 200


@pytest.mark.parametrize("has_middleware", [False, True], ids=["in a slot", "in front"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_takes_nothing_is_one_line(connect, monkeypatch, lines, streamed, has_middleware) -> None:
    monkeypatch.setattr(WSGIServer, "SWEEP_SECONDS", 0.01)

    def large(environ, start_response):
        start_response("200 OK", TEXT)
        return (b"x" * 1_000_000 for _ in range(100)) if streamed else [b"x" * 30_000_000]

    balancer = LoadBalancer(large, Options(write_timeout_seconds=0.1))
    server = WSGIServer(("127.0.0.1", 0), large if has_middleware else balancer, balancer=balancer)
    server.start()
    try:
        connect(server).send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        (line,) = lines()
    finally:
        server.stop(0)
    assert line.startswith("GET /large was cut after 0.")
    assert re.search(r"write_timeout_seconds=0\.1, request \w{20}$", line)
    taken = int(line.partition(" and ")[2].partition(" bytes")[0])
    assert 0 < taken < 30_000_000
