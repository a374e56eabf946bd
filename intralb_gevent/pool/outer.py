"""How outer servers, such as gunicorn and gevent.pywsgi, offer the socket of a request to an application.

Each of them has a key of its own for it, and a way of its own to be told that the connection is not its own any more.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NamedTuple

from .upgrades import SOCKET_KEY, FirstUse, Upgrade, made_of, shut_down

__all__ = ["Offers", "bound_input", "close_afterwards", "offers_in", "socket_of", "upgrade_of"]

_WEBSOCKET: Final = "wsgi.websocket"
_WERKZEUG: Final = "werkzeug.socket"
_KEYS: Final = (_WERKZEUG, SOCKET_KEY, _WEBSOCKET)


class OuterUpgrade(Upgrade):
    """A connection for whose socket the application has a duplicate; the outer server keeps its own."""

    def __init__(self, sock: Any, outer: Any) -> None:
        super().__init__(sock)
        self._outer = outer

    def shut_down(self) -> None:
        """End the connection, also for the outer server, which would wait for another request."""
        shut_down(self._outer)


class OuterWebSocket(Upgrade):
    """A WebSocket that the outer server has opened, and that it closes itself when the application has ended."""

    def close(self) -> None:
        """Note whether the connection has ended."""
        self.over = self.has_ended()


class Offers(NamedTuple):
    """What an outer server offers for one request."""

    by_key: dict[str, Any]
    """The objects by their keys in the environ; the use of each takes the connection over."""
    end: type[Exception] | None
    """What is raised to the outer server at the end, so that it answers nothing; None if it gets an empty response."""


def offers_in(environ: dict[str, Any]) -> Offers:
    """Return what an outer server offers for a request with an `Upgrade` field.

    The socket of gevent's server is found through `wsgi.input`; here it has the key of gunicorn's. A request with a
    body, or by HTTP/1.0, is offered nothing but a WebSocket that the outer server has opened already.
    """
    keys = _KEYS if _is_offer(environ) else (_WEBSOCKET,)
    found = {key: environ[key] for key in keys if environ.get(key) is not None}
    if _WERKZEUG in found:
        return Offers(found, ConnectionError)
    if SOCKET_KEY in found:
        # A connection of ours, behind middleware, needs no telling.
        return Offers(found, None if type(found[SOCKET_KEY]) is FirstUse else StopIteration)
    sock = _pywsgi_socket(environ) if keys is _KEYS else None
    return Offers(found if sock is None else {**found, SOCKET_KEY: FirstUse(partial(_duplicate, sock))}, None)


def _is_offer(environ: dict[str, Any]) -> bool:
    tokens = {token.strip().lower() for token in environ.get("HTTP_CONNECTION", "").split(",")}
    body = environ.get("HTTP_TRANSFER_ENCODING") or environ.get("CONTENT_LENGTH") not in (None, "", "0")
    return "upgrade" in tokens and not body and environ.get("SERVER_PROTOCOL") == "HTTP/1.1"


def _pywsgi_socket(environ: dict[str, Any]) -> Any:
    """Return the socket that `wsgi.input` of gevent's server reads from; None for any other."""
    source = environ.get("wsgi.input")
    file = getattr(source, "rfile", source)
    return getattr(getattr(file, "raw", None), "_sock", None)


def socket_of(environ: dict[str, Any]) -> Any:
    """Return the socket of gunicorn's connection, or gevent.pywsgi's; None in other servers."""
    return environ.get(SOCKET_KEY) or _pywsgi_socket(environ)


def bound_input(environ: dict[str, Any], start_response: Any) -> None:
    """Let the input of a request end with its body, also where it offers an upgrade.

    There gevent's handler passes on its whole input, although it reads over a body of the request afterwards, and an
    application that reads the input of a request without a body would wait for the client's end.
    """
    bounded: Any = getattr(getattr(start_response, "__self__", None), "wsgi_input", None)
    whole = environ.get("wsgi.input")
    if whole is not None and whole is getattr(bounded, "rfile", None):
        environ["wsgi.input"] = bounded
        environ["wsgi.input_terminated"] = True


def close_afterwards(start_response: Any) -> None:
    """Have gevent's handler read no request behind a connection that was taken over: what is left is none."""
    handler: Any = getattr(start_response, "__self__", None)
    if hasattr(handler, "close_connection"):
        handler.close_connection = True


def _duplicate(sock: Any) -> Any:
    """Return a socket of its own: gevent's handler closes the descriptor, even under a greenlet that waits for it."""
    try:
        return sock.dup()
    except NotImplementedError:
        # Of TLS there is only one.
        return sock


def upgrade_of(key: str, outer: Any, environ: dict[str, Any]) -> Upgrade:
    """Return the connection behind what the outer server has offered under a key."""
    made = made_of(outer)
    own = _pywsgi_socket(environ)
    if key == _WEBSOCKET:
        return OuterWebSocket(getattr(getattr(made, "handler", None), "socket", None) or own)
    return Upgrade(made) if own is None else OuterUpgrade(made, own)
