"""Which connections move to another process, and what the requests that follow look like there."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest
from gevent import select
from gevent import socket as cooperative

from intralb_gevent import LoadBalancer, Options, WSGIServer
from intralb_gevent.siblings.source import BoundSiblings

ROOT = pathlib.Path(__file__).parents[2]

OTHER = """
import json, os, sys
import gevent.monkey
gevent.monkey.patch_all()
import gevent.socket
from intralb_gevent import LoadBalancer, Options, WSGIServer
from intralb_gevent.siblings.source import BoundSiblings

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    names = "REMOTE_ADDR", "REMOTE_PORT", "SERVER_PORT", "PATH_INFO"
    return [json.dumps({"pid": os.getpid(), **{name: environ.get(name) for name in names}}).encode()]

listener = gevent.socket.socket(fileno=int(sys.argv[1]))
server = WSGIServer(listener, LoadBalancer(app, Options(**json.loads(sys.argv[2]))))
server.siblings = BoundSiblings
server.start()
# Only connections that have moved are served.
server.stop_accepting()
print("serves", flush=True)
gevent.get_hub().threadpool.apply(sys.stdin.read)
print(json.dumps(server.balancer.snapshot().connections_received), flush=True)
"""


class Pair:
    """A server in this process, and one in another process that accepts nothing itself."""

    def __init__(self, listener: socket.socket, options: dict[str, Any], **tls: Any) -> None:
        self.listener = listener
        self.going_on = gevent.event.Event()
        copy = cooperative.socket(listener.family, fileno=listener.dup().detach())
        self.server = WSGIServer(copy, LoadBalancer(self._app, Options(**options)), **tls)
        self.server.siblings = BoundSiblings
        self.server.siblings_listen = lambda: True
        self.server.start()
        with contextlib.closing(listener.dup()) as passed:
            os.set_inheritable(passed.fileno(), True)
            command = [sys.executable, "-c", OTHER, str(passed.fileno()), json.dumps(options)]
            self.other = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[passed.fileno()],
                env={"PYTHONPATH": str(ROOT)},
            )
        assert self._line() == "serves"

    def _app(self, environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            self.going_on.wait()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"pid": os.getpid(), "REMOTE_ADDR": environ["REMOTE_ADDR"]}).encode()]

    def _line(self) -> str:
        with gevent.Timeout(20):
            select.select([self.other.stdout], [], [])
        return self.other.stdout.readline().decode().strip()

    def client(self, first: bytes = b"") -> Client:
        sock = cooperative.socket(self.listener.family)
        sock.settimeout(20)
        sock.connect(self.listener.getsockname())
        sock.sendall(first)
        return Client(sock)

    def drain(self, seconds: float = 20) -> gevent.Greenlet[..., None]:
        return gevent.spawn(self.server.stop, seconds)

    @property
    def not_moved(self) -> dict[str, int]:
        return self.server.balancer.snapshot().connections_not_moved

    def received(self) -> dict[str, int]:
        self.other.stdin.close()
        return json.loads(self._line())  # type: ignore[no-any-return]

    def end(self) -> None:
        self.going_on.set()
        self.server.stop(0)
        self.other.kill()
        self.other.stdout.close()
        self.other.stdin.close()
        self.other.wait()


class Client:
    """A client that keeps its connection."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def get(self, path: str = "/") -> dict[str, Any]:
        self.send(path)
        return self.answer()

    def send(self, path: str = "/") -> None:
        self.sock.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())

    def answer(self) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"}"):
            more = self.sock.recv(65536)
            assert more, f"closed after {data!r}"
            data += more
        answer = json.loads(data.rpartition(b"\n")[2])
        return {**answer, "close": b"connection: close" in data.lower(), "here": answer["pid"] == os.getpid()}

    def is_closed(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Iterator[Callable[..., Pair]]:
    with contextlib.ExitStack() as stack:

        def start(unix: bool = False, tls: dict[str, Any] | None = None, **options: Any) -> Pair:
            listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
            stack.enter_context(listener)
            listener.bind(str(tmp_path / "socket") if unix else ("127.0.0.1", 0))
            listener.listen(64)
            made = Pair(listener, options, **(tls or {}))
            stack.callback(made.end)
            return made

        yield start


@pytest.fixture
def closing() -> Iterator[Callable[[Client], Client]]:
    with contextlib.ExitStack() as stack:

        def later(client: Client) -> Client:
            stack.callback(client.sock.close)
            return client

        yield later


Closing = Callable[[Client], Client]


@pytest.mark.parametrize("unix", [False, True])
def test_an_idle_connection_continues_in_another_process(
    pair: Callable[..., Pair], closing: Closing, unix: bool
) -> None:
    both = pair(unix=unix)
    client = closing(both.client())
    assert client.get()["here"]
    both.drain().join()
    answer = client.get("/next")
    assert (answer["here"], answer["PATH_INFO"]) == (False, "/next")
    assert answer["REMOTE_ADDR"] == ("" if unix else "127.0.0.1")
    assert both.not_moved == {}
    client.sock.close()
    assert both.received() == {"idle": 1}


def test_a_connection_without_a_request_moves(pair: Callable[..., Pair], closing: Closing) -> None:
    both = pair()
    client = closing(both.client())
    gevent.sleep(0)
    both.drain().join()
    assert not client.get()["here"]


def test_a_running_request_ends_here_and_its_connection_moves_then(
    pair: Callable[..., Pair], closing: Closing, eventually: Callable[..., Any]
) -> None:
    both = pair()
    client = closing(both.client())
    client.send("/slow")
    eventually(lambda: both.server.balancer.snapshot().running)
    stopping = both.drain()
    # By now, it is known that another process can take connections.
    gevent.sleep(0.3)
    both.going_on.set()
    answer = client.answer()
    assert (answer["here"], answer["close"]) == (True, False)
    stopping.join()
    assert not client.get()["here"]


def test_an_incomplete_request_is_answered_here_and_its_connection_moves_then(
    pair: Callable[..., Pair], closing: Closing, eventually: Callable[..., Any]
) -> None:
    both = pair()
    client = closing(both.client(b"GET / HTTP/1.1\r\nHo"))
    eventually(lambda: any(each.input.parser.in_head for each in both.server.connections))
    stopping = both.drain()
    gevent.sleep(0.1)
    client.sock.sendall(b"st: a\r\n\r\n")
    assert client.answer()["here"]
    stopping.join()
    assert not client.get()["here"]


def test_an_incomplete_request_is_refused_at_the_end(
    pair: Callable[..., Pair], closing: Closing, eventually: Callable[..., Any]
) -> None:
    both = pair()
    client = closing(both.client(b"GET / HTTP/1.1\r\nHo"))
    eventually(lambda: any(each.input.parser.in_head for each in both.server.connections))
    both.drain(0.2).join()
    assert b" 503 " in client.sock.recv(65536)
    assert client.is_closed()


PROXY_HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n"
PROXIED = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}


def test_the_address_from_a_proxy_header_moves_along(pair: Callable[..., Pair], closing: Closing) -> None:
    both = pair(**PROXIED)
    client = closing(both.client(PROXY_HEADER))
    assert client.get()["REMOTE_ADDR"] == "192.0.2.7"
    both.drain().join()
    answer = client.get()
    assert (answer["here"], answer["REMOTE_ADDR"], answer["REMOTE_PORT"]) == (False, "192.0.2.7", "4711")


def test_a_proxy_header_can_come_after_the_move(
    pair: Callable[..., Pair], closing: Closing, eventually: Callable[..., Any]
) -> None:
    both = pair(**PROXIED)
    client = closing(both.client())
    eventually(lambda: both.server.connections)
    both.drain().join()
    client.sock.sendall(PROXY_HEADER)
    answer = client.get()
    assert (answer["here"], answer["REMOTE_ADDR"]) == (False, "192.0.2.7")


def test_a_connection_with_half_a_proxy_header_stays(
    pair: Callable[..., Pair], closing: Closing, eventually: Callable[..., Any]
) -> None:
    both = pair(**PROXIED)
    client = closing(both.client(PROXY_HEADER[:20]))
    eventually(lambda: [each for each in both.server.connections if not each.input.proxy_header.untouched])
    both.drain().join()
    assert client.is_closed()
    assert both.not_moved == {"proxy_header": 1}


def test_hundreds_of_connections_move(pair: Callable[..., Pair], closing: Closing) -> None:
    both = pair()
    clients = [closing(both.client()) for _ in range(300)]
    assert all(client.get()["here"] for client in clients)
    both.drain().join()
    assert not any(client.get()["here"] for client in clients)
    assert both.not_moved == {}
    assert both.received() == {"idle": 300}
