"""Parse the bytes of a connection into requests, with httptools, in pieces of bounded cost.

The parser also rejects requests that httptools accepts but HTTP or WSGI forbids, and chooses the status of every
rejection. The parser uses neither sockets nor clocks. `requesthead.py` handles heads, and `body.py` stores bodies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import httptools

from ..config.options import Options
from ..policy.cannedresponses import CannedResponse
from ..stdlib import BytesIO
from .behindhead import parser_behind_head
from .body import SKIPPED_BODY_BYTES, Body, BodyBudget, SkippedBody
from .bodystream import BodySource, StreamedBody
from .refusals import (
    BODY_TOO_LARGE,
    NO_ROOM_FOR_BODY,
    TARGET_TOO_LONG,
    TOO_MANY_LINE_ENDS,
    UNKNOWN_VERSION,
    Refused,
    refusal_of,
)
from .request import Request
from .requesthead import RequestHead
from .requestline import (
    METHOD_BYTES,
    StandIn,
    last_beginning,
    line_begun,
    line_refusal,
    line_replaced,
    possible_end,
)

__all__ = ["RequestParser"]

LINE_ENDS_BYTES: Final = 64
"""Maximum bytes of line ends ignored before a request; some clients send a line end after a body (RFC 9112, 2.2)."""

_CARRIAGE_RETURN: Final = ord("\r")

MOST_PARTS: Final = 64
"""Maximum number of parts into which received data is split at possible ends of requests.

Without this limit, parsing a body of empty lines would be too costly. The data after the last split is parsed in one
part, and a request in this part is rejected if httptools does not know the request's method."""


def _forget(what: Any) -> None:
    """Ignore a callback of a closed parser."""


class RequestParser(RequestHead):
    """The parser of one connection, which calls `on_request` for each complete request. Bytes may be split anywhere.

    A request with a body can be rejected or submitted as soon as `on_head` has been called. `skip_body` returns the
    request to reject, and discards the body. `stream_body` returns the request to submit, and the application reads the
    body as it arrives. `on_request` is not called for a request that one of these methods has returned.
    """

    __slots__ = (
        "_body",
        "_budget",
        "_ignores_input",
        "_line",
        "_line_ends",
        "_on_request",
        "_shared_piece",
        "_unparsed",
        "held",
    )

    def __init__(
        self,
        base_environ: dict[str, Any],
        options: Options,
        on_head: Callable[[dict[str, Any]], object],
        on_request: Callable[[Request], object],
        budget: BodyBudget,
    ) -> None:
        super().__init__(base_environ, options, on_head)
        self._on_request = on_request
        self._http = httptools.HttpRequestParser(self)
        self._budget = budget
        self._body: Body | StreamedBody | SkippedBody | None = None
        self._ignores_input = False
        """True once all further input is ignored."""
        self.held = b""
        """Bytes fed while parsing was suspended; the caller reads this attribute and resets it to b""."""
        self._shared_piece = False
        self._unparsed = 0
        """Number of bytes that httptools did not parse in the last call, because they follow an upgrade offer."""
        self._line_ends = 0
        """Number of bytes of line ends received since the last request."""
        self._line = b""
        """The received part of an incomplete request line; it will be parsed again with the rest of the line."""

    def __repr__(self) -> str:
        return f"<RequestParser {'in a head' if self.in_head else 'in a body' if self.in_body else 'between requests'}>"

    @property
    def body_size(self) -> int:
        """Bytes of the current body that have arrived."""
        return 0 if self._body is None else self._body.size

    @property
    def body_left(self) -> int:
        """Bytes still missing from a body of declared length; 0 for a chunked body and between requests."""
        return self._length - self.body_size if self.in_body and self._length else 0

    @property
    def in_chunks(self) -> bool:
        """True between the head and the end of a chunked body."""
        return self.in_body and not self._length

    @property
    def skips_body(self) -> bool:
        """True while the parser discards the body of a request that has already been answered."""
        return isinstance(self._body, SkippedBody)

    def skip_body(self) -> Request:
        """Return the request whose head is complete, to be answered now; the parser will discard its body.

        The connection can be reused if the body is chunked or at most `SKIPPED_BODY_BYTES` long. But it is not reused
        if the client waits for `100 Continue`, and so may or may not send the body (RFC 9110, 10.1.1).
        """
        environ, self._environ = self._environ, self._base_environ
        environ["wsgi.input"] = BytesIO()
        kept = 0 if self._body is None else self._body.size
        if self._body is not None:
            self._body.release()
        self._body = SkippedBody(kept)
        self.head_pending = False
        keep_alive = self._persists() and not self.awaits_continue and self._length <= SKIPPED_BODY_BYTES
        self._ignores_input = not keep_alive
        return Request(environ, None, self._http_1_1, keep_alive)

    @property
    def streams_body(self) -> bool:
        """True if the application reads the body of the current request as it arrives."""
        return isinstance(self._body, StreamedBody)

    @property
    def far_ahead(self) -> bool:
        """True if the unread part of a streamed body is above its high-water mark."""
        return isinstance(self._body, StreamedBody) and bool(self._body.far_ahead)

    def stream_body(self, source: BodySource) -> Request:
        """Return the request with the pending head; the application will read the body as it arrives."""
        environ, self._environ = self._environ, self._base_environ
        early = self._body if isinstance(self._body, Body) else None
        body = StreamedBody(source, self._length, early, self.awaits_continue)
        self._body = body
        environ["wsgi.input"] = body.open()
        if "CONTENT_LENGTH" not in environ:
            # Show the application that there is a body, because no other key in the environ does.
            environ["HTTP_TRANSFER_ENCODING"] = "chunked"
        self.head_pending = False
        return Request(environ, body, self._http_1_1, self._persists())

    def fail_body(self, message: str, answer: CannedResponse | None) -> None:
        """Make reads of the streamed body raise an error, and ignore all further input."""
        self._ignores_input = True
        if isinstance(self._body, StreamedBody):
            self._body.fail(message, answer)

    def skip_rest(self) -> None:
        """Discard the rest of a streamed body after its request has been answered."""
        body = self._body
        if isinstance(body, StreamedBody):
            self._body = SkippedBody(body.size, body.size + SKIPPED_BODY_BYTES)
            body.drop()

    def _persists(self) -> bool:
        return bool(self._http.should_keep_alive())

    def feed(self, data: bytes | memoryview) -> CannedResponse | None:
        """Parse the next bytes; return the response if the request must be rejected, else None."""
        if self._ignores_input or self.holds_back:
            self._hold(data)
            return None
        self._shared_piece = False
        if self.in_head or self.in_body:
            return self._feed_within(data)
        return self._feed_between(data)

    def _feed_between(self, data: bytes | memoryview) -> CannedResponse | None:
        """Parse bytes that begin between two requests."""
        if data and data[0] <= _CARRIAGE_RETURN and self._exceeds_line_ends(bytes(data)):
            return TOO_MANY_LINE_ENDS
        error = self._parse(data)
        if error is not None:
            return self._refusal_between(data, error)
        if self._unparsed:
            return self._feed_within(memoryview(data)[len(data) - self._unparsed :])
        if self.in_head and not self._header_count:
            return self._within_line(bytes(data))
        return self._unfinished(len(data))

    def _exceeds_line_ends(self, data: bytes) -> bool:
        """Count the bytes of line ends before a request; return whether their number exceeds the limit."""
        self._line_ends += len(data) - len(data.lstrip(b"\r\n"))
        return self._line_ends > LINE_ENDS_BYTES

    def _feed_within(self, data: bytes | memoryview) -> CannedResponse | None:
        """Parse bytes that begin inside a request. Parse this request first, because the next may be rejected."""
        if self._line:
            data, self._line = self._line + data, b""
            self._http = httptools.HttpRequestParser(self)
            return self._feed_between(data)
        end, size, view = 0, len(data), memoryview(data)
        parts, searched = 0, b""
        while end < size and (self.in_head or self.in_body) and not self._ignores_input:
            start = end
            if self.in_body and self._length:
                end = min(start + self.body_left, size)
            else:
                searched = searched or bytes(data)
                end = possible_end(searched, start) if parts < MOST_PARTS else size
            parts += 1
            error = self._parse(view[start:end])
            end -= self._unparsed
            refusal = self._refusal(error) if error is not None else self._unfinished(end - start)
            if refusal is not None:
                return refusal
        if self.holds_back:
            self._hold(view[end:])
            return None
        return self._feed_between(view[end:]) if end < size and not self._ignores_input else None

    def _parse(self, data: bytes | memoryview) -> Exception | None:
        """Pass bytes to httptools; return its error or a `Refused`, else None. Sets `_unparsed`."""
        self._unparsed = 0
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # httptools stops after the head of any upgrade offer, accepted or not.
            self._on_offer(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Refused):
                return error.__context__
            raise
        except httptools.HttpParserError as error:
            return error
        return None

    def _on_offer(self, rest: memoryview) -> None:
        """Continue after the head of a request that offers an upgrade, or hold the remaining bytes."""
        if self._cut_short:
            # Parse the body as if the request offered no upgrade.
            self._cut_short = False
            self._http = parser_behind_head(self, self._environ, self._persists(), self._length)
        if self._ignores_input or self.holds_back:
            self._hold(rest)
        else:
            self._unparsed = len(rest)

    def _hold(self, data: bytes | memoryview) -> None:
        if self.holds_back:
            self.held += bytes(data)

    def go_on(self) -> None:
        """Resume parsing, because the application has responded without taking over the connection."""
        self.holds_back = False

    def _refusal(self, error: Exception) -> CannedResponse | None:
        """Return the response for an error, or None if the error follows a request that closes the connection."""
        if isinstance(error, Refused):
            return error.args[0]  # type: ignore[no-any-return]  # `Refused` carries a CannedResponse
        return None if self._ignores_input else refusal_of(error, self.in_body)

    def _refusal_between(self, data: bytes | memoryview, error: Exception) -> CannedResponse | None:
        """Return the response for an error, or None if the request can be parsed with a substitute request line."""
        refusal, http = self._refusal(error), self._http
        tried = isinstance(http, StandIn) and http.in_head
        if refusal is None or isinstance(error, Refused) or self._header_count or tried or not self.in_head:
            return refusal
        received = bytes(data)
        return self._read_line_again(received[last_beginning(received) :], refusal)

    def _read_line_again(self, data: bytes, refusal: CannedResponse) -> CannedResponse | None:
        """Parse a request again with a substitute request line, after httptools has rejected the original line."""
        whole = b"\n" in data
        if not whole and line_begun(data):
            self._line = data
            return TARGET_TOO_LONG if len(data) > METHOD_BYTES + self._max_target_bytes else None
        line = line_replaced(data)
        if line is None:
            return line_refusal(data, refusal)
        self._http = StandIn(self, line.method)
        refused_again = self._feed_between(line.data)
        return refused_again if whole else refused_again or refusal

    def _within_line(self, data: bytes) -> CannedResponse | None:
        """Keep an incomplete request line, because only a complete line can be replaced by a substitute line."""
        begun = data[last_beginning(data) :]
        if b"\n" not in begun:
            self._line = begun
        elif begun[:4] == b"PRI ":
            # Reject the request now: httptools would wait for the rest of an HTTP/2 connection preface.
            return self._read_line_again(begun, UNKNOWN_VERSION)
        return self._unfinished(len(data))

    def _unfinished(self, size: int) -> CannedResponse | None:
        """Limit the bytes that httptools buffers or skips without a callback: incomplete fields, chunk extensions.

        For a head, a piece of data that also contains the end of the previous request is not counted. For a body, a
        piece that also contains the end of the head is not counted.
        """
        if not (self.in_head or self.in_body):
            return None
        if self._pieces_size is None:
            self._pieces_size = 0
            return None
        self._pieces_size += size
        if self.in_head:
            return self._too_large() if self._pieces_size > self._most_head_bytes else None
        return self._too_much_chunking(size, self.body_size)

    # Called by httptools, in this order, for each request.

    def on_message_begin(self) -> None:
        """Start a request."""
        self.in_head = True
        self._line_ends = 0
        self._environ = self._base_environ.copy()
        self._target = b""
        self._head_size = self._header_count = 0
        self._pieces_size = None if self._shared_piece else 0
        self._body = None

    def on_body(self, data: bytes) -> None:
        """Receive a piece of the body."""
        body = self._body
        self._data_in_piece = True
        if body is None:
            body = self._body = Body(self._budget)
        if body.size + len(data) > self._max_body_bytes:
            raise Refused(BODY_TOO_LARGE)
        try:
            body.add(data)
        except OSError:
            # The temporary file cannot be created or written.
            raise Refused(NO_ROOM_FOR_BODY) from None

    def on_message_complete(self) -> None:
        """Pass the complete request to `on_request`, unless it has been answered or submitted already."""
        if self._cut_short:
            return
        self.in_body = self.head_pending = False
        environ, http, body = self._environ, self._http, self._body
        if body is None:
            environ["wsgi.input"] = BytesIO()
        elif isinstance(body, SkippedBody):
            self._body = None
            self._shared_piece = True
            return
        elif isinstance(body, StreamedBody):
            self._body = None
            self._shared_piece = True
            self._ignores_input = not self._persists()
            body.end()
            return
        else:
            environ["wsgi.input"] = body.open()
            # Set a length for decoded chunks, too: legacy applications read only CONTENT_LENGTH bytes.
            environ["CONTENT_LENGTH"] = str(body.size)
            self._body = None
        keep_alive = http.should_keep_alive()
        self._ignores_input = not keep_alive
        self._shared_piece = True
        # Release the environ, because the connection may now be idle for a long time.
        self._environ = self._base_environ
        request = Request(environ, body, self._http_1_1, keep_alive)
        request.offers_upgrade = self.holds_back
        self._on_request(request)

    def close(self) -> None:
        """Discard any unfinished request, and ignore all further input.

        Further input is possible: a connection may close while received data is being parsed in pieces, for example
        because a response could not be sent.
        """
        self._ignores_input = True
        if self._body is not None:
            self._body.release()
        # Break the reference cycle with the callbacks: only the garbage collector could free such a cycle.
        self._http = None
        self._on_head = self._on_request = _forget
