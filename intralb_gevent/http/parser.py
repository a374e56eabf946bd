"""From bytes to requests: httptools does the parsing, here it becomes a WSGI environ.

Decides what is well-formed, including what httptools lets through and WSGI or HTTP forbids, and which status answers
what is not. It must not know sockets or time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from io import BufferedReader, BytesIO, FileIO
from typing import IO, Any, Final
from urllib.parse import unquote_to_bytes

import httptools

from ..options import Options
from .limits import BODY_IN_MEMORY_BYTES, BODY_SMALL_BYTES, SKIPPED_BODY_BYTES
from .spill import temporary_file, write_all

__all__ = ["BodyBudget", "Request", "RequestParser"]

# Fields that may be sent once only: a second one is a client's error, or somebody's attempt at smuggling.
_SINGLE: Final = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_AUTHORIZATION", "HTTP_EXPECT"})

_HASH: Final = ord("#")
_PERCENT: Final = ord("%")
"""Looked for as numbers: before Python looks for bytes in bytes, it makes an exception because they are none."""

_HOST: Final = re.compile(r"[\w.\-~!$&'()*+,;=%\[\]:]*", re.ASCII)


SMALL_PIECE_BYTES: Final = 1024

FIELD_BYTES: Final = 64
"""What a header field may take besides its name and value, on the average, in a head that is not whole yet."""

CHUNKING_BYTES: Final = 64 * 1024
CHUNKING_RATIO: Final = 16
"""A body may come in that many more bytes, and times more, than it has. Chunks of one byte take six each. And no more
than the former may come without data: it would be kept by httptools as a field of the trailer."""


class _Refused(Exception):
    """Leaves a callback of the parser for a request that will not be served; carries its status line."""


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

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        return f"<_SkippedBody {self.size} bytes>"

    def add(self, data: bytes) -> None:
        """Count a piece; more than is skipped for the sake of the next request is refused."""
        self.size += len(data)
        if self.size > SKIPPED_BODY_BYTES:
            raise _Refused("413 Content Too Large")

    def release(self) -> None:
        """Do nothing: it takes nothing."""


class Request:
    """One whole request: its environ, and what its response must know whatever the application does to that."""

    __slots__ = ("_body", "environ", "has_body", "head_only", "http_1_1", "keep_alive", "line")

    def __init__(self, environ: dict[str, Any], body: Body | None, http_1_1: bool, keep_alive: bool) -> None:
        self.environ = environ
        self._body = body
        self.has_body = body is not None
        self.http_1_1 = http_1_1
        self.keep_alive = keep_alive
        self.head_only = environ["REQUEST_METHOD"] == "HEAD"
        """Whether the response must not have a body."""
        self.line = ""
        """The request line, where it will be logged."""

    def __repr__(self) -> str:
        return f"<Request {self.environ['REQUEST_METHOD']} {self.environ['PATH_INFO']}>"

    def release(self) -> None:
        """Give back what its body takes."""
        if self._body is not None:
            self._body.release()


def _forget(what: Any) -> None:
    """Stand for the callbacks of a parser that is closed."""


class RequestParser:
    """Takes the bytes of one connection in any pieces and calls `on_request` for each whole request.

    Before that it calls `on_head` with the environ, once the head is complete. A request whose body is still to come
    can be answered then: `skip_body` gives it out, and nothing of the body is kept, nor `on_request` called for it.

    The methods that begin with `on_` are httptools' callbacks. They are hot, so each is flat, and what only some
    requests have is looked for before it is dealt with.
    """

    __slots__ = (
        "_base_environ",
        "_body",
        "_budget",
        "_checked_host",
        "_data_in_piece",
        "_deaf",
        "_environ",
        "_head_size",
        "_header_count",
        "_http",
        "_http_1_1",
        "_length",
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
        "awaits_continue",
        "head_waits",
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
        self._body: Body | _SkippedBody | None = None
        self._environ: dict[str, Any] = {}
        self._deaf = False
        """Whether nothing that comes is looked at any more."""
        self._shared_piece = False
        self._data_in_piece = False
        self._size_without_data = 0
        self._pieces_size: int | None = None
        self._most_head_bytes = options.max_target_bytes + options.max_header_bytes + FIELD_BYTES * options.max_headers
        self._checked_host: str | None = None

    def __repr__(self) -> str:
        return f"<RequestParser {'in a head' if self.in_head else 'in a body' if self.in_body else 'between requests'}>"

    @property
    def environ(self) -> dict[str, Any]:
        """The environ of the request whose head waits."""
        return self._environ

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

    def _persists(self) -> bool:
        return bool(self._http.should_keep_alive() and not self._http.should_upgrade())

    def feed(self, data: bytes | memoryview) -> str | None:
        """Take the next bytes; return None, or the status line to refuse the connection with."""
        if self._deaf:
            return None
        self._shared_piece = False
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade:
            # We do not speak what the client would like to; the request was served as it is, and nothing after it.
            self._deaf = True
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _Refused):
                return str(error.__context__)
            raise
        except httptools.HttpParserError:
            return self._unreadable()
        if self.in_head or self.in_body:
            return self._unfinished(len(data))
        return None

    def _unreadable(self) -> str | None:
        """Say how it is refused; what comes behind a request that closes the connection is nothing to us."""
        return None if self._deaf else "400 Bad Request"

    def _unfinished(self, size: int) -> str | None:
        """Bound what httptools keeps or skips without telling: half a field, chunk extensions.

        The piece in which the request began is not counted if the end of another is in it too.
        """
        if self._pieces_size is None:
            self._pieces_size = 0
            return None
        self._pieces_size += size
        if self.in_head:
            return self._too_large() if self._pieces_size > self._most_head_bytes else None
        return self._too_much_chunking(size)

    def _too_much_chunking(self, size: int) -> str | None:
        self._size_without_data = 0 if self._data_in_piece else self._size_without_data + size
        self._data_in_piece = False
        body = 0 if self._body is None else self._body.size
        most = CHUNKING_BYTES + CHUNKING_RATIO * body
        refused = (self._pieces_size or 0) > most or self._size_without_data > CHUNKING_BYTES
        return "400 Bad Request" if refused else None

    def _too_large(self) -> str:
        if self._header_count or len(self._target) <= self._max_target_bytes:
            return "431 Request Header Fields Too Large"
        return "414 URI Too Long"

    # Called by httptools, in this order, for each request.

    def on_message_begin(self) -> None:
        """Start a request."""
        self.in_head = True
        self._environ = self._base_environ.copy()
        self._target = b""
        self._head_size = self._header_count = 0
        self._pieces_size = None if self._shared_piece else 0
        self._body = None

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._target = target = self._target + url if self._target else url
        if len(target) > self._max_target_bytes:
            raise _Refused("414 URI Too Long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field."""
        self._header_count += 1
        self._head_size += len(name) + len(value)
        if self._header_count > self._max_headers or self._head_size > self._max_header_bytes:
            raise _Refused("431 Request Header Fields Too Large")
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
        if key in _SINGLE:
            raise _Refused("400 Bad Request")
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
            raise _Refused("505 HTTP Version Not Supported")
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if self._http_1_1 else "HTTP/1.0"
        environ["REQUEST_METHOD"] = method = http.get_method().decode("ascii")
        if method == "CONNECT":
            # Its answer would promise a tunnel.
            raise _Refused("501 Not Implemented")
        host = environ.get("HTTP_HOST")
        if host is None or host != self._checked_host:
            self._check_host(host)
        environ["REQUEST_URI"] = environ["RAW_URI"] = target.decode("latin-1")
        if target[:1] != b"/":
            target = self._without_authority(target, environ)
        path, _, query = target.partition(b"?")
        if _HASH in target:
            raise _Refused("400 Bad Request")
        environ["QUERY_STRING"] = query.decode("latin-1")
        environ["PATH_INFO"] = (unquote_to_bytes(path) if _PERCENT in path else path).decode("latin-1")
        if "HTTP_TRANSFER_ENCODING" in environ or "CONTENT_LENGTH" in environ:
            self._check_body(environ)
        if "HTTP_EXPECT" in environ:
            self._check_expectation(environ["HTTP_EXPECT"])
        self._on_head(environ)

    def _check_host(self, host: str | None) -> None:
        """Refuse a bad Host, or none where there must be one; a client sends the same again and again."""
        if (host is None and self._http_1_1) or (host is not None and not _HOST.fullmatch(host)):
            raise _Refused("400 Bad Request")
        self._checked_host = host

    def _without_authority(self, target: bytes, environ: dict[str, Any]) -> bytes:
        """Return the path and query of an absolute target; its host replaces the Host field (RFC 9112, 3.2.2)."""
        if target == b"*" and environ["REQUEST_METHOD"] == "OPTIONS":
            return target
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise _Refused("400 Bad Request")
        end = min((place for place in (rest.find(b"/"), rest.find(b"?")) if place >= 0), default=len(rest))
        authority = rest[:end].decode("latin-1")
        if not authority or not _HOST.fullmatch(authority):
            raise _Refused("400 Bad Request")
        environ["HTTP_HOST"] = authority
        return b"/" + rest[end:].removeprefix(b"/")

    def _check_body(self, environ: dict[str, Any]) -> None:
        coding = environ.pop("HTTP_TRANSFER_ENCODING", None)
        if coding is not None and coding.lower() != "chunked":
            raise _Refused("501 Not Implemented")
        if coding is not None and not self._http_1_1:
            raise _Refused("400 Bad Request")
        self._length = int(environ.get("CONTENT_LENGTH", 0))
        if self._length > self._max_body_bytes:
            raise _Refused("413 Content Too Large")
        self.head_waits = coding is not None or self._length > 0
        self.awaits_continue = False

    def _check_expectation(self, expectation: str) -> None:
        if expectation.lower() != "100-continue":
            raise _Refused("417 Expectation Failed")
        self.awaits_continue = self._http_1_1

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        body = self._body
        self._data_in_piece = True
        if body is None:
            body = self._body = Body(self._budget)
        if body.size + len(data) > self._max_body_bytes:
            raise _Refused("413 Content Too Large")
        try:
            body.add(data)
        except OSError:
            # The disk is full.
            raise _Refused("507 Insufficient Storage") from None

    def on_message_complete(self) -> None:
        """Hand the whole request over, if it was not answered before."""
        self.in_body = self.head_waits = False
        environ, http, body = self._environ, self._http, self._body
        if body is None:
            environ["wsgi.input"] = BytesIO()
        elif isinstance(body, _SkippedBody):
            self._body = None
            self._shared_piece = True
            return
        else:
            environ["wsgi.input"] = body.open()
            # Decoded chunks have a length too, and legacy applications read as much as it says.
            environ["CONTENT_LENGTH"] = str(body.size)
            self._body = None
        keep_alive = http.should_keep_alive() and not http.should_upgrade()
        self._deaf = not keep_alive
        self._shared_piece = True
        # The connection may now be idle for long; it need not keep the environ.
        self._environ = self._base_environ
        self._on_request(Request(environ, body, self._http_1_1, keep_alive))

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
