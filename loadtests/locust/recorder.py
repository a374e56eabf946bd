"""The part of the harness that runs inside locust: the load shape, the recorder of results, and its flag.

Importing this module imports locust, which patches the process.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any, Final

from locust import LoadTestShape, events

from .record import GIVEN_UP, End, Record, end_of_page
from .shapes import users_at

_DEFAULT_SECONDS: Final = 30


class Load(LoadTestShape):
    """A load shape of at most `--users` users that lasts `--run-time`."""

    abstract = True
    use_common_options = True

    def users_of(self, options: Any) -> tuple[str, int, int]:
        """Return the shape, the maximum number of users, and the number of users started per second."""
        raise NotImplementedError

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        shape, most, started = self.users_of(options)
        passed = time.perf_counter() - self.start_time
        users = users_at(shape, passed, options.run_time or _DEFAULT_SECONDS, most)
        return None if users is None else (users, started)


class Recorder:
    """Counts every request that ends, and writes the record when locust quits."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._begin()
        environment.events.test_start.add_listener(self._begin)
        environment.events.request.add_listener(self._count)
        environment.events.quitting.add_listener(self._write)

    def _begin(self, **_: Any) -> None:
        self._began, self._record = time.monotonic(), Record(time.time())

    def _count(
        self,
        name: str,
        response_time: float,
        response: Any = None,
        exception: object = None,
        ended: tuple[str, float, End] | None = None,
        **_: Any,
    ) -> None:
        now = time.monotonic()
        if ended is None:
            end = end_of_page(response.status_code, response.headers, exception is None, response_time / 1000)
            ended = name, now, end
        group, due, end = ended
        self._record.add(due - self._began, group, end)
        self._record.note_users(now - self._began, self._environment.runner.user_count)
        if exception is not None and end.kind != GIVEN_UP:
            self._record.problems[group, str(exception)] += 1

    def _write(self, **_: Any) -> None:
        self._record.saturated = bool(self._environment.runner.cpu_warning_emitted)
        pathlib.Path(self._environment.parsed_options.record).write_text(self._record.to_json(), encoding="utf-8")


def _add_flag(parser: Any) -> None:
    about = "write what the users saw there, as JSON"
    parser.add_argument("--record", metavar="FILE", default="", include_in_web_ui=False, help=about)


def _begin_to_record(environment: Any, **_: Any) -> None:
    if environment.parsed_options.record:
        Recorder(environment)


events.init_command_line_parser.add_listener(_add_flag)  # type: ignore[no-untyped-call]  # locust has no types
events.init.add_listener(_begin_to_record)  # type: ignore[no-untyped-call]  # locust has no types
