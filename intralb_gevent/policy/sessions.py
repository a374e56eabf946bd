"""When a database session has been open, or idle, for too long.

Decides from times only; it must not know what a session is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["SessionLimits"]


class SessionLimits(NamedTuple):
    """How long a session may last and how long it may be idle, in seconds; infinity is for ever."""

    age: float = math.inf
    idle: float = math.inf

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.age < math.inf or self.idle < math.inf

    def too_old(self, opened: float, now: float) -> bool:
        """Say whether a session opened at `opened` has lasted long enough."""
        return now - opened >= self.age

    def stale(self, opened: float, used: float, now: float) -> bool:
        """Say whether a session that is idle since `used` should be closed."""
        return now - used >= self.idle or self.too_old(opened, now)
