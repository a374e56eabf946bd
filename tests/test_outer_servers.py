"""Tests of the balancer as a WSGI callable inside other gevent servers, with wsgiref.validate on both sides."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

APPLICATION = """
import sqlite3, time
from wsgiref.validate import validator
from intralb_gevent import LoadBalancer, Options, current_session

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(0.2)
    if path == "/late":
        time.sleep(60)
    if path == "/fail":
        raise ValueError("on purpose")
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/write":
        write(b"written ")
    if path == "/stream":
        return (b"x" * 100_000 for _ in range(50))
    if path in ("/cut", "/silent"):
        return cut(path)
    if path == "/slow-client":
        return (b"x" * 100_000 for _ in range(300))
    if path == "/session":
        return [str(current_session().execute("select 42").fetchone()[0]).encode()]
    return [body or b"hello"]

def cut(path):
    yield b"begun"
    if path == "/cut":
        raise ValueError("on purpose")
    time.sleep(60)

balancer = LoadBalancer(validator(application), Options(
    max_concurrent_per_router=2, queue_size=1, max_workers=1, request_timeout_seconds=1,
    stream_idle_timeout_seconds=0.2, write_timeout_seconds=5,
    db_init_func=lambda worker_id: sqlite3.connect(":memory:"),
))
checked = validator(balancer.balance_load())

def app(environ, start_response):
    # The validator hides the socket of pywsgi, which has to be reset.
    return (balancer if environ["SERVER_PROTOCOL"] == "HTTP/1.0" else checked)(environ, start_response)
"""

PYWSGI = """
from gevent import monkey
monkey.patch_all()
import socket, sys
from gevent.pywsgi import WSGIServer
from balanced import app
listener = socket.socket(fileno=int(sys.argv[1]))
WSGIServer(listener, app, log=None).serve_forever()
"""


@pytest.fixture(params=["gunicorn", "pywsgi"], scope="module")
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory: Path = tmp_path_factory.mktemp(request.param)
    (directory / "balanced.py").write_text(APPLICATION)
    (directory / "served.py").write_text(PYWSGI)
    # Listen before the server starts, so that clients can connect without waiting for the server.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        commands = {
            "gunicorn": [
                "-m",
                "gunicorn",
                "-k",
                "gevent",
                "-b",
                f"fd://{number}",
                "--no-control-socket",
                "balanced:app",
            ],
            "pywsgi": ["served.py", str(number)],
        }
        command = [sys.executable, *commands[request.param]]
        process = subprocess.Popen(command, cwd=directory, pass_fds=[number], stderr=subprocess.PIPE, text=True)
        yield listener.getsockname()[1]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert "AssertionError" not in err


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("X-Intralb-Reason")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/", None, b"hello"),
        ("/", b"posted", b"posted"),
        ("/write", None, b"written hello"),
        ("/stream", None, b"x" * 5_000_000),
        ("/session", None, b"42"),
    ],
)
def test_it_answers(port: int, path: str, body: bytes | None, answer: bytes) -> None:
    assert ask(port, path, body) == (200, answer, None)


def test_a_failure_is_500_and_the_next_request_is_served(port: int) -> None:
    assert ask(port, "/fail")[0] == 500
    assert ask(port, "/")[0] == 200


def test_a_deadline_is_504(port: int) -> None:
    assert ask(port, "/late")[0] == 504


def test_more_than_slots_and_queue_is_503(port: int) -> None:
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: ask(port, "/slow"), range(6)))
    assert sorted(status for status, _, _ in answers) == [200, 200, 200, 503, 503, 503]
    assert {reason for status, _, reason in answers if status == 503} == {"queue_full"}


def read_all(client: socket.socket) -> tuple[bytes, str]:
    """Read until the connection ends; return the data, and how the connection ended."""
    data = bytearray()
    try:
        while part := client.recv(65536):
            data += part
    except ConnectionResetError:
        return bytes(data), "reset"
    return bytes(data), "regular"


@pytest.mark.parametrize("path", ["/cut", "/silent"])
def test_a_cut_response_does_not_look_whole(port: int, path: str) -> None:
    ends = {}
    for version in ("1.0", "1.1"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
            data, ends[version] = read_all(client)
        assert b"begun" in data
        assert b"\r\n0\r\n" not in data
    assert ends["1.0"] == "reset"


def test_the_time_of_a_slow_client_does_not_count(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET /slow-client HTTP/1.0\r\n\r\n")
        began = time.monotonic()
        data = client.recv(1)
        # Wait for longer than a stream's idle limit, but not as long as the client's write timeout.
        time.sleep(0.5)
        rest, end = read_all(client)
    assert end == "regular"
    assert len((data + rest).partition(b"\r\n\r\n")[2]) == 30_000_000
    assert time.monotonic() - began > 0.5
