"""The paths of the status page: the page itself, its feed, and the details that the page requests on demand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from .actions import Actions
from .feed import Feed
from .flames import Flames
from .page import ELSEWHERE, is_local, page
from .requests import stack_with

if TYPE_CHECKING:
    from ..pool.balancer import LoadBalancer

__all__ = ["EVENTS", "StatusPages"]

EVENTS: Final = "/events"
END: Final = "/end"
UNSENT: Final = "intralb.unsent"
"""Environ key of a function that returns the number of response bytes that the client has not read yet."""

_STREAM: Final = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),
]
_BUSY: Final = f"There are {Feed.MOST_VIEWERS} viewers already; close one of the open pages.\n"

Answer = tuple[str, list[tuple[str, str]], bytes]
_StartResponse = Callable[..., object]


def _text(status: str, text: str) -> Answer:
    return status, [("Content-Type", "text/plain; charset=utf-8")], text.encode()


def _json(value: object) -> Answer:
    return "200 OK", [("Content-Type", "application/json")], json.dumps(value, ensure_ascii=False).encode()


def _is_number(text: str) -> bool:
    """Return whether a text is a number of at most ten digits: a process id, or a checksum of 32 bits."""
    return text.isascii() and text.isdecimal() and len(text) <= 10


class StatusPages:
    """Answers the requests for the status page of one balancer."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self.balancer = balancer
        self.feed = Feed(balancer)
        self._flames_of_handlers = Flames(balancer)
        self._actions: Actions | None = None
        self._pages: dict[str, Callable[[dict[str, str]], Answer]] = {
            "/": self._page,
            "/stack": self._stack,
            "/refused": self._refused,
            "/flames": self._flames,
        }

    def __repr__(self) -> str:
        return f"<StatusPages {self.feed!r}>"

    def allow_actions(self, token: str) -> None:
        """Allow operators who know this token to end running requests."""
        self._actions = Actions(self.balancer, token)
        self.feed.actions = True

    def has(self, path: str) -> bool:
        """Return whether a path belongs to the status page."""
        return path in (EVENTS, END) or path in self._pages

    def streams(self, environ: dict[str, Any]) -> bool:
        """Return whether the response to a request will be an endless stream, which needs a separate greenlet."""
        return environ["PATH_INFO"] == EVENTS and is_local(environ) and self.feed.viewers < Feed.MOST_VIEWERS

    def answer(self, environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        """Answer a request whose path belongs to the status page."""
        query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        if self.streams(environ) and UNSENT in environ:
            start_response("200 OK", list(_STREAM))
            of = query.get("of", "")
            return self.feed.events(
                environ[UNSENT], history=query.get("history") != "0", process=int(of) if _is_number(of) else None
            )
        status, headers, body = self._answer(environ, query)
        start_response(status, [*headers, ("Cache-Control", "no-store"), ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, environ: dict[str, Any], query: dict[str, str]) -> Answer:
        if not is_local(environ):
            return _text("403 Forbidden", ELSEWHERE)
        if environ["PATH_INFO"] == EVENTS:
            return _text("503 Service Unavailable", _BUSY)
        if query.get("process", str(os.getpid())) != str(os.getpid()):
            # Several processes accept from one listener; the page retries until it reaches the right process.
            status, headers, body = _text("421 Misdirected Request", f"This is process {os.getpid()}.\n")
            return status, [*headers, ("Connection", "close")], body
        if environ["PATH_INFO"] == END:
            return self._end(environ, query)
        return self._pages[environ["PATH_INFO"]](query)

    def _page(self, query: dict[str, str]) -> Answer:
        body, headers = page()
        return "200 OK", headers, body

    def _stack(self, query: dict[str, str]) -> Answer:
        stack = stack_with(self.balancer, query.get("request", ""))
        return _text("404 Not Found", "This request has ended.\n") if stack is None else _json(stack)

    def _refused(self, query: dict[str, str]) -> Answer:
        wanted = query.get("id", "")
        return _json([each for each in self.feed.rejected() if not wanted or each["request_id"] == wanted])

    def _flames(self, query: dict[str, str]) -> Answer:
        if _is_number(part := query.get("part", "")):
            return _json(self._flames_of_handlers.requests(query.get("graph", ""), int(part)))
        return _json(self._flames_of_handlers.graphs())

    def _end(self, environ: dict[str, Any], query: dict[str, str]) -> Answer:
        if self._actions is None:
            return _text(
                "403 Forbidden", "Requests can be ended only if the server was started with --admin-actions.\n"
            )
        refusal = self._actions.refusal(environ)
        if refusal is not None:
            return _text(*refusal)
        if not self._actions.end(query.get("request", "")):
            return _text("404 Not Found", "This request has ended.\n")
        return _text("200 OK", "The request was ended.\n")
