"""Whether more workers have helped the jobs.

Decides from counts and times of jobs, before and after. It must not know what made the pool grow, or what follows.

Where jobs wait for something else than a slot, a database with ten connections for instance, more slots only move the
wait. That cannot be known beforehand, so each growth is tried: it has helped if more jobs ended in the same time, or if
they waited less.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

__all__ = ["GrowthTrial", "Progress", "Verdict"]

Verdict = Literal["open", "helped", "useless"]


class Progress(NamedTuple):
    """What has become of a pool's jobs until a moment; all but the time of service are sums since the start."""

    now: float
    """Seconds of a clock that never goes back."""
    ended: int
    """Jobs that have run to their end; those that were refused are not among them."""
    begun: int
    """Jobs that were given a slot."""
    waited: float
    """Seconds for which these had waited, together."""
    service: float
    """Mean time in a slot, in seconds."""


class _Pace(NamedTuple):
    """What became of jobs between two moments."""

    rate: float
    """Jobs that ended in a second."""
    wait: float
    """Mean wait of a job, in seconds; without end where none was begun."""


def _pace(since: Progress, until: Progress) -> _Pace:
    seconds, begun = until.now - since.now, until.begun - since.begun
    return _Pace(
        rate=(until.ended - since.ended) / seconds if seconds else 0.0,
        wait=(until.waited - since.waited) / begun if begun else math.inf,
    )


class GrowthTrial:
    """Compares the windows after a growth with the time before it, which is known for one to two windows."""

    WINDOW: Final = 10.0
    """Seconds, or the mean service time where that is longer: sooner the new slots have not ended a job yet."""
    WINDOWS: Final = 2
    """After so many that did not help, the growth is useless."""
    MORE: Final = 1.05
    LESS: Final = 0.8
    """The rate that is more, and the wait that is less, each in terms of what was before."""

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
        """Whether a growth is being tried."""
        return self._before is not None

    def begin(self, progress: Progress) -> None:
        """The pool grows now; what it has grown by during a trial is judged as one."""
        if self._before is None:
            self._before = _pace(self._marks[0] if self._marks else progress, progress)
        self._since, self._windows = progress, self.WINDOWS

    def verdict(self, progress: Progress) -> Verdict:
        """Take note of what has become of the jobs, and say what is known of the growth; a verdict ends the trial."""
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
        """End the trial, if there is one."""
        self._before = self._since = None

    def _window(self, progress: Progress) -> float:
        return max(self.WINDOW, progress.service)

    def _mark(self, progress: Progress) -> None:
        if self._marks is None:
            self._marks = (progress, progress)
        elif progress.now - self._marks[1].now >= self._window(progress):
            self._marks = (self._marks[1], progress)
