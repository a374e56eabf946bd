"""Check the head of a request, which httptools has parsed, and create the WSGI environ from the head."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from ..config.options import Options
from ..policy.cannedresponses import CannedResponse
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
    REPEATED,
    TARGET_TOO_LONG,
    UNKNOWN_CODING,
    UNKNOWN_EXPECTATION,
    UNKNOWN_VERSION,
    Refused,
)

__all__ = ["SET_BY_EVERY_REQUEST", "RequestHead"]

SET_BY_EVERY_REQUEST: Final = (
    *("REQUEST_METHOD", "RAW_URI", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL"),
    *("REMOTE_ADDR", "REMOTE_PORT", "wsgi.input"),
    *("intralb.deadline", "intralb.client_disconnected", "intralb.worker", "intralb.request_id"),
)
"""Environ keys that every request sets. The template contains these keys, so setting them in a copy resizes no dict."""

FIELD_BYTES: Final = 64
"""Bytes that each header field of an incomplete head may occupy on average, in addition to its name and value."""

CHUNKING_BYTES: Final = 64 * 1024
CHUNKING_RATIO: Final = 16
"""On the wire, a chunked body may occupy at most CHUNKING_BYTES plus CHUNKING_RATIO times its decoded size.

The ratio allows chunks of one byte, which occupy six bytes on the wire. At most CHUNKING_BYTES of framing may arrive in
a row without data, because httptools would buffer a trailer field of any size."""

_HASH: Final = ord("#")
_PERCENT: Final = ord("%")
"""The percent sign as an integer: `int in bytes` is fast, but `bytes in bytes` first raises a TypeError internally."""

_HOST: Final = re.compile(r"(?!.*:[0-9]{6})[\w.\-~!$&'()*+,;=%\[\]:]*", re.ASCII)
_LENGTH_DIGITS: Final = 20
"""Maximum number of digits of a Content-Length; the largest number that httptools accepts has 20 digits.

A longer Content-Length has leading zeros, and could exceed the digit limit of int().
"""

COMMON_HEADERS: Final = (
    *(b"Host", b"User-Agent", b"Accept", b"Accept-Encoding", b"Accept-Language", b"Connection", b"Cookie", b"Origin"),
    *(b"Content-Type", b"Content-Length", b"Authorization", b"Referer", b"Cache-Control", b"If-None-Match", b"Range"),
    *(b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Real-IP", b"X-Request-ID", b"Via"),
    *(b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection", b"cookie", b"origin"),
    *(b"content-type", b"content-length", b"authorization", b"referer", b"cache-control"),
)
"""Header names as most clients and proxies write them; their environ keys are computed at import."""


@lru_cache(maxsize=1024)
def _cgi_name(name: bytes) -> str | None:
    """Return the environ key of a header field, or None if the field is left out of the environ.

    A field name with an underscore is left out: its environ key would equal that of the name with a hyphen. A proxy may
    have checked only the field with the hyphen. Clients use few names, so the results are cached.
    """
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


_CGI_NAMES: Final = {name: _cgi_name(name) for name in COMMON_HEADERS}


class RequestHead:
    """The head of the current request of a connection, and the framing of its body.

    Once the head is complete, `on_head` is called with the environ. The methods whose names begin with `on_` are
    callbacks of httptools. The callbacks are hot code, so they call
    a function for a rare feature only after testing for this feature.
    """

    __slots__ = (
        "_base_environ",
        "_checked_host",
        "_cut_short",
        "_data_in_piece",
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
        "_pieces_size",
        "_size_without_data",
        "_target",
        "awaits_continue",
        "head_pending",
        "holds_back",
        "in_body",
        "in_head",
    )

    def __init__(
        self, base_environ: dict[str, Any], options: Options, on_head: Callable[[dict[str, Any]], object]
    ) -> None:
        # This method is long because every attribute is declared here.
        self._max_target_bytes = options.max_target_bytes
        self._max_headers = options.max_headers
        self._max_header_bytes = options.max_header_bytes
        self._max_body_bytes = options.max_body_bytes
        self._most_head_bytes = options.max_target_bytes + options.max_header_bytes + FIELD_BYTES * options.max_headers
        self._base_environ = base_environ
        self._on_head = on_head
        self._http: Any = None
        self.in_head = False
        """True while the head of a request has arrived only in part."""
        self.in_body = False
        """True while the head of a request is complete and its body is not."""
        self.head_pending = False
        """True while a request with a complete head and a body is neither accepted nor rejected."""
        self.awaits_continue = False
        """True if the client waits for `100 Continue` before it sends the body of the pending head."""
        self._length = 0
        """Declared Content-Length of the current body; 0 if the body is chunked or absent."""
        self._environ: dict[str, Any] = {}
        self._cut_short = False
        """True if the current request has a body and offers an upgrade; httptools ends the message after the head."""
        self.holds_back = False
        """True while parsing is suspended, because the application may take over the connection."""
        self._pieces_size: int | None = None
        """Bytes counted for the limit of the current head or body; None if the next piece of data is not counted."""
        self._data_in_piece = False
        self._size_without_data = 0
        self._target = b""
        self._head_size = self._header_count = 0
        self._http_1_1 = False
        self._checked_host: str | None = None

    @property
    def environ(self) -> dict[str, Any]:
        """The environ of the request with the pending head."""
        return self._environ

    @property
    def begun(self) -> bool:
        """True if any request has begun on this connection."""
        return bool(self._environ)

    def resume(self) -> None:
        """Record that another parser has received earlier requests of this connection."""
        self._environ = self._base_environ

    def on_url(self, url: bytes) -> None:
        """Receive a piece of the request target."""
        self._target = target = self._target + url if self._target else url
        if len(target) > self._max_target_bytes:
            raise Refused(TARGET_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header field."""
        self._header_count += 1
        self._head_size += len(name) + len(value)
        if self._header_count > self._max_headers or self._head_size > self._max_header_bytes:
            raise Refused(FIELDS_TOO_LARGE)
        key = _CGI_NAMES.get(name) or _cgi_name(name)
        if key is None or not self.in_head:
            # Drop trailer fields after a chunked body: no proxy has checked them as headers (RFC 9110, 6.5.1).
            return
        text = value.decode("latin-1").rstrip(" \t")
        environ = self._environ
        if key in environ:
            text = self._joined(key, environ[key], text)
        environ[key] = text

    def _joined(self, key: str, before: Any, text: str) -> str:
        if key in REPEATED:
            raise Refused(REPEATED[key])
        return f"{before}; {text}" if key == "HTTP_COOKIE" else f"{before},{text}"

    def on_headers_complete(self) -> None:
        """Check the head, and put the request line into the environ."""
        self.in_head = False
        self.in_body = True
        self._pieces_size = None
        self._data_in_piece = False
        self._size_without_data = 0
        http, environ, target = self._http, self._environ, self._target
        version = http.get_http_version()
        self._http_1_1 = version == "1.1"
        if not self._http_1_1 and version != "1.0":
            raise Refused(UNKNOWN_VERSION)
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if self._http_1_1 else "HTTP/1.0"
        environ["REQUEST_METHOD"] = method = http.get_method().decode("ascii")
        if method == "CONNECT":
            # A successful response to CONNECT would promise a tunnel.
            raise Refused(CONNECT_REFUSED)
        host = environ.get("HTTP_HOST")
        if host is None or host != self._checked_host:
            self._check_host(host)
        environ["REQUEST_URI"] = environ["RAW_URI"] = target.decode("latin-1")
        if target[:1] != b"/":
            target = self._without_authority(target, environ)
        path, _, query = target.partition(b"?")
        if _HASH in target:
            raise Refused(FRAGMENT)
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
        """Reject an invalid Host field and, in HTTP/1.1, a missing one. Cache valid hosts: clients repeat them."""
        if not host or host[0] == ":":
            if self._http_1_1:
                raise Refused(NO_HOST if host is None else EMPTY_HOST)
            return
        if not _HOST.fullmatch(host):
            raise Refused(BAD_HOST)
        self._checked_host = host

    def _without_authority(self, target: bytes, environ: dict[str, Any]) -> bytes:
        """Return path and query of an absolute target; the target's host replaces the Host field (RFC 9112, 3.2.2)."""
        if target == b"*" and environ["REQUEST_METHOD"] == "OPTIONS":
            return target
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise Refused(BAD_FORM_OF_TARGET)
        end = min((place for place in (rest.find(b"/"), rest.find(b"?")) if place >= 0), default=len(rest))
        authority = rest[:end].decode("latin-1")
        if not authority or not _HOST.fullmatch(authority):
            raise Refused(BAD_AUTHORITY)
        environ["HTTP_HOST"] = authority
        return b"/" + rest[end:].removeprefix(b"/")

    def _check_body(self, environ: dict[str, Any]) -> None:
        coding = environ.pop("HTTP_TRANSFER_ENCODING", None)
        if coding is not None and coding.lower() != "chunked":
            raise Refused(UNKNOWN_CODING if coding else BAD_CODING)
        if coding is not None and not self._http_1_1:
            raise Refused(CHUNKED_HTTP_1_0)
        length: str = environ.get("CONTENT_LENGTH", "0")
        if len(length) > _LENGTH_DIGITS:
            raise Refused(LENGTH_TOO_LONG)
        self._length = int(length)
        if self._length > self._max_body_bytes:
            raise Refused(BODY_TOO_LARGE)
        self.head_pending = coding is not None or self._length > 0
        self.awaits_continue = False

    def _check_expectation(self, expectation: str) -> None:
        if expectation.lower() != "100-continue":
            raise Refused(UNKNOWN_EXPECTATION)
        self.awaits_continue = self._http_1_1

    def _note_offer(self) -> None:
        """Record an upgrade offer, but ignore the offer of a request with a body or in HTTP/1.0 (RFC 9110, 7.8)."""
        if self._http.should_upgrade():
            self._cut_short = self.head_pending
            self.holds_back = self._http_1_1 and not self.head_pending

    def _too_large(self) -> CannedResponse:
        if self._header_count or len(self._target) <= self._max_target_bytes:
            return FIELDS_TOO_LARGE
        return TARGET_TOO_LONG

    def _too_much_chunking(self, size: int, body_size: int) -> CannedResponse | None:
        """Count `size` more bytes of a chunked body; return a rejection if the body has too many bytes without data."""
        self._size_without_data = 0 if self._data_in_piece else self._size_without_data + size
        self._data_in_piece = False
        most = CHUNKING_BYTES + CHUNKING_RATIO * body_size
        refused = (self._pieces_size or 0) > most or self._size_without_data > CHUNKING_BYTES
        return CHUNKS_TOO_SMALL if refused else None
