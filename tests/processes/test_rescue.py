"""A request that finds no free slot moves, with its connection, to a process that has one."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from email.parser import BytesHeaderParser
from typing import Any, BinaryIO

import pytest

PATIENCE = 60.0

APP = """
import os, sys, time

with open("imported", "a") as file:
    print(os.getpid(), file=file)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    if path.startswith("/hold/"):
        open("begun-" + path[6:], "w").close()
        while not os.path.exists("over-" + path[6:]):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d %d" % (os.getpid(), len(body))]
"""

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

ONE_SLOT = ("--max-workers", "1", "--max-concurrent-per-router", "1", "--request-timeout-seconds", "600")


class Crowd:
    """Keep-alive connections to a site with one slot in each of two processes, by the process that serves them."""

    def __init__(self, site: Any, stack: contextlib.ExitStack) -> None:
        self.site = site
        self._stack = stack
        self._by_process: dict[int, list[http.client.HTTPConnection]] = defaultdict(list)
        self.holds: list[tuple[str, threading.Thread]] = []
        for _ in range(12):
            connection = self.connect()
            self._by_process[self.ask(connection)[0]].append(connection)
        self.busiest = max(self._by_process, key=lambda pid: len(self._by_process[pid]))
        self.other = next(pid for pid in site.ready() if pid != self.busiest)
        self.connections = self._by_process[self.busiest]
        """At least six connections of one process."""

    def connect(self, seconds: float = PATIENCE) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=seconds)
        self._stack.callback(connection.close)
        return connection

    def ask(
        self, connection: http.client.HTTPConnection, path: str = "/", body: bytes | None = None
    ) -> tuple[int, int]:
        """Return the id of the process that has answered, and the size of the body that it has received."""
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        text = response.read().split()
        assert response.status == 200
        return int(text[0]), int(text[1])

    def moved(self, body: bytes | None = None) -> tuple[http.client.HTTPConnection, tuple[int, int]]:
        """Send a request on one connection after the other until one is answered; return that and its answer.

        On a busy machine, the other process may just then be too slow to be given a request, which then waits here.
        """
        while True:
            connection = self.connections.pop()
            assert connection.sock is not None
            connection.sock.settimeout(5.0)
            with contextlib.suppress(TimeoutError):
                return connection, self.ask(connection, body=body)

    def hold(self, connection: http.client.HTTPConnection) -> None:
        """Occupy a slot until `release` is called."""
        name = str(len(self.holds))
        thread = threading.Thread(target=self.ask, args=(connection, f"/hold/{name}"))
        thread.start()
        self.holds.append((name, thread))
        self.site.until(lambda: (self.site.directory / f"begun-{name}").exists(), PATIENCE)

    def release(self) -> None:
        for name, thread in self.holds:
            (self.site.directory / f"over-{name}").touch()
            thread.join(PATIENCE)

    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.site.get("/snapshot", self.site.admin)[1])["site"])


def chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"x" * size)


def answer_in(file: BinaryIO) -> tuple[int, bytes]:
    """Read one response; return its status and its body."""
    status = int(file.readline().split()[1])
    head = b"".join(iter(file.readline, b"\r\n"))
    return status, file.read(int(BytesHeaderParser().parsebytes(head)["Content-Length"]))


def is_answered_by(process: int, sock: socket.socket) -> bool:
    """Send a body in two pieces; return whether this process has answered, and only after the second one."""
    sock.sendall(CHUNKED + chunk(10))
    sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        return not sock.recv(1)
    sock.settimeout(PATIENCE)
    sock.sendall(chunk(7) + chunk(0))
    return answer_in(sock.makefile("rb")) == (200, b"%d 17" % process)


@pytest.fixture
def crowd(serve_site: Callable[..., Any]) -> Iterator[Crowd]:
    with contextlib.ExitStack() as stack:
        crowd = Crowd(serve_site(*ONE_SLOT, app=APP), stack)
        stack.callback(crowd.release)
        yield crowd


def test_a_request_moves_to_the_process_that_has_a_free_slot_and_its_connection_stays_there(crowd: Crowd) -> None:
    crowd.hold(crowd.connections.pop())
    first, answer = crowd.moved()
    assert answer == (crowd.other, 0)
    _, answer = crowd.moved(body=b"x" * 5000)
    assert answer == (crowd.other, 5000)
    crowd.release()
    assert crowd.ask(first) == (crowd.other, 0)


def test_requests_wait_only_while_all_processes_are_full(crowd: Crowd) -> None:
    crowd.hold(crowd.connections.pop())
    second, _ = crowd.moved()
    crowd.hold(second)
    assert crowd.summary()["free_slots"] == 0
    answers: list[tuple[int, int]] = []
    waiting = threading.Thread(target=lambda: answers.append(crowd.ask(crowd.connections.pop())))
    waiting.start()
    crowd.site.until(lambda: crowd.summary()["queued"] >= 1, PATIENCE)
    assert answers == []
    crowd.release()
    waiting.join(PATIENCE)
    assert len(answers) == 1


def test_a_process_that_does_not_answer_loses_no_request(crowd: Crowd) -> None:
    crowd.hold(crowd.connections.pop())
    crowd.site.signal(signal.SIGSTOP, crowd.other)
    try:
        # The table still shows a free slot in the stopped process.
        answers: list[tuple[int, int]] = []
        waiting = threading.Thread(target=lambda: answers.append(crowd.ask(crowd.connections.pop())))
        waiting.start()
        crowd.release()
        waiting.join(PATIENCE)
        assert answers == [(crowd.busiest, 0)]
    finally:
        crowd.site.signal(signal.SIGCONT, crowd.other)


def test_a_large_chunked_body_that_arrives_at_once_is_complete(crowd: Crowd) -> None:
    crowd.hold(crowd.connections.pop())
    sent = [connection.sock for connection in crowd.connections]
    crowd.site.signal(signal.SIGSTOP, crowd.busiest)
    for sock in sent:
        sock.sendall(CHUNKED + chunk(150_000) + chunk(0))
    crowd.site.signal(signal.SIGCONT, crowd.busiest)
    crowd.release()
    for sock in sent:
        status, body = answer_in(sock.makefile("rb"))
        assert (status, body.split()[1]) == (200, b"150000")


def test_a_chunked_body_is_awaited_while_another_process_has_a_free_slot(serve_site: Callable[..., Any]) -> None:
    with contextlib.ExitStack() as stack:
        crowd = Crowd(serve_site(*ONE_SLOT, "--queue-size", "0", app=APP), stack)
        stack.callback(crowd.release)
        crowd.hold(crowd.connections.pop())
        # On a busy machine, the other process may just then be too slow to be given a request.
        assert any(is_answered_by(crowd.other, each.sock) for each in crowd.connections)
