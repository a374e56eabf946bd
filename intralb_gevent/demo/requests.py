"""Reads what a request says out of its WSGI environ, within bounds.

Decides what can be read and what is refused; it must not know which page is asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["BODY_BYTES", "Refused", "Request"]

BODY_BYTES = 64 * 1024
"""The largest form that is read; a note of full length stays well below it."""
FIELDS = 20
FORM_TYPE = "application/x-www-form-urlencoded"


class Refused(Exception):
    """The request cannot be answered as asked; `status` goes in the response, the message on the page."""

    def __init__(self, status: str, message: str, allow: str | None = None) -> None:
        """Keep the status line, the sentence for the reader, and the methods for an Allow header if any."""
        super().__init__(message)
        self.status = status
        self.allow = allow


class Request:
    """One request: its path, parameters and form, and what the balancer has told about it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        """Wrap the environ; nothing is read from the client yet."""
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO") or "/"
        self.root: str = quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1")
        self.server: str = environ.get("SERVER_SOFTWARE", "")
        self.worker: int | None = environ.get("intralb.worker")
        self.session: Any = environ.get("intralb.session")

    @property
    def is_head(self) -> bool:
        """Whether only the headers are wanted."""
        return self.method == "HEAD"

    @property
    def seconds_left(self) -> float | None:
        """The seconds until this request's deadline, at this moment; None without a balancer."""
        deadline = self._environ.get("intralb.deadline")
        return None if deadline is None else max(0.0, deadline.remaining())

    def query(self, name: str, default: str = "") -> str:
        """Return the first value of a query parameter. Raises `Refused` when there are too many of them."""
        text = self._environ.get("QUERY_STRING", "").encode("latin-1").decode("utf-8", "replace")
        return _fields(text).get(name, default)

    def number(self, name: str, default: float, lowest: float, highest: float) -> float:
        """Return a query parameter as a number within limits. Raises `Refused` when it is none."""
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
        """Read the body and return its fields. Raises `Refused` for a body that is no form or too large."""
        kind = self._environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind not in ("", FORM_TYPE):
            raise Refused("415 Unsupported Media Type", f"This form is read as {FORM_TYPE}, not as {kind[:60]}.")
        return _fields(self._body().decode("utf-8", "replace"))

    def _body(self) -> bytes:
        declared = self._declared_length()
        if declared is None:
            # The server marks the end of a body without Content-Length (a chunked one) only if it says so.
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
    return Refused("413 Content Too Large", f"A form may have {BODY_BYTES:,} bytes; send a shorter one.")
