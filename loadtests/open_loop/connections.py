"""The connections of a generator: used again while they are free, and watched for what arrives.

Decides which connection is taken, and that there are not too many. It must not know what is sent on them, or when.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Iterator
from typing import Final

from .connection import Connection

__all__ = ["MOST_CONNECTIONS", "Connections"]

MOST_CONNECTIONS: Final = 15_000
_MOST_EVENTS: Final = 64
"""How many are told of at a time, so that a request which is due meanwhile need not wait for all of them."""


class Connections:
    """All connections to one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: dict[int, Connection] = {}
        self._free: dict[int, Connection] = {}
        self._epoll = select.epoll()
        self.most = 0
        """How many there were at most at the same time."""

    def take(self) -> Connection:
        """Return the one that was used last of those that are free, or a new one. Raises `OSError`."""
        return self._free.popitem()[1] if self._free else self._connect()

    def open(self, number: int) -> None:
        """Open so many that are free. Raises `OSError`."""
        for _ in range(number):
            self.give_back(self._connect())

    def give_back(self, connection: Connection) -> None:
        """Let it be taken again."""
        self._free[connection.fd] = connection

    def close(self, connection: Connection) -> None:
        """Close it for good."""
        del self._open[connection.fd]
        self._free.pop(connection.fd, None)
        self._epoll.unregister(connection.fd)
        connection.close()

    def close_all(self) -> None:
        """Close them, and watch no more."""
        for connection in [*self._open.values()]:
            self.close(connection)
        self._epoll.close()

    def watch(self, connection: Connection) -> None:
        """Look for room for what is unsent, if there is something, beside what arrives."""
        self._epoll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0))

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Return the events that there are, or are within so many seconds; for `ready`."""
        if seconds > 0:
            # The timeout of epoll's own has but milliseconds.
            select.select((self._epoll,), (), (), seconds)
        return self._epoll.poll(0, _MOST_EVENTS)

    def ready(self, events: list[tuple[int, int]]) -> Iterator[tuple[Connection, bool, bool]]:
        """Yield each connection that is still open, whether there is room on it, and whether something has arrived."""
        for fd, event in events:
            connection = self._open.get(fd)
            if connection is not None:
                yield connection, bool(event & select.EPOLLOUT), bool(event & ~select.EPOLLOUT)

    def _connect(self) -> Connection:
        if len(self._open) >= MOST_CONNECTIONS:
            raise OSError(errno.EMFILE, "too many connections")
        connection = Connection(self._port)
        self._epoll.register(connection.fd, select.EPOLLIN)
        self._open[connection.fd] = connection
        self.most = max(self.most, len(self._open))
        return connection
