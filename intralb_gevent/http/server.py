"""The server: gevent's `pywsgi.WSGIServer` outside, our own connections inside.

Decides which connections are ours (all but those with a handler class of the user's) and how a server starts and stops.
It must not know HTTP.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import math
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
from ..policy.answers import DRAINING, TOO_MANY_CONNECTIONS
from ..pool.balancer import LoadBalancer
from ..pool.cutlog import SHUTTING_DOWN
from ..pool.exchange import Application
from ..pool.forks import FORKS, close_copy
from ..pool.hublog import HubLog
from ..process.outlet import outlet_of
from ..process.signals import SIGNALS
from ..process.strays import Strays
from .authority import DEFAULT_PORTS
from .connection import Connection
from .filewrapper import FileWrapper
from .framing import SERVER
from .front import Front
from .hints import early_hints
from .limits import BODIES_IN_MEMORY_BYTES, REFUSED_CONNECTIONS, UNSENT_IN_MEMORY_BYTES
from .openfiles import OPEN_FILES
from .outbox import OutputBudget
from .parser import BodyBudget
from .shared import Shared
from .shutdown import Shutdown, graceful_shutdown
from .sweep import Sweep
from .tls import tls_context

__all__ = ["WSGIServer", "graceful_shutdown"]


_OUT_OF_SOMETHING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

PAUSE_SECONDS = 0.1
"""How long no connection is accepted after the system had nothing left for one."""

REFUSED_SECONDS = 0.5
"""How long clients whose requests have not arrived in time may read that, when the server stops."""

ASKING_SECONDS = 1.0
"""How long a connection on which nothing was asked yet stays open when the server stops, or half of the grace."""

REPORT_SECONDS = 10.0
"""How long it must have gone well before that is logged again."""

_SET_BY_EVERY_REQUEST = (
    *("REQUEST_METHOD", "RAW_URI", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL"),
    *("REMOTE_ADDR", "REMOTE_PORT", "wsgi.input"),
    *("intralb.deadline", "intralb.client_disconnected", "intralb.worker"),
)


class WSGIServer(pywsgi.WSGIServer):
    """A `gevent.pywsgi.WSGIServer` whose requests go through a `LoadBalancer`.

    Takes the arguments of its base class; `application` is a `LoadBalancer` or a plain WSGI application, which gets
    one with default options. Middleware in front of a balancer is given together with it,
    `WSGIServer(listener, middleware(balancer), balancer=balancer)`: it runs in a greenlet for each request and holds no
    slot. Connections are looked after by the hub, with TLS too, so `spawn` has no part in them. With a
    `handler_class` connections take gevent's own way, with the balancer behind it.
    """

    backlog = 1024
    base_env = {**pywsgi.WSGIServer.base_env, "SERVER_SOFTWARE": SERVER, "wsgi.multithread": True}  # noqa: RUF012

    SWEEP_SECONDS = 0.5
    """How often connections are looked at for clients that have taken too long."""

    socket: Any
    _do_read: Any
    _start_accepting_if_started: Any
    _timer: Any
    _stop_event: Any
    _last_pause = -math.inf
    _listener_failed = False
    shutdown: Shutdown | None = None
    """What `graceful_shutdown` has prepared."""
    _sweeper: Sweep | None = None

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
            # Libraries tell by it where gevent's handler keeps the socket.
            self.base_env = {**self.base_env, "SERVER_SOFTWARE": pywsgi.WSGIServer.base_env["SERVER_SOFTWARE"]}
        self._accepted: WeakSet[Any] = WeakSet()
        """The sockets of connections that are not ours."""
        if ssl_args and self.own_connections:
            self.shared.tls = tls_context(ssl_args)
            ssl_args = {"ssl_context": self.shared.tls}
        super().__init__(listener, application, backlog, spawn, log, error_log, handler_class, environ, **ssl_args)
        if log not in ("default", None):
            self.shared.request_log = HubLog(self._write_request)

    def _take_application(self, application: Any, balancer: LoadBalancer | None) -> Application:
        """Find the balancer, and return what is to be called for a request: it, or what stands in front of it."""
        entry: LoadBalancer | Front
        _check_balancer(balancer, application)
        if isinstance(application, LoadBalancer):
            entry = balancer = application
        elif balancer is None:
            entry = balancer = LoadBalancer(application)
        else:
            entry = Front(application, balancer)
        self.balancer = balancer
        budget, bodies = OutputBudget(UNSENT_IN_MEMORY_BYTES), BodyBudget(BODIES_IN_MEMORY_BYTES)
        self.shared = Shared(balancer, entry, budget, bodies)
        return balancer if entry is balancer else application

    def __repr__(self) -> str:
        return f"<WSGIServer at {self.address}: {len(self.connections)} connections, {self.balancer!r}>"

    @property
    def connections(self) -> set[Connection]:
        """The connections that are open."""
        return self.shared.connections

    @property
    def closing(self) -> bool:
        """Whether every connection is closed after its present response."""
        return self.shared.closing

    # The life cycle of gevent's servers.

    def init_socket(self) -> None:
        """Bind and listen; small answers leave at once, on every connection accepted here."""
        super().init_socket()
        self._listener_failed = False
        self.socket.setblocking(False)
        if self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted_kind = (int(self.socket.family), int(self.socket.type), self.socket.proto)
        self.shared.loop = self.loop
        self.shared.environ = {
            **self.get_environ(),
            # Every request sets these; being here, they do not make its copy grow.
            **dict.fromkeys(_SET_BY_EVERY_REQUEST),
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.early_hints": early_hints,
        }

    def update_environ(self) -> None:
        """Fill in the server's name and port: where its address has none, those of the Host field come instead."""
        super().update_environ()
        if not self.environ["SERVER_NAME"]:
            self.shared.nameless = True
            self.environ["SERVER_NAME"] = "localhost"
            self.environ["SERVER_PORT"] = DEFAULT_PORTS[self.environ["wsgi.url_scheme"]]

    def start(self) -> None:
        """Bind if need be, and accept connections."""
        self.balancer.require_own_thread()
        super().start()
        self.shared.closing = False
        self._open()
        FORKS.serving.add(self)
        self._sweeper = Sweep(self.shared, self.SWEEP_SECONDS, self._sweep)

    def _open(self) -> None:
        """Have the balancer admit requests, from no more connections than the limit of open files allows."""
        OPEN_FILES.share_out(self.options)
        self.balancer.open_for(self)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until stopped; after a graceful shutdown that cut something, exit with code 1.

        Meanwhile SystemExit, KeyboardInterrupt and SystemError of greenlets and timers are logged, and end nothing.
        """
        if self.shutdown is not None and self.shutdown.over and not self.shutdown.ends_process:
            # It has ended an earlier life of this server, not the process.
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
                # Another one must not cut the shutdown short; but a loop that cannot run at all never ends it.
                if isinstance(error, LoopExit) and self.shutdown.failed:
                    raise
                self.shutdown.fail(error)

    def close(self) -> None:
        """Stop accepting and close the listener, having taken in what clients had already connected.

        gevent calls this, too, from `_do_read`, when the listener has failed for good: then there is nothing to take.
        """
        if not (self.own_connections and self.started):
            super().close()
            return
        # A socket of gevent's keeps its descriptor until the loop's next iteration; who connects until then is reset.
        listener = getattr(self.socket, "_sock", self.socket)
        self._take_in()
        super().close()
        self._close_behind_last(listener)

    def _take_in(self) -> None:
        for _ in range(self.backlog // self.max_accept + 1):
            if self._listener_failed:
                break
            self._do_read()

    def _close_behind_last(self, listener: Any) -> None:
        """Close the listener right behind the last client that has connected, and take in those that have meanwhile."""
        accepted: list[tuple[int, Any]] = []
        with contextlib.suppress(OSError):
            while not self._listener_failed and len(accepted) < self.backlog:
                accepted.append(listener._accept())
        listener.close()
        for descriptor, address in accepted:
            self.do_handle(self._plain(descriptor), address)

    def stop(self, timeout: float | None = None) -> None:
        """Close the listener, let running requests finish for `timeout` seconds (default `stop_timeout`), cut the rest.

        The balancer is drained when no other server uses it. Waits, so it must not be called in the hub.
        """
        if self.shutdown is not None and self.shutdown.begun:
            self.shutdown.wait()
        elif not self.closing:
            self.finish(monotonic() + (self.stop_timeout if timeout is None else timeout))

    def finish(self, deadline: float) -> int:
        """Stop until `deadline`, in `time.monotonic()` seconds; return how many requests were cut."""
        self.close()
        self.shared.closing = True
        self._close_idle(spares_new=True)
        self.shared.wait_until_all_closed(min(ASKING_SECONDS, max(0.0, deadline - monotonic()) / 2))
        self._close_idle(spares_new=False)
        self.shared.wait_until_all_closed(max(0.0, deadline - monotonic()))
        last = self.balancer.close_for(self)
        cut = self.balancer.drain(max(0.0, deadline - monotonic())) if last else 0
        gevent.sleep(0)
        self._refuse_unfinished()
        cut += sum(connection.unsent > 0 for connection in self.connections)
        for connection in list(self.connections):
            connection.report_cut(SHUTTING_DOWN)
            connection.close()
        if self._sweeper is not None:
            self._sweeper.stop()
        FORKS.serving.discard(self)
        self.shared.flush_logs(max(0.0, deadline - monotonic()))
        return cut

    def _close_idle(self, spares_new: bool) -> None:
        """Have all connections close once they are idle; those that have not asked yet may have their moment first."""
        for connection in list(self.connections):
            connection.closing = True
            if not (spares_new and connection.new):
                connection.close_if_idle()

    def _refuse_unfinished(self) -> None:
        """Answer the clients whose requests have arrived in part, and give them a moment to read that."""
        answers = (DRAINING.not_executed(number) for number in count())
        refused = [each for each in list(self.connections) if each.refuse_unfinished(next(answers))]
        if refused:
            self.shared.wait_until_all_closed(REFUSED_SECONDS)

    def isolate(self) -> None:
        """Close the copies of all sockets in a process that a handler has forked."""
        close_copy(self.socket)
        for connection in self.connections:
            connection.isolate()
        for accepted in self._accepted:
            close_copy(accepted)

    # Connections.

    def do_read(self) -> Any:
        """Accept one connection; ours stay plain sockets, as only the hub reads them."""
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

    def _pause_accepting(self, error: OSError) -> None:
        """Out of descriptors or memory: the clients in the backlog wait until there may be some again."""
        now = monotonic()
        if now - self._last_pause > REPORT_SECONDS:
            self.shared.report(
                "accepts", f"accepts no connections for the moment: {error.strerror}; raise the limit of open files"
            )
        self._last_pause = now
        self.stop_accepting()
        self._timer = self.loop.timer(PAUSE_SECONDS)
        self._timer.start(self._start_accepting_if_started)

    def do_handle(self, *args: Any) -> None:
        """Look after an accepted connection."""
        if self.own_connections:
            self._look_after(Connection(self.shared, *args), args[0].fileno())
        else:
            self._accepted.add(args[0])
            super().do_handle(*args)

    def _look_after(self, connection: Connection, descriptor: int) -> None:
        beyond = max(len(self.connections) - self.options.max_connections, descriptor - OPEN_FILES.clients_end)
        self.connections.add(connection)
        if beyond >= min(REFUSED_CONNECTIONS, OPEN_FILES.refused):
            connection.close()
        elif beyond >= 0:
            connection.refuse(TOO_MANY_CONNECTIONS.not_executed(len(self.connections)))

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
    """Raise OptionError unless `balancer` can be the one that this application stands in front of."""
    if balancer is None:
        return
    if not isinstance(balancer, LoadBalancer):
        raise OptionError(f"balancer: {balancer!r} is not allowed; it must be the LoadBalancer behind the middleware")
    if isinstance(application, LoadBalancer) and application is not balancer:
        raise OptionError(
            f"balancer: {balancer!r} is not allowed beside an application that is another one; leave it out"
        )
