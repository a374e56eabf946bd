"""Estimates a pool's throughput, so that the wait of a new request can be predicted.

The estimate has two sources. While requests are queued without a break, the rate at which they are started is the
throughput, whatever limits it: slots, the event loop, or a database. Completions would be too few where many handlers
wait for long, such as long polls, while slots are free. Until enough starts have been measured it is modelled instead:
by Little's law at most `slots / run time`, and at most one start per loop time that a request uses.

The estimate is optimistic while little is known, because a wrong rejection costs more than a long wait. The first
requests after a start import modules and open connections, so the model uses the lower quartile of the run times, and
one long stall of the event loop counts as a short one.
"""

from __future__ import annotations

import math
from typing import Final

from .servicetime import ServiceTime

__all__ = ["Throughput"]


class Throughput:
    """The mean interval between two starts while requests are queued. All times are in seconds."""

    DECAY_SECONDS: Final = 2.0
    """Measurements this old have a weight of 1/e. It is as long as requests wait by default, so that a slowdown of the
    pool changes the estimate before requests have waited too long."""
    MODEL_WEIGHT: Final = 10
    """The modelled interval counts as this many measured starts."""
    LEAST_KNOWN: Final = 8
    """There is no estimate before this many requests have completed."""
    STALL_SECONDS: Final = 0.3
    STALL_RUN_TIMES: Final = 2
    """The longest time that a window of the event loop counts, in seconds or in run times, whichever is longer."""
    TARGET_INTERVALS: Final = 2
    """A wait of up to this many intervals is not considered a queue."""
    LEAST_TARGET: Final = 0.005

    __slots__ = (
        "_longest_window",
        "_loop_seconds",
        "_seconds_backlogged",
        "_started",
        "_started_backlogged",
        "interval",
        "least_interval",
    )

    def __init__(self) -> None:
        self.interval = 0.0
        """Mean interval between two starts; 0 while it is unknown."""
        self.least_interval = 0.0
        """The interval without the cost of rejections, which slow the event loop down while there are many."""
        self._longest_window = self.STALL_SECONDS
        self._seconds_backlogged = self._started_backlogged = 0.0
        self._loop_seconds = self._started = 0.0
        """Decayed sums over all windows; those above cover only windows with a queue throughout."""

    def __repr__(self) -> str:
        return f"<Throughput {1 / self.interval if self.interval else 0:.1f} requests/s>"

    @property
    def target(self) -> float:
        """The longest wait of a request in a pool without a queue."""
        return max(self.LEAST_TARGET, self.TARGET_INTERVALS * self.interval)

    def wait(self, ahead: int) -> float:
        """Return the expected wait of a request with `ahead` requests queued before it."""
        return ahead * self.interval

    def add(self, seconds: float, started: int, loop_seconds: float, *, backlogged: bool) -> None:
        """Add a window: its length, the starts in it, and for how long the event loop was busy.

        `backlogged` is true if at least one request was queued whenever the window was sampled.
        """
        seconds = min(seconds, self._longest_window)
        loop_seconds = min(loop_seconds, seconds)
        decay = math.exp(-seconds / self.DECAY_SECONDS)
        self._loop_seconds = self._loop_seconds * decay + loop_seconds
        self._started = self._started * decay + started
        if backlogged:
            self._seconds_backlogged = self._seconds_backlogged * decay + seconds
            self._started_backlogged = self._started_backlogged * decay + started
        else:
            self.restart()

    def update(self, service: ServiceTime, concurrency: int) -> None:
        """Recompute `interval`, for run times as in `service` and at most `concurrency` requests at the same time."""
        if service.count < self.LEAST_KNOWN:
            return
        run_time = service.quartile
        self._longest_window = max(self.STALL_SECONDS, self.STALL_RUN_TIMES * run_time)
        # Other pools share the event loop, but no request uses more of its time than it runs.
        loop_time = min(run_time, self._loop_seconds / self._started) if self._started else 0.0
        model = max(loop_time, run_time / max(1, concurrency))
        seconds = self._seconds_backlogged + self.MODEL_WEIGHT * model
        self.interval = seconds / (self._started_backlogged + self.MODEL_WEIGHT)
        self.least_interval = min(model, self.interval)

    def restart(self) -> None:
        """Discard the measured rate: the queue was empty, or the pool has been resized."""
        self._seconds_backlogged = self._started_backlogged = 0.0
