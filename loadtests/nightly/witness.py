"""The application behind the proxies, which responds with the name of each request, and records which requests ran.

A request's name is the part of the path after the last slash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

MARK: Final = "X-Front"
"""Name of the field that a proxy adds to each request that it parses; a request without it was smuggled."""
_RUN: Final[list[tuple[str, str]]] = []
"""The path and the mark of each request since this list was last requested."""


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Record the request; respond with its name."""
    path = environ["PATH_INFO"]
    if path == "/run":
        body = json.dumps(_RUN).encode()
        _RUN.clear()
    else:
        _RUN.append((path, environ.get("HTTP_X_FRONT", "")))
        environ["wsgi.input"].read()
        body = path.rpartition("/")[2].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
