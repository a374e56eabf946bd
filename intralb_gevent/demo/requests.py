"""Parse a request from its WSGI environ, with limits on the size of its form and the number of its parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["BODY_BYTES", "Refused", "Request"]

BODY_BYTES = 64 * 1024
"""Maximum size of a form in bytes; a note of maximum length is much shorter."""
FIELDS = 20
FORM_TYPE = "application/x-www-form-urlencoded"


class Refused(Exception):
    """The request is rejected; `status` is the response's status, and the message is shown on the page."""

    def __init__(self, status: str, message: str, allow: str | None = None) -> None:
        """Store the status line, the message for the user, and the value of the Allow header, if there is one."""
        super().__init__(message)
        self.status = status
        self.allow = allow


class Request:
    """One request: its path, parameters and form, and the balancer's values in its environ."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        """Store the environ, without reading the request's body."""
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO") or "/"
        self.root: str = quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1")
        self.server: str = environ.get("SERVER_SOFTWARE", "")
        self.worker: int | None = environ.get("intralb.worker")
        self.session: Any = environ.get("intralb.session")

    @property
    def server_address(self) -> tuple[str, int] | None:
        """Host and port of the server; None if they are unknown, or if clients connect by TLS."""
        port = str(self._environ.get("SERVER_PORT", ""))
        if not port.isdecimal() or self._environ.get("wsgi.url_scheme") != "http":
            return None
        return self._environ.get("SERVER_NAME", ""), int(port)

    @property
    def is_head(self) -> bool:
        """True if the client requests only the headers."""
        return self.method == "HEAD"

    @property
    def seconds_left(self) -> float | None:
        """Seconds left until this request's deadline; None without a balancer."""
        deadline = self._environ.get("intralb.deadline")
        return None if deadline is None else max(0.0, deadline.remaining())

    def query(self, name: str, default: str = "") -> str:
        """Return the first value of a query parameter. Raises `Refused` if there are too many parameters."""
        text = self._environ.get("QUERY_STRING", "").encode("latin-1").decode("utf-8", "replace")
        return _fields(text).get(name, default)

    def number(self, name: str, default: float, lowest: float, highest: float) -> float:
        """Return a query parameter as a number, clamped to the limits; raises `Refused` if it is not a number."""
        text = self.query(name, f"{default:g}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise Refused(
                "400 Bad Request",
                f"{name}={text[:40]} is not a number; write for example {name}={default:g}.",
            )
        return min(max(value, lowest), highest)

    def form(self) -> dict[str, str]:
        """Read the body and return its fields. Raises `Refused` if the body is not a form, or is too large."""
        kind = self._environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind not in ("", FORM_TYPE):
            raise Refused("415 Unsupported Media Type", f"This form must be sent as {FORM_TYPE}, not as {kind[:60]}.")
        return _fields(self._body().decode("utf-8", "replace"))

    def _body(self) -> bytes:
        declared = self._declared_length()
        if declared is None:
            # Without Content-Length (a chunked body), the server ends the body only if wsgi.input_terminated is set.
            terminated = self._environ.get("wsgi.input_terminated", False)
            return _within_bounds(self._environ["wsgi.input"].read(BODY_BYTES + 1)) if terminated else b""
        body: bytes = self._environ["wsgi.input"].read(declared)
        if len(body) < declared:
            raise Refused("400 Bad Request", f"The form ended after {len(body)} of {declared} bytes; send it again.")
        return body

    def _declared_length(self) -> int | None:
        text = self._environ.get("CONTENT_LENGTH", "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit()):
            raise Refused("400 Bad Request", f"Content-Length: {text[:40]} is not a number of bytes.")
        if len(text) > 18 or int(text) > BODY_BYTES:
            raise _too_large()
        return int(text)


def _fields(text: str) -> dict[str, str]:
    try:
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=FIELDS)
    except ValueError:
        raise Refused("400 Bad Request", f"There are more than {FIELDS} parameters; send fewer.") from None
    return {name: values[0] for name, values in fields.items()}


def _within_bounds(body: bytes) -> bytes:
    if len(body) > BODY_BYTES:
        raise _too_large()
    return body


def _too_large() -> Refused:
    return Refused("413 Content Too Large", f"A form may have at most {BODY_BYTES:,} bytes; send a shorter form.")
