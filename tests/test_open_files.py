"""Tests, from outside the process, of how a low limit of open files affects clients, handlers and probes."""

import http.client
import json
import pathlib
import re
import resource
import select
import socket
import time
from collections.abc import Callable

import pytest

PATIENCE = 10.0
LOW = 256
LOWEST = 64

HANDLERS = """
import subprocess

@at
def file():
    open(__file__).close()

@at
def process():
    subprocess.run(["true"], check=True)
"""


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def status_of(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status


def soft_limit(process) -> int:
    (line,) = (
        line
        for line in pathlib.Path(f"/proc/{process.process.pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    )
    return int(line.split()[3])


@pytest.fixture
def connect():
    """Return a function that connects to local ports; the connections are closed at the end of the test."""
    made = []

    def connected(port: int) -> http.client.HTTPConnection:
        made.append(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE))
        made[-1].connect()
        return made[-1]

    yield connected
    for each in made:
        each.close()


def test_the_soft_limit_is_raised_to_what_the_connections_need(serve_app) -> None:
    slots = ("--max-workers", "2", "--max-concurrent-per-router", "50", "--max-upgraded", "10")
    server = serve_app(flags=("--max-connections", "400", *slots), preexec_fn=limited(LOW, 4096))
    assert soft_limit(server) == 400 + 256 + 10 + 2 * 100 + 128
    assert "raised the limit of open files from 256 to 994, which max_connections=400" in server.said
    assert "allows" not in server.said


def test_a_limit_that_is_high_enough_stays_and_nothing_is_said(serve_app) -> None:
    server = serve_app(flags=("--max-connections", "100", "--max-workers", "1"), preexec_fn=limited(2000, 4096))
    assert soft_limit(server) == 2000
    assert "open files" not in server.said


def test_what_the_limit_does_not_allow_is_refused_and_all_others_go_on(serve_app, connect) -> None:
    server = serve_app(HANDLERS, flags=("--admin-bind", "127.0.0.1:0"), preexec_fn=limited(LOW, LOW))
    admin = json.loads(server.ready_file.read_text())["admin"]["port"]
    assert (
        "the limit of 256 open files allows 140 client connections, not max_connections=10000; raise it" in server.said
    )
    kept = connect(server.port)
    assert status_of(kept, "/") == 200
    silent = [connect(server.port) for _ in range(2 * LOW)]
    # Rejected connections are closed, so later clients also get the 503 response.
    server.until(lambda: told_that_there_are_too_many(server.port))
    assert [status_of(kept, path) for path in ("/file", "/process", "/")] == [200, 200, 200]
    assert status_of(connect(admin), "/ready") == 200
    for each in silent:
        each.close()
    server.until(lambda: not told_that_there_are_too_many(server.port))
    assert server.get() == 200
    assert "Traceback" not in server.said


@pytest.mark.parametrize("processes", ["1", "2"])
def test_as_many_clients_are_served_as_a_low_limit_is_said_to_allow(serve_app, connect, processes: str) -> None:
    flags = ("--admin-bind", "127.0.0.1:0", "--processes", processes)
    server = serve_app(flags=flags, preexec_fn=limited(LOWEST, LOWEST))
    allowed = int(re.search(r"open files allows (\d+) client connections", server.said)[1])
    assert allowed > 9
    assert [status_of(connect(server.port), "/") for _ in range(allowed)] == [200] * allowed


def told_that_there_are_too_many(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return b"X-Intralb-Reason: connections" in client.recv(4096)
        except ConnectionResetError:
            return False


def test_bodies_in_temporary_files_leave_open_files_to_handlers(serve_app, connect) -> None:
    server = serve_app(HANDLERS, flags=("--max-body-bytes", "3000000"), preexec_fn=limited(LOW, LOW))
    kept = connect(server.port)
    uploads = [connect(server.port) for _ in range(100)]
    for each in uploads:
        each.sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1500000\r\n\r\n" + bytes(1_400_000))
    answered = server.until(lambda: select.select([each.sock for each in uploads], [], [], 0)[0])
    assert answered[0].recv(4096).startswith(b"HTTP/1.1 507 ")
    assert [status_of(kept, path) for path in ("/file", "/process", "/")] == [200, 200, 200]
    assert "Traceback" not in server.said


def test_silent_connections_to_the_admin_address_take_no_open_files_from_others(serve_app, connect) -> None:
    server = serve_app(HANDLERS, flags=("--admin-bind", "127.0.0.1:0"), preexec_fn=limited(LOW, LOW))
    admin = json.loads(server.ready_file.read_text())["admin"]["port"]
    for _ in range(LOW + 50):
        connect(admin)
    assert status_of(connect(admin), "/ready") == 200
    assert [server.get(path) for path in ("/file", "/process", "/")] == [200, 200, 200]
    assert "not accepting connections" not in server.said
    assert "Traceback" not in server.said


def test_with_a_very_low_limit_silent_clients_of_both_addresses_delay_no_probe(serve_app, connect) -> None:
    server = serve_app(flags=("--admin-bind", "127.0.0.1:0"), preexec_fn=limited(LOWEST, LOWEST))
    admin = json.loads(server.ready_file.read_text())["admin"]["port"]
    for port in [server.port] * LOWEST + [admin] * LOWEST:
        connect(port)
    began = time.monotonic()
    assert status_of(connect(admin), "/live") == 200
    assert time.monotonic() - began < PATIENCE / 2
    assert "Traceback" not in server.said
