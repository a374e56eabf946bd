"""A slow proxy to a server. Data accumulates as on a slow network, so that a driver waits while it sends.

Without this proxy, the kernel's buffers accept megabytes immediately.
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
    """A proxy to the server of a URL; clients connect to the proxy's `url` instead."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        listener = socket.socket()
        # Set the buffer size on the listener, from which accepted sockets inherit it.
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
    """Forward data until one side closes, with a pause after each full piece; then close both sides."""
    with suppress(OSError):
        while data := source.recv(PIECE):
            target.sendall(data)
            if pause and len(data) == PIECE:
                gevent.sleep(pause)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def keep_little(descriptor: int) -> None:
    """Reduce the buffer of a driver's socket."""
    with socket.socket(fileno=os.dup(descriptor)) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
