"""When freed memory is given back to the system: seldom, and only while a process has much more than it once needed.

Decides whether now is the time. It must not know how memory is measured or given back.
"""

from __future__ import annotations

__all__ = ["Trimming"]


class Trimming:
    """Tells when to trim; `resident` is always the number of bytes that the process has in memory."""

    SPARE_BYTES = 64 * 1024**2
    """What is kept for the next requests."""

    PAUSE_SECONDS = 30.0
    MOST_PAUSE_SECONDS = 600.0

    def __init__(self, now: float, resident: int) -> None:
        self._least = resident
        self._pause = self.PAUSE_SECONDS
        self._next = now + self._pause

    def __repr__(self) -> str:
        return f"<Trimming above {self._least + self.SPARE_BYTES} bytes, at {self._next:.0f}>"

    def due(self, now: float, resident: int) -> bool:
        """Say whether to trim now."""
        self._least = min(self._least, resident)
        return now >= self._next and resident > self._least + self.SPARE_BYTES

    def trimmed(self, now: float, before: int, after: int) -> None:
        """Take note of a trim; after one that has given back little, as the memory is in use, the next waits longer."""
        in_vain = before - after < before // 10
        self._pause = min(2 * self._pause, self.MOST_PAUSE_SECONDS) if in_vain else self.PAUSE_SECONDS
        self._next = now + self._pause
