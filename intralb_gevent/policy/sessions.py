"""Limits for how long a database session may be open or idle."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["SessionLimits"]


class SessionLimits(NamedTuple):
    """The maximum time in seconds that a session may be open (`age`) or idle (`idle`); infinity means no limit."""

    age: float = math.inf
    idle: float = math.inf

    @property
    def any(self) -> bool:
        """True if at least one limit is set."""
        return self.age < math.inf or self.idle < math.inf

    def too_old(self, opened: float, now: float) -> bool:
        """Return whether a session that was opened at `opened` has reached its age limit."""
        return now - opened >= self.age

    def stale(self, opened: float, used: float, now: float) -> bool:
        """Return whether a session that was opened at `opened`, and idle since `used`, should be closed."""
        return now - used >= self.idle or self.too_old(opened, now)
