"""Objects that represent a request and its response in gunicorn's hooks and access log.

The views are made from the environ and from the application's arguments to `start_response`. The attributes of a view
have the same names as in `gunicorn.http.message.Request` and `gunicorn.http.wsgi.Response`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..pool.exchange import StartResponse

__all__ = ["RequestView", "ResponseView"]

_WITHOUT_PREFIX: Final = ("CONTENT_TYPE", "CONTENT_LENGTH")
_BODILESS: Final = ("204", "304")


class RequestView:
    """The view of a request, with `method`, `uri`, `path`, `query`, `headers` and more."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self.trailers: list[tuple[str, str]] = []
        self.proxy_protocol_info: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<RequestView {self.method} {self.uri}>"

    @property
    def method(self) -> str:
        """The method, such as GET."""
        return str(self._environ.get("REQUEST_METHOD", ""))

    @property
    def uri(self) -> str:
        """The request target as the client sent it."""
        return str(self._environ.get("RAW_URI", ""))

    @property
    def path(self) -> str:
        """The path as the client encoded it."""
        return self.uri.partition("#")[0].partition("?")[0]

    @property
    def query(self) -> str:
        """The query string."""
        return str(self._environ.get("QUERY_STRING", ""))

    @property
    def fragment(self) -> str:
        """The fragment; always empty, because the server rejects a request target with a fragment."""
        return ""

    @property
    def version(self) -> tuple[int, int]:
        """The HTTP version, such as (1, 1)."""
        return (1, 0) if self._environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else (1, 1)

    @property
    def scheme(self) -> str:
        """The scheme: http or https."""
        return str(self._environ.get("wsgi.url_scheme", "http"))

    @property
    def remote_addr(self) -> tuple[str, str]:
        """Address and port of the client."""
        return self._environ.get("REMOTE_ADDR", ""), self._environ.get("REMOTE_PORT", "")

    peer_addr = remote_addr

    @property
    def body(self) -> Any:
        """The body, as a file."""
        return self._environ.get("wsgi.input")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields, with upper-case names; fields that were sent repeatedly are joined."""
        return [
            (key.removeprefix("HTTP_").replace("_", "-"), value)
            for key, value in self._environ.items()
            if (key.startswith("HTTP_") or key in _WITHOUT_PREFIX) and isinstance(value, str) and value
        ]


class ResponseView:
    """The view of a response, with `status`, `headers`, and the number of its body's bytes as `sent`."""

    def __init__(self, req: RequestView) -> None:
        self.req = req
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.sent: int | None = None
        """Number of body bytes that the application has produced; None if the server itself made the response."""

    def __repr__(self) -> str:
        return f"<ResponseView {self.status or 'without status'}>"

    @property
    def status_code(self) -> int | None:
        """The status code; None before the status is set."""
        return int(self.status[:3]) if self.status[:3].isdigit() else None

    @property
    def headers_sent(self) -> bool:
        """True once the application has set the status."""
        return bool(self.status)

    @property
    def response_length(self) -> int | None:
        """The declared length of the body; None if no length is declared."""
        lengths = [value for name, value in self.headers if name.lower() == "content-length"]
        return int(lengths[0]) if lengths and lengths[0].isdigit() else None

    def add(self, size: int) -> None:
        """Add `size` bytes of the body to `sent`, unless HTTP allows no body for this method or status."""
        if self.req.method != "HEAD" and self.status[:3] not in _BODILESS:
            self.sent = (self.sent or 0) + size

    def take(self, other: ResponseView) -> None:
        """Copy status, header fields and number of bytes from another view."""
        self.status, self.headers, self.sent = other.status, other.headers, other.sent

    def observed(self, start_response: StartResponse) -> StartResponse:
        """Return a `start_response` that records the application's arguments."""

        def start(status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
            headers = headers if type(headers) is list else list(headers)
            write = start_response(status, headers, exc_info)
            self.status, self.headers, self.sent = str(status), headers, 0

            def counted(data: Any) -> object:
                self.add(len(data))
                return write(data)

            return counted

        return start
