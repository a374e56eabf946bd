"""The state that all connections of a server share: the entry point for requests, limits, buffers, budgets and logs.

The shared state also signals when the last connection of a closing server has closed.
"""

from __future__ import annotations

import logging
import math
import ssl
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gevent.event import Event

from ..config.options import Options
from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..hub.repeats import Repeats
from ..pool.balancer import LoadBalancer
from ..pool.classify import environ_key
from ..pool.exchange import Exchange
from ..pool.job import Job
from ..quoting import quoted
from .body import BodyBudget
from .loadheader import LoadHeader
from .middleware import MiddlewareEntry
from .outbox import OutputBudget
from .owner import Mover, Rescuer
from .parsingtime import ParsingTurns
from .proxy.trusted import Strangers, TrustedNetworks

if TYPE_CHECKING:
    from .input import Input
    from .lifetime import ConnectionLifetime
    from .output import Output

__all__ = ["RECEIVE_BYTES", "ServerContext"]

RECEIVE_BYTES: Final = 256 * 1024
"""Maximum bytes per read while at least as many bytes are still missing from a body with a Content-Length."""

SHORT_RECEIVE_BYTES: Final = 64 * 1024
"""Maximum bytes per read in all other cases; the limit is lower, because unparsed bytes stay in memory."""

_DROPPED: Final = (
    "header {!r} of the application is not sent, as only the server may send hop-by-hop headers (PEP 3333); "
    "this is logged once"
)


class ServerContext:
    """The state that all connections of a server share.

    The server's constructor creates the context; `init_socket` sets `loop` and `environ` before the first connection.
    """

    __slots__ = (
        "_all_closed",
        "_dropped_headers",
        "_log",
        "_repeats",
        "balancer",
        "bodies",
        "body_timeout_seconds",
        "budget",
        "buffer",
        "closing",
        "connections",
        "contended",
        "environ",
        "flush_queue",
        "has_middleware",
        "header_timeout_seconds",
        "in_transit",
        "intake",
        "keep_alive_seconds",
        "kept_until",
        "load_header",
        "loop",
        "mover",
        "nameless",
        "options",
        "parsing_turns",
        "priority_key",
        "reading",
        "request_log",
        "rescuer",
        "root_path",
        "sending",
        "short_buffer",
        "stats",
        "strangers",
        "streams_bodies",
        "submit",
        "tls",
        "trusted_proxies",
        "trusts_proxies",
        "write_timeout_seconds",
    )

    def __init__(
        self, balancer: LoadBalancer, entry: LoadBalancer | MiddlewareEntry, budget: OutputBudget, bodies: BodyBudget
    ) -> None:
        # This method is long because every attribute is declared here.
        self.balancer = balancer
        self.intake = balancer.intake
        # Unless a subclass overrides `LoadBalancer.submit`, call the intake directly, which saves one call per request.
        replaced = entry is not balancer or type(balancer).submit is not LoadBalancer.submit
        self.submit: Callable[[dict[str, Any], Exchange], Job | None] = (
            entry.submit if replaced else balancer.intake.submit
        )
        """The function that submits a request; it returns a job, or None if middleware is in front of the balancer."""
        self.has_middleware = entry is not balancer
        """True if middleware runs in front of the balancer, and decides which requests the balancer receives."""
        self.flush_queue = self.intake.context.flush_queue
        self.stats = self.intake.context.connections
        self.contended = self.intake.context.contended
        """The admission controls that have left their fast path; see `LaneContext.contended`."""
        """The totals over the connections of all servers of the balancer."""
        self.options: Options = balancer.options
        self.header_timeout_seconds: float = self.options.header_timeout_seconds
        self.body_timeout_seconds: float = self.options.body_timeout_seconds
        self.keep_alive_seconds: float = self.options.keep_alive_seconds
        self.write_timeout_seconds: float = self.options.write_timeout_seconds
        self.trusted_proxies = TrustedNetworks(self.options.trusted_proxies)
        self.trusts_proxies = bool(self.trusted_proxies)
        self.priority_key = environ_key(self.options.priority_header) if self.options.priority_header else None
        """The environ key of the header field in which a trusted proxy sets a request's priority, or None."""
        self.strangers = Strangers(partial(self.report, "stranger"))
        self.nameless = False
        """True if the server's address has no name, as on a unix socket."""
        self.root_path = self.options.root_path or ""
        self.streams_bodies = any(route.stream_request_bodies for route in self.options.routes)
        """True if any route calls its application before the body of a request has arrived."""
        self.budget = budget
        self.bodies = bodies
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        """The buffer into which the hub reads the data of all connections without TLS."""
        self.short_buffer = self.buffer[:SHORT_RECEIVE_BYTES]
        self.parsing_turns = ParsingTurns()
        self.loop: Any = None
        self.kept_until = -math.inf
        """The time, in `time.monotonic()` seconds, at which the sweep last found that the loop was blocked."""
        self.environ: dict[str, Any] = {}
        """The template of every request's environ."""
        self.tls: ssl.SSLContext | None = None
        self.request_log: HubLog | None = None
        """The log of all answered requests; None if no `log` was passed to the server."""
        self.load_header = LoadHeader(self.intake.context.load) if self.options.orca else None
        """The header that reports the load in each response; None without the option `orca`."""
        self.closing = False
        """True once every connection must close after its current response."""
        self.connections: set[ConnectionLifetime] = set()
        self.reading: set[Input] = set()
        """The inputs that have received an incomplete request; `count_reading` removes inputs with complete requests.

        An input is added only if a request arrives in several pieces, so that other requests cost nothing.
        """
        self.sending: set[Output] = set()
        """The outputs with data that the kernel has not accepted yet."""
        self.in_transit = 0
        """Number of connections that were sent to another process, but not yet confirmed or refused by that process."""
        self.mover: Mover | None = None
        """The object that moves a closing server's idle connections to other processes; None if they cannot move."""
        self.rescuer: Rescuer | None = None
        """The object that moves requests to other processes while this one is full; None if requests cannot move."""
        self._all_closed = Event()
        self._dropped_headers: set[str] = set()
        """Names of the application's hop-by-hop headers that have already been reported."""
        self._log = HubLog(LOGGER.log)
        self._repeats = Repeats(self._log)

    def __repr__(self) -> str:
        return f"<ServerContext of {len(self.connections)} connections{', closing' if self.closing else ''}>"

    def count_reading(self) -> int:
        """Return the number of connections with an incomplete request, and remove all other inputs from `reading`."""
        self.reading = {each for each in self.reading if not each.idle}
        return len(self.reading)

    def closed(self, connection: ConnectionLifetime) -> None:
        """Remove a connection that has closed."""
        self.connections.discard(connection)
        self.look_whether_all_closed()

    def look_whether_all_closed(self) -> None:
        """Wake `wait_until_all_closed` if the server is closing and no connection remains."""
        if self.closing and not self.connections and not self.in_transit:
            self._all_closed.set()

    def wait_until_all_closed(self, timeout: float) -> None:
        """Wait until no connection remains, for at most `timeout` seconds; `closing` must be true."""
        self._all_closed.clear()
        if self.connections or self.in_transit:
            self._all_closed.wait(timeout)

    def report(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log a line without blocking the hub; after too many lines of one kind in a short time, only count it.

        The line must not contain data from a client.
        """
        self._repeats.record(kind, level, lambda: text)

    def report_dropped(self, names: Iterable[str]) -> None:
        """Log, once for each header name, that the application's header of this name is not sent."""
        for name in names:
            if name not in self._dropped_headers:
                self._dropped_headers.add(name)
                self._log.record(logging.WARNING, partial(_DROPPED.format, name))

    def warn(self, kind: str, text: str) -> None:
        """Log a warning as `report` does, but with text that may contain client data, escaped by `shown`."""
        self._repeats.record(kind, logging.WARNING, lambda: text)

    def report_bug(self, culprit: object) -> None:
        """Log the current exception, which was raised in the hub, as a bug in this package."""
        text = quoted(traceback.format_exc())
        report_text = f"closed {culprit!r} because of a bug in intralb_gevent:\n{text}"
        self._repeats.record("bug", logging.ERROR, lambda: report_text)

    def flush_logs(self, timeout: float) -> None:
        """Wait until all log records are written, at most `timeout` seconds for each log."""
        self._repeats.flush()
        for log in filter(None, (self._log, self.request_log)):
            log.flush(timeout)
