"""Collects the measurements of a lane in consecutive windows; each window is passed to the lane's limiter."""

from __future__ import annotations

import math
from time import monotonic, thread_time

from ..observe.stats import Stats
from ..policy.limiters import Window

__all__ = ["LimitWindow"]


class LimitWindow:
    """Computes a window as the difference between a lane's statistics at the window's start and at its end."""

    __slots__ = (
        "_began",
        "_begun",
        "_busy",
        "_ended",
        "_least_run_time",
        "_least_waiting",
        "_most_running",
        "_processor_time",
        "_shed",
        "_stats",
        "_time",
        "_uncounted",
    )

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._busy = 0.0
        self._begin(monotonic())

    def __repr__(self) -> str:
        ended = self._stats.run_time.count - self._ended
        return f"<WindowCount for {monotonic() - self._began:.3f}s: {ended} ended, {self._most_running} running>"

    def _begin(self, now: float) -> None:
        stats = self._stats
        self._began, self._processor_time = now, thread_time()
        self._ended, self._time = stats.run_time.count, stats.run_time.total
        self._begun = stats.queue_wait.count
        self._shed = stats.shed
        self._most_running = 0
        self._least_waiting = -1
        self._least_run_time = math.inf
        self._uncounted = 0.0

    def sample(self, running: int, waiting: int) -> None:
        """Record how many jobs run and how many wait now."""
        if running > self._most_running:
            self._most_running = running
        if waiting < self._least_waiting or self._least_waiting < 0:
            self._least_waiting = waiting

    def add(self, run_time: float, counted: float) -> None:
        """Record the run time of a job that has ended, and the part of it that counted towards the limit."""
        self._uncounted += run_time - counted
        if counted < self._least_run_time:
            self._least_run_time = counted

    def over(self, now: float, least_lag: float | None, busy: float) -> Window:
        """Return the window that ends now, and start the next one.

        `busy` is the total number of seconds for which the event loop has been busy.
        """
        stats = self._stats
        ended = stats.run_time.count - self._ended
        window = Window(
            seconds=now - self._began,
            least_lag=least_lag,
            most_running=self._most_running,
            ended=ended,
            mean_run_time=(stats.run_time.total - self._time - self._uncounted) / ended if ended else 0.0,
            least_run_time=self._least_run_time if ended else 0.0,
            shed=stats.shed - self._shed,
            begun=stats.queue_wait.count - self._begun,
            backlogged=self._least_waiting > 0,
            busy=min(1.0, (busy - self._busy) / max(now - self._began, 1e-9)),
            # Another thread may have created this object, and the clock of each thread starts at 0.
            processor_seconds=max(0.0, min(now - self._began, thread_time() - self._processor_time)),
        )
        self._begin(now)
        self._busy = busy
        return window
