"""A limiter that ignores all measurements; it is the baseline with which other limiters are compared."""

from __future__ import annotations

import sys

from .window import Window

__all__ = ["FixedLimiter", "all_slots"]


class FixedLimiter:
    """Allows `limit` running jobs (at least 1), or one job for each slot if there are fewer slots."""

    def __init__(self, limit: int) -> None:
        self._fixed = self.limit = limit

    def __repr__(self) -> str:
        return f"<FixedLimiter {self.limit}>"

    def observe(self, window: Window) -> None:
        """Ignore the window, because the limit is fixed."""

    def resize(self, most: int) -> None:
        """Adapt to a new number of slots, `most`."""
        self.limit = min(self._fixed, most)


def all_slots(most: int) -> FixedLimiter:
    """Return a limiter whose limit is always the number of slots, which is currently `most`."""
    limiter = FixedLimiter(sys.maxsize)
    limiter.resize(most)
    return limiter
