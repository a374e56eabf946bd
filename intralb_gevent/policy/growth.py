"""Evaluates whether a growth of the pool has helped, by comparing the jobs before and after the growth.

If the bottleneck is not the number of slots but, for example, a database with ten connections, more slots would only
move the wait elsewhere. Whether more slots help cannot be known beforehand. Each growth is therefore put on trial: the
growth has helped if more jobs ended in the same time, or if jobs waited less.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

__all__ = ["GrowthTrial", "Progress", "Verdict"]

Verdict = Literal["open", "helped", "useless"]


class Progress(NamedTuple):
    """The progress of a pool's jobs at one moment; all values except `now` and `service` are totals since the start."""

    now: float
    """Time of the reading, in seconds of a monotonic clock."""
    ended: int
    """Number of jobs that have run to their end; rejected jobs do not count."""
    begun: int
    """Number of jobs that were started in a slot."""
    waited: float
    """Total time in seconds for which jobs waited before they were started."""
    service: float
    """Mean run time of a job in its slot, in seconds."""


class _Pace(NamedTuple):
    """The throughput and wait of jobs between two readings."""

    rate: float
    """Jobs ended per second."""
    wait: float
    """Mean wait of the started jobs, in seconds; infinity if none was started."""


def _pace(since: Progress, until: Progress) -> _Pace:
    seconds, begun = until.now - since.now, until.begun - since.begun
    return _Pace(
        rate=(until.ended - since.ended) / seconds if seconds else 0.0,
        wait=(until.waited - since.waited) / begun if begun else math.inf,
    )


class GrowthTrial:
    """Compares the windows after a growth with the time before the growth, which is one to two windows long."""

    WINDOW: Final = 10.0
    """Minimum length of a window, in seconds. A window is also at least as long as the mean run time, because a new
    slot completes its first job only after this time."""
    WINDOWS: Final = 2
    """Number of windows without improvement after which a growth is considered useless."""
    MORE: Final = 1.05
    LESS: Final = 0.8
    """A growth has helped if the rate exceeds `MORE` times the rate before the growth, or if the wait is below `LESS`
    times the wait before the growth."""

    def __init__(self) -> None:
        self._marks: tuple[Progress, Progress] | None = None
        self._before: _Pace | None = None
        self._since: Progress | None = None
        self._windows = 0

    def __repr__(self) -> str:
        state = "none" if self._before is None else f"{self._windows} windows left, before: {self._before}"
        return f"<GrowthTrial {state}>"

    @property
    def open(self) -> bool:
        """True while a growth is on trial."""
        return self._before is not None

    def begin(self, progress: Progress) -> None:
        """Begin a trial of a growth that happens now, or extend an open trial to cover both growths."""
        if self._before is None:
            self._before = _pace(self._marks[0] if self._marks else progress, progress)
        self._since, self._windows = progress, self.WINDOWS

    def verdict(self, progress: Progress) -> Verdict:
        """Record the progress, and return the verdict on the growth; "helped" and "useless" end the trial."""
        self._mark(progress)
        if self._before is None or self._since is None or progress.now - self._since.now < self._window(progress):
            return "open"
        after = _pace(self._since, progress)
        self._since, self._windows = progress, self._windows - 1
        if after.rate > self.MORE * self._before.rate or after.wait < self.LESS * self._before.wait:
            self.cancel()
            return "helped"
        if self._windows:
            return "open"
        self.cancel()
        return "useless"

    def cancel(self) -> None:
        """End the trial if there is one."""
        self._before = self._since = None

    def _window(self, progress: Progress) -> float:
        return max(self.WINDOW, progress.service)

    def _mark(self, progress: Progress) -> None:
        if self._marks is None:
            self._marks = (progress, progress)
        elif progress.now - self._marks[1].now >= self._window(progress):
            self._marks = (self._marks[1], progress)
