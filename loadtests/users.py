"""The users of the sample application: what each kind does, and what it expects of every answer.

Decides which pages are asked for, how often, and which answer is right. It must not know shapes, counters or reports.
Importing this imports locust, which patches the process.
"""

from __future__ import annotations

import random
import re
import uuid
from typing import Any
from urllib.parse import urlencode

from locust import FastHttpUser, between, task

from loadtests.figures import refusal

__all__ = ["Browse", "SlowMix", "Write"]

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_END_OF_PAGE = "</html>"
"""What only a whole page has: the last thing on it."""


class Visitor(FastHttpUser):
    """What all users share: they wait for each answer, check it, think a moment, and go on.

    A refusal by the balancer (503 with its reason) is an expected answer only with `--allow-shed`.
    """

    abstract = True
    wait_time = between(0.1, 0.4)
    network_timeout = 60.0
    """Longer than the server's own deadline, so that it is the server who decides."""

    def ask(self, method: str, path: str, page: str, holds: str = "", **more: Any) -> str | None:
        """Ask for a page and check the answer: its status, and that its text holds `holds`; return the text.

        None means that it was refused or wrong. `page` is its name in the report. Redirects are followed.
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
    """Say what is wrong with an answer that is no refusal, or None."""
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
    """Reads: the first page, the list of notes, single notes, a search, the counters, the probe."""

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
    """Writes notes, and looks whether one that was written can be found."""

    @task(4)
    def write(self) -> None:
        self._write("A note of a load test, as long as a remark that somebody makes in passing.")

    @task(1)
    def write_and_find(self) -> None:
        mark = uuid.uuid4().hex
        if self._write(f"A note to be found again: {mark}") is not None:
            self.ask("GET", f"/notes?q={mark}", "/notes?q=WORD", holds=f"again: {mark}")

    def _write(self, text: str) -> str | None:
        form = urlencode({"text": text, "author": "load test"})
        return self.ask("POST", "/notes", "/notes", holds=_END_OF_PAGE, data=form, headers=_FORM)


class SlowMix(Visitor):
    """Slow pages and a growing one, which hold their slots, among quick ones, which must not suffer."""

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
