"""Estimates a pool's throughput, so that the wait of a new request can be predicted.

The estimate has two sources. While requests are continuously queued, the rate at which requests are started is the
throughput, whatever limits it: slots, the event loop, or a database. The rate of completions would be too low while
slots are free and many handlers wait for a long time, as handlers of long polls do. Until enough starts have been
measured, the throughput is modelled instead. By Little's law, the throughput is at most the number of slots divided by
the run time. The throughput is also at most the inverse of the event loop's time per request.

The estimate is optimistic while little is known, because a wrong rejection costs more than a long wait. The first
requests after a start are slow, because they import modules and open connections. Therefore, the model uses the lower
quartile of the run times, and counts a stall of the event loop only up to a maximum length.
"""

from __future__ import annotations

import math
from typing import Final

from .servicetime import ServiceTime

__all__ = ["Throughput"]


class Throughput:
    """The mean interval between the starts of two requests while requests are queued. All times are in seconds."""

    DECAY_SECONDS: Final = 2.0
    """Age in seconds at which a measurement has a weight of 1/e. The value equals the default of `max_wait_seconds`, so
    that a slowdown of the pool changes the estimate before requests have waited too long."""
    MODEL_WEIGHT: Final = 10
    """Weight of the modelled interval, as a number of measured starts."""
    LEAST_KNOWN: Final = 8
    """Minimum number of completed requests for an estimate."""
    STALL_SECONDS: Final = 0.3
    STALL_RUN_TIMES: Final = 2
    """If a window is longer than both `STALL_SECONDS` and `STALL_RUN_TIMES` times the run time, the event loop was
    probably blocked. Only the larger of these two times is then counted as the window's length."""
    TARGET_INTERVALS: Final = 2
    """A wait of at most this many mean intervals between two starts does not count as queueing."""
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
        """Mean interval between two starts without the cost of rejections, which slow the event loop down."""
        self._longest_window = self.STALL_SECONDS
        self._seconds_backlogged = self._started_backlogged = 0.0
        self._loop_seconds = self._started = 0.0
        """Decayed sums over all windows; the two `..._backlogged` sums cover only windows in which requests were
        always queued."""

    def __repr__(self) -> str:
        return f"<Throughput {1 / self.interval if self.interval else 0:.1f} requests/s>"

    @property
    def target(self) -> float:
        """The longest wait, in seconds, that does not count as queueing."""
        return max(self.LEAST_TARGET, self.TARGET_INTERVALS * self.interval)

    def wait(self, ahead: int) -> float:
        """Return the expected wait of a request with `ahead` requests queued before it."""
        return ahead * self.interval

    def add(self, seconds: float, started: int, loop_seconds: float, *, backlogged: bool) -> None:
        """Add a window: its length, the number of starts, and the time for which the event loop was busy.

        `backlogged` is true if at least one request was queued each time that the queue was sampled.
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
        """Recompute `interval` from the run times, and from the number of requests that may run at the same time."""
        if service.count < self.LEAST_KNOWN:
            return
        run_time = service.quartile
        self._longest_window = max(self.STALL_SECONDS, self.STALL_RUN_TIMES * run_time)
        # The loop's busy time includes the work of other pools, so limit the loop time per request to the run time.
        loop_time = min(run_time, self._loop_seconds / self._started) if self._started else 0.0
        model = max(loop_time, run_time / max(1, concurrency))
        seconds = self._seconds_backlogged + self.MODEL_WEIGHT * model
        self.interval = seconds / (self._started_backlogged + self.MODEL_WEIGHT)
        self.least_interval = min(model, self.interval)

    def restart(self) -> None:
        """Discard the measured rate, because the queue was empty or the pool has been resized."""
        self._seconds_backlogged = self._started_backlogged = 0.0
