"""WebSockets for applications that are written for gevent-websocket: its own handler, on a socket of ours.

Such an application finds the WebSocket in `environ["wsgi.websocket"]`. Here that is made at its first use, by the
handshake of gevent-websocket's `WebSocketHandler`. Nothing is imported from there: where the application has not loaded
it, it has no use for such a WebSocket.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from time import time
from typing import Any, Final
from weakref import WeakKeyDictionary

__all__ = ["WEBSOCKET_KEY", "open_websocket", "wants_websocket"]

WEBSOCKET_KEY: Final = "wsgi.websocket"
_PACKAGE: Final = "geventwebsocket"


class _Server:
    """What a WebSocket's handler has as its server: the clients of an application, to which it may broadcast."""

    pre_start_hook = None

    def __init__(self, application: Any) -> None:
        self.application = application
        self.clients: dict[Any, Any] = {}
        self.logger = logging.getLogger(_PACKAGE)


_SERVERS: Final[WeakKeyDictionary[Any, _Server]] = WeakKeyDictionary()


def _server_of(application: Any) -> _Server:
    try:
        return _SERVERS.setdefault(application, _Server(application))
    except TypeError:
        # It cannot be hashed, or has no weak references.
        return _Server(application)


def wants_websocket(environ: dict[str, Any]) -> bool:
    """Return whether a request that offers an upgrade should find `wsgi.websocket` in its environ."""
    loaded = _PACKAGE in sys.modules
    return loaded and environ["REQUEST_METHOD"] == "GET" and environ["HTTP_UPGRADE"].strip().lower() == "websocket"


def open_websocket(sock: Any, environ: dict[str, Any], application: Any) -> tuple[Any, Callable[[], None]]:
    """Shake hands as gevent-websocket does; return the WebSocket, and what ends it when the application has ended.

    Where the handshake is refused the client gets the answer of gevent-websocket, and this raises its WebSocketError.
    """
    module: Any = importlib.import_module(f"{_PACKAGE}.handler")
    handler = module.WebSocketHandler(sock, _address(environ), _server_of(application))
    _prepare(handler, environ)
    handler.result = handler.upgrade_websocket()
    if not hasattr(handler, "websocket"):
        _refuse(handler)
    handler.write("")
    client = module.Client(handler.client_address, handler.websocket)
    handler.server.clients[handler.client_address] = client
    return handler.websocket, lambda: _end(handler, client)


def _address(environ: dict[str, Any]) -> tuple[str, int]:
    return environ.get("REMOTE_ADDR") or "", int(environ.get("REMOTE_PORT") or 0)


def _prepare(handler: Any, environ: dict[str, Any]) -> None:
    """Set what the handler would have set by reading the request itself."""
    handler.environ = environ
    handler.application = handler.server.application
    handler.request_version = environ["SERVER_PROTOCOL"]
    handler.requestline = f"{environ['REQUEST_METHOD']} {environ.get('RAW_URI', '')} {environ['SERVER_PROTOCOL']}"
    handler.status = handler.result = None
    handler.headers_sent = handler.response_use_chunked = handler.connection_upgraded = False
    handler.close_connection = False
    handler.response_length = handler.code = 0
    handler.time_start = handler.time_finish = time()


def _refuse(handler: Any) -> None:
    """Send the handler's own answer."""
    handler.result = [text.encode() if isinstance(text, str) else text for text in handler.result or ()]
    if handler.status:
        handler.close_connection = True
        handler.process_result()
    exceptions: Any = importlib.import_module(f"{_PACKAGE}.exceptions")
    raise exceptions.WebSocketError("the handshake was refused")


def _end(handler: Any, client: Any) -> None:
    """Close the WebSocket, if the application has not, and forget the client."""
    clients = handler.server.clients
    if clients.get(handler.client_address) is client:
        del clients[handler.client_address]
    if not handler.websocket.closed:
        handler.websocket.close()
    handler.environ.pop(WEBSOCKET_KEY, None)
    handler.rfile.close()
