"""How many jobs may run, by how run times compare with what they were in the long run.

Decides from windows of time. It must not know jobs, nor why they take longer.

The algorithm is Gradient2 of Netflix's concurrency-limits (`Gradient2Limit`, 2018), with its constants. The limit is
multiplied by the ratio of the long mean to the present run time, and some jobs are added that may queue. There, a
sample is one request or the mean of a window of them. Here it is the mean run time of a window in which jobs have
ended, together with the most that ran in it; a window without any is no sample. The long mean is thus one over 600
windows, a minute of 100 ms windows. The least limit is 1 (there 20), since a pool can be as small.

Its limits: under an overload that lasts for minutes the long mean follows the present one, and the limit rises slowly.
While run times stay far above the mean it rests at eight, twice the jobs that may queue, and goes no lower.
"""

from __future__ import annotations

from typing import Final

from .window import Window

__all__ = ["Gradient2Limiter"]


class _LongMean:
    """A plain mean of the first samples, then an exponentially weighted one over about `SAMPLES`."""

    SAMPLES: Final = 600
    WARM_UP: Final = 10

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, sample: float) -> None:
        self._count = min(self._count + 1, self.WARM_UP + 1)
        weight = 1 / self._count if self._count <= self.WARM_UP else 2 / (self.SAMPLES + 1)
        self.value += weight * (sample - self.value)


class Gradient2Limiter:
    """Begins at `BEGINS`, or `most` (slots, at least 1) if these are fewer: it has nothing to compare with before."""

    BEGINS: Final = 20
    QUEUED: Final = 4
    """Jobs by which the limit may grow while run times are as usual."""
    TOLERANCE: Final = 1.5
    """How many times the long mean a run time may be before the limit goes down."""
    LEAST_GRADIENT: Final = 0.5
    SMOOTHING: Final = 0.2
    """The share of a new limit in the next one."""
    RECOVERED: Final = 2.0
    """Where the long mean is so many times the present, an overload has ended and the mean is lowered."""
    FORGETTING: Final = 0.95

    def __init__(self, most: int) -> None:
        self._most = most
        self._estimate = float(min(self.BEGINS, most))
        self._long = _LongMean()

    def __repr__(self) -> str:
        return f"<Gradient2Limiter {self.limit} of {self._most}, usual run time {self._long.value:.6f}s>"

    @property
    def limit(self) -> int:
        """How many jobs may run at the same time."""
        return int(self._estimate)

    def observe(self, window: Window) -> None:
        """Take note of a window; one in which no job ended is no sample, one of little use changes no limit."""
        if window.mean_run_time <= 0:
            return
        usual = self._usual(window.mean_run_time)
        if window.most_running < self._estimate / 2:
            return
        gradient = max(self.LEAST_GRADIENT, min(1.0, self.TOLERANCE * usual / window.mean_run_time))
        wanted = self._estimate * gradient + self.QUEUED
        smoothed = self._estimate + self.SMOOTHING * (wanted - self._estimate)
        self._estimate = max(1.0, min(smoothed, self._most))

    def resize(self, most: int) -> None:
        """Take note that the pool has `most` slots now."""
        self._most = most
        self._estimate = min(self._estimate, float(most))

    def _usual(self, run_time: float) -> float:
        """Return the long mean with this sample in it; what is to be forgotten counts from the next one on."""
        self._long.add(run_time)
        usual = self._long.value
        if usual > self.RECOVERED * run_time:
            self._long.value *= self.FORGETTING
        return usual
