"""Requests that arrived in time are answered after the event loop was blocked, and during a shutdown.

The tests run in the server's process, so a test that computes blocks the server's event loop.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import gevent
import pytest

from intralb_gevent import Route

SHORT = 0.3
KEPT = 1.0
"""Seconds for which the loop is blocked; longer than any client timeout in these tests plus the interval of sweeps."""
REQUEST = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
RESTARTS = int(os.environ.get("INTRALB_TEST_RESTARTS", "25"))
LARGE = 8 * 1024**2
TIMES = {
    "keep_alive_seconds": SHORT,
    "header_timeout_seconds": SHORT,
    "body_timeout_seconds": SHORT,
    "write_timeout_seconds": SHORT,
}


def keep_the_loop(seconds: float = KEPT) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_requests_that_came_on_idle_connections(serve, connect, echo) -> None:
    server = serve(echo, **TIMES)
    clients = [connect(server) for _ in range(100)]
    assert {client.get().status for client in clients} == {200}
    for client in clients:
        client.send(REQUEST)
    keep_the_loop()
    assert [client.reply().status for client in clients] == [200] * 100


@pytest.mark.parametrize("sent", ["GET / HTTP/1.1\r\nHo", POST + "01234"])
def test_the_rest_of_a_request(serve, connect, echo, eventually, sent) -> None:
    server = serve(echo, **TIMES)
    client = connect(server)
    client.send(sent)
    eventually(lambda: any(each.input.parser.in_head or each.input.parser.in_body for each in server.connections))
    client.send((REQUEST if sent[0] == "G" else POST + "0123456789")[len(sent) :])
    keep_the_loop()
    assert client.reply().status == 200


def test_the_rest_of_a_streamed_body(serve, connect, echo, eventually) -> None:
    server = serve(echo, routes=[Route("/*", stream_request_bodies=True)], **TIMES)
    client = connect(server)
    client.send(POST + "01234")
    eventually(lambda: server.balancer.snapshot().running)
    client.send("56789")
    keep_the_loop()
    assert client.reply().body == b"0123456789"


def test_an_answer_that_was_read(serve, connect, eventually) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [bytes(LARGE)]

    server = serve(application, **TIMES)
    client = connect(server)
    client.send(REQUEST)
    eventually(lambda: any(each.unsent for each in server.connections))
    received = 0
    end = time.monotonic() + KEPT
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            received += len(client.socket._sock.recv(65536))
    while received < LARGE:
        part = client.socket.recv(65536)
        assert part, "the answer was cut"
        received += len(part)


def test_who_is_silent_is_closed_all_the_same(serve, connect, echo) -> None:
    client = connect(serve(echo, **TIMES))
    assert client.get().status == 200
    keep_the_loop()
    assert client.closed_by_server


@pytest.mark.parametrize("accepted", [True, False])
def test_a_shutdown_lets_a_new_connection_ask(serve, connect, echo, eventually, accepted: bool) -> None:
    server = serve(echo)
    clients = [connect(server) for _ in range(20)]
    if accepted:
        eventually(lambda: len(server.connections) == len(clients))
    stopping = gevent.spawn(server.stop, 5)
    eventually(lambda: server.closing)
    for client in clients:
        client.send(REQUEST)
    replies = [client.reply() for client in clients]
    assert {(reply.status, reply.headers["connection"]) for reply in replies} == {(200, "close")}
    # Once all clients have received their responses, the shutdown must not wait any longer.
    began = time.monotonic()
    stopping.join()
    assert time.monotonic() - began < 0.5


def test_but_not_for_longer_than_half_of_the_grace(serve, connect, echo, eventually) -> None:
    server = serve(echo)
    new, used = connect(server), connect(server)
    assert used.get().status == 200
    eventually(lambda: len(server.connections) == 2)
    began = time.monotonic()
    stopping = gevent.spawn(server.stop, 1)
    assert used.closed_by_server
    assert time.monotonic() - began < 0.4
    assert new.closed_by_server
    assert 0.4 < time.monotonic() - began < 0.9
    stopping.join()


RESTARTING = """
import socket, sys
import gevent
from intralb_gevent import LoadBalancer, Options, WSGIServer

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

def start(copy):
    server = WSGIServer(copy, LoadBalancer(application, Options()))
    server.start()
    return server

listener = socket.socket()
# The servers use copies of it.
listener.setblocking(False)
listener.bind(("127.0.0.1", 0))
listener.listen(1024)
server = start(listener.dup())
print(listener.getsockname()[1], flush=True)
for _ in range(int(sys.argv[1])):
    old, server = server, start(listener.dup())
    gevent.sleep(0.02)
    old.stop(5)
print("restarted", flush=True)
gevent.sleep(60)
"""


def ask_once(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode())
        answer = b""
        while part := client.recv(4096):
            answer += part
        return answer


class Asking(threading.Thread):
    """A client that opens a connection for each request, until it is stopped."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.answered, self.lost, self.stopping = 0, list[str](), False
        self._port = port
        self.start()

    def run(self) -> None:
        while not self.stopping:
            try:
                answer = ask_once(self._port)
            except OSError as error:
                answer = repr(error).encode()
            if answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello"):
                self.answered += 1
            else:
                self.lost.append(repr(answer))


def test_restarts_under_load_lose_no_request(tmp_path) -> None:
    (tmp_path / "program.py").write_text(RESTARTING)
    program = [sys.executable, tmp_path / "program.py", str(RESTARTS)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        clients = [Asking(port) for _ in range(3)]
        assert server.stdout.readline() == "restarted\n"
        for client in clients:
            client.stopping = True
        for client in clients:
            client.join(20)
        server.kill()
    assert [lost for client in clients for lost in client.lost] == []
    assert all(client.answered > RESTARTS for client in clients)
