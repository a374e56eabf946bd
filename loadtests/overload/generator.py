"""The open-loop load generator, a separate process: `python -m loadtests.overload.generator PLAN`. The plan is JSON.

The plan has streams of requests and the rate of each stream in every phase. A seed determines the due times. The
generator sends each request at its due time, whether or not earlier requests have ended, on a free or a new connection.
After a timeout it closes the connection. The generator prints its start time, then the results of all requests.
"""

from __future__ import annotations

import errno
import gc
import json
import random
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

from ..common.client import IDLE, MOST_CONNECTIONS, Connection, Connections
from ..common.processes import allow_connections
from .seen import ANSWERED, GIVEN_UP, NO_REPEAT, End, kind


def arrivals(rate: float, seconds: float, seed: str) -> list[float]:
    """Return ascending arrival times, in seconds, of a Poisson process with `rate` arrivals per second."""
    if not rate:
        return []
    source = random.Random(f"arrivals {seed}")
    instants, now = [], source.expovariate(rate)
    while now < seconds:
        instants.append(now)
        now += source.expovariate(rate)
    return instants


def evenly(rate: float, seconds: float) -> list[float]:
    """Return equally spaced times; half a spacing precedes the first time and follows the last time."""
    return [(number + 0.5) / rate for number in range(round(rate * seconds))]


def phased(rates: Sequence[float], phases: Sequence[float], seed: str, even: bool = False) -> list[float]:
    """Return the arrival times of consecutive phases, given the rate and the duration (in seconds) of each phase."""
    instants: list[float] = []
    begin = 0.0
    for number, (rate, seconds) in enumerate(zip(rates, phases, strict=True)):
        own = evenly(rate, seconds) if even else arrivals(rate, seconds, f"{seed} {number}")
        instants += [begin + instant for instant in own]
        begin += seconds
    return instants


def choices(weights: Mapping[str, float], number: int, seed: str) -> list[str]:
    """Draw `number` names independently, with the given weights."""
    return random.Random(f"choices {seed}").choices([*weights], [*weights.values()], k=number)


def in_proportion(weights: Mapping[str, float], number: int = 20) -> list[str]:
    """Return about `number` names in proportion to their weights, spread evenly and without randomness."""
    places = ((instant, name) for name, weight in weights.items() for instant in evenly(number * weight, 1.0))
    return [name for _, name in sorted(places)]


@dataclass(frozen=True)
class Stream:
    """The requests of one kind that one client sends."""

    name: str
    """The name in the report; streams with the same name are reported together."""
    paths: Mapping[str, float]
    """The weight of each request path."""
    rates: Sequence[float]
    """Requests per second in each phase."""
    headers: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    """True if requests are evenly spaced; otherwise they arrive as a Poisson process."""
    retries: int = 0
    """Maximum number of immediate retries after a rejection, a timeout or an error."""


@dataclass(frozen=True)
class Plan:
    """The requests that a generator sends, and their timing."""

    port: int
    phases: Sequence[float]
    """Duration of each phase, in seconds."""
    streams: Sequence[Stream]
    seed: str
    patience: float = 2.0
    """Timeout of a client, in seconds."""
    preopened: int = 0
    """Number of connections that the generator opens before the first request."""

    @property
    def seconds(self) -> float:
        """Total duration of all phases, in seconds."""
        return sum(self.phases)

    @property
    def requests(self) -> float:
        """Expected maximum number of requests, including retries."""
        return sum(
            rate * seconds * (1 + stream.retries)
            for stream in self.streams
            for rate, seconds in zip(stream.rates, self.phases, strict=True)
        )

    @property
    def longest_patience(self) -> float:
        """Seconds from a due time until the last retry has timed out."""
        return self.patience * (1 + max(stream.retries for stream in self.streams))

    def spans(self) -> list[tuple[float, float]]:
        """Return the beginning and the end of each phase, in seconds from the beginning of the plan."""
        ends = list(accumulate(self.phases))
        return list(zip([0.0, *ends], ends, strict=False))

    def to_json(self) -> str:
        """Encode the plan as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Parse the JSON that `to_json` returns."""
        facts = json.loads(text)
        return cls(**{**facts, "streams": [Stream(**stream) for stream in facts["streams"]]})


class Request(NamedTuple):
    """One request to send."""

    due: float
    """The due time, in seconds from the beginning of the plan."""
    stream: int
    """The index of the request's stream in the plan."""
    text: bytes
    path: str


def requests(plan: Plan) -> list[Request]:
    """Return all requests of the plan, sorted by due time."""
    found = []
    for number, stream in enumerate(plan.streams):
        seed = f"{plan.seed} {stream.name} {number}"
        instants = phased(stream.rates, plan.phases, seed, stream.even)
        fields = "".join(f"{name}: {value}\r\n" for name, value in stream.headers.items())
        host = f"Host: 127.0.0.1:{plan.port}\r\n"
        # Encode each path once, because a plan can have very many requests.
        texts = {path: f"GET {path} HTTP/1.1\r\n{host}{fields}\r\n".encode() for path in stream.paths}
        paths = choices(stream.paths, len(instants), seed)
        found += [Request(due, number, texts[path], path) for due, path in zip(instants, paths, strict=True)]
    return sorted(found)


_DIGITS: Final = 6
"""Decimal places of times in the record, which are seconds: microsecond precision."""


class Record(NamedTuple):
    """The results of a generator."""

    ends: Sequence[End]
    """The result of every request, in sending order."""
    busy: float
    """Share of its core, from 0 to 1, that the generator used while sending."""
    connections: int
    """Peak number of concurrent connections."""

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        rounded = (
            end._replace(late=round(end.late, _DIGITS), after=round(end.after, _DIGITS), due=round(end.due, _DIGITS))
            for end in self.ends
        )
        return json.dumps([[*rounded], self.busy, self.connections])

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Parse the JSON that `to_json` returns."""
        ends, busy, connections = json.loads(text)
        return cls([End(*end) for end in ends], busy, connections)


MOST_REQUESTS: Final = 1_000_000
"""Maximum number of requests in a plan."""
_START_SECONDS: Final = 0.05
_LONGEST_PAUSE: Final = 0.1


class _Attempt:
    """A request that is in progress or has ended."""

    __slots__ = ("connection", "end", "late", "number", "reason", "repeats", "request", "tries_left")

    def __init__(self, request: Request, number: int, repeats: int, tries_left: int) -> None:
        self.request = request
        self.number = number
        self.repeats = repeats
        """The number of the original attempt, or `NO_REPEAT` if this attempt is not a retry."""
        self.tries_left = tries_left
        self.late = 0.0
        self.connection: Connection | None = None
        self.end: tuple[str, float] | None = None
        self.reason = ""


class Generator:
    """Sends the requests of a plan; all times are seconds since the beginning of the plan's first phase."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._began = 0.0
        self._requests = requests(plan)
        self._next = 0
        self._again: deque[_Attempt] = deque()
        self._attempts: list[_Attempt] = []
        self._under_way: deque[_Attempt] = deque()
        self._connections = Connections(plan.port)
        self._looked = 0.0
        """Time of the last check for arriving data."""

    def run(self, began: float) -> Record:
        """Send all requests, wait for the last response or timeout, and return the results."""
        self._connections.open(self._plan.preopened)
        self._began = began
        before, busy = time.process_time(), 0.0
        while self._next < len(self._requests) or self._again or self._under_way:
            self._send_due()
            if self._next < len(self._requests):
                busy = time.process_time() - before
            self._give_up()
            self._look(self._pause())
        self._connections.close_all()
        return Record(
            [_end_of(attempt) for attempt in self._attempts], busy / self._plan.seconds, self._connections.most
        )

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _send_due(self) -> None:
        while self._again:
            self._send(self._again.popleft())
        while self._next < len(self._requests) and self._requests[self._next].due <= (now := self._now()):
            request = self._requests[self._next]
            self._next += 1
            attempt = self._attempt(request, NO_REPEAT, self._plan.streams[request.stream].retries)
            attempt.late = now - request.due
            self._send(attempt)

    def _attempt(self, request: Request, repeats: int, tries_left: int) -> _Attempt:
        attempt = _Attempt(request, len(self._attempts), repeats, tries_left)
        self._attempts.append(attempt)
        return attempt

    def _send(self, attempt: _Attempt) -> None:
        try:
            connection = self._connections.take()
        except OSError as error:
            self._end(attempt, _named("cannot connect", error), self._now())
            return
        attempt.connection = connection
        self._under_way.append(attempt)
        try:
            connection.begin(attempt.number, attempt.request.text)
        except OSError as error:
            self._fail(connection, _named("cannot send", error))
            return
        if connection.unsent:
            self._connections.watch(connection)

    def _give_up(self) -> None:
        now = self._now()
        while self._under_way:
            attempt = self._under_way[0]
            if attempt.end is None:
                if attempt.request.due + self._plan.patience > now:
                    return
                if attempt.connection is not None:
                    self._connections.close(attempt.connection)
                self._end(attempt, GIVEN_UP, now)
            self._under_way.popleft()

    def _pause(self) -> float:
        """Return the seconds until the next due request or timeout."""
        if self._again:
            return 0.0
        next_instants = [self._now() + _LONGEST_PAUSE]
        if self._next < len(self._requests):
            next_instants.append(self._requests[self._next].due)
        if self._under_way:
            next_instants.append(self._under_way[0].request.due + self._plan.patience)
        return min(next_instants) - self._now()

    def _look(self, pause: float) -> None:
        events = self._connections.wait(pause)
        # The events report only data that has arrived by now, so set the time before the data is read.
        self._looked = self._now()
        for connection, writable, readable in self._connections.ready(events):
            self._serve(connection, writable, readable)

    def _serve(self, connection: Connection, writable: bool, readable: bool) -> None:
        try:
            if writable and connection.unsent:
                connection.go_on()
                self._connections.watch(connection)
            if readable:
                self._receive(connection)
        except OSError as error:
            self._fail(connection, _named("closed", error))
        except ValueError:
            self._fail(connection, "not an answer")

    def _receive(self, connection: Connection) -> None:
        if connection.request == IDLE:
            # An event on an idle connection can only be the end of the connection.
            self._connections.close(connection)
            return
        answer = connection.receive()
        if answer is None:
            return
        number, connection.request = connection.request, IDLE
        if answer.kept and not connection.unsent:
            self._connections.give_back(connection)
        else:
            self._connections.close(connection)
        attempt = self._attempts[number]
        attempt.reason = answer.reason
        self._end(attempt, kind(answer.status), self._looked)

    def _fail(self, connection: Connection, what: str) -> None:
        number = connection.request
        self._connections.close(connection)
        if number != IDLE:
            self._end(self._attempts[number], what, self._now())

    def _end(self, attempt: _Attempt, what: str, instant: float) -> None:
        attempt.end = (what, instant - attempt.request.due)
        attempt.connection = None
        if what != ANSWERED and attempt.tries_left:
            first = attempt.number if attempt.repeats == NO_REPEAT else attempt.repeats
            again = attempt.request._replace(due=instant)
            self._again.append(self._attempt(again, first, attempt.tries_left - 1))


def _end_of(attempt: _Attempt) -> End:
    """Return the result of an attempt, which must have ended."""
    what, after = attempt.end or (GIVEN_UP, 0.0)
    request = attempt.request
    return End(what, attempt.late, after, request.due, request.stream, attempt.repeats, attempt.reason, request.path)


def _named(what: str, error: OSError) -> str:
    return f"{what}: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"


def main(text: str) -> None:
    """Run the plan; print two lines of JSON: the start time on the system's monotonic clock, then the record."""
    plan = Plan.from_json(text)
    if plan.requests > MOST_REQUESTS:
        sys.exit(f"the plan has more than {MOST_REQUESTS:,} requests")
    allow_connections(MOST_CONNECTIONS)
    generator = Generator(plan)
    # A garbage collection would delay requests, and there are no reference cycles to free.
    gc.disable()
    began = time.monotonic() + _START_SECONDS
    print(json.dumps({"began": began}), flush=True)
    print(generator.run(began).to_json(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
