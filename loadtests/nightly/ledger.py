"""The application of the storm and the soak, which simulates work and keeps a ledger of all requests.

The query string has the numbers of the client and the request: `/quick?client=3&number=17`. The response repeats both
numbers in a field and in the body. `/books?client=3` returns how often each request of that client was started.
"""

from __future__ import annotations

import gc
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import parse_qs

from greenlet import greenlet

_TOO_LONG_SECONDS: Final = 30.0
"""Duration, in seconds, of a handler that a deadline must abort."""
_PART_BYTES: Final = 1000
_BOOKS: Final[dict[int, bytearray]] = {}

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]


class AskedForError(Exception):
    """Raised by a handler because the client requested an exception."""


def filled(identity: str, size: int) -> bytes:
    """Return a body of `size` bytes with the identity in every line."""
    line = f"{identity}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def receipt(identity: str, body: bytes) -> bytes:
    """Return the response body for an upload."""
    return f"{identity} {len(body)} {zlib.crc32(body)}\n".encode()


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Record a request in the ledger, and respond."""
    asked = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    if (answer := _ABOUT.get(environ["PATH_INFO"])) is not None:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return [answer(asked)]
    _enter(int(asked["client"]), int(asked["number"]))
    identity = f"{asked['client']}.{asked['number']}"
    return _HANDLERS[environ["PATH_INFO"]](environ, start_response, identity, asked)


def _enter(client: int, number: int) -> None:
    book = _BOOKS.setdefault(client, bytearray())
    if len(book) <= number:
        book.extend(bytes(number + 1 - len(book)))
    book[number] = min(book[number] + 1, 255)


def _start(start_response: Start, identity: str, length: int | None, status: str = "200 OK") -> None:
    fields = [("Content-Type", "text/plain"), ("X-Ledger", identity)]
    if length is not None:
        fields.append(("Content-Length", str(length)))
    start_response(status, fields)


def _quick(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterable[bytes]:
    body = filled(identity, int(asked.get("size", "40")))
    _start(start_response, identity, len(body))
    return [body]


def _wait(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterable[bytes]:
    time.sleep(float(asked["seconds"]))
    return _quick(environ, start_response, identity, asked)


def _compute(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterable[bytes]:
    end = time.monotonic() + float(asked["seconds"])
    while time.monotonic() < end:
        pass
    return _quick(environ, start_response, identity, asked)


def _stream(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterator[bytes]:
    _start(start_response, identity, None)
    body = filled(identity, int(asked["size"]))
    for begin in range(0, len(body), _PART_BYTES):
        yield body[begin : begin + _PART_BYTES]
        if begin % (8 * _PART_BYTES) == 0:
            time.sleep(0.001)


def _upload(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterable[bytes]:
    body = receipt(identity, environ["wsgi.input"].read())
    _start(start_response, identity, len(body))
    return [body]


def _too_long(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterable[bytes]:
    return _wait(environ, start_response, identity, {"seconds": str(_TOO_LONG_SECONDS)})


def _computes_too_long(
    environ: Environ, start_response: Start, identity: str, asked: dict[str, str]
) -> Iterable[bytes]:
    return _compute(environ, start_response, identity, {"seconds": str(_TOO_LONG_SECONDS)})


def _begins_and_stops(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterator[bytes]:
    _start(start_response, identity, None)
    yield filled(identity, 100)
    time.sleep(_TOO_LONG_SECONDS)


def _fail(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterable[bytes]:
    raise AskedForError(identity)


def _begins_and_fails(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterator[bytes]:
    _start(start_response, identity, None)
    yield filled(identity, 100)
    raise AskedForError(identity)


def _upgrade(environ: Environ, start_response: Start, identity: str, asked: dict[str, str]) -> Iterator[bytes]:
    """Take the connection over, and echo every line with the request's identity as a prefix."""
    fields = [("Connection", "Upgrade"), ("Upgrade", "ledger"), ("X-Ledger", identity)]
    start_response("101 Switching Protocols", fields)
    connection = environ["gunicorn.socket"]
    unfinished = b""
    while data := connection.recv(4096):
        *lines, unfinished = (unfinished + data).split(b"\n")
        for line in lines:
            yield f"{identity} ".encode() + line + b"\n"


def _books(asked: dict[str, str]) -> bytes:
    return bytes(_BOOKS.get(int(asked["client"]), b""))


def _objects(asked: dict[str, str]) -> bytes:
    gc.collect()
    objects = gc.get_objects()
    ended = [each.dead for each in objects if isinstance(each, greenlet)]
    kept = ended.count(True)
    return json.dumps({"objects": len(objects), "greenlets": len(ended) - kept, "kept": kept}).encode()


_ABOUT: Final = {"/books": _books, "/objects": _objects}
_HANDLERS: Final = {
    "/quick": _quick,
    "/wait": _wait,
    "/compute": _compute,
    "/stream": _stream,
    "/upload": _upload,
    "/late/wait": _too_long,
    "/late/compute": _computes_too_long,
    "/late/stream": _begins_and_stops,
    "/error": _fail,
    "/error/stream": _begins_and_fails,
    "/upgrade": _upgrade,
}
