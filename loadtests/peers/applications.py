"""The WSGI applications of the benchmark, which are the same for every server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

FILE_VARIABLE: Final = "PEERS_FILE"
"""Name of the environment variable for the path of the file that `file` returns."""
_BLOCK_BYTES: Final = 64 * 1024
_LARGE: Final = b"x" * 64 * 1024
_LARGER: Final = b"x" * 1024 * 1024

_StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def hello(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
    """Return 11 bytes."""
    return _answer(start_response, b"Hello World")


def large(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
    """Return 64 KB."""
    return _answer(start_response, _LARGE)


def larger(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
    """Return 1 MB."""
    return _answer(start_response, _LARGER)


def length(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
    """Read the whole request body; return its length."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    return _answer(start_response, b"%d" % len(body))


def file(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
    """Return a file, through the server's own `wsgi.file_wrapper` if it has one."""
    opened = open(os.environ[FILE_VARIABLE], "rb")  # noqa: SIM115  # the server closes it after the response
    _start(start_response, os.fstat(opened.fileno()).st_size)
    wrapper = environ.get("wsgi.file_wrapper", _blocks)
    wrapped: Iterable[bytes] = wrapper(opened, _BLOCK_BYTES)
    return wrapped


def _answer(start_response: _StartResponse, body: bytes) -> list[bytes]:
    _start(start_response, len(body))
    return [body]


def _start(start_response: _StartResponse, length: int) -> None:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(length))])


def _blocks(opened: Any, size: int) -> Iterable[bytes]:
    with opened:
        yield from iter(lambda: opened.read(size), b"")
