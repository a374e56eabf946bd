"""What locust needs: the users, the spike, our flags, and the counting of what the users see.

Decides how these are tied together. It must not know the server or the report. Importing this imports locust, which
patches the process.
"""

from __future__ import annotations

import functools
import pathlib
import random
import time
from typing import Any

from locust import LoadTestShape, User, events, task
from locust.exception import StopTest

from ..shapes import users_at
from ..target import LoadTestError, local_url
from .connections import Connections
from .load import CAPACITY, CLASSES, PATIENCE_SECONDS, PERIOD_SECONDS, PRIORITY_HEADER, most_users
from .seen import GIVEN_UP, End, Seen, how_it_ended

__all__ = ["Critical", "Sheddable", "Spike", "Unmarked"]

_DEFAULT_SECONDS = 30


class Visitor(User):
    """Asks at its own instants, whatever became of the requests before; it does not heed Retry-After.

    Not a `FastHttpUser`: that one costs the core that it has for itself twice as much, and sends again by itself.
    """

    abstract = True
    name = ""
    headers = ""
    """Lines, each with its end."""
    _due = 0.0
    """When the next request is to be sent, by the monotonic clock."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        try:
            local_url("--host", self.host or "")
        except LoadTestError as error:
            raise StopTest(str(error)) from None

    def on_start(self) -> None:
        # Users that come together must not ask together.
        phase = random.uniform(0, PERIOD_SECONDS)
        self._due = time.monotonic() + phase
        time.sleep(phase)

    def wait_time(self) -> float:
        self._due += PERIOD_SECONDS
        return max(0.0, self._due - time.monotonic())

    @task
    def ask(self) -> None:
        late, reply, error = time.monotonic() - self._due, None, None
        try:
            path = self.environment.parsed_options.path
            reply = _connections(self.host).get(path, self.headers, PATIENCE_SECONDS)
        except (OSError, ValueError) as problem:
            error = problem
        after = time.monotonic() - self._due
        self._tell(late, how_it_ended(reply, after, error), reply.length if reply else 0)

    def _tell(self, late: float, end: End, length: int) -> None:
        is_failure = end.is_error or end.kind == GIVEN_UP
        self.environment.events.request.fire(
            request_type="GET",
            name=f"{self.name}: {'failed' if end.is_error else end.kind}",
            response_time=end.after * 1000,
            response_length=length,
            exception=Failure(end.kind) if is_failure else None,
            ended=(self.name, self._due, late, end),
        )


class Failure(Exception):
    """A user gave up, or was answered as nobody should be."""


@functools.cache
def _connections(url: str) -> Connections:
    """Return the connections of all users: with its own for each a spike would begin with little but connecting."""
    return Connections(url)


class Critical(Visitor):
    """One of those that say they matter most."""

    name = "critical"
    weight = CLASSES[name]
    headers = f"{PRIORITY_HEADER}: {name}\r\n"


class Unmarked(Visitor):
    """One of those that say nothing."""

    name = "unmarked"
    weight = CLASSES[name]


class Sheddable(Visitor):
    """One of those that say they can do without an answer."""

    name = "sheddable"
    weight = CLASSES[name]
    headers = f"{PRIORITY_HEADER}: {name}\r\n"


class Spike(LoadTestShape):
    """A tenth of `--users`, then all of them, then a tenth again, over `--run-time`."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        most = options.num_users or most_users(CAPACITY)
        passed = time.perf_counter() - self.start_time
        users = users_at("spike", passed, options.run_time or _DEFAULT_SECONDS, most)
        # All within a second, though locust warns of so many: a spike that comes slowly is none.
        return None if users is None else (users, most)


class Recorder:
    """Counts every request as it ends, and writes the record when locust quits."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._began, self._seen = time.monotonic(), Seen(time.time())
        environment.events.test_start.add_listener(self._begin)
        environment.events.request.add_listener(self._count)
        environment.events.quitting.add_listener(self._write)

    def _begin(self, **_: Any) -> None:
        self._began, self._seen = time.monotonic(), Seen(time.time())

    def _count(self, ended: tuple[str, float, float, End], **_: Any) -> None:
        name, due, late, end = ended
        self._seen.add(due - self._began, name, late, end)
        self._seen.note_users(time.monotonic() - self._began, self._environment.runner.user_count)

    def _write(self, **_: Any) -> None:
        self._seen.saturated = bool(self._environment.runner.cpu_warning_emitted)
        pathlib.Path(self._environment.parsed_options.record).write_text(self._seen.to_json(), encoding="utf-8")


def _add_flags(parser: Any) -> None:
    parser.add_argument("--path", default="/db", help="what is asked for")
    parser.add_argument(
        "--record", metavar="FILE", default="", include_in_web_ui=False, help="write what the users saw there, as JSON"
    )


def _begin_to_record(environment: Any, **_: Any) -> None:
    if environment.parsed_options.record:
        Recorder(environment)


events.init_command_line_parser.add_listener(_add_flags)  # type: ignore[no-untyped-call]  # locust does not say
events.init.add_listener(_begin_to_record)  # type: ignore[no-untyped-call]  # locust does not say
