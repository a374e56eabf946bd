"""The head of a response: checked, and turned into text.

Decides which status and headers an application may send (PEP 3333, RFC 9110) and what the server adds. Pure; it must
not know connections.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

from ..naming import shown_value
from ..policy.answers import Answer
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
"""What no value may contain (RFC 9110, 5.5): line breaks would forge headers, and many proxies refuse a response with
the others, as gunicorn does. A tab is allowed."""
REMEMBERED_HEADERS: Final = 3
"""Heads with more headers of the application's are not remembered."""

_HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"),
        *("te", "transfer-encoding", "upgrade"),
    }
)
"""Headers that concern one connection, and so are the server's to send (PEP 3333). Trailer names fields that a proxy in
front may drop, and is harmless."""

_NOTED: Final = _HOP_BY_HOP | {"content-length", "date", "server"}


class ResponseHead:
    """Status and header lines of a response, with what framing must know of them.

    Raises ValueError or TypeError, naming the header, for what may not be sent. Hot, and therefore flat.
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
        """Names of the application's headers that are not sent, in lower case."""
        lines = [line]
        for name, value in headers:
            lower = _checked_name(name)
            if not isinstance(value, str):
                raise TypeError(f"header {name!r} has {shown_value(value)}; its value must be a str")
            if lower in _NOTED and not self._noted(lower, value):
                continue
            lines.append(f"{name}: {value}\r\n")
        self.data = data = "".join(lines).encode("latin-1")
        # One look at the whole instead of one at each value: only the end of each line may go.
        if len(data.translate(None, _CONTROLS)) != len(data) - 2 * len(lines):
            _refuse_values(headers)

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status}>"

    def _noted(self, name: str, value: str) -> bool:
        """Take note of a header; say whether it is sent: a length once, and with a 204 never (RFC 9110, 8.6)."""
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
        """Do not send a hop-by-hop header; of what it may ask for, only the close of the connection is honoured."""
        options = {option.strip().lower() for option in value.split(",")}
        if name == "connection" and "close" in options:
            self.closes = True
            options.discard("close")
        if options:
            self.dropped += (name,)


def response_head(status: Any, headers: Any) -> ResponseHead:
    """Return the head of a response; short ones, of a type and a length, are often alike and are remembered.

    A long one has a date, a cookie or a tag in it, and looking for it would cost more than it saves.
    """
    if type(headers) is not list or len(headers) > REMEMBERED_HEADERS:
        return ResponseHead(status, headers)
    try:
        return _remembered_head(status, tuple(headers))
    except TypeError:
        # A header that is a list cannot be looked up; one that is wrong is told so.
        return ResponseHead(status, headers)


def hints(headers: Any) -> bytes:
    """Return a 103 response with these headers, checked as those of any other; it is told no length, having no body."""
    head = ResponseHead("200 OK", headers)
    if head.length is not None:
        raise ValueError("header 'Content-Length' cannot be sent with early hints (RFC 9110, 8.6); leave it out")
    return b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % head.data.partition(b"\r\n")[2]


_remembered_head: Final = lru_cache(maxsize=1024)(ResponseHead)


@lru_cache(maxsize=256)
def _status_line(status: Any) -> tuple[str, bool]:
    """Return the checked first line, and whether no body may follow; an application uses few, so it is remembered."""
    if not isinstance(status, str) or not _STATUS(status):
        shown = shown_value(status)
        raise ValueError(f"status {shown} cannot be sent; write three digits from 200 on, a space, a phrase")
    # Where there is no phrase its space is still there (RFC 9112, 4).
    return f"HTTP/1.1 {status}{'' if status[3:] else ' '}\r\n", status[:3] in ("204", "304")


@lru_cache(maxsize=1024)
def _checked_name(name: Any) -> str:
    """Return a header's name in lower case; an application uses few, so the check is remembered."""
    if not isinstance(name, str) or not _NAME(name):
        raise ValueError(f"header name {shown_value(name)} cannot be sent; use letters, digits and hyphens")
    return name.lower()


def _refuse_values(headers: Any) -> None:
    for name, value in headers:
        if has_controls(value):
            raise ValueError(f"header {name!r} has a control character in its value, {shown_value(value)}; remove it")


def has_controls(text: str) -> bool:
    """Say whether a text has a character that no header may contain."""
    return len(text.encode("latin-1", "replace").translate(None, _CONTROLS)) != len(text)


def _length(value: str, before: int | None) -> int:
    value = value.strip(" \t")
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"Content-Length {shown_value(value)} cannot be sent; it must be a whole number")
    if before not in (None, int(value)):
        raise ValueError("two different Content-Length headers cannot be sent; leave one out")
    return int(value)


class _ThisSecond:
    """What is the same for a second: the date's header line, and whole answers that are not an application's."""

    __slots__ = ("answers", "date", "date_and_server", "second")

    def __init__(self) -> None:
        self.second = -1
        self.date = self.date_and_server = b""
        self.answers: dict[Answer, bytes] = {}
        """Those given in this second on connections that go on."""

    def now(self) -> _ThisSecond:
        """Return itself, with what holds for the present second."""
        second = int(time_of_day())
        if second != self.second:
            self.date = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
            self.date_and_server = self.date + SERVER_LINE
            self.answers.clear()
            self.second = second
        return self


_THIS_SECOND: Final = _ThisSecond()


def date_line() -> bytes:
    """Return the Date header line for now."""
    return _THIS_SECOND.now().date


def date_and_server_lines() -> bytes:
    """Return the Date header line for now and the Server header line."""
    return _THIS_SECOND.now().date_and_server


_fixed_heads: Final[dict[Answer, bytes]] = {}
"""Of the answers given so far; there are a few of ours, and one for each way of being malformed."""


def _fixed_head(answer: Answer) -> bytes:
    head = _fixed_heads.get(answer)
    if head is None:
        head = _fixed_heads[answer] = ResponseHead(answer.status, [*answer.headers, ("Server", SERVER)]).data
    return head


def whole_answer(answer: Answer, *, keep_alive: bool, head_only: bool = False) -> bytes:
    """Return the bytes of an answer that was not the application's."""
    this_second = _THIS_SECOND.now()
    if not keep_alive or head_only:
        connection = b"" if keep_alive else b"Connection: close\r\n"
        body = b"" if head_only else answer.body
        return b"".join((_fixed_head(answer), this_second.date, connection, b"\r\n", body))
    # Where many are refused, each is one of a few.
    data = this_second.answers.get(answer)
    if data is None:
        data = this_second.answers[answer] = b"".join((_fixed_head(answer), this_second.date, b"\r\n", answer.body))
    return data
