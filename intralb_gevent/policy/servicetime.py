"""How long jobs usually run, and how much longer than usual some of them do.

Decides nothing but these figures. It must not know jobs.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["ServiceTime"]


class ServiceTime:
    """Exponentially weighted means of run times and of their squares, in seconds."""

    WEIGHT: Final = 0.01
    """Of the latest run time: the last hundred make up two thirds of a mean. With fewer, one job in twenty that takes
    long would be forgotten each time before the next."""

    RECENT: Final = 32

    __slots__ = ("_count", "_mean_square", "_recent", "mean")

    def __init__(self) -> None:
        self._recent = deque[float](maxlen=self.RECENT)
        self.mean = 0.0
        """0 before any job has ended."""
        self._mean_square = 0.0
        self._count = 0

    def __repr__(self) -> str:
        return f"<ServiceTime {self.mean:.6f}s, {self.residual:.6f}s left of those that run>"

    @property
    def count(self) -> int:
        """How many run times have been added."""
        return self._count

    @property
    def quartile(self) -> float:
        """The lower quartile of the latest `RECENT` run times, in seconds: slow first requests do not raise it."""
        return sorted(self._recent)[len(self._recent) // 4] if self._recent else 0.0

    @property
    def residual(self) -> float:
        """For how long those that run at a moment will run on, in the mean: E[S^2] / 2 E[S].

        Half the mean where all take the same time, and much more than it where a few take nearly all (renewal theory;
        Kleinrock, Queueing Systems I, 1975, 5.2).
        """
        return self._mean_square / (2 * self.mean) if self.mean else 0.0

    @property
    def variation(self) -> float:
        """The square of the coefficient of variation: 0 where all take the same time, 1 where it is exponential."""
        return max(0.0, self._mean_square / self.mean**2 - 1) if self.mean else 0.0

    def add(self, seconds: float) -> None:
        """Take note of a job that has run to its end."""
        self._count += 1
        self._recent.append(seconds)
        weight = max(self.WEIGHT, 1 / self._count)
        self.mean += weight * (seconds - self.mean)
        self._mean_square += weight * (seconds * seconds - self._mean_square)
