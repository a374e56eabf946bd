"""A server whose listener is shared with gunicorn's arbiter and the other workers.

gunicorn does not report which workers are serving. Therefore, a worker finds the other workers through /proc, and
through the unix sockets on which they receive moved connections. After SIGUSR2, the workers of the new arbiter are
found in the same way.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from gevent import socket

from ..http.server import WSGIServer
from ..siblings.sockets import listener_number
from ..siblings.source import BoundSiblings, Sibling

__all__ = ["Listener", "shared_listener"]

_BACKLOG = 64


def shared_listener(address: tuple[str, int]) -> socket.socket:
    """Return a listener for an address on which other workers also listen (SO_REUSEPORT); raises `OSError`."""
    family, *_, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(found)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class Listener(WSGIServer):
    """A `WSGIServer` that can move its connections to the other workers of the same listener.

    When this server closes, the other workers accept new clients. When gunicorn shuts down, the arbiter closes its
    listeners before the workers exit. The last worker then accepts all clients that have already connected, because the
    kernel would otherwise reset their connections.
    """

    def of(self, arbiter: int) -> Listener:
        """Store the arbiter's process id, and return this server."""
        number = listener_number(self.socket)
        workers = _Workers(number, arbiter)
        self.siblings_listen = lambda: _has_open(arbiter, number) or bool(workers.known())
        self.siblings = lambda listener: workers
        return self


class _Workers(BoundSiblings):
    """The other workers that accept from a listener, including the workers of another arbiter."""

    def __init__(self, listener: int, arbiter: int) -> None:
        super().__init__(listener)
        self._number = listener
        self._arbiter = arbiter
        self._own = _process(os.getpid())

    def known(self) -> Sequence[Sibling]:
        """Return the workers that can receive connections, except workers that their arbiter is shutting down.

        Workers that started after this worker are a later generation, because an arbiter replaces its oldest workers
        first.
        """
        ending = _has_open(self._arbiter, self._number) is False
        found = [(each, _process(each.pid)) for each in super().known()]
        return [
            Sibling(each.pid, int(process.started > self._own.started))
            for each, process in found
            if not (ending and process.parent in (self._arbiter, self._own.parent))
        ]

    def starting(self) -> bool:
        """Return True if newer workers have been forked, as after SIGHUP, but no newer worker is serving yet."""
        if _has_open(self._arbiter, self._number) is False:
            return False
        if any(each.generation for each in self.known()):
            return False
        # Ignore children that have children: such a child is a new arbiter, which SIGUSR2 has started.
        # The kernel's list of children can be incomplete while processes start and exit, so read the list twice.
        children = {*_children(self._arbiter), *_children(self._arbiter)}
        return any(_process(pid).started > self._own.started and not _children(pid) for pid in children)


class _Process(NamedTuple):
    """A process's parent, and the process's start time in clock ticks since the system booted."""

    parent: int = 0
    started: int = 0


def _process(pid: int) -> _Process:
    try:
        with open(f"/proc/{pid}/stat") as file:
            # Split only the part after the program's name, which is in parentheses and can contain spaces.
            fields = file.read().rpartition(")")[2].split()
        return _Process(int(fields[1]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return _Process()


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(each) for each in file.read().split()]
    except (OSError, ValueError):
        return []


def _has_open(process: int, number: int) -> bool | None:
    """Return whether a process has the socket with this inode open; None if its open files cannot be read."""
    directory = f"/proc/{process}/fd"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return any(_is_socket(f"{directory}/{name}", number) for name in names)


def _is_socket(path: str, number: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_ino == number
