"""Parse request lines that httptools rejects: unknown methods, HTTP/1.2 to 1.9, non-ASCII bytes in a target.

A request with a rejected line is parsed again with a substitute line. httptools knows a fixed list of methods and
treats all of them alike except CONNECT, so the substitute method has no other effect. This module also finds the offset
at which a request begins, because httptools does not report this offset.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes

import httptools

from ..policy.cannedresponses import CannedResponse
from .refusals import ENCRYPTED, METHOD_TOO_LONG

__all__ = ["LineReplaced", "StandIn", "last_beginning", "line_begun", "line_refusal", "line_replaced", "possible_end"]

METHOD_BYTES: Final = 64
"""Maximum length of a method in bytes; the longest registered method has 17 bytes."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_METHOD: Final = re.compile(rb"(%b{1,%d}) " % (_TOKEN, METHOD_BYTES)).match
_LONG_METHOD: Final = re.compile(rb"%b{%d}" % (_TOKEN, METHOD_BYTES + 1)).match
_LINE_BEGUN: Final = re.compile(rb"%b{1,%d}(?: [^\x00-\x1f\x7f]*\r?)?" % (_TOKEN, METHOD_BYTES)).fullmatch
_LATER_VERSION: Final = re.compile(rb" HTTP/1\.[2-9]\r\n\Z")
_TLS_HANDSHAKE: Final = b"\x16\x03"
"""The first two bytes of a TLS handshake: a record type and the first byte of a version (RFC 8446, 5.1)."""
_ASCII: Final = bytes(range(0x80))


class LineReplaced(NamedTuple):
    """The method of a request, and the bytes of the request with a request line that httptools accepts."""

    method: bytes
    data: bytes


def line_refusal(data: bytes, refusal: CannedResponse) -> CannedResponse:
    """Return a specific response if `data` is a TLS handshake or has too long a method; otherwise, return `refusal`."""
    if data.startswith(_TLS_HANDSHAKE):
        return ENCRYPTED
    return METHOD_TOO_LONG if _LONG_METHOD(data) else refusal


def line_begun(data: bytes) -> bool:
    """Return whether `data`, which has no line feed, may be the beginning of a request line."""
    return _LINE_BEGUN(data) is not None


def line_replaced(data: bytes) -> LineReplaced | None:
    """Return `data` with a substitute request line, or None if `data` does not begin with a method and a space.

    A version after 1.1 is replaced by 1.1 (RFC 9110, 2.5), and non-ASCII bytes of a target are percent-encoded.
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
    """An httptools parser for a request with a substitute method, which reports the original method."""

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
        """True until the head of the request with the substitute method has been read."""
        return self._method is not None

    def get_method(self) -> bytes:
        """Return the original method of the request; call this once per request, after its head is complete."""
        method, self._method = self._method, None
        return self._parser.get_method() if method is None else method


class _Beginnings:
    """A counter of the requests that begin in the parsed data."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def on_message_begin(self) -> None:
        """Count a request."""
        self.count += 1


def last_beginning(data: bytes) -> int:
    """Return the offset at which the last request in `data` begins; `data` must begin between two requests."""
    count = _beginnings(data)
    if count == 1:
        return len(data) - len(data.lstrip(b"\r\n"))
    return bisect_left(range(len(data)), count, key=lambda end: _beginnings(data[: end + 1]))


def _beginnings(data: bytes) -> int:
    beginnings = _Beginnings()
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(beginnings).feed_data(data)
    return beginnings.count


_LINE_ENDS: Final = re.compile(rb"[\r\n]+").match
_EMPTY_LINE: Final = re.compile(rb"\n\r\n[\r\n]*").search


def possible_end(data: bytes, start: int) -> int:
    """Return an offset in `data` that is at or after `start`, and not beyond the first byte of the next request.

    Heads and chunked bodies end with an empty line, whose first bytes may be in earlier data. Line ends before a
    request are skipped, because they have no meaning.
    """
    match = _LINE_ENDS(data, start) or _EMPTY_LINE(data, start)
    return len(data) if match is None else match.end()
