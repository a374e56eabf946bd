"""A limit that nothing changes but the number of slots.

Decides nothing from what it observes, which makes it the one to compare the others with.
"""

from __future__ import annotations

import sys

from .window import Window

__all__ = ["FixedLimiter", "all_slots"]


class FixedLimiter:
    """Lets `limit` jobs run, at least 1, or as many as there are slots if these are fewer."""

    def __init__(self, limit: int) -> None:
        self._fixed = self.limit = limit

    def __repr__(self) -> str:
        return f"<FixedLimiter {self.limit}>"

    def observe(self, window: Window) -> None:
        """Change nothing."""

    def resize(self, most: int) -> None:
        """Take note that the pool has `most` slots now."""
        self.limit = min(self._fixed, most)


def all_slots(most: int) -> FixedLimiter:
    """Return a limiter that lets every slot be used, now `most` and later as many as there are."""
    limiter = FixedLimiter(sys.maxsize)
    limiter.resize(most)
    return limiter
