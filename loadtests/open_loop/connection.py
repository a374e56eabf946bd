"""A client's connection on a plain socket that never waits: a request at a time, and its answer.

Decides when a request has gone out and when its answer is whole. It must not know the time, or other connections.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from .answers import Answer, read

__all__ = ["IDLE", "Connection"]

IDLE: Final = -1
"""The number of the request while there is none."""
_RECEIVE_BYTES: Final = 65536
_UNDER_WAY: Final = (0, errno.EINPROGRESS)


class Connection:
    """One connection. Everything that goes wrong with it raises `OSError`, or `ValueError` for a bad answer."""

    __slots__ = ("_received", "_socket", "_unsent", "fd", "request")

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self.fd = self._socket.fileno()
        self.request = IDLE
        self._unsent = b""
        self._received = b""
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self._socket.connect_ex(("127.0.0.1", port))
        if code not in _UNDER_WAY:
            self.close()
            raise OSError(code, "cannot connect")

    def begin(self, request: int, text: bytes) -> None:
        """Send a request, or as much of it as goes now."""
        self.request = request
        self._unsent = text
        self._received = b""
        self.go_on()

    @property
    def unsent(self) -> bool:
        """Whether a request waits for the connection to come about, or for room."""
        return bool(self._unsent)

    def go_on(self) -> None:
        """Send what is unsent, as far as it goes."""
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return

    def receive(self) -> Answer | None:
        """Return the answer once it is whole. Raises `ConnectionResetError` when it ends before that."""
        try:
            piece = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return None
        self._received = self._received + piece if self._received else piece
        answer = read(self._received, not piece)
        if answer is None and not piece:
            raise ConnectionResetError(errno.ECONNRESET, "closed without a whole answer")
        return answer

    def close(self) -> None:
        """Leave."""
        self._socket.close()
