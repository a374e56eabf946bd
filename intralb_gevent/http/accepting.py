"""Accept connections as plain sockets, not as gevent's sockets, because only the hub reads them."""

from __future__ import annotations

import _socket
import contextlib
import errno
import math
from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import WeakSet

from gevent import pywsgi

from ..config.options import Options
from ..policy.cannedresponses import TOO_MANY_CONNECTIONS
from .connection import Connection
from .context import ServerContext
from .lifetime import ConnectionLifetime
from .openfiles import OPEN_FILES, REFUSED_CONNECTIONS

__all__ = ["AcceptingServer"]

_OUT_OF_SOMETHING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

PAUSE_SECONDS = 0.1
"""Seconds for which no connections are accepted after descriptors or kernel memory ran out."""

REPORT_SECONDS = 10.0
"""A pause in accepting connections is logged only if the previous pause began more than this many seconds ago."""


class AcceptingServer(pywsgi.WSGIServer):
    """A gevent server that creates a `Connection` of this package for each socket that it accepts.

    If `own_connections` is false, gevent accepts and handles the connections.
    """

    socket: Any
    _do_read: Any
    _start_accepting_if_started: Any
    _timer: Any
    _watcher: Any
    _stop_event: Any
    _last_pause = -math.inf
    _listener_failed = False
    shared: ServerContext
    options: Options
    own_connections: bool
    _accepted: WeakSet[Any]
    """The sockets of connections that gevent handles."""
    _accepted_kind: tuple[int, int, int]
    """Family, type and protocol of accepted sockets."""

    @property
    def connections(self) -> set[ConnectionLifetime]:
        """The open connections."""
        return self.shared.connections

    def do_read(self) -> Any:
        """Accept one connection; return its plain socket and address, or None if no connection could be accepted."""
        if not self.own_connections:
            return super().do_read()
        try:
            descriptor, address = self.socket._accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _OUT_OF_SOMETHING:
                self._listener_failed = bool(self.is_fatal_error(error))
                raise
            self._pause_accepting(error)
            return None
        return self._plain(descriptor), address

    def _plain(self, descriptor: int) -> _socket.socket:
        accepted = _socket.socket(*self._accepted_kind, fileno=descriptor)
        accepted.setblocking(False)
        return accepted

    def replace_listener(self, replace: Callable[[int], bool]) -> bool:
        """Call a function that may replace the listener's descriptor by another listener; return its result."""
        # Accept the clients in the backlog, which the replaced listener would reset.
        self._take_in()
        accepting = self._watcher is not None or self._timer is not None
        self.stop_accepting()
        try:
            return replace(self.socket.fileno())
        finally:
            # The event loop would not notice by itself that the descriptor has another listener.
            if accepting:
                self.start_accepting()

    def _pause_accepting(self, error: OSError) -> None:
        """Stop accepting for `PAUSE_SECONDS` when descriptors or memory run out; clients then wait in the backlog."""
        now = monotonic()
        if now - self._last_pause > REPORT_SECONDS:
            self.shared.report(
                "accepts", f"not accepting connections: {error.strerror}; raise the limit of open files (ulimit -n)"
            )
        self._last_pause = now
        self.stop_accepting()
        self._timer = self.loop.timer(PAUSE_SECONDS)
        self._timer.start(self._start_accepting_if_started)

    def do_handle(self, *args: Any) -> None:
        """Handle an accepted connection."""
        if self.own_connections:
            self._look_after(Connection(self.shared, *args), args[0].fileno())
        else:
            self._accepted.add(args[0])
            super().do_handle(*args)

    def _look_after(self, connection: Connection, descriptor: int) -> None:
        beyond = max(len(self.connections) - self.options.max_connections, descriptor - OPEN_FILES.clients_end)
        self.connections.add(connection)
        self.shared.stats.accepted += 1
        if beyond >= 0:
            connection.end_cause = "limit"
        if beyond >= min(REFUSED_CONNECTIONS, OPEN_FILES.refused):
            connection.close()
        elif beyond >= 0:
            connection.refuse(TOO_MANY_CONNECTIONS.not_executed(len(self.connections)))

    def _take_in(self) -> None:
        for _ in range(self.backlog // self.max_accept + 1):
            if self._listener_failed:
                break
            self._do_read()

    def _close_behind_last(self, listener: Any) -> None:
        """Accept all clients in the backlog, close the listener without delay, and only then handle the connections."""
        accepted: list[tuple[int, Any]] = []
        with contextlib.suppress(OSError):
            while not self._listener_failed and len(accepted) < self.backlog:
                accepted.append(listener._accept())
        listener.close()
        for descriptor, address in accepted:
            self.do_handle(self._plain(descriptor), address)
