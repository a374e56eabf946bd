"""How long the jobs of a route usually run, and whether one that has waited has the time for it.

Decides from run times and what is left. It must not know routes or jobs.

A job whose remaining time is shorter than what its kind usually takes would be cut before its end: its work is lost,
and the slot is kept from one that could be answered in time ("Addressing Cascading Failures", in Site Reliability
Engineering by Beyer and others, 2016).
"""

from __future__ import annotations

from typing import Final

__all__ = ["UsualTime"]


class UsualTime:
    """An exponentially weighted mean of run times, in seconds."""

    WEIGHT: Final = 0.05
    """Of the latest run time: the last twenty make up two thirds of the mean."""
    RESERVED: Final = 0.5
    """The share of its time with which a job is always run, so that a slow spell cannot shut out all that follow."""

    __slots__ = ("mean",)

    def __init__(self) -> None:
        self.mean = 0.0

    def __repr__(self) -> str:
        return f"<UsualTime {self.mean:.6f}s>"

    def add(self, seconds: float) -> None:
        """Take note of a job that has run to its end."""
        self.mean += self.WEIGHT * (seconds - self.mean) if self.mean else seconds

    def suffices(self, left: float, whole: float) -> bool:
        """Say whether a job with `left` of its `whole` seconds should be run."""
        return left >= min(self.mean, self.RESERVED * whole)
