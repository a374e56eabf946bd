"""The application behind the proxies: it answers each request with its own name, and notes which were run.

A name is what stands behind the last slash of the path. Decides what is noted. It must not know what is ambiguous.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["MARK", "application"]

MARK: Final = "X-Front"
"""What a proxy sets in each request that it has read: one without it has been smuggled through."""
_RUN: Final[list[tuple[str, str]]] = []
"""The path and the mark of each request since they were asked for."""


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Note the request, and answer with its name."""
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
