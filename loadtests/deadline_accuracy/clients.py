"""The clients: requests that are sent at their times, and when each of them was seen to end.

Decides what the end of a request is. It must not know which end is the right one.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Final

__all__ = ["NO_ANSWER", "Crowd", "Seen", "run"]

NO_ANSWER: Final = "no answer"
_CONNECT_SECONDS: Final = 5.0
_RECEIVE_BYTES: Final = 256 * 1024
_HEAD_ENDS: Final = b"\r\n\r\n"
_BODY_ENDS: Final = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Seen:
    """How a request ended: its status, or "cut" if that happened within the body; and after how many seconds."""

    end: str
    seconds: float


@dataclass(frozen=True)
class Crowd:
    """Requests to one path: how many, how many at the same time at most, and the seconds between their beginnings."""

    port: int
    path: str
    number: int
    at_once: int
    gap: float
    patience: float
    """After how many seconds one is given up."""


class _Request:
    """A request on a connection of its own; it has been sent when it is made."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _CONNECT_SECONDS)
        self.socket.setblocking(False)
        self._received = b""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.sent = monotonic()
        self.socket.send(request)

    def receive(self) -> Seen | None:
        """Take what has come; return how the request has ended, or None if it goes on."""
        try:
            piece = self.socket.recv(_RECEIVE_BYTES)
        except ConnectionError:
            piece = b""
        seconds = monotonic() - self.sent
        end = self._end(piece)
        return Seen(end, seconds) if end else None

    def _end(self, piece: bytes) -> str | None:
        self._received += piece
        head, complete, body = self._received.partition(_HEAD_ENDS)
        if not complete:
            return None if piece else NO_ANSWER
        status = head.split(maxsplit=2)[1].decode()
        if b"chunked" not in head:
            return status
        # Of an endless body only the end is kept.
        self._received = head + _HEAD_ENDS + body[-len(_BODY_ENDS) :]
        if self._received.endswith(_BODY_ENDS):
            return status
        return None if piece else "cut"


class _Running:
    """The requests of a crowd that have not ended."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._selector = selectors.DefaultSelector()

    @property
    def requests(self) -> list[_Request]:
        return [key.data for key in self._selector.get_map().values()]

    def begin(self) -> None:
        request = _Request(self._crowd.port, self._crowd.path)
        self._selector.register(request.socket, selectors.EVENT_READ, request)

    def ended(self, until: float) -> Iterator[Seen]:
        """Wait for ends, up to a time; yield them."""
        for key, _ in self._selector.select(max(0.0, min(until, self._give_up) - monotonic())):
            seen = key.data.receive()
            if seen:
                self._forget(key.data)
                yield seen
        if monotonic() >= self._give_up:
            yield from self._given_up()

    @property
    def _give_up(self) -> float:
        return min((request.sent for request in self.requests), default=math.inf) + self._crowd.patience

    def _given_up(self) -> Iterator[Seen]:
        now = monotonic()
        for request in self.requests:
            if now - request.sent >= self._crowd.patience:
                self._forget(request)
                yield Seen(NO_ANSWER, now - request.sent)

    def _forget(self, request: _Request) -> None:
        self._selector.unregister(request.socket)
        request.socket.close()

    def close(self) -> None:
        for request in self.requests:
            self._forget(request)
        self._selector.close()


def run(crowd: Crowd) -> Iterator[Seen]:
    """Send the requests of a crowd, and yield how each of them ended, when it does. Raises `OSError`."""
    left, following = crowd.number, monotonic()
    with contextlib.closing(_Running(crowd)) as running:
        while left or running.requests:
            may_begin = left > 0 and len(running.requests) < crowd.at_once
            if may_begin and monotonic() >= following:
                running.begin()
                left, following = left - 1, monotonic() + crowd.gap
            else:
                yield from running.ended(following if may_begin else math.inf)
