"""Makes the responses: status, headers, and a body of bytes.

Decides the headers that go with each kind of body; it must not know what the body says.
"""

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
    """What `start_response` is told, and the body."""

    status: str
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def page(document: str, status: str = "200 OK", allow: str | None = None) -> Response:
    """Answer with an HTML document, and an Allow header if `allow` lists methods."""
    content = document.encode("utf-8", "replace")
    headers = [*_HTML, ("Content-Length", str(len(content)))]
    if allow is not None:
        headers.append(("Allow", allow))
    return Response(status, headers, [content])


def stream(parts: Iterable[str]) -> Response:
    """Answer with an HTML document that comes in parts, each sent when it is ready."""
    return Response("200 OK", list(_HTML), _encoded(parts))


def plain(text: str) -> Response:
    """Answer with a line of text."""
    content = text.encode("utf-8")
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(content))),
    ]
    return Response("200 OK", headers, [content])


def redirect(location: str) -> Response:
    """Send the client to another page after a form, with GET."""
    answer = plain(f"See {location}")
    return Response("303 See Other", [*answer.headers, ("Location", location)], answer.body)


def static_file(name: str) -> Response:
    """Answer with a file of the package; the caller has made sure that it is one of ours."""
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
