"""Support applications that are written for gevent-websocket: run gevent-websocket's handler on this server's socket.

An application for gevent-websocket expects the WebSocket in `environ["wsgi.websocket"]`. This module creates the
WebSocket at its first use, with the handshake of gevent-websocket's `WebSocketHandler`. An application that has not
imported gevent-websocket does not need the WebSocket, so this module imports gevent-websocket only for the first
handshake.
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
    """The server object that gevent-websocket's handler needs; an application can broadcast to its `clients`."""

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
        # The application is unhashable, or does not support weak references.
        return _Server(application)


def wants_websocket(environ: dict[str, Any]) -> bool:
    """Return True if the environ of this upgrade request should contain `wsgi.websocket`."""
    loaded = _PACKAGE in sys.modules
    return loaded and environ["REQUEST_METHOD"] == "GET" and environ["HTTP_UPGRADE"].strip().lower() == "websocket"


def open_websocket(sock: Any, environ: dict[str, Any], application: Any) -> tuple[Any, Callable[[], None]]:
    """Do gevent-websocket's handshake; return the WebSocket, and a function to call after the application has ended.

    If gevent-websocket rejects the handshake, the client receives gevent-websocket's response, and this function raises
    gevent-websocket's WebSocketError.
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
    """Set the attributes that the handler itself would set while it reads a request."""
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
    """Send the response with which the handler rejects the handshake, and raise WebSocketError."""
    handler.result = [text.encode() if isinstance(text, str) else text for text in handler.result or ()]
    if handler.status:
        handler.close_connection = True
        handler.process_result()
    exceptions: Any = importlib.import_module(f"{_PACKAGE}.exceptions")
    raise exceptions.WebSocketError("the handshake was rejected")


def _end(handler: Any, client: Any) -> None:
    """Close the WebSocket if the application has not closed it, and remove the client."""
    clients = handler.server.clients
    if clients.get(handler.client_address) is client:
        del clients[handler.client_address]
    if not handler.websocket.closed:
        handler.websocket.close()
    handler.environ.pop(WEBSOCKET_KEY, None)
    handler.rfile.close()
