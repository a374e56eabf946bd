"""Check the status and headers of a response, and encode its head.

This module rejects headers that an application may not send (PEP 3333, RFC 9110), and adds the server's own headers.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

from ..naming import shown_value
from ..policy.cannedresponses import CannedResponse
from ..stdlib import time_of_day

__all__ = [
    "SERVER",
    "SERVER_LINE",
    "ResponseHead",
    "date_and_server_lines",
    "date_line",
    "has_controls",
    "hints",
    "response_head",
    "whole_answer",
]

SERVER: Final = "intralb-gevent"
SERVER_LINE: Final = f"Server: {SERVER}\r\n".encode()

_STATUS: Final = re.compile(r"[2-9][0-9][0-9]( [\t\x20-\x7e\x80-\xff]*)?").fullmatch
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_CONTROLS: Final = bytes({*range(32), 127} - {9})
"""Control characters that no header value may contain (RFC 9110, 5.5); a tab is allowed.

A line break in a value could forge a header. Many proxies, and gunicorn, reject responses with the other control
characters.
"""
REMEMBERED_HEADERS: Final = 3
"""Maximum number of the application's headers in a cached head."""

_HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"),
        *("te", "transfer-encoding", "upgrade"),
    }
)
"""Headers that concern one connection; only the server may send them (PEP 3333).

The header Trailer is harmless, and therefore allowed: it only names fields that a proxy may drop.
"""

_NOTED: Final = _HOP_BY_HOP | {"content-length", "date", "server"}


class ResponseHead:
    """The status line and header lines of a response, and the facts that framing needs.

    If a header may not be sent, the constructor raises ValueError or TypeError, whose message names the header.
    """

    __slots__ = ("bodiless", "closes", "data", "dropped", "has_date", "has_server", "length", "status")

    def __init__(self, status: Any, headers: Any) -> None:
        self.status = status
        line, self.bodiless = _status_line(status)
        if type(headers) is not list and type(headers) is not tuple:
            headers = list(headers)
        self.length: int | None = None
        self.has_date = self.has_server = self.closes = False
        self.dropped: tuple[str, ...] = ()
        """Lower-case names of the application's headers that are not sent."""
        lines = [line]
        for name, value in headers:
            lower = _checked_name(name)
            if not isinstance(value, str):
                raise TypeError(f"header {name!r} has {shown_value(value)}; its value must be a str")
            if lower in _NOTED and not self._noted(lower, value):
                continue
            lines.append(f"{name}: {value}\r\n")
        self.data = data = "".join(lines).encode("latin-1")
        # Check all lines in one pass: only the two bytes of each line end may be control characters.
        if len(data.translate(None, _CONTROLS)) != len(data) - 2 * len(lines):
            _refuse_values(headers)

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status}>"

    def _noted(self, name: str, value: str) -> bool:
        """Record a header; return whether to send it.

        A Content-Length is sent once, and never with a 204 (RFC 9110, 8.6).
        """
        if name == "content-length":
            repeated, self.length = self.length is not None, _length(value, self.length)
            return not repeated and self.status[:3] != "204"
        if name == "date":
            self.has_date = True
        elif name == "server":
            self.has_server = True
        else:
            self._drop(name, value)
            return False
        return True

    def _drop(self, name: str, value: str) -> None:
        """Drop a hop-by-hop header, but honour `Connection: close`."""
        options = {option.strip().lower() for option in value.split(",")}
        if name == "connection" and "close" in options:
            self.closes = True
            options.discard("close")
        if options:
            self.dropped += (name,)


def response_head(status: Any, headers: Any) -> ResponseHead:
    """Return the head of a response. Heads with few headers are cached, because they are often repeated.

    A longer head usually contains a date, a cookie or an ETag, so a cache lookup would cost more time than it saves.
    """
    if type(headers) is not list or len(headers) > REMEMBERED_HEADERS:
        return ResponseHead(status, headers)
    try:
        return _remembered_head(status, tuple(headers))
    except TypeError:
        # The cache cannot hash a header that is a list. This call raises any other TypeError again.
        return ResponseHead(status, headers)


def hints(headers: Any) -> bytes:
    """Return a 103 response with the checked headers. A Content-Length is an error, because a 103 has no body."""
    head = ResponseHead("200 OK", headers)
    if head.length is not None:
        raise ValueError("header 'Content-Length' cannot be sent with early hints (RFC 9110, 8.6); leave it out")
    return b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % head.data.partition(b"\r\n")[2]


_remembered_head: Final = lru_cache(maxsize=1024)(ResponseHead)


@lru_cache(maxsize=256)
def _status_line(status: Any) -> tuple[str, bool]:
    """Return the checked status line, and whether a body is forbidden. Status lines are cached, as they are few."""
    if not isinstance(status, str) or not _STATUS(status):
        shown = shown_value(status)
        raise ValueError(f"status {shown} cannot be sent; write three digits from 200 on, a space, a phrase")
    # A space after the code is required even without a reason phrase (RFC 9112, 4).
    return f"HTTP/1.1 {status}{'' if status[3:] else ' '}\r\n", status[:3] in ("204", "304")


@lru_cache(maxsize=1024)
def _checked_name(name: Any) -> str:
    """Return the checked name of a header in lower case. Results are cached, as applications use few names."""
    if not isinstance(name, str) or not _NAME(name):
        raise ValueError(f"header name {shown_value(name)} cannot be sent; use letters, digits and hyphens")
    return name.lower()


def _refuse_values(headers: Any) -> None:
    for name, value in headers:
        if has_controls(value):
            raise ValueError(f"header {name!r} has a control character in its value, {shown_value(value)}; remove it")


def has_controls(text: str) -> bool:
    """Return whether a text contains a character that no header may contain."""
    return len(text.encode("latin-1", "replace").translate(None, _CONTROLS)) != len(text)


def _length(value: str, before: int | None) -> int:
    value = value.strip(" \t")
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"Content-Length {shown_value(value)} cannot be sent; it must be a whole number")
    if before not in (None, int(value)):
        raise ValueError("two different Content-Length headers cannot be sent; leave one out")
    return int(value)


class _ThisSecond:
    """A cache of the Date header line, which is formatted once per second."""

    __slots__ = ("date", "date_and_server", "second")

    def __init__(self) -> None:
        self.second = -1
        self.date = self.date_and_server = b""

    def now(self) -> _ThisSecond:
        """Return this cache, refreshed if a new second has begun."""
        second = int(time_of_day())
        if second != self.second:
            self.date = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
            self.date_and_server = self.date + SERVER_LINE
            self.second = second
        return self


_THIS_SECOND: Final = _ThisSecond()


def date_line() -> bytes:
    """Return the Date header line for the current time."""
    return _THIS_SECOND.now().date


def date_and_server_lines() -> bytes:
    """Return the Date header line for the current time and the Server header line."""
    return _THIS_SECOND.now().date_and_server


_fixed_heads: Final[dict[CannedResponse, bytes]] = {}
"""Cached heads of the server's own responses: a few for rejections, and one for each kind of malformed request."""


def _fixed_head(answer: CannedResponse) -> bytes:
    head = _fixed_heads.get(answer)
    if head is None:
        head = _fixed_heads[answer] = ResponseHead(answer.status, [*answer.headers, ("Server", SERVER)]).data
    return head


def whole_answer(
    answer: CannedResponse,
    *,
    keep_alive: bool,
    head_only: bool = False,
    load_line: bytes = b"",
    request_id: str = "",
) -> bytes:
    """Return the bytes of one of the server's own responses.

    `load_line` is an additional header line, or b"". `request_id` is sent in X-Request-ID, unless it is empty.
    """
    head, date = _fixed_head(answer), _THIS_SECOND.now().date
    connection = b"" if keep_alive else b"Connection: close\r\n"
    body = b"" if head_only else answer.body
    if not request_id:
        return b"%b%b%b%b\r\n%b" % (head, date, load_line, connection, body)
    name = request_id.encode("latin-1")
    return b"%b%b%b%bX-Request-ID: %b\r\n\r\n%b" % (head, date, load_line, connection, name, body)
