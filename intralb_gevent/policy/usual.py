"""The mean run time of a route's jobs; a queued job whose remaining time is shorter than this mean may be rejected.

A job whose remaining time is shorter than the mean run time would probably be aborted. The work of an aborted
job is lost, and its slot could have served another job in time ("Addressing Cascading Failures", in Site Reliability
Engineering by Beyer and others, 2016).
"""

from __future__ import annotations

from typing import Final

__all__ = ["MeanRunTime"]


class MeanRunTime:
    """An exponentially weighted mean of run times, in seconds."""

    WEIGHT: Final = 0.05
    """Weight of the latest run time: the last twenty run times make up two thirds of the mean."""
    RESERVED: Final = 0.5
    """Share of a job's time limit: a job with this much time left is always run, so that a few slow jobs cannot lock
    out all later jobs."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean = 0.0

    def __repr__(self) -> str:
        return f"<MeanRunTime {self.mean:.6f}s>"

    def add(self, seconds: float) -> None:
        """Add the run time of a job that has run to its end."""
        self.mean += self.WEIGHT * (seconds - self.mean) if self.mean else seconds

    def suffices(self, left: float, whole: float) -> bool:
        """Return whether to run a job that has `left` seconds of its time limit left; the limit is `whole` seconds."""
        return left >= min(self.mean, self.RESERVED * whole)
