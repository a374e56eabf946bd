"""Admin pages for probes and monitoring, served on a separate listener.

Requests for admin pages use no slot, so a probe does not wait behind other requests. Requests for admin pages change
nothing, except that the status page can end requests if the server was started with `--admin-actions`. The connections
of an admin listener have tight limits, so a client of this listener can neither block the event loop nor use up the
process's file descriptors. The pages are still meant for operators only, so bind the listener to an address that
clients cannot reach.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any, Final

import gevent

from ..config.options import Options
from ..http.connection import Connection
from ..http.middleware import MiddlewareEntry
from ..http.openfiles import OPEN_FILES
from ..http.response import Response
from ..http.server import WSGIServer
from ..hub.forks import FORKS
from ..pool.balancer import LoadBalancer
from ..pool.exchange import Exchange
from .metrics.collection import Collection
from .pages import UNSENT, StatusPages
from .siterow import SiteRow
from .siteview import SiteView

__all__ = ["AdminServer"]

_BREAK_RATIO: Final = 9
"""Pause after a response, as a multiple of the time that the response took: with 9, admin requests use at most a tenth
of the event loop's time."""

_LONGEST_BREAK_SECONDS: Final = 0.05
"""Maximum pause in seconds; otherwise, a response during which the process was suspended would cause a long pause."""


class _OneByOne(MiddlewareEntry):
    """Answers one request at a time; before the next request, the event loop runs all other code that is due."""

    def __init__(self, application: Any, balancer: LoadBalancer, pages: StatusPages) -> None:
        super().__init__(application, balancer)
        self._pages = pages
        self._waiting: deque[tuple[dict[str, Any], Exchange]] = deque()
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> None:
        """Queue a request for the greenlet that answers all requests; a viewer's stream gets a separate greenlet.

        This method never waits.
        """
        if self._pages.streams(environ) and isinstance(exchange, Response):
            environ[UNSENT] = lambda: exchange.passed - (exchange.sent or 0)
            super().submit(environ, exchange)
            return
        self._waiting.append((environ, exchange))
        # Start the greenlet if it is not running, or if a handler of the application has killed it.
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.spawn(self._answer_all)

    def _answer_all(self) -> None:
        while self._waiting:
            environ, exchange = self._waiting.popleft()
            if isinstance(exchange, Response) and exchange.lost:
                # Do not pause after skipping the request of a disconnected client, because many clients may have
                # disconnected.
                continue
            began = monotonic()
            self._run(environ, exchange)
            gevent.sleep(min(_BREAK_RATIO * (monotonic() - began), _LONGEST_BREAK_SECONDS))


class AdminServer(WSGIServer):
    """Answers `/live` (200 while the event loop runs), `/ready` (200, or 503 during a shutdown) and `/snapshot`.

    `/` is the status page (docs/guides/page.md). `/metrics` has all metrics in the Prometheus text format, or as
    OpenMetrics if the client prefers it. `/snapshot` is JSON with the fields of `observe.snapshot.Snapshot`. With a
    supervisor, `/processes` lists the supervisor's processes. `/snapshot` then also has the sums over all processes, as
    `site`, and `/ready` is 200 while any process accepts requests. `listener` is any listener that a `gevent.pywsgi`
    server accepts. Start and stop this server like any server of gevent. Requests must not have bodies.
    """

    MOST_CONNECTIONS = 32
    """Maximum number of connections; when a further one is accepted, the oldest connection is closed. With a low limit
    of open files, the maximum is lower."""

    SILENT_SECONDS = 75.0
    """Timeout in seconds for an idle connection, for a request's head, and for a client that does not read."""

    MOST_UNSENT_BYTES = 256 * 1024
    """Maximum number of response bytes that wait outside the kernel's buffers; a client with more is disconnected."""

    max_accept = 3
    """Maximum number of connections accepted in one iteration of the event loop. Because this number is below any
    maximum of connections, each new connection is read before newer connections can displace it."""

    _processes_of_site: Callable[[], dict[str, Any]] | None = None

    _site: SiteRow | None = None

    def __init__(self, listener: Any, balancer: LoadBalancer) -> None:
        self._observed = balancer
        self.pages = StatusPages(balancer)
        self.metrics = Collection(balancer, lambda: {} if self.processes is None else self.processes())
        # The inner balancer only carries the options of this server; it is not started, and has no slots.
        super().__init__(listener, self._answer, log=None, balancer=LoadBalancer(self._answer, self._bounds()))
        self.shared.submit = _OneByOne(self._answer, self.balancer, self.pages).submit
        self._in_order: list[Connection] = []
        # Do not warn about untrusted proxies, because the client's address does not matter here.
        self.shared.strangers.watching = False

    def _bounds(self) -> Options:
        return Options(
            max_connections=self.MOST_CONNECTIONS,
            max_body_bytes=0,
            keep_alive_seconds=self.SILENT_SECONDS,
            header_timeout_seconds=self.SILENT_SECONDS,
            write_timeout_seconds=self.SILENT_SECONDS,
        )

    @property
    def processes(self) -> Callable[[], dict[str, Any]] | None:
        """Function that returns the state of the supervisor and its processes; None without a supervisor."""
        return self._processes_of_site

    @processes.setter
    def processes(self, processes: Callable[[], dict[str, Any]]) -> None:
        self._processes_of_site = self.pages.feed.site = processes

    @property
    def site(self) -> SiteRow | None:
        """This process's view of all processes of its site; None without a site."""
        return self._site

    @site.setter
    def site(self, site: SiteRow) -> None:
        self._site = site
        self.metrics.process, self.metrics.site = str(site.number), site.readings
        feed = self.pages.feed
        site.problems, feed.of_site = feed.problems, site.verdict
        feed.view = SiteView(site.row, feed.readings.history.series)

    def __repr__(self) -> str:
        return f"<AdminServer at {self.address} of {self._observed!r}>"

    def start(self) -> None:
        """Bind the listener if necessary, accept connections, and start to record the history."""
        super().start()
        self.pages.feed.start()

    def close(self) -> None:
        """Stop accepting connections, and close the listener and all connections."""
        super().close()
        self.pages.feed.stop()
        for connection in self._in_order:
            connection.close()
        FORKS.serving.discard(self)

    def _open(self) -> None:
        """Do nothing: admin connections may use reserved file descriptors, and their balancer is not started."""

    def _look_after(self, connection: Connection, descriptor: int) -> None:
        self._in_order = [each for each in self._in_order if not each.closed]
        if len(self._in_order) >= min(self.MOST_CONNECTIONS, OPEN_FILES.operators):
            self._in_order.pop(0).close()
        self._in_order.append(connection)
        self.connections.add(connection)

    def _sweep(self) -> None:
        for connection in [each for each in self.connections if each.unsent > self.MOST_UNSENT_BYTES]:
            connection.close()
        super()._sweep()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        if self.pages.has(environ["PATH_INFO"]):
            return self.pages.answer(environ, start_response)
        pages: dict[str, Callable[[], tuple[str, str, str]]] = {
            "/live": self._live,
            "/metrics": partial(self._metrics, environ.get("HTTP_ACCEPT", "")),
            "/ready": self._ready,
            "/snapshot": self._snapshot,
        }
        if self.processes is not None:
            pages["/processes"] = self._processes
        page = pages.get(environ["PATH_INFO"], self._index)
        status, kind, text = page()
        body = text.encode()
        start_response(
            status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        )
        return [body]

    def _live(self) -> tuple[str, str, str]:
        return "200 OK", "text/plain", "live\n"

    def _ready(self) -> tuple[str, str, str]:
        condition = self._observed.snapshot().condition
        if self.site is not None and self.site.serves():
            # The answer to a probe is about the site, which is ready while any of its processes accepts requests.
            condition = "serving"
        status = "200 OK" if condition == "serving" else "503 Service Unavailable"
        return status, "text/plain", f"{condition}\n"

    def _snapshot(self) -> tuple[str, str, str]:
        snapshot = self._observed.snapshot().as_dict()
        if self.site is not None:
            snapshot["site"] = self.site.summary()
        return "200 OK", "application/json", json.dumps(snapshot, indent=1) + "\n"

    def _metrics(self, accept: str) -> tuple[str, str, str]:
        return ("200 OK", *self.metrics.text(accept))

    def _processes(self) -> tuple[str, str, str]:
        state = {} if self.processes is None else self.processes()
        return "200 OK", "application/json", json.dumps(state, indent=1) + "\n"

    def _index(self) -> tuple[str, str, str]:
        more = "" if self.processes is None else ", /processes"
        known = f"/ (the status page), /live, /metrics, /ready{more} and /snapshot"
        return "404 Not Found", "text/plain", f"This path is unknown. The known paths are {known}.\n"
