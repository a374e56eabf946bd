"""What locust loads: the users, the shape, our flags, and the counting of what the clients see.

Decides how these are tied together. It must not know the server or the report; `run.py` starts locust with this file,
and it serves by hand as well: `locust -f loadtests/locustfile.py Browse --headless --host http://127.0.0.1:8000
--shape step --users 40 --run-time 30s`.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

from locust import LoadTestShape, events

from loadtests.figures import Clients, refusal
from loadtests.shapes import DEFAULT_USERS, SHAPES, users_at
from loadtests.users import Browse, SlowMix, Write

__all__ = ["Browse", "Load", "SlowMix", "Write"]

_DEFAULT_SECONDS = 30
_MOST_SPAWNED_PER_SECOND = 100
"""Locust warns of more."""


def _add_flags(parser: Any) -> None:
    parser.add_argument("--shape", choices=[*SHAPES], default="steady", help="how the number of users changes")
    parser.add_argument("--allow-shed", action="store_true", help="a refusal by the balancer is no failure")
    parser.add_argument("--record", metavar="FILE", default="", help="write what the clients saw there, as JSON")


class Load(LoadTestShape):
    """The shape that `--shape` names, with `--users` at most, over `--run-time`."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        most = options.num_users or DEFAULT_USERS[options.shape]
        passed = time.perf_counter() - self.start_time
        users = users_at(options.shape, passed, options.run_time or _DEFAULT_SECONDS, most)
        return None if users is None else (users, _MOST_SPAWNED_PER_SECOND)


class Recorder:
    """Counts every request as it ends, and writes the record when locust quits."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._clients = Clients(time.time())
        environment.events.test_start.add_listener(self._begin)
        environment.events.request.add_listener(self._count)
        environment.events.quitting.add_listener(self._write)

    def _begin(self, **_: Any) -> None:
        self._clients = Clients(time.time())

    def _count(
        self, request_type: str, name: str, response_time: float, response: Any, exception: object, **_: Any
    ) -> None:
        reason = refusal(response.status_code, response.headers)
        second = self._clients.second(time.time(), self._environment.runner.user_count)
        for tally in (second, self._clients.page(name)):
            tally.add(response.status_code, reason, exception is None, response_time)
        if exception is not None:
            self._clients.problems[name, str(exception)] += 1

    def _write(self, **_: Any) -> None:
        self._clients.saturated = bool(self._environment.runner.cpu_warning_emitted)
        pathlib.Path(self._environment.parsed_options.record).write_text(self._clients.to_json(), encoding="utf-8")


def _begin_to_record(environment: Any, **_: Any) -> None:
    if environment.parsed_options.record:
        Recorder(environment)


events.init_command_line_parser.add_listener(_add_flags)  # type: ignore[no-untyped-call]  # locust does not say
events.init.add_listener(_begin_to_record)  # type: ignore[no-untyped-call]  # locust does not say
