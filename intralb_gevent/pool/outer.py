"""Finds the socket that an outer server, such as gunicorn or gevent.pywsgi, offers for a request to upgrade.

Each outer server has its own environ key for the socket, and its own way to release the connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import Any, Final, NamedTuple

from gevent import socket

from .takensocket import ReadFirst, TakenSocket
from .upgrades import SOCKET_KEY, FirstUse, Upgrade, made_of, shut_down

__all__ = ["Offers", "bound_input", "close_afterwards", "offers_in", "socket_of"]

_WEBSOCKET: Final = "wsgi.websocket"
_WERKZEUG: Final = "werkzeug.socket"
_KEYS: Final = (_WERKZEUG, SOCKET_KEY, _WEBSOCKET)


class OuterUpgrade(Upgrade):
    """A connection of which the application has a duplicate socket; the outer server keeps the original."""

    def __init__(self, sock: Any, outer: Any) -> None:
        super().__init__(sock)
        self._outer = outer

    def shut_down(self) -> None:
        """Shut down the outer server's socket, because the outer server would otherwise wait for another request."""
        shut_down(self._outer)


class OuterWebSocket(Upgrade):
    """A WebSocket that the outer server has opened, and closes when the application has ended."""

    def close(self) -> None:
        """Record whether the connection has already ended; the outer server closes the connection."""
        self.over = self.has_ended()


class Offers(NamedTuple):
    """The upgrade objects that an outer server offers for one request."""

    by_key: dict[str, Any]
    """The offered objects by environ key; the first use of an object takes over the connection."""
    end: type[Exception] | None
    """Exception to raise after the upgrade, so that the outer server sends no response; None if an empty body must be
    returned instead."""
    sock: Any
    """The outer server's own socket; None if it is unknown."""

    def upgrade(self, key: str) -> Upgrade:
        """Return the connection that belongs to the object offered under `key`; it is taken over by this call."""
        made = made_of(self.by_key[key])
        if key == _WEBSOCKET:
            return OuterWebSocket(getattr(getattr(made, "handler", None), "socket", None) or self.sock)
        return Upgrade(made) if self.sock is None else OuterUpgrade(made, self.sock)

    def end_silently(self) -> Iterator[bytes]:
        """Keep the outer server from responding after an upgrade: raise an exception, or return an empty body."""
        if self.end is not None:
            raise self.end
        return iter(())


def offers_in(environ: dict[str, Any]) -> Offers:
    """Return the objects that an outer server offers for a request with an `Upgrade` field.

    The socket of gevent's server is found through `wsgi.input`, and offered under gunicorn's key. If the request has a
    body or uses HTTP/1.0, offer only a WebSocket that the outer server has already opened.
    """
    keys = _KEYS if _is_offer(environ) else (_WEBSOCKET,)
    found = {key: environ[key] for key in keys if environ.get(key) is not None}
    own = _pywsgi_socket(environ)
    if _WERKZEUG in found:
        return Offers(found, ConnectionError, own)
    sock = found.get(SOCKET_KEY)
    if type(sock) is FirstUse:
        # This package's own server, behind middleware, releases the connection without an exception.
        return Offers(found, None, None)
    if sock is not None:
        found[SOCKET_KEY] = FirstUse(partial(_take, sock, partial(_read_by_gunicorn, environ.get("wsgi.input"))), sock)
        return Offers(found, StopIteration, sock)
    if own is not None and keys is _KEYS:
        found[SOCKET_KEY] = FirstUse(partial(_take, own, partial(_read_by_pywsgi, own, _pywsgi_file(environ))), own)
    return Offers(found, None, own)


def _is_offer(environ: dict[str, Any]) -> bool:
    tokens = {token.strip().lower() for token in environ.get("HTTP_CONNECTION", "").split(",")}
    body = environ.get("HTTP_TRANSFER_ENCODING") or environ.get("CONTENT_LENGTH") not in (None, "", "0")
    return "upgrade" in tokens and not body and environ.get("SERVER_PROTOCOL") == "HTTP/1.1"


def _pywsgi_socket(environ: dict[str, Any]) -> Any:
    """Return the socket from which the `wsgi.input` of gevent's server reads; None in other servers."""
    return getattr(getattr(_pywsgi_file(environ), "raw", None), "_sock", None)


def _pywsgi_file(environ: dict[str, Any]) -> Any:
    """Return the file from which the `wsgi.input` of gevent's server reads; in other servers, any object."""
    source = environ.get("wsgi.input")
    return getattr(source, "rfile", source)


def socket_of(environ: dict[str, Any]) -> Any:
    """Return the socket of a connection of gunicorn or gevent.pywsgi; None in other servers."""
    return environ.get(SOCKET_KEY) or _pywsgi_socket(environ)


def bound_input(environ: dict[str, Any], start_response: Any) -> None:
    """Make the input of a request end with its body, even if the request offers an upgrade.

    For an upgrade, gevent's handler passes the unbounded input of the connection. An application that reads this input
    for a request without a body would wait until the client closes the connection.
    """
    bounded: Any = getattr(getattr(start_response, "__self__", None), "wsgi_input", None)
    whole = environ.get("wsgi.input")
    if whole is not None and whole is getattr(bounded, "rfile", None):
        environ["wsgi.input"] = bounded
        environ["wsgi.input_terminated"] = True


def close_afterwards(start_response: Any) -> None:
    """Keep gevent's handler from reading another request from a connection that was taken over."""
    handler: Any = getattr(start_response, "__self__", None)
    if hasattr(handler, "close_connection"):
        handler.close_connection = True


def _take(sock: Any, read_by_server: Callable[[], bytes]) -> Any:
    """Return a socket for the application, whose first reads return the bytes that the outer server has already read.

    A plain socket is duplicated, because the outer server closes its own descriptor even while another greenlet waits
    for it. A TLS socket cannot be duplicated.
    """
    if type(sock) is socket.socket:
        # Duplicate the descriptor first: if no more files can be opened, the server keeps its bytes.
        descriptor = os.dup(sock.fileno())
        return TakenSocket(sock.family, sock.type, sock.proto, descriptor, read_by_server())
    return ReadFirst(sock, held) if (held := read_by_server()) else sock


def _read_by_pywsgi(sock: Any, file: Any) -> bytes:
    """Take the bytes that have arrived out of the handler's buffered file; never waits."""
    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        return bytes(file.read1(len(file.peek())))
    except OSError:
        # The client has reset the connection. The application's own calls report this.
        return b""
    finally:
        sock.settimeout(timeout)


def _read_by_gunicorn(body: Any) -> bytes:
    """Take the bytes that have arrived out of the buffer from which gunicorn reads requests; never waits."""
    unreader: Any = getattr(getattr(body, "reader", None), "unreader", None)
    buffer = getattr(unreader, "buf", None)
    if not isinstance(buffer, BytesIO):
        return b""
    unreader.buf = BytesIO()
    return buffer.getvalue()
