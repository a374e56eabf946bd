"""Connections that applications take over, such as for WebSockets, from the offer in the environ to their end.

The environ of a request that offers an upgrade holds a `FirstUse`. Its first use takes the connection over: the request
counts as completed with status 101, its slot is replaced, its deadline is lifted, and nothing but the application
writes to the socket. This module must not know how a connection releases its socket.
"""

from __future__ import annotations

import _socket
import logging
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from gevent import GreenletExit, Timeout

from ..errors import Abort, UpgradesFull
from ..naming import type_name
from .forks import close_copy
from .guards import CLEANUP_SECONDS

__all__ = ["SOCKET_KEY", "SWITCHING", "FirstUse", "Holder", "Upgrade", "Upgrades", "made_of", "says_end", "shut_down"]

logger = logging.getLogger("intralb_gevent")

SOCKET_KEY: Final = "gunicorn.socket"
"""Where the environ has the socket: simple-websocket, and with it flask-sock and python-engineio, look there."""

SWITCHING: Final = "101 Switching Protocols"

_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT

_CLOSED: Final = frozenset(
    {
        ("simple_websocket.errors", "ConnectionClosed"),
        ("simple_websocket.errors", "ConnectionError"),
        ("geventwebsocket.exceptions", "WebSocketError"),
    }
)
"""What libraries raise where the application goes on with a WebSocket that is closed."""


class FirstUse:
    """Stands in an environ for an object that is made at its first use.

    Copying the environ, showing it, and asking for the truth of this are no use of it.
    """

    __slots__ = ("_made", "_make")

    _made: Any
    _make: Callable[[], Any]

    def __init__(self, make: Callable[[], Any]) -> None:
        object.__setattr__(self, "_make", make)
        object.__setattr__(self, "_made", None)

    def __repr__(self) -> str:
        return "<the connection of this request, which is taken over by its first use>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(made_of(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(made_of(self), name, value)

    def __enter__(self) -> Any:
        return made_of(self).__enter__()

    def __exit__(self, *exc_info: Any) -> Any:
        return made_of(self).__exit__(*exc_info)


def made_of(value: Any) -> Any:
    """Return the object that a `FirstUse` stands for, and any other value as it is."""
    if type(value) is not FirstUse:
        return value
    if value._made is None:
        object.__setattr__(value, "_made", value._make())
    return value._made


def says_end(error: BaseException) -> bool:
    """Return whether an exception only says that a connection has ended, and not that the application has failed.

    Those of ours and of WebSocket libraries do, and what libraries raise so that gunicorn or Werkzeug answer nothing:
    `StopIteration` and `ConnectionError`.
    """
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    ours = isinstance(error, (Abort, GreenletExit, StopIteration, ConnectionError))
    return ours or not kinds.isdisjoint(_CLOSED)


def shut_down(sock: Any) -> None:
    """End the connection of a socket in both directions; never waits or raises."""
    try:
        getattr(sock, "_sock", sock).shutdown(socket.SHUT_RDWR)
    except (AttributeError, OSError):
        # It is closed, or there is none.
        return


class Upgrade:
    """A connection that an application has taken over; `sock` is a blocking socket of gevent's, or one used like it."""

    __slots__ = ("at_end", "over", "sock")

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.over = False
        """Whether the connection had ended before the application did."""
        self.at_end: Callable[[], object] | None = None
        """Called when the application has ended, in its greenlet, before the socket is closed."""

    def __repr__(self) -> str:
        return f"<Upgrade {'over' if self.over else self.sock!r}>"

    def has_ended(self) -> bool:
        """Return whether either side has closed the connection, as far as the socket shows; never waits."""
        if self.sock is None:
            return self.over
        if self.over or self.sock.fileno() < 0 or getattr(self.sock, "input_ended", False):
            return True
        plain = getattr(self.sock, "_sock", self.sock)
        try:
            return isinstance(plain, _socket.socket) and not plain.recv(1, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close what the application has left open; called in its greenlet when it has ended."""
        self.over = self.has_ended()
        try:
            if self.at_end is not None:
                self._call_at_end(self.at_end)
        finally:
            self.at_end = None
            # Not only this descriptor: the application may have duplicated it.
            self.shut_down()
            self.sock.close()

    def _call_at_end(self, at_end: Callable[[], object]) -> None:
        try:
            with Timeout(CLEANUP_SECONDS):
                at_end()
        except Exception as error:
            # The application, or its client, has left the connection in a state in which a library cannot end it.
            logger.debug("could not end %r: %s", self, type_name(error))
        except Timeout:
            logger.debug("could not end %r in time", self)

    def shut_down(self) -> None:
        """End the connection in both directions, so that whoever waits for the socket sees the end; never waits."""
        shut_down(self.sock)

    def isolate(self) -> None:
        """Close the copy of the socket in a process that a handler has forked."""
        self.over = True
        close_copy(self.sock)

    def is_end(self, error: BaseException) -> bool:
        """Return whether an exception is the end of the application's work, as any is once the connection has ended."""
        return self.over or says_end(error)


class Holder(Protocol):
    """Runs an application that has taken over a connection, such as a slot."""

    def shut_down_upgrade(self) -> None:
        """End the connection, so that the application sees its end; never waits."""

    def isolate_upgrade(self) -> None:
        """Close the copy of the socket in a process that a handler has forked."""

    def kill_upgrade(self) -> None:
        """End the application where it waits; called outside of its greenlet, never waits."""


class Upgrades:
    """The applications that hold connections which they have taken over, at most `most` of them if that is a number."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.holders: set[Holder] = set()

    def __repr__(self) -> str:
        return f"<Upgrades {len(self.holders)} of {'any number' if self._most is None else self._most}>"

    def enter(self, holder: Holder) -> None:
        """Take in one more; raises `UpgradesFull` if there is no place for it."""
        if self._most is not None and len(self.holders) >= self._most:
            raise UpgradesFull(f"{self._most} connections are taken over already, which is max_upgraded")
        self.holders.add(holder)

    def shut_down(self) -> None:
        """End all connections, so that the applications see their end."""
        for holder in self.holders:
            holder.shut_down_upgrade()

    def kill(self) -> None:
        """End all applications that have not ended yet."""
        for holder in self.holders:
            holder.kill_upgrade()

    def isolate(self) -> None:
        """Close the copies of all sockets in a process that a handler has forked."""
        for holder in self.holders:
            holder.isolate_upgrade()
