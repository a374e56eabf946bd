"""What all connections of a server have in common: where requests go, limits, buffers, budgets, and the log.

Decides nothing but when the last connection of a closing server is gone. It must not know what a connection does.
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

from ..options import Options
from ..pool.balancer import LoadBalancer
from ..pool.exchange import Exchange
from ..pool.hublog import HubLog
from ..pool.job import Job
from ..pool.loghandlers import LOGGER
from ..pool.origin import environ_key
from ..pool.repeats import Repeats
from ..quoting import quoted
from .front import Front
from .limits import RECEIVE_BYTES, SHORT_RECEIVE_BYTES
from .outbox import OutputBudget
from .parser import BodyBudget
from .parsingturns import ParsingTurns
from .proxies import Strangers, TrustedNetworks

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Shared"]

_DROPPED: Final = (
    "header {!r} of the application is not sent, as it concerns the connection, which is the server's (PEP 3333); "
    "this is logged once"
)


class Shared:
    """Made with its server, and ready for connections once it has the event loop and the environ."""

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
        "environ",
        "header_timeout_seconds",
        "in_front",
        "keep_alive_seconds",
        "kept_until",
        "loop",
        "nameless",
        "options",
        "parsing_turns",
        "priority_key",
        "request_log",
        "root_path",
        "short_buffer",
        "strangers",
        "streams_bodies",
        "submit",
        "tls",
        "trusted_proxies",
        "trusts_proxies",
        "turn_end",
        "write_timeout_seconds",
    )

    def __init__(
        self, balancer: LoadBalancer, entry: LoadBalancer | Front, budget: OutputBudget, bodies: BodyBudget
    ) -> None:
        self.balancer = balancer
        self.submit: Callable[[dict[str, Any], Exchange], Job | None] = entry.submit
        """Has a request answered; there is no job yet where an application stands in front of the balancer."""
        self.in_front = entry is not balancer
        """Whether one does: then only that knows what becomes of a request."""
        self.turn_end = balancer.turn_end
        self.options: Options = balancer.options
        self.header_timeout_seconds: float = self.options.header_timeout_seconds
        self.body_timeout_seconds: float = self.options.body_timeout_seconds
        self.keep_alive_seconds: float = self.options.keep_alive_seconds
        self.write_timeout_seconds: float = self.options.write_timeout_seconds
        self.trusted_proxies = TrustedNetworks(self.options.trusted_proxies)
        self.trusts_proxies = bool(self.trusted_proxies)
        self.priority_key = environ_key(self.options.priority_header) if self.options.priority_header else None
        """The environ's key for the field in which a trusted proxy sets the class of a request."""
        self.strangers = Strangers(partial(self.report, "stranger"))
        self.nameless = False
        """Whether the server's address has no name, as that of a unix socket."""
        self.root_path = self.options.root_path or ""
        self.streams_bodies = any(route.stream_request_bodies for route in self.options.routes)
        """Whether any route has its application called before the body of a request has arrived."""
        self.budget = budget
        self.bodies = bodies
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        """What the hub reads into, whichever connection it reads from."""
        self.short_buffer = self.buffer[:SHORT_RECEIVE_BYTES]
        self.parsing_turns = ParsingTurns()
        self.loop: Any = None
        self.kept_until = -math.inf
        """When, in `time.monotonic()` seconds, something had kept the event loop for long, most recently."""
        self.environ: dict[str, Any] = {}
        """What the environ of every request begins with."""
        self.tls: ssl.SSLContext | None = None
        self.request_log: HubLog | None = None
        """Where each answered request is told of, if a `log` was given."""
        self.closing = False
        """Whether every connection is to be closed after its present response."""
        self.connections: set[Connection] = set()
        self._all_closed = Event()
        self._dropped_headers: set[str] = set()
        """Names of hop-by-hop headers of the application that have been reported."""
        self._log = HubLog(LOGGER.log)
        self._repeats = Repeats(self._log)

    def __repr__(self) -> str:
        return f"<Shared by {len(self.connections)} connections{', closing' if self.closing else ''}>"

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if self.closing and not self.connections:
            self._all_closed.set()

    def wait_until_all_closed(self, timeout: float) -> None:
        """Wait until no connection is left; `closing` has been set."""
        self._all_closed.clear()
        if self.connections:
            self._all_closed.wait(timeout)

    def report(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log a line from the hub, or count it as one more of its kind; it must not show what a client sent."""
        self._repeats.record(kind, level, lambda: text)

    def report_dropped(self, names: Iterable[str]) -> None:
        """Log, once for each name, that a header of the application is not sent."""
        for name in names:
            if name not in self._dropped_headers:
                self._dropped_headers.add(name)
                self._log.record(logging.WARNING, partial(_DROPPED.format, name))

    def warn(self, kind: str, text: str) -> None:
        """Log a warning in the same way; it must show the client's own words only as `shown` writes them."""
        self._repeats.record(kind, logging.WARNING, lambda: text)

    def report_bug(self, connection: Connection) -> None:
        """Log, from the hub, an exception that should not have been."""
        text = quoted(traceback.format_exc())
        told = f"closed {connection!r} because of a bug in intralb_gevent:\n{text}"
        self._repeats.record("bug", logging.ERROR, lambda: told)

    def flush_logs(self, timeout: float) -> None:
        """Wait until all is written, so many seconds at most for each log."""
        self._repeats.flush()
        for log in filter(None, (self._log, self.request_log)):
            log.flush(timeout)
