"""Another process that dies, blocks or refuses at any step of a move loses no connection and no request."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.select
import pytest
from gevent import socket as cooperative

from intralb_gevent import LoadBalancer, Options, WSGIServer
from intralb_gevent.siblings.sockets import listener_number
from intralb_gevent.siblings.source import BoundSiblings

ROOT = pathlib.Path(__file__).parents[2]

OTHER = """
import json, os, select, socket, sys
from intralb_gevent.siblings.sockets import accept, listen, receive, send
from intralb_gevent.siblings.transfer import Message

def wait(sock):
    select.select([sock], [], [])

def step(name):
    print(name, flush=True)
    if name == last:
        if how == "dies":
            sys.stdin.readline()
            os._exit(1)
        if how == "blocks":
            sys.stdin.read()

number, how, last = int(sys.argv[1]), sys.argv[2], sys.argv[3]
receiving = listen(number)
step("listens")
wait(receiving)
link = accept(receiving)
step("accepts")
state = {"kind": "state", "ready": how != "drains", "connections": 0}
send(link, Message(state).encoded())
step("greets")
wait(link)
packet, descriptor = receive(link)
step("receives")
message = Message.decoded(packet)
if how == "refuses":
    send(link, Message({"kind": "refused", "number": message.number, "reason": "full"}).encoded())
elif how == "is later":
    send(link, b"\\x09" + Message({"kind": "verdict", "number": message.number}).encoded()[1:])
elif how == "serves":
    send(link, Message({"kind": "taken", "number": message.number}).encoded())
    client = socket.socket(fileno=descriptor)
    client.setblocking(True)
    print(json.dumps(message.fields), flush=True)
    while client.recv(65536):
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nother")
step("answers")
sys.stdin.read()
"""


class Other:
    """Another process, which receives one connection, but dies or blocks at a given step."""

    def __init__(self, directory: pathlib.Path, listener: Any, how: str, last: str) -> None:
        script = directory / "other.py"
        script.write_text(OTHER)
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(listener_number(listener)), how, last],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
        )

    def line(self) -> str:
        with gevent.Timeout(20):
            gevent.select.select([self.process.stdout], [], [])
        return self.process.stdout.readline().decode().strip()

    def until(self, step: str) -> None:
        while (line := self.line()) != step:
            assert line, "the other process has ended"

    def die(self) -> None:
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"here"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close connections soon if no other process can take them."""
    monkeypatch.setattr("intralb_gevent.http.handover.PATIENCE_SECONDS", 0.3)


@pytest.fixture
def server() -> Iterator[WSGIServer]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        copy = cooperative.socket(fileno=listener.dup().detach())
        server = WSGIServer(copy, LoadBalancer(app, Options()))
        server.siblings = BoundSiblings
        server.siblings_listen = lambda: True
        server.start()
        server.address_of_test = listener.getsockname()
        yield server
        server.stop(0)


@pytest.fixture
def other(server: WSGIServer, tmp_path: pathlib.Path) -> Iterator[Callable[..., Other]]:
    made: list[Other] = []

    def start(how: str, last: str) -> Other:
        made.append(Other(tmp_path, server.socket, how, last))
        made[-1].until("listens")
        return made[-1]

    yield start
    for each in made:
        each.end()


class Client:
    """A client that keeps its connection, and never repeats a request."""

    def __init__(self, server: WSGIServer) -> None:
        self._sock = cooperative.create_connection(server.address_of_test, timeout=20)

    def send(self) -> None:
        self._sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    def response(self) -> str:
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith((b"here", b"other")):
            more = self._sock.recv(65536)
            assert more, f"closed after {data!r}"
            data += more
        assert b"close" not in data.lower()
        return data.rpartition(b"\n")[2].decode()

    def get(self) -> str:
        self.send()
        return self.response()

    @property
    def port(self) -> str:
        return str(self._sock.getsockname()[1])

    def close(self) -> None:
        self._sock.close()

    def is_closed(self) -> bool:
        return self._sock.recv(1) == b""


@pytest.fixture
def client(server: WSGIServer) -> Iterator[Client]:
    with contextlib.closing(Client(server)) as client:
        yield client


def moves(server: WSGIServer) -> tuple[dict[str, int], ...]:
    snapshot = server.balancer.snapshot()
    return snapshot.connections_moved, snapshot.connections_returned, snapshot.connections_not_moved


STEPS = ["accepts", "greets", "receives"]


@pytest.mark.parametrize("last", STEPS)
def test_a_process_that_dies_loses_no_request(
    server: WSGIServer, client: Client, other: Callable[..., Other], last: str
) -> None:
    receiver = other("dies", last)
    assert client.get() == "here"
    stopping = gevent.spawn(server.stop, 10)
    receiver.until(last)
    # The connection may be on its way now; its next request waits in the socket.
    client.send()
    gevent.sleep(0)
    receiver.die()
    assert client.response() == "here"
    assert client.is_closed()
    stopping.join()
    moved, returned, not_moved = moves(server)
    assert (moved, not_moved) == ({}, {"no_process": 1})
    assert returned == {"ended": 1} or last != "receives"


@pytest.mark.parametrize("last", STEPS)
def test_a_process_that_blocks_delays_a_request_but_does_not_lose_it(
    server: WSGIServer, client: Client, other: Callable[..., Other], last: str
) -> None:
    receiver = other("blocks", last)
    assert client.get() == "here"
    stopping = gevent.spawn(server.stop, 10)
    receiver.until(last)
    client.send()
    assert client.response() == "here"
    stopping.join()
    moved, returned, _ = moves(server)
    assert moved == {}
    assert returned == ({} if last == "accepts" else {"silent": 1})


@pytest.mark.parametrize(("how", "reason"), [("refuses", "full"), ("is later", "refused"), ("drains", None)])
def test_a_refused_connection_is_served_again(
    server: WSGIServer, client: Client, other: Callable[..., Other], how: str, reason: str | None
) -> None:
    receiver = other(how, "")
    assert client.get() == "here"
    stopping = gevent.spawn(server.stop, 10)
    if reason is not None:
        receiver.until("answers")
        client.send()
        assert client.response() == "here"
    assert client.is_closed()
    stopping.join()
    assert moves(server) == ({}, {} if reason is None else {reason: 1}, {"no_process": 1})


def test_a_second_process_takes_what_the_first_one_refuses(
    server: WSGIServer, client: Client, other: Callable[..., Other]
) -> None:
    assert client.get() == "here"
    receivers = [other("refuses", ""), other("serves", "")]
    gevent.spawn(server.stop, 10).join()
    assert client.get() == "other"
    moved, returned, not_moved = moves(server)
    assert (moved, not_moved) == ({"idle": 1}, {})
    assert returned in ({}, {"full": 1})
    assert len(receivers) == 2


def test_a_moved_connection_keeps_its_address_and_its_timeout(
    server: WSGIServer, client: Client, other: Callable[..., Other]
) -> None:
    fresh = other("serves", "")
    assert client.get() == "here"
    gevent.spawn(server.stop, 10).join()
    fresh.until("receives")
    fields = json.loads(fresh.line())
    assert (fields["host"], fields["port"]) == ("127.0.0.1", client.port)
    assert fields["begun"]
    assert fields["identified"]
    assert fields["expires"] > 0


def test_without_another_process_connections_close_at_once(server: WSGIServer, client: Client) -> None:
    assert client.get() == "here"
    stopping = gevent.spawn(server.stop, 10)
    assert client.is_closed()
    stopping.join()
    assert moves(server) == ({}, {}, {"no_process": 1})
