"""Measures one kind of handler: starts our server, sends requests that exceed their deadlines, and stops the server.

Each kind declares how late its handlers are allowed to be aborted. The server must be idle before the next requests.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from ..common import LoadTestError
from ..common.client import Connection, Connections
from ..common.ours import OwnServer
from ..common.servers import clean_environment, missing_package
from .applications import ADDRESS_VARIABLE, REST

NO_ANSWER: Final = "no answer"
CUT: Final = "cut"
ANSWERED: Final = "504"
"""Expected status at the deadline. If the headers have already been sent, the result is `CUT` instead."""
LATEST_WAITING: Final = 0.025
LATEST_COMPUTING: Final = 0.05
"""Goals for waiting and for CPU-bound handlers: the maximum 99th percentile of the lateness, in seconds."""
HEADINGS: Final = ("Handlers that wait", "Handlers that compute", "Bodies that do not end")

_WAITING, _COMPUTING, _BODIES = HEADINGS
_APPLICATIONS: Final = "loadtests.deadlines"
_LOOK_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Service:
    """A database server that handlers wait for; the driver tests use the same address."""

    name: str
    variable: str
    default: str

    @property
    def address(self) -> str:
        """The URL of the server."""
        return os.environ.get(self.variable, self.default)

    def missing(self) -> str | None:
        """Return the server's address if it does not respond, or None."""
        url = urlsplit(self.address)
        try:
            socket.create_connection((url.hostname or "127.0.0.1", url.port or 0), _LOOK_SECONDS).close()
        except OSError:
            return f"{self.name} at {url.hostname}:{url.port} (set {self.variable} to another URL)"
        return None


@dataclass(frozen=True)
class Kind:
    """A kind of handler that never finishes."""

    name: str
    title: str
    heading: str
    application: str
    """The application in this package, as MODULE:NAME."""
    latest: float = LATEST_WAITING
    end: str = ANSWERED
    alone: bool = False
    """True if a handler uses a whole core, so that only one request at a time can be measured."""
    package: str = ""
    service: Service | None = None

    @property
    def reference(self) -> str:
        """The reference to the application on the server's command line."""
        return f"{_APPLICATIONS}.{self.application}"


_POSTGRESQL: Final = Service("PostgreSQL", "INTRALB_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")
_MARIADB: Final = Service("MariaDB", "INTRALB_TEST_MARIADB", "mysql://root@127.0.0.1:3306/test")


def _computing(name: str, title: str, application: str) -> Kind:
    return Kind(name, title, _COMPUTING, f"applications:{application}", LATEST_COMPUTING, alone=True)


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("socket", "socket, `recv`", _WAITING, "applications:receive"),
        Kind("sleep", "`time.sleep`", _WAITING, "applications:sleep"),
        Kind("lock", "`threading.Lock`", _WAITING, "applications:lock"),
        Kind("queue", "`queue.Queue.get`", _WAITING, "applications:take"),
        Kind("subprocess", "`subprocess.run`", _WAITING, "applications:process"),
        Kind("requests", "`requests.get`", _WAITING, "drivers:get", package="requests"),
        Kind(
            "psycopg",
            "psycopg, `pg_sleep`",
            _WAITING,
            "drivers:select_postgresql",
            package="psycopg",
            service=_POSTGRESQL,
        ),
        Kind("pymysql", "PyMySQL, `sleep`", _WAITING, "drivers:select_mariadb", package="pymysql", service=_MARIADB),
        _computing("loop", "a loop", "loop"),
        _computing("except-exception", "a loop in `except Exception`", "except_exception"),
        _computing("swallow", "a bare `except`, twice", "swallow_twice"),
        Kind("stalled", "a generator that waits", _BODIES, "applications:stalled", end=CUT),
        Kind("endless", "a generator without an end", _BODIES, "applications:endless", LATEST_COMPUTING, CUT, True),
    )
}
"""The kinds by name, in the order of measurement."""


def missing(kind: Kind) -> str | None:
    """Return the missing package or server that the kind needs, or None."""
    return missing_package(kind.package) or (kind.service.missing() if kind.service else None)


@dataclass(frozen=True)
class Seen:
    """The result of a request: its status (or "cut" if the response was cut), and its duration in seconds."""

    end: str
    seconds: float


@dataclass(frozen=True)
class Crowd:
    """A set of requests to one path: their number, maximum concurrency, and the seconds between their starts."""

    port: int
    path: str
    number: int
    at_once: int
    gap: float
    patience: float
    """Timeout of a request, in seconds."""


class _Running:
    """The pending requests of a crowd, each on a separate connection."""

    def __init__(self, crowd: Crowd) -> None:
        self._patience = crowd.patience
        self._text = f"GET {crowd.path} HTTP/1.1\r\nHost: 127.0.0.1:{crowd.port}\r\n\r\n".encode()
        self._connections = Connections(crowd.port)
        self._sent: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def begin(self) -> None:
        """Send a request."""
        connection = self._connections.connect()
        self._sent[connection] = monotonic()
        connection.begin(0, self._text)
        self._connections.watch(connection)

    def ended(self, until: float) -> Iterator[Seen]:
        """Wait for requests to end, at most until the time `until`; yield the result of each."""
        give_up = min(self._sent.values(), default=math.inf) + self._patience
        for connection, writable, readable in self._connections.ready(
            self._connections.wait(max(0.0, min(until, give_up) - monotonic()))
        ):
            if writable:
                connection.go_on()
                self._connections.watch(connection)
            end = _end(connection) if readable else None
            if end:
                yield self._forget(connection, end)
        for connection in [each for each, sent in self._sent.items() if monotonic() - sent >= self._patience]:
            yield self._forget(connection, NO_ANSWER)

    def _forget(self, connection: Connection, end: str) -> Seen:
        seconds = monotonic() - self._sent.pop(connection)
        self._connections.close(connection)
        return Seen(end, seconds)

    def close(self) -> None:
        """Close all connections."""
        self._connections.close_all()


def _end(connection: Connection) -> str | None:
    """Return the result of a request that has ended, or None while the request is pending."""
    try:
        answer = connection.receive()
    except ConnectionError:
        return CUT if connection.begun else NO_ANSWER
    return str(answer.status) if answer else None


def run(crowd: Crowd) -> Iterator[Seen]:
    """Send the requests of a crowd; yield each result as soon as the request ends. Raises `OSError`."""
    left, following = crowd.number, monotonic()
    with contextlib.closing(_Running(crowd)) as running:
        while left or running:
            may_begin = left > 0 and len(running) < crowd.at_once
            if may_begin and monotonic() >= following:
                running.begin()
                left, following = left - 1, monotonic() + crowd.gap
            else:
                yield from running.ended(following if may_begin else math.inf)


_PATIENCE_SECONDS: Final = 5.0
"""Seconds to wait for the end of a request after its deadline."""
_GAP_SECONDS: Final = 0.02
"""Seconds between the starts of two requests, so that a crowd does not overload the processor."""


@dataclass(frozen=True)
class Plan:
    """The parameters of all measurements."""

    deadlines: Sequence[float]
    repetitions: int | None
    at_once: int
    server_core: int
    client_core: int

    def number(self, kind: Kind, deadline: float) -> int:
        """Return the number of requests, which is lower for long deadlines."""
        if self.repetitions:
            return self.repetitions
        most, seconds, least = (20, 5.0, 3) if kind.alone else (100, 60.0, 20)
        return round(min(most, max(least, seconds / deadline)))


def measure(kind: Kind, plan: Plan, directory: pathlib.Path) -> Iterator[tuple[float, Seen]]:
    """Yield the deadline and the result of each request. Raises `LoadTestError`."""
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(_silent_peer())
        server = stack.enter_context(_server(kind, plan, directory, peer.getsockname()))
        server.start()
        port = urlsplit(server.target().url).port or 0
        try:
            for deadline in plan.deadlines:
                for crowd in _crowds(kind, plan, deadline, port):
                    _require_rest(port)
                    for seen in run(crowd):
                        yield deadline, seen
                    _let_go(peer)
        except OSError as error:
            raise LoadTestError(str(error)) from None


def _crowds(kind: Kind, plan: Plan, deadline: float, port: int) -> Iterator[Crowd]:
    number, path, patience = plan.number(kind, deadline), _path(deadline), deadline + _PATIENCE_SECONDS
    if kind.alone:
        for _ in range(number):
            yield Crowd(port, path, 1, 1, 0.0, patience)
    else:
        yield Crowd(port, path, number, plan.at_once, _GAP_SECONDS, patience)


def _path(deadline: float) -> str:
    return f"/{deadline:g}/"


def _require_rest(port: int) -> None:
    """Check that an ordinary request is answered, which shows that aborted handlers have released the processor."""
    for seen in run(Crowd(port, REST, 1, 1, 0.0, _PATIENCE_SECONDS)):
        if seen.end != "200":
            raise LoadTestError(f"an ordinary request in between: seen instead of 200: {seen.end}")


# Our server, and a peer that never sends data.


def _server(kind: Kind, plan: Plan, directory: pathlib.Path, peer: tuple[str, int]) -> OwnServer:
    """Return our server, not yet started, with the application for the given kind."""
    # Set the stream timeout too: the response's body begins at once, and from then on the request's deadline no longer
    # applies.
    routes = "; ".join(
        f"{_path(deadline)}* request_timeout_seconds={deadline:g} stream_timeout_seconds={deadline:g}"
        for deadline in plan.deadlines
    )
    address = kind.service.address if kind.service else "{}:{}".format(*peer)
    own = directory / kind.name
    own.mkdir()
    command, environ = ["serve", kind.reference], clean_environment({ADDRESS_VARIABLE: address})
    return OwnServer(own, command, "the server", [f"--routes={routes}"], environ, plan.server_core, watched=False)


@contextlib.contextmanager
def _silent_peer() -> Iterator[socket.socket]:
    """Listen without accepting: the kernel establishes connections, but nothing responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        listener.setblocking(False)
        yield listener


def _let_go(peer: socket.socket) -> None:
    """Accept and close all pending connections, so that the backlog does not fill up."""
    with contextlib.suppress(BlockingIOError):
        while True:
            peer.accept()[0].close()
