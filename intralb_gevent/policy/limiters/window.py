"""What a limiter is told, and what it is asked.

Decides nothing. It must not know how any limiter decides, nor who measures.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Limiter", "Window"]


class Window(NamedTuple):
    """What happened in one window of time, usually 100 ms; times in seconds.

    A window ends at the first turn of the event loop after its time, so it is longer where the loop is late.
    """

    seconds: float
    """How long the window was."""
    least_lag: float | None
    """The least lateness of the 5 ms probe in the event loop within the window; None if there was no sample."""
    most_running: int
    """The most jobs that were running at the same time in it."""
    ended: int
    """Jobs that ended in it after having run."""
    mean_run_time: float
    """Of those; 0 if there were none."""
    least_run_time: float
    """Of those; 0 if there were none."""
    shed: int
    """Jobs shed in it."""
    begun: int = 0
    """Jobs that began to run in it."""
    backlogged: bool = False
    """Whether at least one job was queued at every sample; samples are taken every 5 ms."""


class Limiter(Protocol):
    """Says how many jobs of a pool may run at the same time; it learns from one window after another."""

    @property
    def limit(self) -> int:
        """How many jobs may run at the same time, from 1 to the number of slots."""

    def observe(self, window: Window) -> None:
        """Take note of the window that is over; called once for each."""

    def resize(self, most: int) -> None:
        """Take note that the pool has `most` slots now, at least 1: the limit is never above that."""
