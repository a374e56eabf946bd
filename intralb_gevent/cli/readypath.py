"""Request a path of the application before the process accepts connections.

The request is passed directly to the balancer. Through a listener, the request could reach another process that accepts
from the same listener.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from ..pool.balancer import LoadBalancer

__all__ = ["answer_of"]


def answer_of(balancer: LoadBalancer, path: str) -> str:
    """Return the status of the response to a GET request, such as "200 OK", or the reason why there is no response."""
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> Any:
        statuses.append(status)
        return lambda data: None

    try:
        body = balancer(_environ(path), start_response)
        try:
            for _ in body:
                pass
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
    except Exception as error:
        return f"with {type(error).__name__}: {error}"
    return statuses[-1] if statuses else "with nothing"


def _environ(path: str) -> dict[str, Any]:
    name, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": name,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_USER_AGENT": "intralb-gevent",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
