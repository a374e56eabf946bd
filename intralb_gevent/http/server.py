"""The server: gevent's `pywsgi.WSGIServer` with this package's connections in place of gevent's handlers.

This module starts and stops the server; `accepting.py` accepts connections. If the user passes a `handler_class`,
gevent handles the connections.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any
from weakref import WeakSet

import gevent
from gevent import pywsgi
from gevent.exceptions import LoopExit

from ..errors import OptionError
from ..hub.forks import FORKS, close_copy
from ..hub.log import HubLog
from ..policy.cannedresponses import DRAINING
from ..pool.balancer import LoadBalancer
from ..pool.cutlog import SHUTTING_DOWN
from ..pool.exchange import Application
from ..process.outlet import outlet_of
from ..process.signals import SIGNALS
from ..process.strays import Strays
from ..siblings.sockets import listener_number
from ..siblings.source import Siblings
from ..supervise.table import OwnRow
from .accepting import AcceptingServer
from .authority import DEFAULT_PORTS
from .body import BodyBudget
from .context import ServerContext
from .filewrapper import FileWrapper
from .hints import early_hints
from .middleware import MiddlewareEntry
from .openfiles import OPEN_FILES
from .outbox import OutputBudget
from .requesthead import SET_BY_EVERY_REQUEST
from .rescue import Rescue
from .responsehead import SERVER
from .sharing import Sharing
from .shutdown import Shutdown, graceful_shutdown
from .sweep import Sweep
from .tlscontext import tls_context
from .unpatched import warn_if_unpatched

__all__ = ["WSGIServer", "graceful_shutdown"]


UNSENT_IN_MEMORY_BYTES = 64 * 1024 * 1024
"""Maximum bytes of unsent responses in memory, over all connections of a server; more bytes go to temporary files."""

BODIES_IN_MEMORY_BYTES = 32 * 1024 * 1024
"""Maximum bytes of large request bodies in memory, over all connections of a server.

The limit is high, because writing a body to a file takes longer than handling a request.
"""

REFUSED_SECONDS = 0.5
"""Seconds that a stopping server gives clients to read the rejections of their incomplete requests."""

ASKING_SECONDS = 1.0
"""Maximum seconds for which a stopping server waits for the first requests of new connections.

The server never waits for more than half of the time that remains for the shutdown.
"""


class WSGIServer(AcceptingServer):
    """A `gevent.pywsgi.WSGIServer` whose requests go through a `LoadBalancer`.

    The server takes the arguments of its base class. `application` is a `LoadBalancer` or a plain WSGI application. For
    a plain application, the server creates a balancer with default options. To put middleware in front of a balancer,
    pass both objects: `WSGIServer(listener, middleware(balancer), balancer=balancer)`. Middleware runs in one greenlet
    per request and occupies no slot. The hub handles all connections, including TLS, so `spawn` has no effect. With a
    `handler_class`, gevent handles the connections and calls the balancer as its application.
    """

    backlog = 1024
    base_env = {**pywsgi.WSGIServer.base_env, "SERVER_SOFTWARE": SERVER, "wsgi.multithread": True}  # noqa: RUF012

    SWEEP_SECONDS = 0.5
    """Interval in seconds of the checks for connections that have timed out."""

    shutdown: Shutdown | None = None
    """The shutdown that `graceful_shutdown` has set up for this server; None until then."""
    _sweeper: Sweep | None = None
    siblings_listen: Callable[[], bool] = staticmethod(lambda: False)
    """Function that returns whether other processes continue to accept from this listener when the server stops."""
    siblings: Callable[[int], Siblings] | None = None
    """Function that returns the other processes that accept from the listener with a given inode number.

    If this function is set, the server exchanges connections with the processes that the function returns. Set the
    function before the server starts.
    """
    _sharing = Sharing()

    def __init__(
        self,
        listener: Any,
        application: LoadBalancer | Application | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        log: Any = "default",
        error_log: Any = "default",
        handler_class: Any = None,
        environ: dict[str, Any] | None = None,
        *,
        balancer: LoadBalancer | None = None,
        **ssl_args: Any,
    ) -> None:
        if application is None:
            application = getattr(self, "application", None)
        application = self._take_application(application, balancer)
        self.options = self.balancer.options
        self.own_connections = handler_class is None
        if not self.own_connections:
            # Libraries such as simple-websocket recognize gevent's handler by this value, and then use its socket.
            self.base_env = {**self.base_env, "SERVER_SOFTWARE": pywsgi.WSGIServer.base_env["SERVER_SOFTWARE"]}
        self._accepted: WeakSet[Any] = WeakSet()
        """The sockets of connections that gevent handles."""
        if ssl_args and self.own_connections:
            self.shared.tls = tls_context(ssl_args)
            ssl_args = {"ssl_context": self.shared.tls}
        super().__init__(listener, application, backlog, spawn, log, error_log, handler_class, environ, **ssl_args)
        if log not in ("default", None):
            self.shared.request_log = HubLog(self._write_request)

    def _take_application(self, application: Any, balancer: LoadBalancer | None) -> Application:
        """Set the balancer and the shared state; return the application, which is the balancer or the middleware."""
        entry: LoadBalancer | MiddlewareEntry
        _check_balancer(balancer, application)
        if isinstance(application, LoadBalancer):
            entry = balancer = application
        elif balancer is None:
            entry = balancer = LoadBalancer(application)
        else:
            entry = MiddlewareEntry(application, balancer)
        self.balancer = balancer
        budget, bodies = OutputBudget(UNSENT_IN_MEMORY_BYTES), BodyBudget(BODIES_IN_MEMORY_BYTES)
        self.shared = ServerContext(balancer, entry, budget, bodies)
        return balancer if entry is balancer else application

    def __repr__(self) -> str:
        return f"<WSGIServer at {self.address}: {len(self.connections)} connections, {self.balancer!r}>"

    @property
    def connection_ratio(self) -> float:
        """Number of open connections divided by the maximum, at which the server rejects new connections."""
        return len(self.connections) / max(1, min(self.options.max_connections, OPEN_FILES.clients_end))

    @property
    def closing(self) -> bool:
        """True once every connection must close after its current response."""
        return self.shared.closing

    # The life cycle of gevent's servers.

    def init_socket(self) -> None:
        """Bind and listen; accepted TCP connections inherit TCP_NODELAY from the listener."""
        super().init_socket()
        self._listener_failed = False
        self.socket.setblocking(False)
        if self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted_kind = (int(self.socket.family), int(self.socket.type), self.socket.proto)
        self.shared.loop = self.loop
        self.shared.environ = {
            **self.get_environ(),
            # Include the keys that every request sets: setting these keys in a copy then does not resize the dict.
            **dict.fromkeys(SET_BY_EVERY_REQUEST),
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.early_hints": early_hints,
        }

    def update_environ(self) -> None:
        """Set SERVER_NAME and SERVER_PORT; if the address has no name, each request sets both from its Host field."""
        super().update_environ()
        if not self.environ["SERVER_NAME"]:
            self.shared.nameless = True
            self.environ["SERVER_NAME"] = "localhost"
            self.environ["SERVER_PORT"] = DEFAULT_PORTS[self.environ["wsgi.url_scheme"]]

    def start(self) -> None:
        """Bind if necessary, and accept connections."""
        self.balancer.intake.require_own_thread()
        warn_if_unpatched()
        super().start()
        self.shared.closing = False
        self._open()
        FORKS.serving.add(self)
        self._sweeper = Sweep(self.shared, self.SWEEP_SECONDS, self._sweep)
        if self.siblings is not None and self.own_connections:
            self._sharing = Sharing.of(self.shared, listener_number(self.socket), self.siblings)

    def rescue_with(self, row: OwnRow) -> Rescue | None:
        """Begin to move requests that find no free slot to other processes; return None if requests cannot move."""
        return self._sharing.rescue_with(row)

    def _open(self) -> None:
        """Divide the limit on open files between clients and other uses, then let the balancer admit requests."""
        OPEN_FILES.share_out(self.options)
        self.balancer.intake.attach(self)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until stopped. Exit with code 1 after a graceful shutdown that cut a request or followed an exception.

        While the server runs, a SystemExit, KeyboardInterrupt or SystemError in a greenlet or timer is logged, and does
        not stop the server.
        """
        if self.shutdown is not None and self.shutdown.over and not self.shutdown.ends_process:
            # Start again: an earlier shutdown has stopped this server, but not the process.
            self.shutdown = None
        if not self.started and (self.shutdown is None or not self.shutdown.begun):
            self.start()
        SIGNALS.watch()
        SIGNALS.serving += 1
        try:
            with Strays(gevent.get_hub(), None if self.shutdown is None else self.shutdown.fail):
                self._serve_until_stopped(stop_timeout)
        finally:
            SIGNALS.serving -= 1
        if self.shutdown is not None and (self.shutdown.cut or self.shutdown.failed):
            raise SystemExit(1)

    def _serve_until_stopped(self, stop_timeout: float | None) -> None:
        if self.shutdown is None or gevent.getcurrent().parent is not None:
            super().serve_forever(stop_timeout)
            return
        waiting_for: Callable[[], object] = self._stop_event.wait
        while not self.shutdown.over:
            try:
                waiting_for()
                waiting_for = gevent.spawn(self.stop, stop_timeout).join
                waiting_for()
                return
            except BaseException as error:
                # A second exception must not cut the shutdown short, unless the event loop cannot run any more.
                if isinstance(error, LoopExit) and self.shutdown.failed:
                    raise
                self.shutdown.fail(error)

    def close(self) -> None:
        """Accept the clients that have already connected, then close the listener.

        If other processes accept from the same listener, these processes accept the clients instead. gevent also calls
        this method from `_do_read` after a permanent error of the listener, when no client waits.
        """
        if not (self.own_connections and self.started):
            super().close()
            return
        # Close the plain socket now. gevent would close the descriptor only in the next iteration of the event loop,
        # and the kernel would reset all clients that connect until then.
        listener = getattr(self.socket, "_sock", self.socket)
        if self.siblings_listen():
            super().close()
            listener.close()
            return
        self._take_in()
        super().close()
        self._close_behind_last(listener)

    def stop(self, timeout: float | None = None) -> None:
        """Close the listener, and cut requests that still run after `timeout` seconds (default `stop_timeout`).

        If no other server uses the balancer, the balancer is drained, too. Do not call this method in the hub, because
        the method waits.
        """
        if self.shutdown is not None and self.shutdown.begun:
            self.shutdown.wait()
        elif not self.closing:
            self.finish(monotonic() + (self.stop_timeout if timeout is None else timeout))

    def finish(self, deadline: float) -> int:
        """Stop the server by `deadline`, in `time.monotonic()` seconds; return how many requests were cut."""
        self._leave_to_siblings(deadline)
        self._close_idle(spares_new=True)
        self.shared.wait_until_all_closed(min(ASKING_SECONDS, max(0.0, deadline - monotonic()) / 2))
        self._close_idle(spares_new=False)
        self.shared.wait_until_all_closed(max(0.0, deadline - monotonic()))
        last = self.balancer.intake.detach(self)
        cut = self.balancer.drain(max(0.0, deadline - monotonic())) if last else 0
        gevent.sleep(0)
        self._refuse_unfinished()
        self._sharing.end()
        cut += sum(connection.unsent > 0 for connection in self.connections)
        for connection in list(self.connections):
            connection.report_cut(SHUTTING_DOWN)
            connection.close()
        if self._sweeper is not None:
            self._sweeper.stop()
        FORKS.serving.discard(self)
        self.shared.flush_logs(max(0.0, deadline - monotonic()))
        return cut

    def _leave_to_siblings(self, deadline: float) -> None:
        """Stop accepting and receiving connections; if other processes accept clients, move idle connections there."""
        if self.siblings_listen():
            self._sharing.wait_until_accepted(deadline)
        # Stop receiving first: a process that stops at the same time must not regard this process as its successor.
        self._sharing.stop_receiving()
        shares = self.siblings_listen()
        self.close()
        self.shared.closing = True
        if shares and deadline > monotonic():
            self._sharing.hand_over()

    def _close_idle(self, spares_new: bool) -> None:
        """Close each connection once it is idle; with `spares_new`, exempt connections without any request so far."""
        for connection in list(self.connections):
            connection.closing = True
            if not (spares_new and connection.new):
                connection.close_if_idle()

    def _refuse_unfinished(self) -> None:
        """Reject all incomplete requests, and give the clients time to read the rejections."""
        answers = (DRAINING.not_executed(number) for number in count())
        refused = [each for each in list(self.connections) if each.refuse_unfinished(next(answers))]
        if refused:
            self.shared.wait_until_all_closed(REFUSED_SECONDS)

    def isolate(self) -> None:
        """In a child process that a handler has forked, close the inherited copies of all sockets."""
        # During a shutdown, gevent has already closed and removed the listener.
        close_copy(getattr(self, "socket", None))
        self._sharing.isolate()
        for connection in self.connections:
            connection.isolate()
        for accepted in self._accepted:
            close_copy(accepted)

    # Connections.

    def _sweep(self) -> None:
        now = monotonic()
        for connection in [connection for connection in self.connections if connection.expires <= now]:
            connection.expire()

    def _write_request(self, level: int, line: str) -> None:
        stream: Any = self.log
        outlet = outlet_of(stream)
        if outlet is None:
            stream.write(line)
        else:
            outlet.write(line.encode(stream.encoding, "backslashreplace"))


def _check_balancer(balancer: Any, application: Any) -> None:
    """Raise OptionError unless `balancer` can be the balancer behind this application."""
    if balancer is None:
        return
    if not isinstance(balancer, LoadBalancer):
        raise OptionError(f"balancer: {balancer!r} is not allowed; it must be the LoadBalancer behind the middleware")
    if isinstance(application, LoadBalancer) and application is not balancer:
        raise OptionError(
            f"balancer: {balancer!r} is not allowed, because the application is another LoadBalancer; leave it out"
        )
