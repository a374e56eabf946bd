"""Shows the upper limit for a server on gevent's event loop: `python -m loadtests.peers.hub_limit PORT`.

This server does the least possible work for a request: a callback in the hub receives data and sends a fixed response,
without any parsing.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event

_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nHello World"
_READABLE: Final = 1


def main(port: str) -> None:
    """Serve until killed."""
    loop = gevent.get_hub().loop
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=1024)
    listener.setblocking(False)
    watcher = loop.io(listener.fileno(), _READABLE)
    watcher.start(_acceptor(loop, listener))
    Event().wait()


def _acceptor(loop: Any, listener: socket.socket) -> Callable[[], None]:
    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watcher = loop.io(connection.fileno(), _READABLE)
            watcher.start(_answer, connection, watcher)

    return accept


def _answer(connection: socket.socket, watcher: Any) -> None:
    try:
        received = connection.recv(65536)
        if received:
            connection.send(_ANSWER)
            return
    except OSError:
        pass
    watcher.stop()
    watcher.close()
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
