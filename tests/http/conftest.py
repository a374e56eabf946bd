"""A client that sends exactly the given bytes, and checks the responses with h11."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest
from gevent import socket
from wsproto import ConnectionType, WSConnection, events

from intralb_gevent import WSGIServer


class Reply:
    """One response, as parsed by h11."""

    def __init__(self, head: h11.Response, body: bytes) -> None:
        self.status = head.status_code
        self.headers = {name.decode(): value.decode() for name, value in head.headers}
        self.body = body

    def __repr__(self) -> str:
        return f"<Reply {self.status} {self.headers} {self.body[:60]!r}>"


class Client:
    """A connection to a server."""

    def __init__(self, server: WSGIServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
        self._judge = h11.Connection(h11.CLIENT)

    def send(self, data: bytes | str) -> None:
        self.socket.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def get(self, path: str = "/", method: str = "GET", headers: str = "") -> Reply:
        self.send(f"{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")
        return self.reply(method)

    def reply(self, method: str = "GET") -> Reply:
        """Read the response to a request with the given method; bytes after the response are kept for the next call."""
        judge = self._judge
        judge.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        judge.send(h11.EndOfMessage())
        head, body = None, bytearray()
        while True:
            event = judge.next_event()
            if event is h11.NEED_DATA:
                judge.receive_data(self.socket.recv(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert head is not None
        if judge.our_state is h11.DONE and judge.their_state is h11.DONE:
            judge.start_next_cycle()
        return Reply(head, bytes(body))

    def rest(self) -> bytes:
        """Read all data until the server closes the connection."""
        data = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(65536):
                data += part
        return bytes(data)

    @property
    def closed_by_server(self) -> bool:
        return self.rest() == b""

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def connect() -> Iterator[Callable[[WSGIServer], Client]]:
    """Return a function that opens connections, which are closed at the end of the test."""
    made: list[Client] = []

    def open_one(server: WSGIServer) -> Client:
        made.append(Client(server))
        return made[-1]

    yield open_one
    for client in made:
        client.close()


@pytest.fixture
def echo() -> Callable[..., Any]:
    """Return an application that responds with the body it has received."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(
            "200 OK",
            [("Content-Type", "text/plain"), ("X-Path", environ["PATH_INFO"]), ("X-Query", environ["QUERY_STRING"])],
        )
        return [body]

    return application


class WebSocketClient:
    """A WebSocket client that sends the given frames, and checks the server's frames with wsproto."""

    def __init__(self, port: int, path: str = "/") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._judge = WSConnection(ConnectionType.CLIENT)
        self._events: Any = iter(())
        self.send(events.Request(host="test", target=path))
        self.accepted = self.event()

    def send(self, *sent: Any) -> None:
        """Send all given frames in one piece."""
        self.socket.sendall(b"".join(map(self._judge.send, sent)))

    def event(self) -> Any:
        """Return the next event from the server; None at the end of the connection."""
        while True:
            event = next(self._events, None)
            if event is not None:
                return event
            data = self.socket.recv(65536)
            if not data:
                return None
            self._judge.receive_data(data)
            self._events = iter(list(self._judge.events()))

    def receive(self) -> str | bytes:
        """Return the next message, which can consist of several frames."""
        parts = []
        while True:
            event = self.event()
            parts.append(event.data)
            if event.message_finished:
                return parts[0][:0].join(parts)

    def ask(self, text: str) -> str | bytes:
        self.send(events.TextMessage(text))
        return self.receive()


@pytest.fixture
def open_websocket() -> Iterator[Callable[..., WebSocketClient]]:
    """Return a function that opens WebSockets; they are closed at the end of the test."""
    made: list[WebSocketClient] = []

    def open_one(port: int, path: str = "/") -> WebSocketClient:
        made.append(WebSocketClient(port, path))
        return made[-1]

    yield open_one
    for client in made:
        client.socket.close()
