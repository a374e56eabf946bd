"""How many workers a pool should have.

Decides from the number of workers and jobs and the time. It must not know how a worker is made or retired.

Growing is quick, shrinking slow: jobs that wait are a certain need, a quiet moment is not yet a certain
surplus. A pool grows by a group whenever jobs wait and no slot is idle. It shrinks by a group once all its
jobs would have fitted into half the slots of the smaller pool for the whole quiet time; growth, and any moment
that was not quiet, start that time anew. So a pool never shrinks within the quiet time of having grown, and what
makes it grow again is a load that has doubled.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Autoscaler", "PoolSize"]


@dataclass(frozen=True)
class PoolSize:
    """The limits of a pool: workers at least and at most, workers in a group, slots in a worker."""

    minimum: int
    maximum: int
    group: int
    slots: int


class Autoscaler:
    """Keeps the time since which a pool has been quiet, and says how many workers to add or remove."""

    COMFORT = 0.5
    """The share of the smaller pool's slots that may be in use for the larger one to count as too large."""

    def __init__(self, size: PoolSize, quiet_seconds: float) -> None:
        self._size = size
        self._quiet_seconds = quiet_seconds
        self._quiet_since: float | None = None

    def __repr__(self) -> str:
        return f"<Autoscaler {self._size} quiet_since={self._quiet_since}>"

    def change(self, now: float, workers: int, queued: int, running: int) -> int:
        """Return how many workers to add (positive) or remove (negative) at the time `now`, in seconds."""
        growth = self._growth(workers, queued, running)
        shrinkage = self._shrinkage(workers, queued + running)
        if growth or not shrinkage:
            self._quiet_since = None
            return growth
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < self._quiet_seconds:
            return 0
        self._quiet_since = None
        return -shrinkage

    def _growth(self, workers: int, queued: int, running: int) -> int:
        size = self._size
        if not queued or running < workers * size.slots:
            return 0
        return max(0, min(size.group, size.maximum - workers))

    def _shrinkage(self, workers: int, load: int) -> int:
        size = self._size
        surplus = min(size.group, workers - size.minimum)
        fits = load <= self.COMFORT * (workers - surplus) * size.slots
        return surplus if surplus > 0 and fits else 0
