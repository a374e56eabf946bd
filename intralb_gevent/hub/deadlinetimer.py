"""One timer that watches the deadlines of all jobs.

The timer fires at the earliest known deadline. A job has no timer of its own, so a job that meets its deadline costs
only one comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["DeadlineTimer"]


class DeadlineTimer:
    """Calls `sweep` at the earliest watched time; `sweep` returns the next time to watch, or infinity."""

    SHORTEST = 0.002
    """Minimum number of seconds until the timer fires, so that deadlines close to each other share one sweep."""

    def __init__(self, loop: Any, sweep: Callable[[], float], clock: Callable[[], float]) -> None:
        self._timer = loop.timer(0.0)
        self._sweep = sweep
        self._clock = clock
        self.due = math.inf
        """Time of the next sweep, on `clock`; infinity if nothing is watched."""

    def __repr__(self) -> str:
        due = "idle" if self.due == math.inf else f"due in {self.due - self._clock():.3f}s"
        return f"<DeadlineTimer {due}>"

    def watch(self, at: float) -> None:
        """Ensure that `sweep` is called at the time `at` or earlier."""
        if at < self.due:
            self._arm(at)

    def _arm(self, at: float) -> None:
        self.due = at
        self._timer.stop()
        # Create a new timer, because the interval of a gevent timer is fixed at its creation.
        self._timer = self._timer.loop.timer(max(self.SHORTEST, at - self._clock()))
        self._timer.start(self._fire, update=True)

    def _fire(self) -> None:
        self.due = math.inf
        following = self._sweep()
        if following < self.due:
            self._arm(following)

    def stop(self) -> None:
        """Stop the timer until `watch` is called again."""
        self.due = math.inf
        self._timer.stop()
