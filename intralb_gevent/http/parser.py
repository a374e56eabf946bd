"""From bytes to requests: httptools does the parsing, here it becomes a WSGI environ.

Decides what is well-formed, including what httptools lets through and WSGI or HTTP forbids, and which status answers
what is not. It must not know sockets or time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from io import BufferedReader, FileIO
from typing import IO, Any, Final
from urllib.parse import unquote_to_bytes

import httptools

from ..options import Options
from ..policy.answers import Answer
from ..stdlib import BytesIO
from .bodystream import BodySource, StreamedBody
from .limits import BODY_IN_MEMORY_BYTES, BODY_SMALL_BYTES, LINE_ENDS_BYTES, SKIPPED_BODY_BYTES
from .refusals import (
    BAD_AUTHORITY,
    BAD_CODING,
    BAD_FORM_OF_TARGET,
    BAD_HOST,
    BODY_TOO_LARGE,
    CHUNKED_HTTP_1_0,
    CHUNKS_TOO_SMALL,
    CONNECT_REFUSED,
    EMPTY_HOST,
    FIELDS_TOO_LARGE,
    FRAGMENT,
    LENGTH_TOO_LONG,
    NO_HOST,
    NO_ROOM_FOR_BODY,
    REPEATED,
    TARGET_TOO_LONG,
    TOO_MANY_LINE_ENDS,
    UNKNOWN_CODING,
    UNKNOWN_EXPECTATION,
    UNKNOWN_VERSION,
    refusal_of,
)
from .requestline import METHOD_BYTES, StandIn, last_beginning, line_begun, line_refusal, line_replaced
from .spill import temporary_file, write_all

__all__ = ["BodyBudget", "Request", "RequestParser"]

_CARRIAGE_RETURN: Final = ord("\r")
_HASH: Final = ord("#")
_PERCENT: Final = ord("%")
"""Looked for as numbers: before Python looks for bytes in bytes, it makes an exception because they are none."""

_HOST: Final = re.compile(r"(?!.*:[0-9]{6})[\w.\-~!$&'()*+,;=%\[\]:]*", re.ASCII)
_LENGTH_DIGITS: Final = 20
"""As many as the largest length has that httptools takes; before those can only be zeros, which int() bounds too."""

SMALL_PIECE_BYTES: Final = 1024

FIELD_BYTES: Final = 64
"""What a header field may take besides its name and value, on the average, in a head that is not whole yet."""

CHUNKING_BYTES: Final = 64 * 1024
CHUNKING_RATIO: Final = 16
"""A body may come in that many more bytes, and times more, than it has. Chunks of one byte take six each. And no more
than the former may come without data: it would be kept by httptools as a field of the trailer."""


MOST_PARTS: Final = 64
"""Into which bytes are cut that may hold the end of a request. A body of empty lines would cost too much otherwise; the
price is that a method which httptools does not know is refused right behind it."""

_LINE_ENDS: Final = re.compile(rb"[\r\n]+").match
_EMPTY_LINE: Final = re.compile(rb"\n\r\n[\r\n]*").search


def _possible_end(data: bytes, start: int) -> int:
    """Return a place that certainly is not behind the first byte of the next request, for bytes from `start` on.

    Heads and chunked bodies end with an empty line, of which a part may have come before; line ends in front of a
    request are nothing.
    """
    match = _LINE_ENDS(data, start) or _EMPTY_LINE(data, start)
    return len(data) if match is None else match.end()


class _Refused(Exception):
    """Leaves a callback of the parser for a request that will not be served; carries its answer."""


COMMON_HEADERS: Final = (
    *(b"Host", b"User-Agent", b"Accept", b"Accept-Encoding", b"Accept-Language", b"Connection", b"Cookie", b"Origin"),
    *(b"Content-Type", b"Content-Length", b"Authorization", b"Referer", b"Cache-Control", b"If-None-Match", b"Range"),
    *(b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Real-IP", b"X-Request-ID", b"Via"),
    *(b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection", b"cookie", b"origin"),
    *(b"content-type", b"content-length", b"authorization", b"referer", b"cache-control"),
)
"""As most clients and proxies write them."""


@lru_cache(maxsize=1024)
def _cgi_name(name: bytes) -> str | None:
    """Return a header field's name as the environ has it; None for one that is left out.

    A name with an underscore could not be told from the one with a hyphen, which a proxy may have vetted. Clients use
    few names, so the conversion is remembered.
    """
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


_CGI_NAMES: Final = {name: _cgi_name(name) for name in COMMON_HEADERS}


class BodyBudget:
    """How many bytes of large bodies all connections of a server keep in memory."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def __repr__(self) -> str:
        return f"<BodyBudget {self.taken} of {self.limit} bytes>"


class Body:
    """A request's body as it comes in: in memory when small, or while there is room; else in a temporary file."""

    __slots__ = ("_budget", "_file", "_parts", "_reserved", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._parts: list[bytes | bytearray] = []
        self._file: FileIO | None = None
        self._reserved = 0
        self.size = 0

    def __repr__(self) -> str:
        return f"<Body {self.size} bytes {'in a file' if self._file else 'in memory'}>"

    def add(self, data: bytes) -> None:
        """Take a piece; raises OSError when the temporary file cannot."""
        self.size += len(data)
        if self._file is not None:
            write_all(self._file, data)
            return
        self._keep(data)
        if self.size > BODY_SMALL_BYTES and not self._reserve():
            self._file = temporary_file()
            for part in self._parts:
                write_all(self._file, part)
            self._parts.clear()

    def _keep(self, data: bytes) -> None:
        """Keep a piece in memory; small ones, of small chunks, are put together, as each would take more than it is."""
        parts = self._parts
        if len(data) >= SMALL_PIECE_BYTES:
            parts.append(data)
        elif parts and type(parts[-1]) is bytearray:
            parts[-1] += data
        else:
            parts.append(bytearray(data))

    def _reserve(self) -> bool:
        budget, more = self._budget, self.size - self._reserved
        if self.size > BODY_IN_MEMORY_BYTES or budget.taken + more > budget.limit:
            return False
        budget.taken += more
        self._reserved = self.size
        return True

    def open(self) -> IO[bytes]:
        """Return the whole to read from."""
        if self._file is None:
            return BytesIO(b"".join(self._parts))
        self._file.seek(0)
        return BufferedReader(self._file)

    def release(self) -> None:
        """Give back what it takes; it cannot be read afterwards if it is in a file."""
        self._parts.clear()
        self._budget.taken -= self._reserved
        self._reserved = 0
        if self._file is not None:
            self._file.close()


class _SkippedBody:
    """The body of a request that has been answered without it: counted as it comes, and not kept."""

    __slots__ = ("_most", "size")

    def __init__(self, size: int, most: int = SKIPPED_BODY_BYTES) -> None:
        self.size = size
        self._most = most
        """It is refused when it is larger than this."""

    def __repr__(self) -> str:
        return f"<_SkippedBody {self.size} bytes>"

    def add(self, data: bytes) -> None:
        """Count a piece; more than is skipped for the sake of the next request is refused."""
        self.size += len(data)
        if self.size > self._most:
            raise _Refused(BODY_TOO_LARGE)

    def release(self) -> None:
        """Do nothing: it takes nothing."""


class Request:
    """One request: its environ, and what its response must know whatever the application does to that."""

    __slots__ = (
        "_body",
        "arrived",
        "environ",
        "has_body",
        "head_only",
        "http_1_1",
        "keep_alive",
        "line",
        "offers_upgrade",
    )

    arrived: float
    """When it was passed to an application in front of the balancer, in `time.monotonic()` seconds."""

    def __init__(
        self, environ: dict[str, Any], body: Body | StreamedBody | None, http_1_1: bool, keep_alive: bool
    ) -> None:
        self.environ = environ
        self._body = body
        self.has_body = body is not None
        self.http_1_1 = http_1_1
        self.keep_alive = keep_alive
        self.head_only = environ["REQUEST_METHOD"] == "HEAD"
        """Whether the response must not have a body."""
        self.line = ""
        """The request line, where it will be logged."""
        self.offers_upgrade = False
        """Whether the application may take the connection over: HTTP/1.1, no body, and an offer of the client's."""

    def __repr__(self) -> str:
        return f"<Request {self.environ['REQUEST_METHOD']} {self.environ['PATH_INFO']}>"

    def settle(self) -> None:
        """Give up keep-alive if the rest of a streamed body cannot be skipped; called when the response begins."""
        if isinstance(self._body, StreamedBody) and not self._body.can_be_skipped:
            self.keep_alive = False

    def release(self) -> None:
        """Give back what its body takes."""
        if self._body is not None:
            self._body.release()


class _BehindHead:
    """The callbacks of a second httptools parser, for a body that the first one would not parse.

    For httptools a message that offers an upgrade ends with its head. So the body is given to another parser, which
    first gets a head without the offer. The callbacks for that head are ignored here; all others reach the
    `RequestParser` as usual, also those of the requests that follow.
    """

    __slots__ = ("_ignores", "_parser")

    def __init__(self, parser: RequestParser) -> None:
        self._parser = parser
        self._ignores = True

    def on_message_begin(self) -> None:
        """Start a request, if it is not the one whose head has been parsed already."""
        if not self._ignores:
            self._parser.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        if not self._ignores:
            self._parser.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field."""
        if not self._ignores:
            self._parser.on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head; the first one has been checked."""
        if self._ignores:
            self._ignores = False
        else:
            self._parser.on_headers_complete()

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._parser.on_body(data)

    def on_message_complete(self) -> None:
        """Hand the whole request over."""
        self._parser.on_message_complete()


def _forget(what: Any) -> None:
    """Stand for the callbacks of a parser that is closed."""


class RequestParser:
    """Takes the bytes of one connection in any pieces and calls `on_request` for each whole request.

    Before that it calls `on_head` with the environ, once the head is complete. A request whose body is still to come
    can be answered then: `skip_body` gives it out, and nothing of the body is kept, nor `on_request` called for it.
    `stream_body` gives it out, too, and the application reads the body as it arrives.

    The methods that begin with `on_` are httptools' callbacks. They are hot, so each is flat, and what only some
    requests have is looked for before it is dealt with.
    """

    __slots__ = (
        "_base_environ",
        "_body",
        "_budget",
        "_checked_host",
        "_cut_short",
        "_data_in_piece",
        "_deaf",
        "_environ",
        "_head_size",
        "_header_count",
        "_http",
        "_http_1_1",
        "_length",
        "_line",
        "_line_ends",
        "_max_body_bytes",
        "_max_header_bytes",
        "_max_headers",
        "_max_target_bytes",
        "_most_head_bytes",
        "_on_head",
        "_on_request",
        "_pieces_size",
        "_shared_piece",
        "_size_without_data",
        "_target",
        "_unparsed",
        "awaits_continue",
        "head_waits",
        "held",
        "holds_back",
        "in_body",
        "in_head",
    )

    def __init__(
        self,
        base_environ: dict[str, Any],
        options: Options,
        on_head: Callable[[dict[str, Any]], object],
        on_request: Callable[[Request], object],
        budget: BodyBudget,
    ) -> None:
        # Long, as every attribute is declared here.
        self._max_target_bytes = options.max_target_bytes
        self._max_headers = options.max_headers
        self._max_header_bytes = options.max_header_bytes
        self._max_body_bytes = options.max_body_bytes
        self._base_environ = base_environ
        self._on_head = on_head
        self._on_request = on_request
        self._http: Any = httptools.HttpRequestParser(self)
        self.in_head = False
        """Whether a part of a request's head has come, and not all."""
        self.in_body = False
        """Whether a request's head has come, and not all of its body."""
        self.head_waits = False
        """Whether a head has come whose body is to come, and nobody has said yet what is to become of it."""
        self.awaits_continue = False
        """Whether the client whose head waits does so too: to be told that it may send the body."""
        self._length = 0
        """Of the body, where it was told; else 0."""
        self._budget = budget
        self._body: Body | StreamedBody | _SkippedBody | None = None
        self._environ: dict[str, Any] = {}
        self._deaf = False
        """Whether nothing that comes is looked at any more."""
        self._cut_short = False
        """Whether the body of the present request is still to come where httptools sees the end of the message."""
        self.holds_back = False
        """Whether nothing is parsed, as the application may take over the connection instead of the next request."""
        self.held = b""
        """What has been fed meanwhile; whoever takes it from here empties this."""
        self._shared_piece = False
        self._data_in_piece = False
        self._size_without_data = 0
        self._pieces_size: int | None = None
        self._most_head_bytes = options.max_target_bytes + options.max_header_bytes + FIELD_BYTES * options.max_headers
        self._checked_host: str | None = None
        self._unparsed = 0
        """How many of the bytes that were given to httptools last it has left, as they follow an offer to upgrade."""
        self._line_ends = 0
        """Bytes of line ends that have come since the last request."""
        self._line = b""
        """What has come of a request line that is not whole, since it will be read again."""

    def __repr__(self) -> str:
        return f"<RequestParser {'in a head' if self.in_head else 'in a body' if self.in_body else 'between requests'}>"

    @property
    def environ(self) -> dict[str, Any]:
        """The environ of the request whose head waits."""
        return self._environ

    @property
    def begun(self) -> bool:
        """Whether any request has begun on this connection."""
        return bool(self._environ)

    @property
    def body_size(self) -> int:
        """Bytes that have come of the present body."""
        return 0 if self._body is None else self._body.size

    @property
    def body_left(self) -> int:
        """Bytes that are still to come of a body whose length was told; 0 between requests and in chunks."""
        if not (self.in_body and self._length):
            return 0
        return self._length - (0 if self._body is None else self._body.size)

    @property
    def skips_body(self) -> bool:
        """Whether the request whose body is coming has been answered, so that no other answer may be given to it."""
        return isinstance(self._body, _SkippedBody)

    def skip_body(self) -> Request:
        """Give out the request whose head waits, to be answered now; the rest of it is skipped.

        The connection is kept only for a body that may be short, and not for one that the client was asked to wait
        with: it does not say whether that will come after all (RFC 9110, 10.1.1).
        """
        environ, self._environ = self._environ, self._base_environ
        environ["wsgi.input"] = BytesIO()
        kept = 0 if self._body is None else self._body.size
        if self._body is not None:
            self._body.release()
        self._body = _SkippedBody(kept)
        self.head_waits = False
        keep_alive = self._persists() and not self.awaits_continue and self._length <= SKIPPED_BODY_BYTES
        self._deaf = not keep_alive
        return Request(environ, None, self._http_1_1, keep_alive)

    @property
    def streams_body(self) -> bool:
        """Whether the application reads the body of the present request as it arrives."""
        return isinstance(self._body, StreamedBody)

    @property
    def far_ahead(self) -> bool:
        """Whether the unread part of a streamed body is above its high-water mark."""
        return isinstance(self._body, StreamedBody) and bool(self._body.far_ahead)

    def stream_body(self, source: BodySource) -> Request:
        """Give out the request whose head waits; the application reads the body as it arrives."""
        environ, self._environ = self._environ, self._base_environ
        early = self._body if isinstance(self._body, Body) else None
        body = StreamedBody(source, self._length, early, self.awaits_continue)
        self._body = body
        environ["wsgi.input"] = body.open()
        if "CONTENT_LENGTH" not in environ:
            # Nothing else says that there is a body.
            environ["HTTP_TRANSFER_ENCODING"] = "chunked"
        self.head_waits = False
        return Request(environ, body, self._http_1_1, self._persists())

    def fail_body(self, message: str, answer: Answer | None) -> None:
        """Fail the streamed body, and ignore all further input."""
        self._deaf = True
        if isinstance(self._body, StreamedBody):
            self._body.fail(message, answer)

    def skip_rest(self) -> None:
        """Skip the rest of a streamed body, as its request has been answered."""
        body = self._body
        if isinstance(body, StreamedBody):
            self._body = _SkippedBody(body.size, body.size + SKIPPED_BODY_BYTES)
            body.drop()

    def _persists(self) -> bool:
        return bool(self._http.should_keep_alive())

    def feed(self, data: bytes | memoryview) -> Answer | None:
        """Take the next bytes; return None, or the answer to refuse the connection with."""
        if self._deaf or self.holds_back:
            self._hold(data)
            return None
        self._shared_piece = False
        if self.in_head or self.in_body:
            return self._feed_within(data)
        return self._feed_between(data)

    def _feed_between(self, data: bytes | memoryview) -> Answer | None:
        """Take bytes that begin between two requests."""
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
        """Count the line ends that come before a request; say whether they are too many."""
        self._line_ends += len(data) - len(data.lstrip(b"\r\n"))
        return self._line_ends > LINE_ENDS_BYTES

    def _feed_within(self, data: bytes | memoryview) -> Answer | None:
        """Take bytes that begin in a request: those up to its end first, as in the next one a line may be refused."""
        if self._line:
            data, self._line = self._line + data, b""
            self._http = httptools.HttpRequestParser(self)
            return self._feed_between(data)
        end, size, view = 0, len(data), memoryview(data)
        parts, searched = 0, b""
        while end < size and (self.in_head or self.in_body) and not self._deaf:
            start = end
            if self.in_body and self._length:
                end = min(start + self.body_left, size)
            else:
                searched = searched or bytes(data)
                end = _possible_end(searched, start) if parts < MOST_PARTS else size
            parts += 1
            error = self._parse(view[start:end])
            end -= self._unparsed
            refusal = self._refusal(error) if error is not None else self._unfinished(end - start)
            if refusal is not None:
                return refusal
        if self.holds_back:
            self._hold(view[end:])
            return None
        return self._feed_between(view[end:]) if end < size and not self._deaf else None

    def _parse(self, data: bytes | memoryview) -> Exception | None:
        """Give bytes to httptools; return its error, or a `_Refused`. `_unparsed` of them are left for another call."""
        self._unparsed = 0
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # httptools stops behind the head, whatever becomes of the offer.
            self._on_offer(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _Refused):
                return error.__context__
            raise
        except httptools.HttpParserError as error:
            return error
        return None

    def _on_offer(self, rest: memoryview) -> None:
        """Go on behind the head of a request that offers an upgrade, or hold back what is there."""
        if self._cut_short:
            self._begin_body()
        if self._deaf or self.holds_back:
            self._hold(rest)
        else:
            self._unparsed = len(rest)

    def _begin_body(self) -> None:
        """Go on with another parser behind the head of the present request, as if there had been no offer."""
        persists, environ = self._http.should_keep_alive(), self._environ
        length = environ.get("CONTENT_LENGTH")
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {self._length}"
        connection = "keep-alive" if persists else "close"
        self._cut_short = False
        self._http = httptools.HttpRequestParser(_BehindHead(self))
        head = f"POST / {environ['SERVER_PROTOCOL']}\r\nConnection: {connection}\r\n{framing}\r\n\r\n"
        self._http.feed_data(head.encode("ascii"))

    def _hold(self, data: bytes | memoryview) -> None:
        if self.holds_back:
            self.held += bytes(data)

    def go_on(self) -> None:
        """Parse what is fed from now on: the application has answered, and has not taken the connection over."""
        self.holds_back = False

    def _refusal(self, error: Exception) -> Answer | None:
        """Say how it is refused; what comes behind a request that closes the connection is nothing to us."""
        if isinstance(error, _Refused):
            return error.args[0]  # type: ignore[no-any-return]  # that is what it carries
        return None if self._deaf else refusal_of(error)

    def _refusal_between(self, data: bytes | memoryview, error: Exception) -> Answer | None:
        """Say how it is refused, unless it is for a line that can be read in another way."""
        refusal, http = self._refusal(error), self._http
        tried = isinstance(http, StandIn) and http.in_head
        if refusal is None or isinstance(error, _Refused) or self._header_count or tried or not self.in_head:
            return refusal
        received = bytes(data)
        return self._read_line_again(received[last_beginning(received) :], refusal)

    def _read_line_again(self, data: bytes, refusal: Answer) -> Answer | None:
        """Take the bytes of a request, which httptools has refused for its line, with another line."""
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

    def _within_line(self, data: bytes) -> Answer | None:
        """Keep the beginning of a line, to read it together with the rest: only then it can be read in another way."""
        begun = data[last_beginning(data) :]
        if b"\n" not in begun:
            self._line = begun
        elif begun[:4] == b"PRI ":
            # httptools waits for more of what begins a connection of HTTP/2.
            return self._read_line_again(begun, UNKNOWN_VERSION)
        return self._unfinished(len(data))

    def _unfinished(self, size: int) -> Answer | None:
        """Bound what httptools keeps or skips without telling: half a field, chunk extensions.

        The piece in which the request began is not counted if the end of another is in it too.
        """
        if not (self.in_head or self.in_body):
            return None
        if self._pieces_size is None:
            self._pieces_size = 0
            return None
        self._pieces_size += size
        if self.in_head:
            return self._too_large() if self._pieces_size > self._most_head_bytes else None
        return self._too_much_chunking(size)

    def _too_much_chunking(self, size: int) -> Answer | None:
        self._size_without_data = 0 if self._data_in_piece else self._size_without_data + size
        self._data_in_piece = False
        body = 0 if self._body is None else self._body.size
        most = CHUNKING_BYTES + CHUNKING_RATIO * body
        refused = (self._pieces_size or 0) > most or self._size_without_data > CHUNKING_BYTES
        return CHUNKS_TOO_SMALL if refused else None

    def _too_large(self) -> Answer:
        if self._header_count or len(self._target) <= self._max_target_bytes:
            return FIELDS_TOO_LARGE
        return TARGET_TOO_LONG

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

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._target = target = self._target + url if self._target else url
        if len(target) > self._max_target_bytes:
            raise _Refused(TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field."""
        self._header_count += 1
        self._head_size += len(name) + len(value)
        if self._header_count > self._max_headers or self._head_size > self._max_header_bytes:
            raise _Refused(FIELDS_TOO_LARGE)
        key = _CGI_NAMES.get(name) or _cgi_name(name)
        if key is None or not self.in_head:
            # Behind a chunked body come trailers, which nobody has vetted as headers (RFC 9110, 6.5.1): left out.
            return
        text = value.decode("latin-1").rstrip(" \t")
        environ = self._environ
        if key in environ:
            text = self._joined(key, environ[key], text)
        environ[key] = text

    def _joined(self, key: str, before: Any, text: str) -> str:
        if key in REPEATED:
            raise _Refused(REPEATED[key])
        return f"{before}; {text}" if key == "HTTP_COOKIE" else f"{before},{text}"

    def on_headers_complete(self) -> None:
        """Check the head and put the request line into the environ."""
        self.in_head = False
        self.in_body = True
        self._pieces_size = None
        self._data_in_piece = False
        self._size_without_data = 0
        http, environ, target = self._http, self._environ, self._target
        version = http.get_http_version()
        self._http_1_1 = version == "1.1"
        if not self._http_1_1 and version != "1.0":
            raise _Refused(UNKNOWN_VERSION)
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if self._http_1_1 else "HTTP/1.0"
        environ["REQUEST_METHOD"] = method = http.get_method().decode("ascii")
        if method == "CONNECT":
            # Its answer would promise a tunnel.
            raise _Refused(CONNECT_REFUSED)
        host = environ.get("HTTP_HOST")
        if host is None or host != self._checked_host:
            self._check_host(host)
        environ["REQUEST_URI"] = environ["RAW_URI"] = target.decode("latin-1")
        if target[:1] != b"/":
            target = self._without_authority(target, environ)
        path, _, query = target.partition(b"?")
        if _HASH in target:
            raise _Refused(FRAGMENT)
        environ["QUERY_STRING"] = query.decode("latin-1")
        environ["PATH_INFO"] = (unquote_to_bytes(path) if _PERCENT in path else path).decode("latin-1")
        if "HTTP_TRANSFER_ENCODING" in environ or "CONTENT_LENGTH" in environ:
            self._check_body(environ)
        if "HTTP_EXPECT" in environ:
            self._check_expectation(environ["HTTP_EXPECT"])
        if "HTTP_UPGRADE" in environ:
            self._note_offer()
        self._on_head(environ)

    def _check_host(self, host: str | None) -> None:
        """Refuse a bad Host, or none where there must be one; a client sends the same again and again."""
        if not host or host[0] == ":":
            if self._http_1_1:
                raise _Refused(NO_HOST if host is None else EMPTY_HOST)
            return
        if not _HOST.fullmatch(host):
            raise _Refused(BAD_HOST)
        self._checked_host = host

    def _without_authority(self, target: bytes, environ: dict[str, Any]) -> bytes:
        """Return the path and query of an absolute target; its host replaces the Host field (RFC 9112, 3.2.2)."""
        if target == b"*" and environ["REQUEST_METHOD"] == "OPTIONS":
            return target
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise _Refused(BAD_FORM_OF_TARGET)
        end = min((place for place in (rest.find(b"/"), rest.find(b"?")) if place >= 0), default=len(rest))
        authority = rest[:end].decode("latin-1")
        if not authority or not _HOST.fullmatch(authority):
            raise _Refused(BAD_AUTHORITY)
        environ["HTTP_HOST"] = authority
        return b"/" + rest[end:].removeprefix(b"/")

    def _check_body(self, environ: dict[str, Any]) -> None:
        coding = environ.pop("HTTP_TRANSFER_ENCODING", None)
        if coding is not None and coding.lower() != "chunked":
            raise _Refused(UNKNOWN_CODING if coding else BAD_CODING)
        if coding is not None and not self._http_1_1:
            raise _Refused(CHUNKED_HTTP_1_0)
        length: str = environ.get("CONTENT_LENGTH", "0")
        if len(length) > _LENGTH_DIGITS:
            raise _Refused(LENGTH_TOO_LONG)
        self._length = int(length)
        if self._length > self._max_body_bytes:
            raise _Refused(BODY_TOO_LARGE)
        self.head_waits = coding is not None or self._length > 0
        self.awaits_continue = False

    def _check_expectation(self, expectation: str) -> None:
        if expectation.lower() != "100-continue":
            raise _Refused(UNKNOWN_EXPECTATION)
        self.awaits_continue = self._http_1_1

    def _note_offer(self) -> None:
        """Take note of an offer to upgrade; one with a body, or by HTTP/1.0, is not passed on (RFC 9110, 7.8)."""
        if self._http.should_upgrade():
            self._cut_short = self.head_waits
            self.holds_back = self._http_1_1 and not self.head_waits

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        body = self._body
        self._data_in_piece = True
        if body is None:
            body = self._body = Body(self._budget)
        if body.size + len(data) > self._max_body_bytes:
            raise _Refused(BODY_TOO_LARGE)
        try:
            body.add(data)
        except OSError:
            # The disk is full.
            raise _Refused(NO_ROOM_FOR_BODY) from None

    def on_message_complete(self) -> None:
        """Hand the whole request over, if it was not answered before."""
        if self._cut_short:
            return
        self.in_body = self.head_waits = False
        environ, http, body = self._environ, self._http, self._body
        if body is None:
            environ["wsgi.input"] = BytesIO()
        elif isinstance(body, _SkippedBody):
            self._body = None
            self._shared_piece = True
            return
        elif isinstance(body, StreamedBody):
            self._body = None
            self._shared_piece = True
            self._deaf = not self._persists()
            body.end()
            return
        else:
            environ["wsgi.input"] = body.open()
            # Decoded chunks have a length too, and legacy applications read as much as it says.
            environ["CONTENT_LENGTH"] = str(body.size)
            self._body = None
        keep_alive = http.should_keep_alive()
        self._deaf = not keep_alive
        self._shared_piece = True
        # The connection may now be idle for long; it need not keep the environ.
        self._environ = self._base_environ
        request = Request(environ, body, self._http_1_1, keep_alive)
        request.offers_upgrade = self.holds_back
        self._on_request(request)

    def close(self) -> None:
        """Forget what has come of an unfinished request, and look at nothing that is fed afterwards.

        A connection may close between two pieces of what it has read, as an answer could not be sent.
        """
        self._deaf = True
        if self._body is not None:
            self._body.release()
        # All hold what holds us: without this only the garbage collector would free a closed connection.
        self._http = None
        self._on_head = self._on_request = _forget
