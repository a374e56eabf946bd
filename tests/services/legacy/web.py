"""A small WSGI framework in the style of legacy code: it stores the user of a request in a thread-local.

Like most legacy code, it clears the thread-local when a page returns and after an `Exception`, but not after an abort.

Each response contains the data that the request has found and read, so that the client can check that all data is its
own:

`number`, `user`    the request's number and its user, who is read from the thread-local after the page has been made
`found`             the user that was in the thread-local and in the context variable before the request set its own
`owners`            the owners of all data that the page has read
`numbers`           the request's number, each time that a database, a cache or another server has returned it

A page calls `stage` at each step. A request can specify one step at which it stays for 30 seconds: it sleeps,
computes, or waits in its driver.
"""

from __future__ import annotations

import contextvars
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["LONG", "Request", "site", "stage"]

LONG = 30.0
"""Seconds for which a request would stay at a step; its deadline passes long before."""

SLOTS = int(os.environ.get("LEGACY_SLOTS", "1"))

_local = threading.local()
_user: contextvars.ContextVar[int | None] = contextvars.ContextVar("user", default=None)
_all_slots = threading.Barrier(SLOTS)
_stages: dict[int, str] = {}
"""The last step that each running request has reached, by the request's number."""


class Request:
    def __init__(self, environ: dict[str, Any]) -> None:
        fields = dict(parse_qsl(environ["QUERY_STRING"]))
        self.number, self.user, self.other = (int(fields.get(name, 0)) for name in ("number", "user", "other"))
        self.amount = int(fields.get("amount", 0))
        self.how, self.at = fields.get("how", ""), fields.get("at", "")
        self.together = "together" in fields
        self.host = environ.get("HTTP_HOST", "")


def stage(request: Request, name: str, wait: Callable[[], object]) -> None:
    """Record the step that a request has reached; if the request specifies it, stay at this step, e.g. in `wait`."""
    _stages[request.number] = name
    if request.at == name:
        _stages[request.number] = request.how
        {"driver": wait, "sleep": lambda: time.sleep(LONG), "compute": compute}[request.how]()


def compute() -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        sum(range(500))


Page = Callable[[Request], dict[str, Any]]


def site(**pages: Page) -> Callable[..., list[bytes]]:
    """Return a WSGI application with the given pages."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        name = environ["PATH_INFO"][1:]
        if name == "stages":
            status, answer = "200 OK", dict(Counter(_stages.values()))
        else:
            status, answer = respond(pages[name], Request(environ))
        body = json.dumps(answer).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application


def respond(page: Page, request: Request) -> tuple[str, dict[str, Any]]:
    found = [user for user in (getattr(_local, "user", None), _user.get()) if user is not None]
    _local.user = request.user
    _user.set(request.user)
    try:
        answer = page(request)
        if request.together:
            _all_slots.wait(10)
    except Exception as error:
        _local.user = None
        _user.set(None)
        traceback.print_exc(file=sys.stderr)
        return "500 Internal Server Error", {"error": f"{type(error).__name__}: {error}"}
    answer |= {"number": request.number, "user": _local.user, "found": found}
    _local.user = None
    _user.set(None)
    _stages.pop(request.number, None)
    return "200 OK", answer
