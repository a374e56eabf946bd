"""What probes and programs may ask of a running balancer, on a listener of its own.

The requests take no slot, so a probe does not wait behind traffic, and they change nothing. Connections are looked
after like those of clients, with narrower bounds: whoever can reach the listener can neither keep the event loop nor
take the process's open files. It is for operators all the same; bind it where clients cannot reach it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final, Protocol

import gevent

from ..http.connection import Connection
from ..http.front import Front
from ..http.response import Response
from ..http.server import WSGIServer
from ..options import Options
from ..pool.balancer import LoadBalancer
from ..pool.exchange import Exchange
from ..pool.forks import FORKS
from .snapshot import Snapshot

__all__ = ["AdminServer"]

_BREAK_RATIO: Final = 9
"""After each answer comes a break of so many times its duration: all together take a tenth of the loop's time."""

_LONGEST_BREAK_SECONDS: Final = 0.05
"""An answer may last long because the process was not running; probes must not wait for that."""


class Observed(Protocol):
    """What can be looked at: a balancer."""

    def snapshot(self) -> Snapshot:
        """Return one frozen picture of the whole."""


class _OneByOne(Front):
    """Answers one request at a time, and lets the event loop do everything else that is due before the next."""

    def __init__(self, application: Any, balancer: LoadBalancer) -> None:
        super().__init__(application, balancer)
        self._waiting: deque[tuple[dict[str, Any], Exchange]] = deque()
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> None:
        """Have a request answered; never waits."""
        self._waiting.append((environ, exchange))
        # A handler may have killed all greenlets that it found.
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.spawn(self._answer_all)

    def _answer_all(self) -> None:
        while self._waiting:
            environ, exchange = self._waiting.popleft()
            if isinstance(exchange, Response) and exchange.lost:
                # Skipped without a break, for many may come and go in one.
                continue
            began = monotonic()
            self._run(environ, exchange)
            gevent.sleep(min(_BREAK_RATIO * (monotonic() - began), _LONGEST_BREAK_SECONDS))


class AdminServer(WSGIServer):
    """Answers `/live` (200 while the loop turns), `/ready` (200, or 503 from the first signal on) and `/snapshot`.

    `/snapshot` is JSON with the fields of `observe.snapshot.Snapshot`. Give it the listener of a `gevent.pywsgi`
    server and a balancer; start and stop it like any server of gevent. Requests have no bodies.
    """

    MOST_CONNECTIONS = 32
    """With one more, the oldest is closed: a probe asks as soon as it is connected, and may connect again."""

    SILENT_SECONDS = 75.0
    """How long a connection may be idle, a head may take, and nothing of an answer be taken."""

    MOST_UNSENT_BYTES = 256 * 1024
    """What a client may leave unread of its answers, beyond what the system keeps; then it is cut."""

    max_accept = 8
    """Fewer than `MOST_CONNECTIONS`, so that those that are accepted together are read before one of them is closed."""

    def __init__(self, listener: Any, balancer: Observed) -> None:
        self._observed = balancer
        # Of this balancer only the options are used: it is not started, and has no slots.
        super().__init__(listener, self._answer, log=None, balancer=LoadBalancer(self._answer, self._bounds()))
        self.shared.submit = _OneByOne(self._answer, self.balancer).submit
        self._in_order: list[Connection] = []
        # Probes may come through a proxy, and who asks does not matter.
        self.shared.strangers.watching = False

    def _bounds(self) -> Options:
        return Options(
            max_connections=self.MOST_CONNECTIONS,
            max_body_bytes=0,
            keep_alive_seconds=self.SILENT_SECONDS,
            header_timeout_seconds=self.SILENT_SECONDS,
            write_timeout_seconds=self.SILENT_SECONDS,
        )

    def __repr__(self) -> str:
        return f"<AdminServer at {self.address} of {self._observed!r}>"

    def close(self) -> None:
        """Stop accepting, and close the listener and all connections."""
        super().close()
        for connection in self._in_order:
            connection.close()
        FORKS.serving.discard(self)

    def _open(self) -> None:
        """Do nothing: its connections may have the open files that are kept from clients, and need no slots."""

    def _look_after(self, connection: Connection, descriptor: int) -> None:
        self._in_order = [each for each in self._in_order if not each.closed]
        if len(self._in_order) >= self.MOST_CONNECTIONS:
            self._in_order.pop(0).close()
        self._in_order.append(connection)
        self.connections.add(connection)

    def _sweep(self) -> None:
        for connection in [each for each in self.connections if each.unsent > self.MOST_UNSENT_BYTES]:
            connection.close()
        super()._sweep()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        pages = {"/live": self._live, "/ready": self._ready, "/snapshot": self._snapshot}
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
        status = "200 OK" if condition == "serving" else "503 Service Unavailable"
        return status, "text/plain", f"{condition}\n"

    def _snapshot(self) -> tuple[str, str, str]:
        return "200 OK", "application/json", json.dumps(self._observed.snapshot().as_dict(), indent=1) + "\n"

    def _index(self) -> tuple[str, str, str]:
        return "404 Not Found", "text/plain", "There are /live, /ready and /snapshot.\n"
