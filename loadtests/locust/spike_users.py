"""The users of the overload, and its load shape. Importing this module imports locust, which patches the process."""

from __future__ import annotations

import functools
import random
import time
from typing import Any

from locust import User, events, task
from locust.exception import StopTest

from ..common import LoadTestError
from ..common.client import SharedConnections
from ..common.ours import local_url
from .record import GIVEN_UP, end_of_overload
from .recorder import Load
from .shapes import CAPACITY, CLASSES, PATIENCE_SECONDS, PERIOD_SECONDS, PRIORITY_HEADER, most_users


class Visitor(User):
    """A user that sends requests at fixed times, regardless of earlier responses, and ignores Retry-After.

    This class does not extend `FastHttpUser`, which needs twice the processor time and retries automatically.
    """

    abstract = True
    name = ""
    headers = ""
    """Header lines, each with its line end."""
    _due = 0.0
    """Due time of the next request, on the monotonic clock."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        try:
            local_url("--host", self.host or "")
        except LoadTestError as error:
            raise StopTest(str(error)) from None

    def on_start(self) -> None:
        # Use a random phase, so that users that start together do not send together.
        phase = random.uniform(0, PERIOD_SECONDS)
        self._due = time.monotonic() + phase
        time.sleep(phase)

    def wait_time(self) -> float:
        self._due += PERIOD_SECONDS
        return max(0.0, self._due - time.monotonic())

    @task
    def ask(self) -> None:
        late, answer, length, error = time.monotonic() - self._due, None, 0, None
        try:
            path = self.environment.parsed_options.path
            answer, length = _connections(self.host).get(path, self.headers, PATIENCE_SECONDS)
        except (OSError, ValueError) as problem:
            error = problem
        end = end_of_overload(answer, time.monotonic() - self._due, late, error)
        kind = {"served": end.kind}.get(end.outcome, end.outcome)
        self.environment.events.request.fire(
            request_type="GET",
            name=f"{self.name}: {kind}",
            response_time=end.seconds * 1000,
            response_length=length,
            exception=Failure(end.kind) if kind in ("failed", GIVEN_UP) else None,
            ended=(self.name, self._due, end),
        )


class Failure(Exception):
    """Raised if a user times out or receives an unexpected response."""


@functools.cache
def _connections(url: str) -> SharedConnections:
    """Return the connections that all users share.

    With one connection per user, the server would spend the start of the spike accepting connections.
    """
    return SharedConnections(url)


class Critical(Visitor):
    """A user that marks its requests as critical."""

    name = "critical"
    weight = CLASSES[name]
    headers = f"{PRIORITY_HEADER}: {name}\r\n"


class Unmarked(Visitor):
    """A user that sends no priority."""

    name = "unmarked"
    weight = CLASSES[name]


class Sheddable(Visitor):
    """A user that marks its requests as sheddable."""

    name = "sheddable"
    weight = CLASSES[name]
    headers = f"{PRIORITY_HEADER}: {name}\r\n"


class Spike(Load):
    """A load shape that lasts `--run-time`: a tenth of `--users`, then all users, then a tenth again."""

    def users_of(self, options: Any) -> tuple[str, int, int]:
        most = options.num_users or most_users(CAPACITY)
        # Start all users within a second, despite locust's warning, because a slow increase would not be a spike.
        return "spike", most, most


def _add_flag(parser: Any) -> None:
    parser.add_argument("--path", default="/db", help="the path that users request")


events.init_command_line_parser.add_listener(_add_flag)  # type: ignore[no-untyped-call]  # locust has no types
