"""Defines the workloads and the servers under test, starts the servers and generators, and measures the cores."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from subprocess import TimeoutExpired
from typing import Final, TypeVar

from intralb_gevent.policy.limiters import LIMITERS

from ..common import LoadTestError
from ..common.processes import Process, core_busy_seconds, running
from ..common.servers import (
    ANSWER_SECONDS,
    LIMIT,
    OURS,
    SERVERS,
    Server,
    check_answer,
    clean_environment,
    filled,
    serving,
)
from .applications import (
    ANSWER,
    COMPUTING_SECONDS,
    CONNECTIONS,
    QUERY_SECONDS,
    SHORT_QUERIES,
    SHORT_QUERY_SECONDS,
    STALL_VARIABLE,
)
from .generator import Plan, Record


def ceiling(load: float, k: float) -> float:
    """Return the maximum goodput at `load`, both as a share of the capacity.

    `k` is the cost of a rejection divided by the cost of a request. If g is served and load - g rejected, then
    g + (load - g) * k = 1, so g = (1 - load * k) / (1 - k). Below capacity everything can be served. Raises
    `ValueError` unless 0 <= k < 1.
    """
    if not 0 <= k < 1:
        raise ValueError(f"k: {k} is not allowed; a refusal must cost less than a request, and not less than nothing")
    return max(0.0, min(load, 1.0, (1 - load * k) / (1 - k)))


@dataclass(frozen=True)
class Costs:
    """The costs of a request and of a rejection, in seconds of processor time."""

    request: float
    refusal: float

    @property
    def k(self) -> float:
        """The cost of a rejection divided by the cost of a request."""
        return self.refusal / self.request

    def ceiling(self, offered: float, capacity: float) -> float:
        """Return the maximum goodput in requests per second. Both the core and `capacity` limit it."""
        return min(offered, capacity, ceiling(offered * self.request, min(self.k, 0.999)) / self.request)


_DATABASE: Final = CONNECTIONS / 0.050
_PROCESSOR: Final = 1 / COMPUTING_SECONDS
_ORM_SECONDS: Final = SHORT_QUERIES * SHORT_QUERY_SECONDS
_PROCESSOR_SECONDS: Final = {"/cpu": COMPUTING_SECONDS, "/orm": _ORM_SECONDS}
"""Processor time of a request, in seconds, by path."""


@dataclass(frozen=True)
class Workload:
    """A set of paths that clients request at random, according to weights."""

    name: str
    title: str
    paths: Mapping[str, float]
    capacity: float
    """Requests per second that ten connections (or one core) could serve if nothing else took time."""
    slots: int = 0
    """Limit of concurrent requests, for servers with such a limit; 0 means the server's default."""
    slots_path: str = ""
    """The path to which `slots` applies; empty means all paths."""

    def flags(self, server: Server) -> Sequence[str]:
        """Return the flags that set the limit `slots` for a server."""
        if not self.slots:
            return ()
        flags = server.slots_below if self.slots_path else server.slots
        return filled(flags, number=self.slots, path=self.slots_path)

    clients: int = CONNECTIONS
    """Number of waiting clients that keep the limiting resource busy almost without a queue."""

    @property
    def connected(self) -> Mapping[str, float]:
        """The weights of the paths that need a database connection."""
        return {path: weight for path, weight in self.paths.items() if path in QUERY_SECONDS}

    def connection_seconds(self, counts: Mapping[str, float]) -> float:
        """Return the mean time a request holds a connection, in seconds, given the number of requests by path."""
        needed = sum(count * QUERY_SECONDS.get(path, 0.0) for path, count in counts.items())
        return needed / sum(counts.values()) if counts else 0.0

    def chance(self, requests: float) -> float:
        """Return the relative standard deviation of the work for about `requests` requests, which arrive at random.

        The work is a compound Poisson process: a sum of a random number of random terms. If some requests need a
        connection, only the work of the connections counts.
        """
        needing = self.connected or self.paths
        seconds = {path: QUERY_SECONDS.get(path) or _PROCESSOR_SECONDS[path] for path in needing}
        weight = sum(needing.values())
        mean = sum(needing[path] * seconds[path] for path in needing) / weight
        square = sum(needing[path] * seconds[path] ** 2 for path in needing) / weight
        return math.sqrt(square / (requests * weight)) / mean

    def capacity_at(self, costs: Costs | None, connected: float | None) -> float:
        """Return the capacity in requests per second, given the measured costs and throughput of the connections."""
        return min(connected or self.capacity, 1 / costs.request if costs else self.capacity)


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("db", "Ten connections of 50 ms", {"/db": 1.0}, _DATABASE, CONNECTIONS),
        Workload("cpu", "5 ms of Python", {"/cpu": 1.0}, _PROCESSOR, clients=2),
        Workload("orm", "20 queries with 1 ms of Python after each", {"/orm": 1.0}, 1 / _ORM_SECONDS, clients=4),
        # Half of the requests need a connection, and half need the core; both limits apply at the same rate.
        Workload(
            "mixed", "Half db, half cpu", {"/db": 0.5, "/cpu": 0.5}, 2 * min(_DATABASE, _PROCESSOR), CONNECTIONS, "/db"
        ),
        Workload(
            "bimodal",
            "Ten connections, 95 % of 5 ms and 5 % of 300 ms",
            {"/short": 0.95, "/long": 0.05},
            CONNECTIONS / (0.95 * 0.005 + 0.05 * 0.300),
            CONNECTIONS,
        ),
    )
}
"""The workloads by name, in the order of measurement."""


USUAL: Final = [name for name in SERVERS if name != LIMIT]
"""Names of the servers that are measured by default."""


def _with_limiter(limiter: str) -> Server:
    ours = SERVERS[OURS]
    command = (*ours.command, "--limiter", limiter)
    return dataclasses.replace(ours, name=f"{OURS}-{limiter}", title=f"intralb_gevent, {limiter}", command=command)


# Skip the first limiter, which is our server's default.
_LIMITED: Final = [_with_limiter(name) for name in [*LIMITERS][1:]]
CONTENDERS: Final = {name: SERVERS[name] for name in USUAL} | {server.name: server for server in _LIMITED}
"""All servers by name, in the order of measurement and of the report."""


def is_ours(name: str) -> bool:
    """Return whether a name refers to our server with any limiter."""
    return CONTENDERS[name].package == CONTENDERS[OURS].package


_APPLICATION: Final = "loadtests.overload.applications:application"


@dataclass(frozen=True)
class Circumstances:
    """The parameters that all measurements of the benchmark share."""

    seconds: float
    warm_up: float
    seed: str
    server_core: int
    generator_core: int
    directory: pathlib.Path

    @property
    def generator_log(self) -> pathlib.Path:
        """The path of the file for a generator's output."""
        return self.directory / "generator.log"

    @property
    def stall(self) -> pathlib.Path:
        """The path of the stall file: while the file exists, the application's database does not respond."""
        return self.directory / "stall"

    def serving(
        self, server: Server, flags: Sequence[str] = ()
    ) -> contextlib.AbstractContextManager[tuple[Process, int]]:
        """Start a server with the application; yield both process and port once it listens. Raises `LoadTestError`."""
        environ = {STALL_VARIABLE: str(self.stall)}
        return serving(server, _APPLICATION, self.server_core, self.directory, flags, environ)


def check_answers(paths: Iterable[str], port: int) -> None:
    """Request each path once. Raises `LoadTestError` unless each response comes from the application."""
    for path in paths:
        check_answer(port, ANSWER, path)


_REFUSED_SECONDS: Final = 0.5
"""Seconds after which a request without a response counts as not rejected."""


@contextlib.contextmanager
def held(path: str, port: int) -> Iterator[socket.socket]:
    """Keep a request for this path running inside the context; retry if it is rejected. Raises `LoadTestError`."""
    give_up = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < give_up:
        with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as holder:
            holder.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            # An early response is a rejection: another request holds the slot.
            if not select.select((holder,), (), (), _REFUSED_SECONDS)[0]:
                yield holder
                return
    raise LoadTestError(f"no request for {path} could be held")


BUSY_OTHERS: Final = 0.1
"""Share of the server's core above which other processes distort the figures."""


@dataclass(frozen=True)
class Usage:
    """Shares of a core, from 0 to 1."""

    server: float
    others: float


class Meter:
    """Measures the use of a core since the creation of this meter."""

    def __init__(self, server: Process, core: int) -> None:
        self._server = server
        self._core = core
        self._began = time.monotonic(), server.busy_seconds(), core_busy_seconds(core)

    def used(self) -> Usage:
        """Return the shares of the core that were used since the creation of the meter."""
        instant, server, core = self._began
        seconds = time.monotonic() - instant
        share = (self._server.busy_seconds() - server) / seconds
        return Usage(share, max(0.0, (core_busy_seconds(self._core) - core) / seconds - share))


def usage(server: Process, core: int, begins: float, ends: float) -> Usage:
    """Return the shares used between two times of the system's monotonic clock; this waits for both times."""
    time.sleep(max(0.0, begins - time.monotonic()))
    meter = Meter(server, core)
    time.sleep(max(0.0, ends - time.monotonic()))
    return meter.used()


_START_SECONDS: Final = 15.0
_SPARE_SECONDS: Final = 20.0
"""Seconds that a generator is allowed to take in addition to its plan."""
_Found = TypeVar("_Found")


def drive(plan: Plan, core: int, log: pathlib.Path, beside: Callable[[float], _Found]) -> tuple[Record, _Found]:
    """Run the plan on a core; return the generator's record and the result of `beside`.

    `beside` receives the start time on the system's monotonic clock. Raises `LoadTestError` if the generator fails.
    """
    command = [sys.executable, "-m", "loadtests.overload.generator", plan.to_json()]
    with running(command, core, log, clean_environment({})) as generator:
        found = beside(_began(generator))
        return _ended(generator, plan.seconds + plan.longest_patience + _SPARE_SECONDS), found


def _began(generator: Process) -> float:
    generator.wait_for(lambda: bool(_lines(generator)), _START_SECONDS, "the generator")
    return float(json.loads(_lines(generator)[0])["began"])


def _ended(generator: Process, patience: float) -> Record:
    try:
        exit_code = generator.wait(patience)
    except TimeoutExpired:
        raise LoadTestError(f"the generator has not ended in {patience:.0f} s") from None
    if exit_code:
        raise LoadTestError(f"the generator ended with exit code {exit_code}: {generator.last_words()}")
    return Record.from_json(_lines(generator)[1])


def _lines(generator: Process) -> Sequence[str]:
    """Return the complete lines of the generator's output."""
    return [line for line in generator.output().splitlines(keepends=True) if line.endswith("\n")]
