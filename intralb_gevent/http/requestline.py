"""Request lines that httptools refuses and HTTP allows: any token as a method, HTTP/1.2 to 1.9, raw bytes in a target.

Decides which line httptools is given instead, with the same meaning to it: it knows a fixed list of methods, treats
all of them alike but CONNECT, and tells nobody where in its input a request begins. Only requests that it has refused
come here.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes

import httptools

from ..policy.answers import Answer
from .refusals import ENCRYPTED, METHOD_TOO_LONG

__all__ = ["LineReplaced", "StandIn", "last_beginning", "line_begun", "line_refusal", "line_replaced"]

METHOD_BYTES: Final = 64
"""The longest method; the longest registered one has 17."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_METHOD: Final = re.compile(rb"(%b{1,%d}) " % (_TOKEN, METHOD_BYTES)).match
_LONG_METHOD: Final = re.compile(rb"%b{%d}" % (_TOKEN, METHOD_BYTES + 1)).match
_LINE_BEGUN: Final = re.compile(rb"%b{1,%d}(?: [^\x00-\x1f\x7f]*\r?)?" % (_TOKEN, METHOD_BYTES)).fullmatch
_LATER_VERSION: Final = re.compile(rb" HTTP/1\.[2-9]\r\n\Z")
_TLS_HANDSHAKE: Final = b"\x16\x03"
"""The type of the first record of TLS, and the first byte of its version (RFC 8446, 5.1)."""
_ASCII: Final = bytes(range(0x80))


class LineReplaced(NamedTuple):
    """The method of a request, and its bytes with a line that httptools understands."""

    method: bytes
    data: bytes


def line_refusal(data: bytes, refusal: Answer) -> Answer:
    """Return what a request is answered whose line is refused: that it is HTTPS, its method too long, or `refusal`."""
    if data.startswith(_TLS_HANDSHAKE):
        return ENCRYPTED
    return METHOD_TOO_LONG if _LONG_METHOD(data) else refusal


def line_begun(data: bytes) -> bool:
    """Say whether bytes without a line feed may become a request line with more to come."""
    return _LINE_BEGUN(data) is not None


def line_replaced(data: bytes) -> LineReplaced | None:
    """Return the bytes of a request with another line; None where it does not begin with a method and a space.

    A version after 1.1 is read as that (RFC 9110, 2.5), and raw bytes of a target are percent-encoded.
    """
    match = _METHOD(data)
    if match is None:
        return None
    method = match[1]
    end = data.find(b"\n") + 1 or len(data)
    rest = _LATER_VERSION.sub(b" HTTP/1.1\r\n", data[len(method) : end])
    if not rest.isascii():
        rest = quote_from_bytes(rest, safe=_ASCII).encode()
    return LineReplaced(method, b"%b%b%b" % (method if method == b"CONNECT" else b"POST", rest, data[end:]))


class StandIn:
    """A parser of httptools that reads a request with another method first: it reports this one for that request."""

    __slots__ = ("_method", "_parser", "feed_data", "get_http_version", "should_keep_alive", "should_upgrade")

    def __init__(self, protocol: object, method: bytes) -> None:
        self._parser: Any = httptools.HttpRequestParser(protocol)
        self._method: bytes | None = method
        self.feed_data: Callable[[bytes | memoryview], None] = self._parser.feed_data
        self.get_http_version: Callable[[], str] = self._parser.get_http_version
        self.should_keep_alive: Callable[[], bool] = self._parser.should_keep_alive
        self.should_upgrade: Callable[[], bool] = self._parser.should_upgrade

    def __repr__(self) -> str:
        return f"<StandIn for {self._method!r}>"

    @property
    def in_head(self) -> bool:
        """Whether the head of the request with the other method has not been read yet."""
        return self._method is not None

    def get_method(self) -> bytes:
        """Return the method of a request whose head is complete; called once for each."""
        method, self._method = self._method, None
        return self._parser.get_method() if method is None else method


class _Beginnings:
    """Counts the requests that begin in bytes."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def on_message_begin(self) -> None:
        self.count += 1


def last_beginning(data: bytes) -> int:
    """Return where in these bytes the last of the requests begins that begin there; they begin between two requests."""
    count = _beginnings(data)
    if count == 1:
        return len(data) - len(data.lstrip(b"\r\n"))
    return bisect_left(range(len(data)), count, key=lambda end: _beginnings(data[: end + 1]))


def _beginnings(data: bytes) -> int:
    beginnings = _Beginnings()
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(beginnings).feed_data(data)
    return beginnings.count
