"""WSGI applications that would never answer by themselves, and what they share.

Decides how a function that does not end becomes an application. It must not know its deadline or what ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["ADDRESS_VARIABLE", "LONG_SECONDS", "REST", "Application", "StartResponse", "body", "handler"]

ADDRESS_VARIABLE: Final = "DEADLINES_ADDRESS"
"""The environment variable with the address of what the application waits for, if that is another process."""
LONG_SECONDS: Final = 300
"""How long waits last that end by themselves: longer than any deadline that is measured."""
REST: Final = "/rest"
"""The path that is answered at once, whatever the application."""

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def handler(function: Callable[[], object]) -> Application:
    """Return an application that calls the function before it answers."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != REST:
            function()
        return _nothing(start_response)

    return application


def body(function: Callable[[], Iterable[bytes]]) -> Application:
    """Return an application whose answer begins at once and has what the function returns as its body."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == REST:
            return _nothing(start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return function()

    return application


def _nothing(start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return []
