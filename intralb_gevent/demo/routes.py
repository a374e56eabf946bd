"""Route each request to its page, and produce the page's response.

If a balancer has put values into the environ, the pages show these values.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from . import pages, responses, store
from .counters import RequestCounters
from .requests import Refused, Request
from .responses import Response
from .rush import Rush

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Application", "DeliberateFailure"]

LONGEST_SLEEP = 30.0
MOST_LINES = 300
LINE_SECONDS = 0.1


class DeliberateFailure(Exception):
    """The exception that the page "Fail" raises on purpose; no code of the application catches it."""


class Route(NamedTuple):
    """One page: its name in the counters, its path, and the handler for each method."""

    page: str
    path: re.Pattern[str]
    methods: dict[str, Callable[[Request], Response]]


class Application:
    """The sample application: a WSGI callable."""

    def __init__(self, path: str) -> None:
        """Store the path of the SQLite file; connections to the file are opened when they are needed."""
        self._connections = store.ConnectionPerThread(path)
        self._counters = RequestCounters()
        self._rush = Rush()
        self._routes = (
            _route("home", "/", GET=self._home),
            _route("notes", "/notes", GET=self._notes, POST=self._write_note),
            _route("note", "/notes/[0-9]{1,18}", GET=self._note),
            _route("slow", "/slow", GET=self._slow),
            _route("stream", "/stream", GET=self._stream),
            _route("fail", "/fail", GET=_fail),
            _route("status", "/status", GET=self._status),
            _route("rush", "/rush", POST=self._begin_rush),
            _route("health", "/healthz", GET=_health),
            _route("static", r"/static/(style\.css|icon\.svg)", GET=_static),
        )
        self._elsewhere = _route("not found", ".*", GET=_not_found, POST=_not_found)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, and count it under the name of its page."""
        request = Request(environ)
        route = self._find(request.path)
        self._counters.begin(route.page, request.worker)
        try:
            answer = self._answer(route, request)
            start_response(answer.status, answer.headers)
        except BaseException:
            self._counters.end(route.page)
            raise
        body = () if request.is_head else answer.body
        return _Body(body, lambda: self._counters.end(route.page))

    def _find(self, path: str) -> Route:
        return next((route for route in self._routes if route.path.fullmatch(path)), self._elsewhere)

    def _answer(self, route: Route, request: Request) -> Response:
        try:
            return _handler(route, request)(request)
        except Refused as refusal:
            document = pages.error(self._served(request), refusal.status, str(refusal))
            return responses.page(document, refusal.status, refusal.allow)

    def _served(self, request: Request) -> pages.Served:
        return pages.Served(
            root=request.root,
            worker=request.worker,
            seconds_left=request.seconds_left,
            session_of_balancer=request.session is not None,
            requests_of_thread=self._counters.requests_of_thread,
            server=request.server,
        )

    def _connection(self, request: Request) -> sqlite3.Connection:
        if request.session is not None:
            return request.session  # type: ignore[no-any-return]  # it has the methods of our connections
        return self._connections.current()

    def _home(self, request: Request) -> Response:
        return responses.page(pages.home(self._served(request)))

    def _notes(self, request: Request) -> Response:
        search = request.query("q").strip()[: store.SEARCH_LENGTH]
        connection = self._connection(request)
        found, total = store.latest(connection, search), store.count(connection)
        return responses.page(pages.notes(self._served(request), found, search, total))

    def _write_note(self, request: Request) -> Response:
        form = request.form()
        text = _checked(form, "text", store.TEXT_LENGTH)
        if not text:
            raise Refused("400 Bad Request", "A note needs some text; go back and write a word.")
        author = _checked(form, "author", store.AUTHOR_LENGTH) or "somebody"
        store.write(self._connection(request), text, author)
        return responses.redirect(f"{request.root}/notes")

    def _note(self, request: Request) -> Response:
        note_id = int(request.path.rpartition("/")[2])
        found = store.find(self._connection(request), note_id)
        if found is None:
            raise Refused("404 Not Found", f"There is no note {note_id}; the list shows the existing notes.")
        return responses.page(pages.note(self._served(request), found))

    def _slow(self, request: Request) -> Response:
        seconds = request.number("seconds", 1, 0, LONGEST_SLEEP)
        answered_before = self._counters.answered
        if not request.is_head:
            time.sleep(seconds)
        others = self._counters.answered - answered_before
        return responses.page(pages.slow(self._served(request), seconds, others, LONGEST_SLEEP))

    def _stream(self, request: Request) -> Response:
        lines = int(request.number("lines", 20, 0, MOST_LINES))
        return responses.stream(self._growing(request, lines))

    def _growing(self, request: Request, lines: int) -> Iterator[str]:
        started = time.monotonic()
        yield pages.stream_beginning(self._served(request), lines)
        for number in range(1, lines + 1):
            time.sleep(LINE_SECONDS)
            yield pages.stream_line(number, lines, time.monotonic() - started)
        yield pages.stream_end(self._served(request))

    def _status(self, request: Request) -> Response:
        return responses.page(pages.status(self._served(request), self._counters.counts(), self._rush.progress))

    def _begin_rush(self, request: Request) -> Response:
        address = request.server_address
        if address is None:
            raise Refused("409 Conflict", "A rush needs a server that listens on a port without TLS.")
        self._rush.begin(*address, request.root)
        return responses.redirect(f"{request.root}/status")


def _route(page: str, path: str, **methods: Callable[[Request], Response]) -> Route:
    return Route(page, re.compile(path, re.DOTALL), methods)


def _handler(route: Route, request: Request) -> Callable[[Request], Response]:
    handler = route.methods.get("GET" if request.is_head else request.method)
    if handler is None:
        reading = ["GET", "HEAD"] if "GET" in route.methods else []
        allow = ", ".join([*reading, *(method for method in route.methods if method != "GET")])
        raise Refused(
            "405 Method Not Allowed",
            f"This page does not accept {request.method[:20]}; it accepts {allow}.",
            allow,
        )
    return handler


def _checked(form: dict[str, str], field: str, longest: int) -> str:
    # Replace "\r\n", because a browser counts a newline as one character, but sends two.
    value = form.get(field, "").replace("\r\n", "\n").strip()
    if len(value) > longest:
        raise Refused("400 Bad Request", f"The {field} has {len(value):,} characters; the maximum is {longest:,}.")
    return value


def _fail(request: Request) -> Response:
    raise DeliberateFailure("this page fails on purpose, to show that no other request fails")


def _health(request: Request) -> Response:
    return responses.plain("ok")


def _static(request: Request) -> Response:
    return responses.static_file(request.path.rpartition("/")[2])


def _not_found(request: Request) -> Response:
    raise Refused("404 Not Found", "There is no such page; the first page links to all pages.")


class _Body:
    """The body of a response; when the server closes the body, the request is counted as ended."""

    def __init__(self, parts: Iterable[bytes], ended: Callable[[], None]) -> None:
        self._parts = iter(parts)
        self._ended = ended

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        """Count the request as ended, even if the server has not read the whole body."""
        self._ended()
