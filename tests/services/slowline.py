"""A way to a server on which what is sent piles up, as on a slow network, so that a driver has to wait while it sends.

Without it the system's buffers take megabytes at once. Decides how fast bytes go; it must not know what they mean.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent import socket
from gevent.server import StreamServer

__all__ = ["SlowLine", "keep_little"]

PIECE = 16_384
PAUSE_SECONDS = 0.001


class SlowLine:
    """Forwards to the server of a URL; connect to `url` in its place."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        listener = socket.socket()
        # What is accepted inherits it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        StreamServer(listener, self._forward).start()
        account, at, _ = self._server.netloc.rpartition("@")
        self.url = self._server._replace(netloc=f"{account}{at}127.0.0.1:{listener.getsockname()[1]}").geturl()

    def _forward(self, client: Any, address: object) -> None:
        upstream = socket.create_connection((self._server.hostname, self._server.port))
        with client, upstream:
            there = gevent.spawn(copy, client, upstream, PAUSE_SECONDS)
            copy(upstream, client, 0.0)
            there.join()


def copy(source: Any, target: Any, pause: float) -> None:
    """Pass on until one side leaves, with a pause after each piece that was full; then cut both."""
    with suppress(OSError):
        while data := source.recv(PIECE):
            target.sendall(data)
            if pause and len(data) == PIECE:
                gevent.sleep(pause)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def keep_little(descriptor: int) -> None:
    """Let a driver's socket take little at once."""
    with socket.socket(fileno=os.dup(descriptor)) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
