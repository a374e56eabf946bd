"""Asks a server over connections that are kept, and used again by whoever asks next, as a proxy does it.

Decides when a connection is opened, and that nothing is ever sent twice. It must not know locust or who asks; a socket
that is waited for holds up nobody else where the process is patched so.
"""

from __future__ import annotations

import socket
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from ..open_loop.answers import Answer, read

__all__ = ["Connections", "Reply"]

_CHUNK = 65536


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    """By their names in small letters."""
    length: int
    """Of all of it, in bytes."""


class Connections:
    """The connections to one server, named by its URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        self._family, self._address = found[0][0], found[0][4]
        self._free: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<Connections to {self._host}, {len(self._free)} of them free>"

    def get(self, path: str, headers: str, patience: float) -> Reply:
        """Ask for the path; `headers` are lines, each with its end. After `patience` seconds give up and leave.

        Raises `TimeoutError`, another `OSError`, or `ValueError` when what comes is not an answer.
        """
        give_up = time.monotonic() + patience
        connection = self._taken() or self._opened(give_up)
        try:
            answer, received = self._asked(connection, path, headers, give_up)
        except BaseException:
            # Also when a user is ended in the middle of it.
            connection.close()
            raise
        if answer.kept:
            self._free.append(connection)
        else:
            connection.close()
        return Reply(answer.status, _headers(received), len(received))

    def close(self) -> None:
        """Close those that are free."""
        while self._free:
            self._free.pop().close()

    def _opened(self, give_up: float) -> socket.socket:
        connection = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            connection.settimeout(_left(give_up))
            connection.connect(self._address)
        except BaseException:
            connection.close()
            raise
        return connection

    def _asked(self, connection: socket.socket, path: str, headers: str, give_up: float) -> tuple[Answer, bytes]:
        connection.settimeout(_left(give_up))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n".encode())
        received = b""
        while True:
            connection.settimeout(_left(give_up))
            chunk = connection.recv(_CHUNK)
            received += chunk
            answer = read(received, ended=not chunk)
            if answer is not None:
                return answer, received
            if not chunk:
                raise ConnectionError("the server closed the connection before it had answered")

    def _taken(self) -> socket.socket | None:
        """Return a free connection that the server has not closed meanwhile."""
        while self._free:
            connection = self._free.pop()
            if _is_open(connection):
                return connection
            connection.close()
        return None


def _is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.0)
    try:
        # Nothing can come unasked but its end.
        connection.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _left(give_up: float) -> float:
    left = give_up - time.monotonic()
    if left <= 0:
        raise TimeoutError("the user's patience is over")
    return left


def _headers(received: bytes) -> dict[str, str]:
    lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    fields = (line.partition(":") for line in lines)
    return {name.lower(): value.strip() for name, _, value in fields}
