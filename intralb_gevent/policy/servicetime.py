"""Statistics of the run times of jobs: mean, variation, mean residual time, and lower quartile."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["ServiceTime"]


class ServiceTime:
    """Exponentially weighted means of run times and of their squares, in seconds."""

    WEIGHT: Final = 0.01
    """Weight of the latest run time: the last hundred run times make up two thirds of a mean. With a much larger
    weight, the mean would forget slow jobs too soon. If one job in twenty is slow, its effect would be almost gone when
    the next slow job ends."""

    RENEWED_WEIGHT: Final = 0.0625
    """Weight of the first `RENEWED` run times of jobs that have started after `renew`."""
    RENEWED: Final = 48
    """With this number of run times, 95 % of an old mean is forgotten: 1 - (1 - 0.0625)^48."""
    RECENT: Final = 32

    __slots__ = ("_count", "_mean_square", "_recent", "_renewed_at", "_to_renew", "mean")

    def __init__(self) -> None:
        self._recent = deque[float](maxlen=self.RECENT)
        self.mean = 0.0
        """Mean run time in seconds; 0 before any job has ended."""
        self._mean_square = 0.0
        self._count = self._to_renew = 0
        self._renewed_at = 0.0

    def __repr__(self) -> str:
        return f"<ServiceTime {self.mean:.6f}s, {self.residual:.6f}s left of those that run>"

    @property
    def count(self) -> int:
        """The number of run times that have been added."""
        return self._count

    @property
    def quartile(self) -> float:
        """The lower quartile of the latest `RECENT` run times, in seconds; slow first requests do not raise it."""
        return sorted(self._recent)[len(self._recent) // 4] if self._recent else 0.0

    @property
    def residual(self) -> float:
        """The mean remaining run time, in seconds, of the jobs that are running at a given moment, E[S^2] / 2 E[S].

        The mean residual time is half the mean if all jobs take the same time. If a few jobs take almost all of the
        time, the mean residual time is much more than the mean (Kleinrock, Queueing Systems I, 1975, 5.2).
        """
        return self._mean_square / (2 * self.mean) if self.mean else 0.0

    @property
    def variation(self) -> float:
        """The squared coefficient of variation, which is 0 for constant run times and 1 for exponential run times."""
        return max(0.0, self._mean_square / self.mean**2 - 1) if self.mean else 0.0

    def add(self, seconds: float, started: float = 0.0) -> None:
        """Add the run time of a job that has run to its end; `started` is in the same time as that of `renew`."""
        self._count += 1
        self._recent.append(seconds)
        weight = max(self.WEIGHT, 1 / self._count)
        if self._to_renew and started >= self._renewed_at:
            self._to_renew -= 1
            weight = max(weight, self.RENEWED_WEIGHT)
        self.mean += weight * (seconds - self.mean)
        self._mean_square += weight * (seconds * seconds - self._mean_square)

    def renew(self, now: float) -> None:
        """Forget the old run times quickly, because run times have changed: far fewer jobs share the event loop."""
        self._renewed_at, self._to_renew = now, self.RENEWED
