"""The users of the sample application, with their requests, their expected responses, and their load shape.

Importing this module imports locust, which patches the process.
"""

from __future__ import annotations

import random
import re
import uuid
from typing import Any
from urllib.parse import urlencode

from locust import FastHttpUser, between, events, task

from .record import refusal
from .recorder import Load
from .shapes import DEFAULT_USERS, SHAPES

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_MOST_STARTED_PER_SECOND = 100
"""Maximum number of users started per second. Locust warns about a higher value."""
_END_OF_PAGE = "</html>"
"""The last text of a page, which only a complete page contains."""


class Visitor(FastHttpUser):
    """Base class of all users, who wait for each response, check it, and pause before the next request.

    A rejection by the balancer (status 503 with a reason) is an expected response only with `--allow-shed`.
    """

    abstract = True
    wait_time = between(0.1, 0.4)
    network_timeout = 60.0
    """Timeout of a request, in seconds. The server's deadline is shorter, so it takes effect first."""

    def ask(self, method: str, path: str, page: str, holds: str = "", **more: Any) -> str | None:
        """Request a page, check the status, and check that the text contains `holds`; return the text.

        Returns None if the request was rejected or the response is wrong. `page` is the page's name in the report.
        Redirects are followed.
        """
        request = self.client.request(method, path, name=f"{method} {page}", catch_response=True, **more)
        with request as response:
            reason = refusal(response.status_code, response.headers)
            problem = self._refused(reason) if reason else _wrong(response, holds)
            if problem:
                response.failure(problem)
            else:
                response.success()
            return None if problem or reason else response.text

    def _refused(self, reason: str) -> str | None:
        if self.environment.parsed_options.allow_shed:
            return None
        return f"refused ({reason}), and this run does not expect that"


def _wrong(response: Any, holds: str) -> str | None:
    """Describe the fault of a response that is not a rejection; return None if it is correct."""
    if response.status_code == 0:
        return f"no answer: {response.error!r}"
    if response.status_code != 200:
        return f"{response.status_code} instead of 200"
    if response.request_meta["exception"] is not None:
        return f"the answer broke off: {response.request_meta['exception']!r}"
    if holds not in (response.text or ""):
        return f"the page lacks {holds!r}"
    return None


class Browse(Visitor):
    """A user that only reads: first page, list of notes, single notes, search, counters and probe."""

    @task(3)
    def home(self) -> None:
        self.ask("GET", "/", "/", holds=_END_OF_PAGE)

    @task(4)
    def read_a_note(self) -> None:
        listing = self.ask("GET", "/notes", "/notes", holds=_END_OF_PAGE)
        notes = re.findall(r'href="(/notes/\d+)"', listing or "")
        if notes:
            self.ask("GET", random.choice(notes), "/notes/ID", holds=_END_OF_PAGE)

    @task(2)
    def search(self) -> None:
        self.ask("GET", "/notes?q=note", "/notes?q=WORD", holds=_END_OF_PAGE)

    @task(1)
    def status(self) -> None:
        self.ask("GET", "/status", "/status", holds=_END_OF_PAGE)

    @task(1)
    def health(self) -> None:
        self.ask("GET", "/healthz", "/healthz", holds="ok")


class Write(Visitor):
    """A user that writes notes, and checks that each new note can be found."""

    @task(4)
    def write(self) -> None:
        self._write("A note of a load test, as long as a remark in passing.")

    @task(1)
    def write_and_find(self) -> None:
        mark = uuid.uuid4().hex
        if self._write(f"A note to be found again: {mark}") is not None:
            self.ask("GET", f"/notes?q={mark}", "/notes?q=WORD", holds=f"again: {mark}")

    def _write(self, text: str) -> str | None:
        form = urlencode({"text": text, "author": "load test"})
        return self.ask("POST", "/notes", "/notes", holds=_END_OF_PAGE, data=form, headers=_FORM)


class SlowMix(Visitor):
    """A user that requests quick pages, and slow pages that hold slots. Quick pages must not become slower."""

    @task(3)
    def slow(self) -> None:
        self.ask("GET", "/slow?seconds=0.25", "/slow?seconds=0.25", holds=_END_OF_PAGE)

    @task(1)
    def stream(self) -> None:
        self.ask("GET", "/stream?lines=3", "/stream?lines=3", holds=_END_OF_PAGE)

    @task(4)
    def notes(self) -> None:
        self.ask("GET", "/notes", "/notes", holds=_END_OF_PAGE)

    @task(2)
    def home(self) -> None:
        self.ask("GET", "/", "/", holds=_END_OF_PAGE)


class Shape(Load):
    """The load shape that `--shape` selects."""

    def users_of(self, options: Any) -> tuple[str, int, int]:
        return options.shape, options.num_users or DEFAULT_USERS[options.shape], _MOST_STARTED_PER_SECOND


def _add_flags(parser: Any) -> None:
    parser.add_argument("--shape", choices=[*SHAPES], default="steady", help="how the number of users changes")
    parser.add_argument("--allow-shed", action="store_true", help="a refusal by the balancer is no failure")


events.init_command_line_parser.add_listener(_add_flags)  # type: ignore[no-untyped-call]  # locust has no types
