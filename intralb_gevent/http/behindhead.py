"""Parse the body of a request that offers an upgrade; httptools would not parse the body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from .parser import RequestParser

__all__ = ["parser_behind_head"]


class _BehindHead:
    """The callbacks of a second httptools parser, for a body that the first parser would not parse.

    httptools regards a message that offers an upgrade as complete after its head. So a second parser parses a
    substitute head without the offer, and then the body. The callbacks for the substitute head are ignored. All later
    callbacks, including those for the requests that follow, are passed to the `RequestParser`.
    """

    __slots__ = ("_ignores", "_parser")

    def __init__(self, parser: RequestParser) -> None:
        self._parser = parser
        self._ignores = True

    def on_message_begin(self) -> None:
        """Start a request; do nothing at the start of the substitute head."""
        if not self._ignores:
            self._parser.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Receive a piece of the request target."""
        if not self._ignores:
            self._parser.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive one header field."""
        if not self._ignores:
            self._parser.on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head of a request; do nothing at the end of the substitute head."""
        if self._ignores:
            self._ignores = False
        else:
            self._parser.on_headers_complete()

    def on_body(self, data: bytes) -> None:
        """Receive a piece of the body."""
        self._parser.on_body(data)

    def on_message_complete(self) -> None:
        """Complete the request."""
        self._parser.on_message_complete()


def parser_behind_head(parser: RequestParser, environ: dict[str, Any], persists: bool, length: int) -> Any:
    """Return an httptools parser for the rest of a request, as if the head in `environ` offered no upgrade."""
    framing = f"Content-Length: {length}" if "CONTENT_LENGTH" in environ else "Transfer-Encoding: chunked"
    connection = "keep-alive" if persists else "close"
    behind = httptools.HttpRequestParser(_BehindHead(parser))
    head = f"POST / {environ['SERVER_PROTOCOL']}\r\nConnection: {connection}\r\n{framing}\r\n\r\n"
    behind.feed_data(head.encode("ascii"))
    return behind
