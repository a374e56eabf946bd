"""Connections that applications take over, for example for WebSockets.

The environ of a request that offers an upgrade contains a `FirstUse`. The first use of a `FirstUse` takes over the
connection: from then on, only the application writes to the socket. The request counts as completed with status 101,
its slot is replaced, and its deadline is removed.
"""

from __future__ import annotations

import _socket
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from gevent import GreenletExit, Timeout
from gevent.socket import wait_read

from ..errors import Abort, UpgradesFull
from ..hub.forks import close_copy
from ..naming import type_name
from ..stdlib import monotonic
from .guards import CLEANUP_SECONDS
from .socketends import unacknowledged

__all__ = [
    "SOCKET_KEY",
    "SWITCHING",
    "FirstUse",
    "Holder",
    "Upgrade",
    "Upgrades",
    "made_of",
    "says_end",
    "shut_down",
    "upgraded_connections",
]

logger = logging.getLogger("intralb_gevent")

SOCKET_KEY: Final = "gunicorn.socket"
"""Environ key under which simple-websocket (used by flask-sock and python-engineio) looks up the socket."""

SWITCHING: Final = "101 Switching Protocols"

_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT

LINGER_SECONDS = 2.0
"""Seconds without progress after which the server closes a connection that the client has not closed."""

_LINGER_MOST_SECONDS: Final = 30.0
"""Maximum seconds for which the server waits until a client has read the last data of an application."""

_LOOK_SECONDS: Final = 0.1
"""Interval, in seconds, at which the server checks the client's progress while the client sends nothing."""

_DISCARDED_BYTES: Final = 64 * 1024
"""Maximum number of bytes that one call reads from a client whose data is discarded."""

_QUESTIONS: Final = frozenset({"family", "type", "proto", "getpeername", "getsockname", "getsockopt", "setsockopt"})
"""Attributes of a socket that an application can use without taking over the connection."""

_CLOSED: Final = frozenset(
    {
        ("simple_websocket.errors", "ConnectionClosed"),
        ("simple_websocket.errors", "ConnectionError"),
        ("geventwebsocket.exceptions", "WebSocketError"),
    }
)
"""Exceptions that WebSocket libraries raise when the application uses a closed WebSocket."""


class FirstUse:
    """A placeholder in an environ for an object that is created when it is first used.

    Copying or printing the environ, and testing the truth value of this object, do not count as a use. Reading an
    attribute in `_QUESTIONS` does not count either: an application may read it and then respond normally. The values of
    these attributes are those of `asked`.
    """

    __slots__ = ("_asked", "_made", "_make")

    _asked: Any
    _made: Any
    _make: Callable[[], Any]

    def __init__(self, make: Callable[[], Any], asked: Any = None) -> None:
        object.__setattr__(self, "_make", make)
        object.__setattr__(self, "_made", None)
        object.__setattr__(self, "_asked", asked)

    def __repr__(self) -> str:
        return "<the connection of this request, which is taken over by its first use>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._made is None and self._asked is not None and name in _QUESTIONS:
            return getattr(self._asked, name)
        return getattr(made_of(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(made_of(self), name, value)

    def __enter__(self) -> Any:
        return made_of(self).__enter__()

    def __exit__(self, *exc_info: Any) -> Any:
        return made_of(self).__exit__(*exc_info)


def made_of(value: Any) -> Any:
    """Return the object that a `FirstUse` stands for, created if necessary; return any other value unchanged."""
    if type(value) is not FirstUse:
        return value
    if value._made is None:
        object.__setattr__(value, "_made", value._make())
    return value._made


def says_end(error: BaseException) -> bool:
    """Return whether an exception only reports the end of a connection, and not a failure of the application.

    Aborts, `GreenletExit` and exceptions of WebSocket libraries report an end. `StopIteration` and `ConnectionError`
    report an end, too: libraries raise these two exceptions so that gunicorn or Werkzeug sends no response.
    """
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    ours = isinstance(error, (Abort, GreenletExit, StopIteration, ConnectionError))
    return ours or not kinds.isdisjoint(_CLOSED)


def shut_down(sock: Any) -> None:
    """End the connection of a socket in both directions; never waits or raises."""
    try:
        getattr(sock, "_sock", sock).shutdown(socket.SHUT_RDWR)
    except (AttributeError, OSError):
        # The socket is closed already, or is None.
        return


def _let_client_read(sock: Any) -> None:
    """End the output, and discard the client's data until the client has closed the connection or makes no progress.

    Closing a socket with unread input resets the connection, and so discards what the client has not received yet.
    """
    plain = getattr(sock, "_sock", sock)
    try:
        # Use a duplicate, because another greenlet of the application may read from the socket and then close it.
        copy = _socket.socket(fileno=os.dup(plain.fileno()))
    except OSError:
        # The process can open no more files.
        return
    try:
        copy.setblocking(False)
        copy.shutdown(socket.SHUT_WR)
        _discard_input(copy)
        # The application may have closed its socket meanwhile, and a forked process may hold another duplicate.
        copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The connection is broken.
        return
    finally:
        copy.close()


def _discard_input(plain: Any) -> None:
    left, end = unacknowledged(plain), monotonic() + _LINGER_MOST_SECONDS
    until = monotonic() + LINGER_SECONDS
    while (now := monotonic()) < end:
        if (still_left := unacknowledged(plain)) < left:
            left, until = still_left, now + LINGER_SECONDS
        if now >= until or not _discard_some(plain):
            return


def _discard_some(plain: Any) -> bool:
    """Discard data that arrives within `_LOOK_SECONDS`; return False at the end of the input."""
    try:
        wait_read(plain.fileno(), _LOOK_SECONDS, TimeoutError("timed out"))
        return bool(plain.recv(_DISCARDED_BYTES))
    except (TimeoutError, BlockingIOError):
        # Another greenlet may have read the data.
        return True


def upgraded_connections(count: int) -> str:
    """Return the number with its unit, for the log."""
    return f"{count:,} upgraded connection{'' if count == 1 else 's'}"


class Upgrade:
    """A connection that an application has taken over; `sock` is a blocking gevent socket, or a similar object."""

    __slots__ = ("at_end", "complete", "over", "sock")

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.over = False
        """True if the connection had ended before the application did."""
        self.complete = False
        """True if the application has returned, and not failed."""
        self.at_end: Callable[[], object] | None = None
        """Function to call in the greenlet of the application, between the application's end and the socket's close."""

    def __repr__(self) -> str:
        return f"<Upgrade {'over' if self.over else self.sock!r}>"

    def has_ended(self) -> bool:
        """Return whether either side has closed the connection, as far as the socket shows; never waits."""
        if self.sock is None:
            return self.over
        plain = getattr(self.sock, "_sock", self.sock)
        if self.over or plain.fileno() < 0 or getattr(self.sock, "input_ended", False):
            return True
        try:
            return isinstance(plain, _socket.socket) and not plain.recv(1, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection after the application has ended; called in the application's greenlet."""
        self.over = self.has_ended()
        try:
            if self.at_end is not None:
                self._call_at_end(self.at_end)
        finally:
            self.at_end = None
            self._end_output()
            # Closing this descriptor would not be enough, because the application may have duplicated it.
            self.shut_down()
            self.sock.close()

    def _end_output(self) -> None:
        """Let a client that is still connected receive the application's last data."""
        if self.has_ended():
            return
        if self.complete:
            # Over TLS, this call sends a close_notify alert. Without the alert, the data would look truncated.
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        _let_client_read(self.sock)

    def _call_at_end(self, at_end: Callable[[], object]) -> None:
        try:
            with Timeout(CLEANUP_SECONDS):
                at_end()
        except Exception as error:
            # The application or the client has left the connection in a state in which the library cannot end it.
            logger.debug("could not end %r: %s", self, type_name(error))
        except Timeout:
            logger.debug("could not end %r in time", self)

    def shut_down(self) -> None:
        """End the connection in both directions, and so wake all greenlets that wait for the socket; never waits."""
        shut_down(self.sock)

    def isolate(self) -> None:
        """In a process that a handler has forked, close the inherited copy of the socket."""
        self.over = True
        close_copy(self.sock)

    def is_end(self, error: BaseException) -> bool:
        """Return whether an exception is due to the end of the connection: it reports that end, or was raised later."""
        return self.over or says_end(error)


class Holder(Protocol):
    """An object, such as a slot, that runs an application which has taken over a connection."""

    def shut_down_upgrade(self) -> None:
        """Shut down the connection, so that the application's calls on the socket return; never waits."""

    def isolate_upgrade(self) -> None:
        """In a process that a handler has forked, close the inherited copy of the socket."""

    def kill_upgrade(self) -> None:
        """Abort the waiting application; called from another greenlet. Never waits."""


class Upgrades:
    """The applications that have taken over connections: at most `most` of them, or any number if `most` is None."""

    def __init__(self, most: int | None, changed: Callable[[], object]) -> None:
        self._most = most
        self._changed = changed
        """Function to call after an application has ended."""
        self.holders: set[Holder] = set()

    def __repr__(self) -> str:
        return f"<Upgrades {len(self.holders)} of {'any number' if self._most is None else self._most}>"

    def enter(self, holder: Holder, take: Callable[[], object] | None = None) -> None:
        """Add an application, and let it take over its connection by calling `take`.

        Raises `UpgradesFull` if the limit is reached, and any exception of `take`; the application is then not added.
        """
        if self._most is not None and len(self.holders) >= self._most:
            raise UpgradesFull(f"{self._most} connections are taken over already, which is max_upgraded")
        self.holders.add(holder)
        try:
            if take is not None:
                take()
        except BaseException:
            self.leave(holder)
            raise

    def leave(self, holder: Holder) -> None:
        """Remove an application that has ended."""
        self.holders.discard(holder)
        self._changed()

    def shut_down(self) -> None:
        """Shut down all connections, so that the applications can end."""
        if self.holders:
            logger.info("closed %s (graceful_timeout_seconds)", upgraded_connections(len(self.holders)))
        for holder in self.holders:
            holder.shut_down_upgrade()

    def kill(self) -> None:
        """Abort all applications that have not ended yet."""
        for holder in self.holders:
            holder.kill_upgrade()

    def isolate(self) -> None:
        """In a process that a handler has forked, close the inherited copies of all sockets."""
        for holder in self.holders:
            holder.isolate_upgrade()
