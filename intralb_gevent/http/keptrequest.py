"""Keeps the received bytes of a request that may have to move to another process, which parses them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..siblings.transfer import MAX_DATA_BYTES
from ..stdlib import monotonic

if TYPE_CHECKING:
    from .context import ServerContext
    from .parser import RequestParser

__all__ = ["KeptRequest"]


class KeptRequest:
    """The received bytes of a connection's current request, if the request may have to move."""

    __slots__ = ("data", "settled_until")

    def __init__(self) -> None:
        self.data = b""
        """All bytes of the request that have arrived; empty if the request will not move."""
        self.settled_until = 0.0
        """The time, in `time.monotonic()` seconds, until which the connection must not move with a request."""

    def __repr__(self) -> str:
        return f"<KeptRequest of {len(self.data)} bytes>"

    def add(self, data: bytes | memoryview, begins: bool, shared: ServerContext) -> None:
        """Keep received data if its request finds no free slot here, but may find a free slot in another process.

        `begins` is true if `data` is the beginning of a request.
        """
        if begins:
            rescuer = shared.rescuer
            wanted = rescuer is not None and shared.intake.is_full and monotonic() >= self.settled_until
            self.data = bytes(data) if wanted and rescuer is not None and rescuer.possible() else b""
        elif self.data:
            self.data = self.data + bytes(data) if len(self.data) + len(data) <= MAX_DATA_BYTES else b""

    def take(self) -> bytes:
        """Return and clear the kept bytes."""
        data, self.data = self.data, b""
        return data

    def may_move(self, parser: RequestParser) -> bool:
        """Return whether a request whose body is still arriving may move to another process once it is complete."""
        return len(self.data) > 0 and (parser.in_chunks or 0 < parser.body_left <= MAX_DATA_BYTES - len(self.data))
