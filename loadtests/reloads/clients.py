"""Clients that never repeat a request: some keep their connections, the others connect for each request."""

from __future__ import annotations

from collections import Counter

import gevent
from gevent import socket

__all__ = ["Clients"]

_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.05


class _Broken(Exception):
    """A connection that was closed, or a response that announces it."""


class Clients:
    """The clients of one run, as greenlets, and what they have seen."""

    def __init__(self, port: int, kept: int, anew: int) -> None:
        self._address = ("127.0.0.1", port)
        self.seen: Counter[str] = Counter()
        """Number of responses, and of failures by their description."""
        self.pids: set[bytes] = set()
        """The processes that have answered."""
        self._greenlets = [gevent.spawn(self._keep) for _ in range(kept)]
        self._greenlets += [gevent.spawn(self._connect_anew) for _ in range(anew)]

    def __repr__(self) -> str:
        return f"<Clients {dict(self.seen)}>"

    @property
    def failures(self) -> dict[str, int]:
        """The failures by their description."""
        return {text: count for text, count in self.seen.items() if not text.startswith("responses ")}

    def stop(self) -> None:
        """End all clients."""
        gevent.killall(self._greenlets)

    def _keep(self) -> None:
        while True:
            with socket.create_connection(self._address, _PATIENCE_SECONDS) as sock:
                try:
                    while True:
                        self._request(sock, b"")
                        self.seen["responses on kept connections"] += 1
                        gevent.sleep(_PAUSE_SECONDS)
                except (OSError, _Broken) as error:
                    self.seen[f"kept connection: {error}"] += 1

    def _connect_anew(self) -> None:
        while True:
            try:
                with socket.create_connection(self._address, _PATIENCE_SECONDS) as sock:
                    self._request(sock, b"Connection: close\r\n")
                self.seen["responses on new connections"] += 1
            except (OSError, _Broken) as error:
                self.seen[f"new connection: {error}"] += 1
            gevent.sleep(_PAUSE_SECONDS)

    def _request(self, sock: socket.socket, fields: bytes) -> None:
        sock.sendall(_REQUEST % fields)
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith(b"."):
            more = sock.recv(65536)
            if not more:
                raise _Broken(f"closed after {data[:40]!r}")
            data += more
        if not data.startswith(b"HTTP/1.1 200 "):
            raise _Broken(f"answered {data[:40]!r}")
        if not fields and b"\r\nconnection: close" in data.lower():
            raise _Broken("was announced to close")
        self.pids.add(data.rpartition(b"\n")[2])
