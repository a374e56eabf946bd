"""Let the application take over the connection of a request that offers an upgrade, for example for a WebSocket.

The application takes over the connection by using the socket or WebSocket in the environ, or by responding with status
101.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ClientDisconnected
from ..integrations.geventwebsocket import WEBSOCKET_KEY, open_websocket, wants_websocket
from ..pool.exchange import Application, Exchange
from ..pool.upgrades import SOCKET_KEY, SWITCHING, FirstUse, Upgrade
from .request import Request
from .upgrade import switching_head

if TYPE_CHECKING:
    from .connection import Connection
    from .output import Output

__all__ = ["UpgradableExchange"]


class UpgradableExchange(Exchange):
    """An exchange whose connection the application may take over until the response has begun."""

    __slots__ = (
        "_connection",
        "_diverted",
        "_held",
        "_output",
        "_started",
        "_switching",
        "ended",
        "request",
        "status",
    )

    _connection: Connection
    _output: Output
    request: Request
    _started: bool
    """True once the head of the response has been passed to the connection."""
    ended: bool
    """True once the exchange will send nothing more: the response is complete or abandoned."""
    _diverted: bool
    """True if the application has switched protocols, so that the data it returns is not a response body."""
    _switching: bytes
    """The head of a 101 response, after which the application's data is sent unframed; empty if there is none."""
    _held: list[bytes] | None
    """Parts of a stream that are held back; None if no parts are held back."""

    def _offer(self, application: Application, environ: dict[str, Any]) -> None:
        """Put objects into the environ through which the application can take over the connection."""
        environ[SOCKET_KEY] = FirstUse(self._taken_socket, self._connection.plain_socket)
        if wants_websocket(environ):
            environ[WEBSOCKET_KEY] = FirstUse(lambda: self._taken_websocket(application, environ))

    def _taken_socket(self) -> Any:
        return self._take_over().sock

    def _taken_websocket(self, application: Application, environ: dict[str, Any]) -> Any:
        upgrade = self._take_over()
        websocket, upgrade.at_end = open_websocket(upgrade.sock, environ, application)
        return websocket

    def _take_over(self) -> Upgrade:
        """Wait until earlier responses are sent, pass the connection to the application, and return the upgrade."""
        if self.upgrade is None:
            self._runner.wait_for_client(self._output.wait_until_all_taken)
        # Another greenlet of the application may have taken over the connection during the wait.
        return self._take_over_now() if self.upgrade is None else self.upgrade

    def _take_over_now(self) -> Upgrade:
        self._check_open()
        if self._started or self._held is not None:
            raise RuntimeError("the response has begun, so its connection cannot be taken over any more")
        self.status = self.status if self._switching else SWITCHING
        self._runner.begin_upgrade()
        self._diverted = self.ended = True
        self.upgrade = upgrade = self._connection.hand_over(self.request)
        if self._switching:
            upgrade.sock.sendall(self._switching)
        return upgrade

    def _divert(self, data: Any) -> None:
        """Send bytes unframed after a 101 response; after any other takeover, drop the bytes."""
        if self._switching:
            self._take_over().sock.sendall(data)

    def _switch(self, status: str, headers: Any) -> Callable[[Any], object]:
        """Accept a status 101 and its headers; the next write takes over the connection."""
        self._switching = switching_head(status, headers)
        self.status = status
        self._diverted = True
        return self.write

    def _check_open(self) -> None:
        if self.ended or self._output.closed:
            raise ClientDisconnected("the client has disconnected")
