"""The minimum data rate at which a client must send a body or read a response.

With only a timeout for each byte, a client could occupy a connection forever by sending one byte per second. Kestrel
enforces the same minimum rate (MinRequestBodyDataRate and MinResponseDataRate of ASP.NET Core).
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["LEAST_BYTES_PER_SECOND", "LEAST_WINDOW_SECONDS", "Pace"]

LEAST_BYTES_PER_SECOND: Final = 240.0

LEAST_WINDOW_SECONDS: Final = 5.0
"""Seconds over which the rate is measured; if the timeout for a byte is longer, the rate is measured over that
timeout."""


class Pace:
    """Counts the bytes that a client sends or reads in a time window; after enough bytes, a new window begins."""

    __slots__ = ("_began", "_count", "_until")

    def __init__(self) -> None:
        self._began = -math.inf
        self._count = 0
        self._until = -math.inf

    def __repr__(self) -> str:
        return f"<Pace from {self._count} bytes at {self._began:.3f} until {self._until:.3f}>"

    def until(self, now: float, expires: float, count: int, seconds: float, kept_until: float) -> float:
        """Return the time at which the timeout expires for a client that has transferred `count` bytes so far.

        `seconds` is the timeout for the next byte, and `expires` is the current expiry of the connection. If `expires`
        differs from the last value that this method returned, another timeout has applied since then, and a new window
        begins. A new window also begins if the event loop was blocked during the current window; `kept_until` is the
        end of the last blockage.
        """
        if expires != self._until or self._began <= kept_until or self.keeps_up(count, seconds):
            self._began, self._count = now, count
        self._until = min(now + seconds, self._began + max(seconds, LEAST_WINDOW_SECONDS))
        return self._until

    def keeps_up(self, count: int, seconds: float) -> bool:
        """Return whether the client has already transferred the bytes that are required for the current window."""
        return count - self._count >= LEAST_BYTES_PER_SECOND * max(seconds, LEAST_WINDOW_SECONDS)
