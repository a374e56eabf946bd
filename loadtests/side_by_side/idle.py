"""Thousands of idle connections, and the memory that each of them costs the server.

Decides how they are opened and when the memory is looked at. It must not know which server it is.
"""

from __future__ import annotations

import resource
import socket
import time
from dataclasses import dataclass
from typing import Final

from . import BenchmarkError
from .cases import Case
from .processes import Process

__all__ = ["Idle", "allow_connections", "hold"]

_AT_ONCE: Final = 100
_SPARE_FILES: Final = 500
_TIMEOUT_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 1.5
"""How long a server is left alone before its memory is looked at."""


@dataclass(frozen=True)
class Idle:
    """What idle connections cost."""

    bytes_each: float
    memory: int
    """Of the server with all of them, in bytes."""
    closed: int
    """How many the server had closed by then."""


def allow_connections(number: int) -> None:
    """Let this process, and the servers that it starts, have so many connections. Raises `BenchmarkError`."""
    needed = number + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise BenchmarkError(
            f"{number} connections need {needed} open files and the system allows {hard}; "
            "raise the limit (ulimit -Hn) or ask for fewer with --idle-connections"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def hold(case: Case, port: int, number: int, server: Process) -> Idle:
    """Make one request on each of so many connections, leave them, and look. Raises `BenchmarkError`."""
    connections: list[socket.socket] = []
    try:
        # What a server sets up once, for the first requests it gets, is not the connections' cost.
        _open(case, port, _AT_ONCE, connections)
        _close(connections)
        time.sleep(_SETTLE_SECONDS)
        before = server.memory()
        while len(connections) < number:
            _open(case, port, min(_AT_ONCE, number - len(connections)), connections)
        time.sleep(_SETTLE_SECONDS)
        after = server.memory()
        return Idle((after - before) / number, after, sum(map(_is_closed, connections)))
    finally:
        _close(connections)


def _open(case: Case, port: int, number: int, connections: list[socket.socket]) -> None:
    request = f"{case.method} / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    opened = len(connections)
    for _ in range(number):
        connections.append(socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS))
        connections[-1].sendall(request)
    for connection in connections[opened:]:
        _receive(connection, case.answer)


def _receive(connection: socket.socket, answer: bytes) -> None:
    received = b""
    while not received.endswith(answer):
        piece = connection.recv(65536)
        if not piece:
            raise BenchmarkError(f"a connection was closed instead of answered, after {received[:40]!r}")
        received += piece


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _close(connections: list[socket.socket]) -> None:
    while connections:
        connections.pop().close()
