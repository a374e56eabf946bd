"""Build the responses: status, headers, and a body of bytes."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Response", "page", "plain", "redirect", "static_file", "stream"]

_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HTML = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
)
_STATIC_TYPES = {"css": "text/css; charset=utf-8", "svg": "image/svg+xml"}


class Response(NamedTuple):
    """The arguments for `start_response`, and the body."""

    status: str
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def page(document: str, status: str = "200 OK", allow: str | None = None) -> Response:
    """Return a response with an HTML document, and an Allow header if `allow` lists methods."""
    content = document.encode("utf-8", "replace")
    headers = [*_HTML, ("Content-Length", str(len(content)))]
    if allow is not None:
        headers.append(("Allow", allow))
    return Response(status, headers, [content])


def stream(parts: Iterable[str]) -> Response:
    """Return a response with an HTML document in parts; each part is sent when it is ready."""
    return Response("200 OK", list(_HTML), _encoded(parts))


def plain(text: str) -> Response:
    """Return a response with a line of text."""
    content = text.encode("utf-8")
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(content))),
    ]
    return Response("200 OK", headers, [content])


def redirect(location: str) -> Response:
    """Return a response to a submitted form; the response makes the client request `location` with GET."""
    answer = plain(f"See {location}")
    return Response("303 See Other", [*answer.headers, ("Location", location)], answer.body)


def static_file(name: str) -> Response:
    """Return a response with a static file of this package; the caller must have checked the name."""
    content = _read(name)
    headers = [
        ("Content-Type", _STATIC_TYPES[name.rpartition(".")[2]]),
        ("Cache-Control", "max-age=300"),
        ("Content-Length", str(len(content))),
    ]
    return Response("200 OK", headers, [content])


@functools.cache
def _read(name: str) -> bytes:
    return (importlib.resources.files(__package__) / "static" / name).read_bytes()


def _encoded(parts: Iterable[str]) -> Iterator[bytes]:
    for part in parts:
        yield part.encode("utf-8", "replace")
