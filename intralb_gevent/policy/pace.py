"""How slowly a client may send a body or take a response: so slowly that every one has an end.

Decides when a client's time is over. It must not know whether bytes are sent or taken.

A timeout for each byte alone would let a client stay for ever with one byte a second. Kestrel asks for the same rate
(MinRequestBodyDataRate and MinResponseDataRate of ASP.NET Core).
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["LEAST_BYTES_PER_SECOND", "LEAST_WINDOW_SECONDS", "Pace"]

LEAST_BYTES_PER_SECOND: Final = 240.0

LEAST_WINDOW_SECONDS: Final = 5.0
"""Over which the rate is measured, or over the timeout for a byte if that is longer."""


class Pace:
    """Measures what a client sends, or takes, in windows of time; one begins when enough has come in the last."""

    __slots__ = ("_began", "_count", "_until")

    def __init__(self) -> None:
        self._began = -math.inf
        self._count = 0
        self._until = -math.inf

    def __repr__(self) -> str:
        return f"<Pace from {self._count} bytes at {self._began:.3f} until {self._until:.3f}>"

    def until(self, now: float, expires: float, count: int, seconds: float, kept_until: float) -> float:
        """Return when the time of a client is over of whom `count` bytes have come by now.

        `seconds` is its time for the next byte. A window begins anew where `expires`, when its time is over so far, is
        not what this has returned last, as the client was at something else; and where the event loop was kept.
        """
        if expires != self._until or self._began <= kept_until or self.keeps_up(count, seconds):
            self._began, self._count = now, count
        self._until = min(now + seconds, self._began + max(seconds, LEAST_WINDOW_SECONDS))
        return self._until

    def keeps_up(self, count: int, seconds: float) -> bool:
        """Say whether as much has come in the present window as must in a whole one."""
        return count - self._count >= LEAST_BYTES_PER_SECOND * max(seconds, LEAST_WINDOW_SECONDS)
