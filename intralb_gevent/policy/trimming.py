"""Determines when to return freed memory to the kernel: rarely, and only while memory use is far above its minimum."""

from __future__ import annotations

__all__ = ["Trimming"]


class Trimming:
    """Determines when to return freed memory; each parameter `resident` is the process's resident memory in bytes."""

    SPARE_BYTES = 64 * 1024**2
    """Freed memory up to this many bytes above the minimum resident size is not returned, so that the next requests can
    use the memory."""

    PAUSE_SECONDS = 30.0
    MOST_PAUSE_SECONDS = 600.0

    def __init__(self, now: float, resident: int) -> None:
        self._least = resident
        self._pause = self.PAUSE_SECONDS
        self._next = now + self._pause

    def __repr__(self) -> str:
        return f"<Trimming above {self._least + self.SPARE_BYTES} bytes, at {self._next:.0f}>"

    def due(self, now: float, resident: int) -> bool:
        """Return whether to return freed memory now."""
        self._least = min(self._least, resident)
        return now >= self._next and resident > self._least + self.SPARE_BYTES

    def trimmed(self, now: float, before: int, after: int) -> None:
        """Record that memory was returned; if this was less than a tenth of the memory, double the next pause."""
        in_vain = before - after < before // 10
        self._pause = min(2 * self._pause, self.MOST_PAUSE_SECONDS) if in_vain else self.PAUSE_SECONDS
        self._next = now + self._pause
