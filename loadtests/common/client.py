"""A fast HTTP/1 client for load generators: response parser, connections, and connection reuse."""

from __future__ import annotations

import errno
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)")
_REASON: Final = re.compile(rb"\r\nx-intralb-reason: *([a-z_]+)")
_HEAD_END: Final = b"\r\n\r\n"
_CHUNKED: Final = b"\r\ntransfer-encoding: chunked"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """A complete response."""

    status: int
    kept: bool
    """True if the connection can be reused for another request."""
    reason: str = ""
    """The reason that the server gave for a rejection; empty if it gave none."""
    not_run: bool = False
    """True if the server reported that the application did not run for this request."""


def read_answer(received: bytes, ended: bool) -> Answer | None:
    """Parse a response; return None while it is incomplete. `ended` is true if no more data follows.

    Raises `ValueError` if the data is not a response.
    """
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    head = received[:end].lower()
    if not head.startswith(b"http/1."):
        raise ValueError(f"not an answer: {received[:20]!r}")
    length = _LENGTH.search(head)
    if not _whole(received, head, end + len(_HEAD_END), length, ended):
        return None
    reason = _REASON.search(head)
    kept, not_run = not ended and _kept(head), b"\r\nx-intralb-executed: 0" in head
    return Answer(int(received[9:12]), kept, reason[1].decode() if reason else "", not_run)


def _whole(received: bytes, head: bytes, body: int, length: re.Match[bytes] | None, ended: bool) -> bool:
    if length:
        return len(received) >= body + int(length[1])
    if _CHUNKED in head:
        # In an empty chunked body, the line end before the last chunk belongs to the head.
        return received.endswith(_LAST_CHUNK)
    return ended


def _kept(head: bytes) -> bool:
    if head.startswith(b"http/1.0"):
        return b"\r\nconnection: keep-alive" in head
    return b"\r\nconnection: close" not in head


IDLE: Final = -1
"""The request number of a connection without a request."""
_RECEIVE_BYTES: Final = 65536
_UNDER_WAY: Final = (0, errno.EINPROGRESS)


class Connection:
    """One connection, with one request at a time.

    The methods raise `ValueError` for an invalid response, and `OSError` for every other failure. The timeout is in
    seconds; without a timeout the socket is non-blocking.
    """

    __slots__ = ("_received", "_socket", "_unsent", "fd", "request")

    def __init__(self, address: Any, family: int = socket.AF_INET, timeout: float = 0.0) -> None:
        self._socket = socket.socket(family)
        self.fd = self._socket.fileno()
        self.request = IDLE
        self._unsent = b""
        self._received = b""
        self._socket.settimeout(timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            code = self._socket.connect_ex(address)
        except BaseException:
            self.close()
            raise
        if code not in _UNDER_WAY:
            self.close()
            late = timeout and code == errno.EAGAIN
            raise TimeoutError("cannot connect in time") if late else OSError(code, "cannot connect")

    def begin(self, request: int, text: bytes) -> None:
        """Send as much of a request as the socket accepts now."""
        self.request = request
        self._unsent = text
        self._received = b""
        self.go_on()

    @property
    def unsent(self) -> bool:
        """True while part of a request waits for the connection to open, or for space in the socket buffer."""
        return bool(self._unsent)

    @property
    def begun(self) -> bool:
        """True once the head of a response has been received."""
        return _HEAD_END in self._received

    def go_on(self) -> None:
        """Send as much of the unsent data as the socket accepts now."""
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return

    def receive(self) -> Answer | None:
        """Read from the socket; return the response once it is complete, else None.

        Raises `ConnectionResetError` if the connection ends before the response is complete.
        """
        try:
            piece = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return None
        self._received = self._received + piece if self._received else piece
        answer = read_answer(self._received, not piece)
        if answer is None and not piece:
            raise ConnectionResetError(errno.ECONNRESET, "closed without a whole answer")
        if answer is None and len(self._received) > _RECEIVE_BYTES:
            self._forget_body()
        return answer

    def _forget_body(self) -> None:
        """Discard all but the end of a chunked body, because the body can be endless."""
        head, separator, body = self._received.partition(_HEAD_END)
        if _CHUNKED in head.lower():
            self._received = head + separator + body[-len(_LAST_CHUNK) :]

    def ask(self, text: bytes, give_up: float) -> tuple[Answer, int]:
        """Send a request and wait for its response; return the response and its length in bytes.

        Raises `TimeoutError` if the response is incomplete at the time `give_up` on the monotonic clock.
        """
        self._socket.settimeout(_left(give_up))
        self.begin(0, text)
        while self.unsent:
            self._socket.settimeout(_left(give_up))
            self.go_on()
        while True:
            self._socket.settimeout(_left(give_up))
            if (answer := self.receive()) is not None:
                return answer, len(self._received)

    def is_open(self) -> bool:
        """Return whether the server has kept this connection open; call this only while no request is pending."""
        self._socket.settimeout(0.0)
        try:
            # On an idle connection, the only possible event is the end of the connection.
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class SharedConnections:
    """Keep-alive connections to one URL, which all users share, as behind a proxy. No request is ever sent twice.

    Waiting for a socket does not block other greenlets in a patched process.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        self._family, self._address = found[0][0], found[0][4]
        self._free: list[Connection] = []

    def get(self, path: str, headers: str, patience: float) -> tuple[Answer, int]:
        """Request a path; return the response and its length in bytes.

        Each line in `headers` must include its line end. After `patience` seconds, the connection is closed. Raises
        `TimeoutError`, another `OSError`, or `ValueError` if the data is not a response.
        """
        give_up = time.monotonic() + patience
        connection = self._taken() or Connection(self._address, self._family, patience)
        try:
            reply = connection.ask(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n".encode(), give_up)
        except BaseException:
            # `finally` also closes the connection if a user is killed during a request.
            connection.close()
            raise
        if reply[0].kept:
            self._free.append(connection)
        else:
            connection.close()
        return reply

    def close(self) -> None:
        """Close the free connections."""
        while self._free:
            self._free.pop().close()

    def _taken(self) -> Connection | None:
        """Return a free connection that is still open, or None."""
        while self._free:
            connection = self._free.pop()
            if connection.is_open():
                return connection
            connection.close()
        return None


class WaitingClient:
    """A client that waits for each response before its next request. It connects when necessary."""

    def __init__(self, port: int, patience: float) -> None:
        self._connections = SharedConnections(f"http://127.0.0.1:{port}")
        self._patience = patience
        self.close = self._connections.close

    def ask(self, path: str) -> str:
        """Send one request; return the response's status and rejection reason, or the name of the error."""
        try:
            answer, _ = self._connections.get(path, "", self._patience)
        except (OSError, ValueError) as error:
            return type(error).__name__
        return f"{answer.status} {answer.reason}".strip()


def all_at_once(functions: Iterable[Callable[[], None]]) -> None:
    """Call each function in a separate thread, and wait until all have returned."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _left(give_up: float) -> float:
    left = give_up - time.monotonic()
    if left <= 0:
        raise TimeoutError("the user's patience is over")
    return left


MOST_CONNECTIONS: Final = 15_000
_MOST_EVENTS: Final = 64
"""Maximum number of events per poll. It is low, so that a due request does not wait behind very many events."""


class Connections:
    """All connections to one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: dict[int, Connection] = {}
        self._free: dict[int, Connection] = {}
        self._epoll = select.epoll()
        self.most = 0
        """Peak number of concurrent connections."""

    def take(self) -> Connection:
        """Return the most recently used free connection, or open a new connection. Raises `OSError`."""
        return self._free.popitem()[1] if self._free else self.connect()

    def open(self, number: int) -> None:
        """Open `number` free connections. Raises `OSError`."""
        for _ in range(number):
            self.give_back(self.connect())

    def give_back(self, connection: Connection) -> None:
        """Make a connection available again."""
        self._free[connection.fd] = connection

    def close(self, connection: Connection) -> None:
        """Close a connection for good."""
        del self._open[connection.fd]
        self._free.pop(connection.fd, None)
        self._epoll.unregister(connection.fd)
        connection.close()

    def close_all(self) -> None:
        """Close all connections, and stop watching."""
        for connection in [*self._open.values()]:
            self.close(connection)
        self._epoll.close()

    def watch(self, connection: Connection) -> None:
        """Watch a connection for arriving data and, while it has unsent data, for space in the socket buffer."""
        self._epoll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0))

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Return the events that occur within `seconds`; pass them to `ready`."""
        if seconds > 0:
            # The timeout of epoll has a resolution of only one millisecond; that of select is finer.
            select.select((self._epoll,), (), (), seconds)
        return self._epoll.poll(0, _MOST_EVENTS)

    def ready(self, events: list[tuple[int, int]]) -> Iterator[tuple[Connection, bool, bool]]:
        """Yield each open connection among the events, with two flags: writable and readable."""
        for fd, event in events:
            connection = self._open.get(fd)
            if connection is not None:
                yield connection, bool(event & select.EPOLLOUT), bool(event & ~select.EPOLLOUT)

    def connect(self) -> Connection:
        """Open a connection and watch it. Raises `OSError`."""
        if len(self._open) >= MOST_CONNECTIONS:
            raise OSError(errno.EMFILE, "too many connections")
        connection = Connection(("127.0.0.1", self._port))
        self._epoll.register(connection.fd, select.EPOLLIN)
        self._open[connection.fd] = connection
        self.most = max(self.most, len(self._open))
        return connection
