"""One timer for the deadlines of all jobs.

Decides when to look, which is at the earliest deadline known. A deadline that is met costs one comparison: nothing
is armed or disarmed for each job. It must not know what is done to a job that is late.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["DeadlineTimer"]


class DeadlineTimer:
    """Calls `sweep` when the earliest watched time has come; `sweep` returns the next one, or infinity."""

    SHORTEST = 0.002
    """Seconds between two looks at least, so that many nearby deadlines share one."""

    def __init__(self, loop: Any, sweep: Callable[[], float], clock: Callable[[], float]) -> None:
        self._timer = loop.timer(0.0)
        self._sweep = sweep
        self._clock = clock
        self.due = math.inf
        """When it looks next, on `clock`; infinity if nothing is watched."""

    def __repr__(self) -> str:
        due = "idle" if self.due == math.inf else f"due in {self.due - self._clock():.3f}s"
        return f"<DeadlineTimer {due}>"

    def watch(self, at: float) -> None:
        """Look at the time `at` at the latest."""
        if at < self.due:
            self._arm(at)

    def _arm(self, at: float) -> None:
        self.due = at
        self._timer.stop()
        # libev keeps a timer's interval as it was made; a timer of gevent is restarted by making it anew.
        self._timer = self._timer.loop.timer(max(self.SHORTEST, at - self._clock()))
        self._timer.start(self._fire, update=True)

    def _fire(self) -> None:
        self.due = math.inf
        following = self._sweep()
        if following < self.due:
            self._arm(following)

    def stop(self) -> None:
        """Look no more until something is watched again."""
        self.due = math.inf
        self._timer.stop()
