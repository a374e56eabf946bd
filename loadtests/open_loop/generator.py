"""The open-loop generator, a process of its own: `python -m loadtests.open_loop.generator PLAN`, the plan as JSON.

Sends each request at its instant, whatever became of the others: on a connection that is free, else on a new one; it
closes the connection of a request that is not answered in time. Says at once when it begins, and at the end how every
request ended. Decides nothing but that; it must not know which server answers.
"""

from __future__ import annotations

import errno
import gc
import json
import sys
import time
from collections import deque
from typing import Final

from ..side_by_side.idle import allow_connections
from .connection import IDLE, Connection
from .connections import MOST_CONNECTIONS, Connections
from .plan import Plan, from_text
from .record import Record, as_text
from .requested import Request, requests
from .seen import ANSWERED, GIVEN_UP, NO_REPEAT, End, kind

__all__ = ["MOST_REQUESTS", "Generator", "main"]

MOST_REQUESTS: Final = 1_000_000
"""How many requests a plan may come to."""
_START_SECONDS: Final = 0.05
_LONGEST_PAUSE: Final = 0.1


class _Attempt:
    """A request that is under way or has ended."""

    __slots__ = ("connection", "end", "late", "number", "reason", "repeats", "request", "tries_left")

    def __init__(self, request: Request, number: int, repeats: int, tries_left: int) -> None:
        self.request = request
        self.number = number
        self.repeats = repeats
        """The number of the attempt that was the first of all, or `NO_REPEAT` if it is this one."""
        self.tries_left = tries_left
        self.late = 0.0
        self.connection: Connection | None = None
        self.end: tuple[str, float] | None = None
        self.reason = ""


class Generator:
    """Sends what the plan says; all times are seconds since the beginning of its first phase."""

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
        """When it was last looked what has arrived."""

    def run(self, began: float) -> Record:
        """Send everything, wait for the last answer or the client's patience, and return what became of it."""
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
        return Record([_told(attempt) for attempt in self._attempts], busy / self._plan.seconds, self._connections.most)

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
        """Return how long there is nothing to do unless something arrives."""
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
        # What is told of now has arrived by now, however long it takes to read all of it.
        self._looked = self._now()
        for connection, room, arrived in self._connections.ready(events):
            self._serve(connection, room, arrived)

    def _serve(self, connection: Connection, room: bool, arrived: bool) -> None:
        try:
            if room and connection.unsent:
                connection.go_on()
                self._connections.watch(connection)
            if arrived:
                self._receive(connection)
        except OSError as error:
            self._fail(connection, _named("closed", error))
        except ValueError:
            self._fail(connection, "not an answer")

    def _receive(self, connection: Connection) -> None:
        if connection.request == IDLE:
            # It can only be its end.
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


def _told(attempt: _Attempt) -> End:
    """Return what became of an attempt; every one has ended once the generator leaves."""
    what, after = attempt.end or (GIVEN_UP, 0.0)
    request = attempt.request
    return End(what, attempt.late, after, request.due, request.stream, attempt.repeats, attempt.reason, request.path)


def _named(what: str, error: OSError) -> str:
    return f"{what}: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"


def main(text: str) -> None:
    """Run the plan; print when it begins, by the system's monotonic clock, then what was seen, a line of JSON each."""
    plan = from_text(text)
    if plan.requests > MOST_REQUESTS:
        sys.exit(f"the plan comes to more than {MOST_REQUESTS:,} requests")
    allow_connections(MOST_CONNECTIONS)
    generator = Generator(plan)
    # A collection would make it late, and there are no cycles to find.
    gc.disable()
    began = time.monotonic() + _START_SECONDS
    print(json.dumps({"began": began}), flush=True)
    print(as_text(generator.run(began)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
